"""Turns a GGUF file's raw metadata into a `GgufHeader`: which key means what, and what stands in for it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from unhosted.node.core.gguf_facts import FILE_TYPES, GgufHeader, Token

BLOCKS_MAX = 4096
HEADS_MAX = 65_536
WIDTH_MAX = 1 << 24
CONTEXT_TOKENS_MAX = 1 << 30
"""Limits keep a hostile header from asking for absurd estimates; real models are far below them."""

DEFAULT_TEMPLATE_KEY = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class SkippedStrings:
    """An array of strings that was stepped over. starts: byte offset of every `STRING_BLOCK`th one."""

    count: int
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """offset_bytes is from the start of the data; size_bytes follows from shape and type."""

    name: str
    dimensions: int
    elements: int
    type_name: str
    offset_bytes: int
    size_bytes: int


Value = str | int | float | bool | tuple[str | int | float | bool, ...] | SkippedStrings | None


class _Fields:
    """Typed look-ups: a value of the wrong type or size is an error, an absent one is the default."""

    __slots__ = ("architecture", "values")

    def __init__(self, values: Mapping[str, Value], architecture: str) -> None:
        self.values = values
        self.architecture = architecture

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{key} is {value!r}, must be a string")
        return value

    def number(self, key: str, *, most: int, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if value is None:
            raise ValueError(f"{key} is missing: this file holds no language model")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
            raise ValueError(f"{key} is {_shown(value)}, must be an integer from 0 to {most}")
        return value

    def own(self, key: str, *, most: int, default: int | None = None) -> int:
        """A number under the architecture's own prefix."""
        return self.number(f"{self.architecture}.{key}", most=most, default=default)

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"{key} is {_shown(value)}, must be true or false")
        return value

    def per_block(self, key: str, blocks: int, default: int) -> tuple[int, ...]:
        """One number for each block, from a scalar or an array."""
        full = f"{self.architecture}.{key}"
        value = self.values.get(full)
        if not isinstance(value, tuple):
            return (self.number(full, most=HEADS_MAX, default=default),) * blocks
        numbers = tuple(item for item in value if isinstance(item, int) and 0 <= item <= HEADS_MAX)
        if len(numbers) != len(value) or len(value) < blocks:
            raise ValueError(f"{full} has {len(value)} entries, must be {blocks} integers up to {HEADS_MAX}")
        return numbers[:blocks]


def build_header(
    values: Mapping[str, Value],
    tensors: Sequence[TensorInfo],
    *,
    data_offset_bytes: int,
    size_bytes: int,
    token_text: Callable[[Value, int], str | None],
) -> GgufHeader:
    """Raises: ValueError that names the key, its value and the rule."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ValueError("general.architecture is missing: this file holds no model")
    fields = _Fields(values, architecture)
    kind = fields.text("general.type")
    if kind not in (None, "model"):
        raise ValueError(f"general.type is {kind!r}: an addition to a model, not a model")
    blocks = fields.own("block_count", most=BLOCKS_MAX)
    width = fields.own("embedding_length", most=WIDTH_MAX)
    head_count = max(fields.per_block("attention.head_count", blocks, 0), default=0)
    heads_kv = fields.per_block("attention.head_count_kv", blocks, head_count)
    # Hybrid models attend in every n-th block alone; the others keep a small state instead of a cache.
    if interval := fields.own("full_attention_interval", most=BLOCKS_MAX, default=0):
        heads_kv = tuple(heads if not (block + 1) % interval else 0 for block, heads in enumerate(heads_kv))
    head_width = width // head_count if head_count else 0
    tokens = values.get("tokenizer.ggml.tokens")
    window = fields.own("attention.sliding_window", most=CONTEXT_TOKENS_MAX, default=0)
    pooling = fields.own("pooling_type", most=16, default=0)

    def special(key: str) -> Token | None:
        return _special_token(values, key, token_text)

    return GgufHeader(
        architecture=architecture,
        name=fields.text("general.name"),
        licence=fields.text("general.license"),
        context_tokens=fields.own("context_length", most=CONTEXT_TOKENS_MAX),
        block_count=blocks,
        embedding_length=width,
        head_count=head_count,
        heads_kv=heads_kv,
        key_length=fields.own("attention.key_length", most=WIDTH_MAX, default=head_width),
        value_length=fields.own("attention.value_length", most=WIDTH_MAX, default=head_width),
        sliding_window_tokens=window or None,
        pooling=pooling or None,
        causal=fields.flag(f"{architecture}.attention.causal") is not False,
        vocab_size=_vocab_size(fields, tokens),
        tokenizer_model=fields.text("tokenizer.ggml.model"),
        tokenizer_pre=fields.text("tokenizer.ggml.pre"),
        bos=special("bos"),
        eos=special("eos"),
        eot=special("eot"),
        add_bos=fields.flag("tokenizer.ggml.add_bos_token"),
        chat_template=fields.text(DEFAULT_TEMPLATE_KEY),
        chat_templates=_templates(fields),
        quantization=_quantization(fields, tensors),
        matrix_types=tuple(sorted({each.type_name for each in tensors if each.dimensions > 1})),
        tensor_count=len(tensors),
        parameters=sum(tensor.elements for tensor in tensors),
        weights_bytes=sum(tensor.size_bytes for tensor in tensors),
        expert_bytes=sum(tensor.size_bytes for tensor in tensors if "_exps." in tensor.name),
        expert_count=fields.own("expert_count", most=HEADS_MAX, default=0),
        expert_used_count=fields.own("expert_used_count", most=HEADS_MAX, default=0),
        shards=max(1, fields.number("split.count", most=HEADS_MAX, default=1)),
        data_offset_bytes=data_offset_bytes,
        size_bytes=size_bytes,
    )


def _special_token(
    values: Mapping[str, Value], key: str, token_text: Callable[[Value, int], str | None]
) -> Token | None:
    token_id = values.get(f"tokenizer.ggml.{key}_token_id")
    if isinstance(token_id, bool) or not isinstance(token_id, int):
        return None
    # An id outside the vocabulary is met in old conversions; llama.cpp passes over it as well.
    text = token_text(values.get("tokenizer.ggml.tokens"), token_id)
    return None if text is None else Token(token_id=token_id, text=text)


def _vocab_size(fields: _Fields, tokens: Value) -> int:
    if isinstance(tokens, SkippedStrings):
        return tokens.count
    if isinstance(tokens, tuple):
        return len(tokens)
    return fields.own("vocab_size", most=WIDTH_MAX, default=0)


def _templates(fields: _Fields) -> dict[str, str]:
    """Named chat templates beside the default one (tool use, retrieval)."""
    found = {}
    for key in fields.values:
        name = key.removeprefix(DEFAULT_TEMPLATE_KEY + ".")
        if name != key and (text := fields.text(key)) is not None:
            found[name] = text
    return found


def _quantization(fields: _Fields, tensors: Sequence[TensorInfo]) -> str:
    """As the file says; else the type that most weight bytes have."""
    file_type = fields.values.get("general.file_type")
    if isinstance(file_type, int) and file_type in FILE_TYPES:
        return FILE_TYPES[file_type]
    bytes_by_type: Counter[str] = Counter()
    for tensor in tensors:
        bytes_by_type[tensor.type_name] += tensor.size_bytes
    return bytes_by_type.most_common(1)[0][0] if bytes_by_type else "unknown"


def _shown(value: Value) -> str:
    """Short: the value is foreign and may be long."""
    return repr(value)[:80]
