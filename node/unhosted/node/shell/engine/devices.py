"""What the loaded library computes on: the processor and its features, or graphics cards."""

import ctypes
import os
import platform
from dataclasses import dataclass
from types import ModuleType

from unhosted.node.core.engine_facts import DEVICE_CHARS_MAX

DEVICES_MAX = 64
"""llama.cpp itself splits a model over at most 16."""

NAME_CHARS_MAX = 60
_CPU, _ACCELERATOR = 0, 3
_KINDS = {1: "gpu", 2: "gpu", _ACCELERATOR: "accelerator"}
_MACHINES = {"x86_64": "x86-64", "amd64": "x86-64", "aarch64": "arm64"}


@dataclass(frozen=True, slots=True)
class Device:
    """kind: `gpu`, `accelerator` (BLAS and the like) or `other`. name: as its driver says."""

    kind: str
    backend: str
    name: str


def devices(L: ModuleType) -> tuple[Device, ...]:
    """All but the processor. None, if the library cannot say: then it is of the processor alone."""
    library = L._lib
    try:
        count, get = library.ggml_backend_dev_count, library.ggml_backend_dev_get
        kind_of, name_of = library.ggml_backend_dev_type, library.ggml_backend_dev_name
        description_of = library.ggml_backend_dev_description
    except AttributeError:
        return ()
    count.restype, count.argtypes = ctypes.c_size_t, []
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    kind_of.restype, kind_of.argtypes = ctypes.c_int, [ctypes.c_void_p]
    for text_of in (name_of, description_of):
        text_of.restype, text_of.argtypes = ctypes.c_char_p, [ctypes.c_void_p]
    found = []
    for index in range(min(count(), DEVICES_MAX)):
        pointer = get(index)
        kind = kind_of(pointer)
        if kind != _CPU:
            backend = _text(name_of(pointer)).rstrip("0123456789").lower()
            found.append(Device(_KINDS.get(kind, "other"), backend, _text(description_of(pointer))))
    return tuple(found)


def has_accelerator(L: ModuleType) -> bool:
    return bool(devices(L))


def device_text(L: ModuleType, *, uses_gpu: bool) -> str:
    """As `EngineFacts.device` says it.

    A processor is named by its kind, the features that the library's kernels were chosen by, and the C
    library, whose exponential function attention uses. An accelerator beside it takes large products.
    """
    others = devices(L)
    if uses_gpu:
        names = [f"{each.backend}:{each.name}" for each in others if each.kind != "accelerator"]
        counted = [f"{name}*{names.count(name)}" for name in sorted(set(names))]
        return "+".join(counted)[:DEVICE_CHARS_MAX]
    machine = platform.machine().lower()
    accelerators = sorted({each.backend for each in others if each.kind == "accelerator"})
    parts = ["cpu", "+".join((_MACHINES.get(machine, machine), *accelerators)), _features(L), _math_library()]
    return ":".join(parts)[:DEVICE_CHARS_MAX]


def _features(L: ModuleType) -> str:
    """Such as `avx,avx2,f16c,fma,llamafile,openmp,repack`."""
    said: str = L.llama_print_system_info().decode(errors="replace")
    on = {part.split("=")[0].split(":")[-1].strip().lower() for part in said.split("|") if "= 1" in part}
    return ",".join(sorted(on))


def _math_library() -> str:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "libc").replace(" ", "-")
    except (AttributeError, ValueError, OSError):  # no glibc: it goes with the system's version
        return f"{platform.system()}-{platform.release()}".lower()


def _text(value: bytes | None) -> str:
    text = (value or b"").decode("ascii", "replace")
    return "".join(c for c in text if c.isascii() and c.isprintable())[:NAME_CHARS_MAX].strip()
