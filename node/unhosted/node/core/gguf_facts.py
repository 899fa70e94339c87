"""What a GGUF file says of its model, as one frozen value, and the format's own tables of types."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SCALAR_FORMATS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""Metadata value type -> `struct` format, little-endian."""

STRING_TYPE = 8
ARRAY_TYPE = 9

TENSOR_TYPES: Mapping[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Tensor type -> (name, elements per block, bytes per block)."""

FILE_TYPES: Mapping[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4",
    39: "NVFP4",
    40: "Q1_0",
}
"""`general.file_type` -> the quantization's name as users know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A vocabulary entry as the file spells it (byte-level vocabularies use stand-in characters)."""

    token_id: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufHeader:
    """A model file without its weights.

    heads_kv: one per block (0 for a block without attention). key_length, value_length: elements per head.
    sliding_window_tokens: None where every block sees the whole context. pooling: llama.cpp's pooling type
    (1 mean, 2 CLS, 3 last, 4 rank) or None. causal: False for encoders, which keep no KV cache.
    expert_bytes: the part of weights_bytes of which one token reads expert_used_count / expert_count.
    shards: how many files the model is split over. parameters: elements of all tensors. matrix_types: of the
    tensors with more than one dimension, sorted.
    """

    architecture: str
    name: str | None
    licence: str | None
    context_tokens: int
    block_count: int
    embedding_length: int
    head_count: int
    heads_kv: tuple[int, ...]
    key_length: int
    value_length: int
    sliding_window_tokens: int | None = None
    pooling: int | None = None
    causal: bool = True
    vocab_size: int = 0
    tokenizer_model: str | None = None
    tokenizer_pre: str | None = None
    bos: Token | None = None
    eos: Token | None = None
    eot: Token | None = None
    add_bos: bool | None = None
    chat_template: str | None = None
    chat_templates: Mapping[str, str] = field(default_factory=dict)
    quantization: str = "unknown"
    matrix_types: tuple[str, ...] = ()
    tensor_count: int = 0
    parameters: int = 0
    weights_bytes: int = 0
    expert_bytes: int = 0
    expert_count: int = 0
    expert_used_count: int = 0
    shards: int = 1
    data_offset_bytes: int = 0
    size_bytes: int = 0

    @property
    def head_count_kv(self) -> int:
        """The largest over the blocks."""
        return max(self.heads_kv, default=0)

    @property
    def is_embedding(self) -> bool:
        return self.pooling is not None and self.pooling > 0
