"""Which memory layout a libllama uses, decided by what it says and never by its version number.

llama.cpp passes its parameter structs by value and changes them without changing a symbol's name. A wrong
layout does not fail: it sets the wrong parameters, or overwrites memory. So each struct is read as raw
bytes first (no field can overflow), and a known layout is accepted only if every default reads as
documented and, where the calling convention shows it, the struct's size is the layout's own.

Not found out: two neighbouring fields that are both zero by default and changed places. We set no
parameter among the pointers that stand between `type_v` and `embeddings`.
"""

import ctypes
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from types import ModuleType
from typing import Any

REVISION = 1
"""Raise it with any change of the tables below: cached answers of older tables are then asked again."""

RAW_BYTES = 1024
"""Larger than any parameter struct (168 bytes is the largest), so that reading one cannot overflow."""

Value = int | float | bool | None
"""A default as Python reads it; None is a null pointer."""


class LayoutMismatch(Exception):
    """No known layout fits. `readings`: per layout, what was read against what was expected."""

    def __init__(self, readings: tuple[str, ...]) -> None:
        super().__init__("; ".join(readings))
        self.readings = readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Insertion:
    """A field that one libllama has and the bindings do not know. before: the field it stands in front of."""

    struct: str
    field: str
    before: str
    ctype: Any
    default: Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A known set of structs, as a difference to the bindings' own."""

    name: str
    insertions: tuple[Insertion, ...] = field(default=())


LAYOUTS: tuple[Layout, ...] = (
    Layout(name="bindings"),
    # llama.cpp since build 11548, which the xllamacpp wheels of 2026.10 carry.
    Layout(
        name="moe-cache",
        insertions=(
            Insertion(
                struct="llama_context_params",
                field="moe_cache_size",
                before="abort_callback",
                ctype=ctypes.c_size_t,
                default=0,
            ),
        ),
    ),
)

# The defaults as llama.h of the pinned bindings documents them. Pointers and callbacks are null.
_MODEL_DEFAULTS: Mapping[str, Value] = {
    "devices": None,
    "tensor_buft_overrides": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "tensor_split": None,
    "progress_callback": None,
    "progress_callback_user_data": None,
    "kv_overrides": None,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
    "load_mtp": False,
}
_CONTEXT_DEFAULTS: Mapping[str, Value] = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_attn_factor": -1.0,
    "yarn_beta_fast": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "cb_eval": None,
    "cb_eval_user_data": None,
    "type_k": 1,
    "type_v": 1,
    "abort_callback": None,
    "abort_callback_data": None,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}
_QUANTIZE_DEFAULTS: Mapping[str, Value] = {
    "nthread": 0,
    "ftype": 7,
    "output_tensor_type": 43,
    "token_embedding_type": 43,
    "allow_requantize": False,
    "quantize_output_tensor": True,
    "only_copy": False,
    "pure": False,
    "keep_split": False,
    "dry_run": False,
    "imatrix": None,
    "kv_overrides": None,
    "tt_overrides": None,
    "prune_layers": None,
    "max_buf_size": 8 << 30,
}
DEFAULTS: Mapping[str, tuple[str, Mapping[str, Value]]] = {
    "llama_model_params": ("llama_model_default_params", _MODEL_DEFAULTS),
    "llama_context_params": ("llama_context_default_params", _CONTEXT_DEFAULTS),
    "llama_model_quantize_params": ("llama_model_quantize_default_params", _QUANTIZE_DEFAULTS),
}
"""Struct name: the function that returns its defaults, and what they must read as."""


def probe_layout(bindings: ModuleType, library: ctypes.CDLL) -> Layout:
    """Give the one known layout that `library` uses.

    To be called in a process that may be lost, on bindings that no layout was installed in.
    Raises: LayoutMismatch if none fits, or if a call shows that batches or candidates differ.
    """
    raw_by_struct: dict[str, tuple[bytes, int | None]] = {}
    for struct, (function, _) in DEFAULTS.items():
        if hasattr(library, function):
            raw_by_struct[struct] = _read_raw(library, function)
    readings: list[str] = []
    for layout in LAYOUTS:
        faults: list[str] = []
        for struct, (raw, size_bytes) in raw_by_struct.items():
            struct_class = _struct_class(bindings, struct, layout)
            found = _struct_faults(struct_class, struct, layout, raw, size_bytes)
            # Two of a struct are enough to see what differs; the rest follows from them.
            faults += islice(found, 2)
        if not faults:
            _check_calls(bindings)
            return layout
        readings.append(f"layout {layout.name!r}: {', '.join(faults)}")
    raise LayoutMismatch(tuple(readings))


