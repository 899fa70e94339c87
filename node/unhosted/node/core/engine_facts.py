"""What decides how an engine rounds: facts that a seller states with a receipt and a checker compares.

Two engines with equal facts may still differ (a driver, a faulty memory); two with different ones do, a
little. Nothing here is believed for money: a false statement only makes honest tokens look worse.

When are a decoded token's logits bit-equal to those of one reading of the whole answer? Where no kernel is
chosen by the number of rows. Read in llama.cpp's sources and measured on x86-64 with AVX2 and AVX-512
(`bench/verify/exactness.py`; docs/verification.md has the table):

1. Weights. Blocks of 32 values (`ROWWISE_WEIGHTS`) take the same sums for one row as for many. K-quants and
   their like do so only with the kernels `plain`: else eight rows and more go through tiles of their own, and
   some are repacked for several rows. F16, BF16 and F32 matrices never do.
2. Attention. With flash attention and keys and values of one float type, 64 rows and more go through tiles,
   and a lone row with more than 256 cells is split between the threads. Any other cache type
   (`ROWWISE_CACHES`) takes the same sums for any number of rows, threads and cells.
3. The cache is split: each sequence has cells of its own, so that no other request moves its sums.
"""

from dataclasses import dataclass, replace

from unhosted.market.cbor import encode
from unhosted.market.fields import Fields, read_message
from unhosted.market.hashing import blake3_of
from unhosted.market.offers import CheckClass

FACTS_DOMAIN = b"unhosted/engine/v1"
VERSION = 1

FACTS_BYTES_MAX = 1_024
"""The texts below at their longest take 600 bytes, the rest 200."""

LIBRARY_CHARS_MAX = 80
BUILD_CHARS = 64
DEVICE_CHARS_MAX = 240
"""A processor's features are some twenty words."""

WEIGHTS_CHARS_MAX = 60
"""A mixture of quantizations has two to five types."""

WORD_CHARS_MAX = 16
COUNT_MAX = 1 << 20
"""Slots, rows and layers: a thousand times what any engine has."""

CLASS_CHARS_MAX = 200
"""`unhosted.verify.noise` takes no longer ones."""

KERNELS_USUAL, KERNELS_PLAIN, KERNELS_MIXED = "usual", "plain", "mixed"

ROWWISE_WEIGHTS = frozenset({"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl"})
ROWWISE_WEIGHTS_PLAIN = (ROWWISE_WEIGHTS - {"iq4_nl"}) | {
    *("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq3_s", "iq4_xs")
}
"""In an engine whose kernels are `plain`. IQ4_NL is rowwise only as it is repacked."""

ROWWISE_CACHES = frozenset({"q8_0", "bf16/f16", "f16/bf16"})
"""`q4_0` is one too, but no honest cache: a seller that states it must not count as exact for that."""

EXACT_CACHE = "bf16/f16"
"""The memory of `f16` and, measured, its quality; the fastest of them at decoding."""

CACHES_OF_16_BITS = frozenset({"f16", "bf16", "bf16/f16", "f16/bf16"})
"""One class of noise: they differ no more than two ways of reading one of them (rms 0.20 logits each)."""

MEASURED_DEVICE, MEASURED_FEATURE = "cpu:x86-64", "avx2"
"""Other processors have other kernels; nobody has looked there yet, so nothing is claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """library: version and commit as people know it. build: BLAKE3 of the library's files, 64 hex digits.

    device: `cpu:x86-64:avx,avx2,f16c,fma:glibc-2.36` (what the kernels were chosen by, and whose
    exponential function is used), or a GPU's backend and name. weights: tensor types of the matrices, sorted,
    with commas (`q4_1,q8_0`). kv_type: of the cache; `f16/bf16` for keys and values of two types.
    flash_attention, is_split: as the context was made. slots: sequences that may run together.
    ubatch_tokens: rows that one computation may have. speculation: `none`, or the kind. gpu_layers: 0 for a
    CPU. kernels: `usual`; `plain` without tiles and repacking; `mixed` where the engine tried itself and one
    row was not as many.
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
    kernels: str = KERNELS_USUAL

    def __post_init__(self) -> None:
        for name, most in _CHARS_MAX.items():
            text = getattr(self, name)
            if len(text) > most or not text.isprintable() or not text.isascii():
                raise ValueError(f"{name} must be at most {most} printable ASCII characters, not {len(text)}")
        for name, least in _LEAST.items():
            if not least <= getattr(self, name) <= COUNT_MAX:
                raise ValueError(f"{name} {getattr(self, name)} is outside {least} to {COUNT_MAX}")


