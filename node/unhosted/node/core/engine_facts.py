"""What decides how an engine rounds: facts that a seller states with a receipt and a checker compares.

Two engines with equal facts may still differ (a driver, a faulty memory); two with different ones do, a
little. Nothing here is believed for money: a false statement only makes honest tokens look worse.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """library: version and commit as people know it. build: BLAKE3 of the library's files, 64 hex digits.

    device: `cpu:x86-64:avx2,f16c,fma` or a GPU's name. weights: tensor types of the matrices, sorted, with
    commas (`q4_1,q8_0`). kv_type: of the cache. flash_attention, is_split: as the context was made. slots:
    sequences that may run together. ubatch_tokens: rows that one computation may have. speculation: `none`,
    or the kind. gpu_layers: 0 for a CPU.
    """

    library: str
    build: str
    device: str
    weights: str
    kv_type: str = "f16"
    flash_attention: bool = True
    is_split: bool = True
    slots: int = 1
    ubatch_tokens: int = 512
    speculation: str = "none"
    gpu_layers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """How a checker is to read an answer again. ubatch_tokens: rows of one computation at most.

    output_piece_tokens: how many output tokens of one answer share a computation; 1 is as in decoding.
    kv_type, flash_attention: of the checker's context.
    """

    ubatch_tokens: int = 512
    output_piece_tokens: int = 512
    kv_type: str = "f16"
    flash_attention: bool = True