def install_layout(bindings: ModuleType, layout: Layout) -> None:
    """Make `bindings` use `layout`: the struct classes and every function that takes or returns one."""
    for struct in {insertion.struct for insertion in layout.insertions}:
        old = getattr(bindings, struct)
        new = _struct_class(bindings, struct, layout)
        for value in vars(bindings).values():
            if isinstance(value, type):
                continue  # Callback types: none of them takes a parameter struct.
            if getattr(value, "restype", None) is old:
                value.restype = new
            argtypes = getattr(value, "argtypes", None) or ()
            if old in argtypes:
                value.argtypes = [new if argtype is old else argtype for argtype in argtypes]
        setattr(bindings, struct, new)


def layout_by_name(name: str) -> Layout:
    """Raises: KeyError for a name that no table entry has."""
    return {layout.name: layout for layout in LAYOUTS}[name]


def _struct_class(bindings: ModuleType, struct: str, layout: Layout) -> type[ctypes.Structure]:
    old: type[ctypes.Structure] = getattr(bindings, struct)
    insertion_by_field = {entry.before: entry for entry in layout.insertions if entry.struct == struct}
    if not insertion_by_field:
        return old
    fields: list[tuple[str, Any]] = []
    for entry in old._fields_:
        insertion = insertion_by_field.get(entry[0])
        if insertion is not None:
            fields.append((insertion.field, insertion.ctype))
        fields.append((entry[0], entry[1]))
    return type(struct, (ctypes.Structure,), {"_fields_": fields})


def _read_raw(library: ctypes.CDLL, function: str) -> tuple[bytes, int | None]:
    """The struct's bytes and, where it can be seen, how many of them the function wrote.

    On x86-64 System V the caller passes a hidden pointer as the first argument: called with ours, twice
    with different fillings, the last byte that came out equal is the struct's last written one. Elsewhere
    the pointer travels in a register that ctypes does not reach, and the size stays unknown.
    """
    if platform.machine() in ("x86_64", "AMD64") and platform.system() != "Windows":
        filled: list[bytes] = []
        for filling in (0xA5, 0x5A):
            buffer = (ctypes.c_ubyte * RAW_BYTES)(*([filling] * RAW_BYTES))
            prototype = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
            prototype((function, library))(ctypes.addressof(buffer))
            filled.append(bytes(buffer))
        first, second = filled
        size_bytes = max((at + 1 for at in range(RAW_BYTES) if first[at] == second[at]), default=0)
        return first, size_bytes

    class Raw(ctypes.Structure):
        _fields_ = (("data", ctypes.c_ubyte * RAW_BYTES),)

    call: Callable[[], Raw] = ctypes.CFUNCTYPE(Raw)((function, library))
    return bytes(call().data), None


def _struct_faults(
    struct_class: type[ctypes.Structure], struct: str, layout: Layout, raw: bytes, size_bytes: int | None
) -> Iterator[str]:
    if size_bytes is not None:
        # Trailing padding is not written, so the size is known up to the struct's alignment.
        unit = ctypes.alignment(struct_class)
        written = -(-size_bytes // unit) * unit
        if written != ctypes.sizeof(struct_class):
            yield f"{struct} has {written} bytes, not {ctypes.sizeof(struct_class)}"
    value = struct_class.from_buffer_copy(raw)
    expected = dict(DEFAULTS[struct][1])
    expected.update({entry.field: entry.default for entry in layout.insertions if entry.struct == struct})
    for entry in struct_class._fields_:
        name = entry[0]
        if name not in expected:
            yield f"{struct}.{name} is a field of the bindings that this table does not know"
            continue
        found = _as_value(getattr(value, name))
        if found != expected[name]:
            yield f"{struct}.{name} reads {found}, not {expected[name]}"


def _as_value(value: Any) -> Value:
    if value is None or isinstance(value, bool | int | float):
        return value
    # Pointers and callbacks are null exactly if they are false; what they point at is never read.
    return 1 if value else None


def _check_calls(bindings: Any) -> None:
    """Call what passes batches and candidates, the other two structs that cross the border by value."""
    tokens = (bindings.llama_token * 3)(11, 12, 13)
    batch = bindings.llama_batch_get_one(tokens, 3)
    token_address = ctypes.cast(batch.token, ctypes.c_void_p).value
    rest_is_null = not any((batch.embd, batch.pos, batch.n_seq_id, batch.seq_id, batch.logits))
    if (batch.n_tokens, token_address, rest_is_null) != (3, ctypes.addressof(tokens), True):
        raise LayoutMismatch((f"llama_batch of 3 tokens reads n_tokens={batch.n_tokens}",))
    candidates = (bindings.llama_token_data * 3)((7, 0.5, 0.0), (8, 2.5, 0.0), (9, 1.5, 0.0))
    array = bindings.llama_token_data_array(candidates, 3, -1, False)
    sampler = bindings.llama_sampler_init_greedy()
    bindings.llama_sampler_apply(sampler, ctypes.byref(array))
    bindings.llama_sampler_free(sampler)
    if array.selected != 1:
        raise LayoutMismatch((f"llama_token_data: the greedy sampler chose {array.selected}, not 1",))
