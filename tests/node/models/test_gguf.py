"""Reading model files that may be anything."""

import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tiny import CHATML, write_tiny
from unhosted.node.core.gguf_facts import GgufHeader, Token
from unhosted.node.shell.models.gguf import GgufError, parse_header, read_header

U32, U64, STRING, ARRAY = 4, 10, 8, 9


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        text(name)
        + struct.pack("<I", len(shape))
        + struct.pack(f"<{len(shape)}Q", *shape)
        + struct.pack("<IQ", kind, offset)
    )


MODEL = (
    entry("general.architecture", STRING, text("llama")),
    entry("llama.context_length", U32, struct.pack("<I", 128)),
    entry("llama.block_count", U32, struct.pack("<I", 2)),
    entry("llama.embedding_length", U32, struct.pack("<I", 64)),
)


def gguf(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (),
    version: int = 3,
    entry_count: int | None = None,
    tensor_count: int | None = None,
    data: bytes = b"",
) -> bytes:
    """A file by hand; the counts can be made to lie."""
    head = b"GGUF" + struct.pack(
        "<IQQ",
        version,
        len(tensors) if tensor_count is None else tensor_count,
        len(entries) if entry_count is None else entry_count,
    )
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


def parse(data: bytes) -> GgufHeader:
    return parse_header(data, len(data))


def test_tiny_model_gives_what_was_written(tmp_path: Path) -> None:
    header = read_header(write_tiny(tmp_path / "t.gguf", context=777, layers=3, pooling=1, vocab=3000))
    assert (header.context_tokens, header.block_count, header.vocab_size) == (777, 3, 3000)
    assert header.chat_template == CHATML
    assert header.is_embedding
    assert header.name == "tiny-random"
    assert header.eos == Token(token_id=2, text="<|im_end|>")


def test_per_block_heads_experts_window_and_named_templates_are_read() -> None:
    heads = struct.pack("<IQ2I", U32, 2, 4, 1)
    data = gguf(
        *MODEL,
        entry("llama.attention.head_count", U32, struct.pack("<I", 4)),
        entry("llama.attention.head_count_kv", ARRAY, heads),
        entry("llama.attention.key_length", U32, struct.pack("<I", 256)),
        entry("llama.attention.sliding_window", U32, struct.pack("<I", 512)),
        entry("llama.attention.causal", 7, b"\0"),
        entry("llama.expert_count", U32, struct.pack("<I", 8)),
        entry("llama.expert_used_count", U32, struct.pack("<I", 2)),
        entry("tokenizer.chat_template.tool_use", STRING, text("{{ tools }}")),
        entry("tokenizer.ggml.tokens", ARRAY, struct.pack("<IQ", STRING, 2) + text("a") + text("b")),
        entry("tokenizer.ggml.eot_token_id", U32, struct.pack("<I", 1)),
        entry("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 99)),
        tensors=(tensor("blk.0.ffn_up_exps.weight", (32, 2)), tensor("output.weight", (8,), 0, 256)),
        data=bytes(288),
    )
    header = parse(data)
    assert header.heads_kv == (4, 1)
    assert (header.key_length, header.value_length) == (256, 16)
    assert header.sliding_window_tokens == 512
    assert not header.causal
    assert (header.expert_count, header.expert_used_count, header.expert_bytes) == (8, 2, 256)
    assert header.chat_templates == {"tool_use": "{{ tools }}"}
    assert header.eot == Token(token_id=1, text="b")
    assert header.eos is None  # an id outside the vocabulary is no token
    assert header.quantization == "F32"


def test_hybrid_model_counts_only_blocks_that_attend() -> None:
    data = gguf(
        *MODEL,
        entry("llama.attention.head_count", U32, struct.pack("<I", 4)),
        entry("llama.full_attention_interval", U32, struct.pack("<I", 2)),
    )
    assert parse(data).heads_kv == (0, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not b'GGUF'"),
        (b"GGML" + bytes(100), "not b'GGUF'"),
        (b"GGUF", "truncated"),
        (gguf(*MODEL, version=1), "version 1"),
        (gguf(*MODEL, version=3 << 24), "big-endian"),
        (gguf(*MODEL, entry_count=2**64 - 1), "metadata entries, at most"),
        (gguf(*MODEL, tensor_count=2**63), "tensors, at most"),
        (gguf(*MODEL, tensor_count=60_000), "list of 60000 tensors needs"),
        (gguf(*MODEL, entry_count=50), "truncated|value type|stands twice"),
        (gguf(*MODEL, MODEL[0]), "stands twice"),
        (gguf(text("x") + struct.pack("<I", 13)), "value type 13"),
        (gguf(struct.pack("<Q", 2**63) + b"x"), "a string of 9223372036854775808 bytes"),
        (gguf(entry("x", STRING, struct.pack("<Q", 3 << 20))), "truncated"),
        (gguf(entry("x", ARRAY, struct.pack("<IQ", STRING, 2**60))), "array 'x'.* needs"),
        (gguf(entry("x", ARRAY, struct.pack("<IQ", U64, 2**61))), "array 'x'.* needs"),
        (gguf(entry("x", ARRAY, struct.pack("<IQ", ARRAY, 1))), "array of arrays"),
        (gguf(entry("x", ARRAY, struct.pack("<IQ", 99, 1))), "value type 99"),
        (
            gguf(entry("x", ARRAY, struct.pack("<IQ", STRING, 65) + struct.pack("<Q", 2**64 - 1) * 65)),
            "string 0 of an array has 18446744073709551615 bytes",
        ),
        (gguf(*MODEL[1:]), "general.architecture is missing"),
        (gguf(*MODEL[:3]), "embedding_length is missing"),
        (gguf(*MODEL[:3], entry("llama.embedding_length", STRING, text("big"))), "must be an integer"),
        (gguf(*MODEL, entry("general.type", STRING, text("adapter"))), "not a model"),
        (gguf(*MODEL, entry("general.alignment", U32, struct.pack("<I", 24))), "power of two"),
        (gguf(*MODEL, entry("general.alignment", STRING, text("32"))), "power of two"),
        (gguf(*MODEL, entry("general.name", U32, bytes(4))), "must be a string"),
        (gguf(*MODEL, entry("tokenizer.ggml.add_bos_token", U32, bytes(4))), "true or false"),
        (gguf(*MODEL, tensors=(tensor("a", (2,) * 5),)), "5 dimensions"),
        (gguf(*MODEL, tensors=(tensor("a", ()),)), "0 dimensions|needs"),
        (gguf(*MODEL, tensors=(tensor("a", (0, 4)),)), "shape"),
        (gguf(*MODEL, tensors=(tensor("a", (2**63, 2**63)),)), "shape"),
        (gguf(*MODEL, tensors=(tensor("a", (4,), kind=77),)), "type 77"),
        (gguf(*MODEL, tensors=(tensor("a", (33,), kind=2),)), "no multiple"),
        (gguf(*MODEL, tensors=(tensor("a", (4,), offset=8),), data=bytes(64)), "not aligned"),
        (gguf(*MODEL, tensors=(tensor("a", (4,), offset=2**62),), data=bytes(64)), "past the end"),
        (gguf(*MODEL, tensors=(tensor("a", (5,)),), data=bytes(19)), "ends 1 bytes past the end"),
        (gguf(*MODEL, tensors=(tensor("a", (4,)), tensor("a", (4,))), data=bytes(64)), "stands twice"),
        (gguf(*MODEL, tensors=(tensor("a", (16,)), tensor("b", (4,))), data=bytes(64)), "overlaps"),
    ],
)
def test_broken_file_is_named_with_its_fault(data: bytes, message: str) -> None:
    with pytest.raises(GgufError, match=message):
        parse(data)


