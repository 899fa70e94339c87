"""Random-weights llama models of a few hundred kilobytes, written with the dev dependency `gguf`.

They load in llama.cpp like any real model and say nonsense, the same nonsense for the same seed.
"""

from pathlib import Path
from typing import Any

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

END_OF_TEXT_ID = 0
IM_START_ID = 1
IM_END_ID = 2
FIRST_BYTE_ID = 3
"""The 256 single-byte tokens follow, in byte order."""

_PAIRS = ("th", "he", "in", "er", "an", "re", "on", "at", "en", "nd")
VOCAB_MIN = FIRST_BYTE_ID + 256 + len(_PAIRS)


def write_tiny(
    path: str | Path,
    *,
    seed: int = 0,
    vocab: int = 512,
    context: int = 2048,
    layers: int = 2,
    embedding: int = 64,
    heads: int = 4,
    heads_kv: int = 2,
    feed_forward: int = 128,
    name: str = "tiny-random",
    chat_template: str | None = CHATML,
    pooling: int | None = None,
    causal: bool = True,
    half: bool = True,
    eight_bits: bool = False,
) -> Path:
    """Write a model and return its path.

    vocab: at least `VOCAB_MIN` (269). chat_template: None writes none. pooling: llama.cpp's pooling type
    (1 mean), for embeddings. causal: False makes an encoder. half: f16 weights, else f32. eight_bits: q8_0
    weights, whatever `half` says; embedding and feed_forward must be multiples of 32.
    """
    import gguf
    import numpy as np

    if vocab < VOCAB_MIN:
        raise ValueError(f"vocab {vocab} is below {VOCAB_MIN}")
    path = Path(path)
    draw = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_license("CC0-1.0")
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads_kv)
    writer.add_rope_dimension_count(embedding // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    kinds = gguf.LlamaFileType
    writer.add_file_type(kinds.MOSTLY_Q8_0 if eight_bits else kinds.MOSTLY_F16 if half else kinds.ALL_F32)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    if not causal:
        writer.add_causal_attention(False)
    _add_tokenizer(writer, vocab)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    def add_weights(tensor: str, rows: int, columns: int, scale: float | None = None) -> None:
        values = draw.standard_normal((rows, columns), dtype=np.float32)
        values *= scale if scale is not None else columns**-0.5
        if eight_bits:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(tensor, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor, values.astype(np.float16 if half else np.float32))

    def add_ones(tensor: str) -> None:
        writer.add_tensor(tensor, np.ones(embedding, np.float32))

    width_kv = embedding // heads * heads_kv
    add_weights("token_embd.weight", vocab, embedding, 1.0)
    add_ones("output_norm.weight")
    add_weights("output.weight", vocab, embedding, 0.5)
    for block in range(layers):
        add_ones(f"blk.{block}.attn_norm.weight")
        add_ones(f"blk.{block}.ffn_norm.weight")
        add_weights(f"blk.{block}.attn_q.weight", embedding, embedding)
        add_weights(f"blk.{block}.attn_k.weight", width_kv, embedding)
        add_weights(f"blk.{block}.attn_v.weight", width_kv, embedding)
        add_weights(f"blk.{block}.attn_output.weight", embedding, embedding)
        add_weights(f"blk.{block}.ffn_gate.weight", feed_forward, embedding)
        add_weights(f"blk.{block}.ffn_up.weight", feed_forward, embedding)
        add_weights(f"blk.{block}.ffn_down.weight", embedding, feed_forward)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_symbols() -> list[str]:
    """GPT-2's printable stand-in for each byte, in byte order."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    symbol_by_byte = {byte: chr(byte) for byte in shown}
    symbol_by_byte |= {byte: chr(256 + position) for position, byte in enumerate(hidden)}
    return [symbol_by_byte[byte] for byte in range(256)]


def _add_tokenizer(writer: Any, vocab: int) -> None:
    """Byte-level BPE with a few merges, three control tokens first, filled up with unused tokens."""
    import gguf

    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_byte_symbols(), *_PAIRS]
    types = [gguf.TokenType.CONTROL] * FIRST_BYTE_ID + [gguf.TokenType.NORMAL] * (256 + len(_PAIRS))
    padding = range(len(tokens), vocab)
    tokens += [f"[PAD{token_id}]" for token_id in padding]
    types += [gguf.TokenType.UNUSED] * len(padding)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([f"{pair[0]} {pair[1]}" for pair in _PAIRS])
    writer.add_bos_token_id(IM_START_ID)
    writer.add_eos_token_id(IM_END_ID)
    writer.add_add_bos_token(False)