_CHARS_MAX = {
    "library": LIBRARY_CHARS_MAX,
    "build": BUILD_CHARS,
    "device": DEVICE_CHARS_MAX,
    "weights": WEIGHTS_CHARS_MAX,
    "kv_type": WORD_CHARS_MAX,
    "speculation": WORD_CHARS_MAX,
    "kernels": WORD_CHARS_MAX,
}
_LEAST = {"slots": 1, "ubatch_tokens": 1, "gpu_layers": 0}
_FLAGS = ("flash_attention", "is_split")


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


def encode_facts(facts: EngineFacts) -> bytes:
    """The one encoding: a CBOR map of the fields by their names, and the version."""
    names = (*_CHARS_MAX, *_LEAST, *_FLAGS)
    return encode({"v": VERSION} | {name: getattr(facts, name) for name in names})


def decode_facts(data: bytes) -> EngineFacts:
    """Raises: RemoteFault for anything but the encoding of facts."""
    return read_message(data, bytes_max=FACTS_BYTES_MAX, version=VERSION, unpack=_unpack)


def facts_hash(facts: EngineFacts) -> bytes:
    """32 bytes: what a receipt's response says of the engine."""
    return blake3_of(FACTS_DOMAIN, encode_facts(facts))


def engine_class(facts: EngineFacts) -> str:
    """What the size of the noise depends on; the key of calibration tables. At most 200 characters.

    Threads, slots and rows of a split cache move the noise and not its size, so they are left out.
    """
    device = MEASURED_DEVICE if facts.device.startswith(f"{MEASURED_DEVICE}:") else facts.device
    words = [
        device,
        facts.weights,
        f"kv-{'f16' if facts.kv_type in CACHES_OF_16_BITS else facts.kv_type}",
        "flash" if facts.flash_attention else "no-flash",
        "split" if facts.is_split else "unified",
        facts.library,
    ]
    if facts.speculation != "none":
        words.append(f"speculation-{facts.speculation}")
    text = " ".join(words)
    if len(text) <= CLASS_CHARS_MAX:
        return text
    mark = blake3_of(FACTS_DOMAIN, text.encode()).hex()[:16]
    return f"{text[: CLASS_CHARS_MAX - len(mark) - 1]} {mark}"


def exact_class(facts: EngineFacts) -> str | None:
    """Equal texts: bit-equal logits, between decoding on one engine and `replay_for` on the other.

    None where that does not hold, or where nobody has measured it.
    """
    weights = frozenset(facts.weights.split(","))
    needs_plain = not weights <= ROWWISE_WEIGHTS
    if needs_plain:
        is_rowwise = facts.kernels == KERNELS_PLAIN and weights <= ROWWISE_WEIGHTS_PLAIN
    else:
        is_rowwise = facts.kernels in (KERNELS_USUAL, KERNELS_PLAIN)
    device, _, features = facts.device.partition(f"{MEASURED_DEVICE}:")
    is_measured = device == "" and MEASURED_FEATURE in features.partition(":")[0].split(",")
    holds = (
        is_measured
        and facts.gpu_layers == 0
        and len(facts.build) == BUILD_CHARS
        and is_rowwise
        and facts.kv_type in ROWWISE_CACHES
        and facts.flash_attention
        and facts.is_split
        and facts.speculation == "none"
    )
    if not holds:
        return None
    kernels = KERNELS_PLAIN if needs_plain else KERNELS_USUAL
    return " ".join((facts.build, facts.device, facts.weights, f"kv-{facts.kv_type}", kernels))


def replay_for(seller: EngineFacts, own: EngineFacts) -> tuple[CheckClass, Replay]:
    """How this node's engine reads an answer of `seller` again, and by which rule it is judged then.

    own: of the model as it is loaded here; the checker's context takes the seller's kind of cache.
    """
    exact = exact_class(seller)
    alike = replace(own, kv_type=seller.kv_type, flash_attention=True, is_split=True)
    if exact is not None and exact == exact_class(alike):
        return "exact", Replay(kv_type=seller.kv_type)
    return "statistical", Replay(flash_attention=own.flash_attention)


def _unpack(fields: Fields) -> EngineFacts:
    texts = {name: fields.text(name, chars_max=most) for name, most in _CHARS_MAX.items()}
    counts = {name: fields.uint(name, least=least, most=COUNT_MAX) for name, least in _LEAST.items()}
    flags = {name: fields.flag(name) for name in _FLAGS}
    return EngineFacts(**texts, **counts, **flags)  # type: ignore[arg-type]