def test_every_truncation_of_a_header_is_an_error(tiny_bytes: bytes) -> None:
    end = read_end(tiny_bytes)
    for length in [*range(200), *range(200, end, 97), end - 1, len(tiny_bytes) - 1]:
        with pytest.raises(GgufError):
            parse(tiny_bytes[:length])


def read_end(data: bytes) -> int:
    return parse(data).data_offset_bytes


@pytest.mark.slow
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 12_000), st.binary(min_size=1, max_size=12)), min_size=1, max_size=8
    ),
    length=st.none() | st.integers(0, 300_000),
)
def test_any_mutation_is_a_header_or_a_gguf_error(
    tiny_bytes: bytes, changes: list[tuple[int, bytes]], length: int | None
) -> None:
    data = bytearray(tiny_bytes)
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    try:
        header = parse(bytes(data[:length]))
    except GgufError:
        return
    assert 0 <= header.weights_bytes <= len(data)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(4, 1500), number=st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]))
def test_huge_numbers_anywhere_take_little_memory(tiny_bytes: bytes, at: int, number: int) -> None:
    data = bytearray(tiny_bytes)
    data[at : at + 8] = struct.pack("<Q", number)
    mutated = bytes(data)
    tracemalloc.start()
    try:
        parse(mutated)
    except GgufError:
        pass
    finally:
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak_bytes < 2 << 20


def test_header_longer_than_the_first_read_is_read_whole(
    tmp_path: Path, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.gguf"
    path.write_bytes(tiny_bytes)
    whole = read_header(path)
    monkeypatch.setattr("unhosted.node.shell.models.gguf.READ_FIRST_BYTES", 1000)
    assert read_header(path) == whole
    monkeypatch.setattr("unhosted.node.shell.models.gguf.HEADER_BYTES_MAX", 2000)
    with pytest.raises(GgufError, match="past 2000 bytes"):
        read_header(path)
