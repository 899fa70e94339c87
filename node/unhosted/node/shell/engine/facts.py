"""What decides how this process's engine rounds, read where it runs."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from unhosted.node.core.engine_facts import (
    KERNELS_MIXED,
    KERNELS_PLAIN,
    KERNELS_USUAL,
    LIBRARY_CHARS_MAX,
    WEIGHTS_CHARS_MAX,
    EngineFacts,
    exact_class,
)
from unhosted.node.shell.engine.child import LoadOrder
from unhosted.node.shell.engine.devices import device_text, devices
from unhosted.node.shell.engine.library import cache_dir, loaded_library, read_cache, write_cache
from unhosted.node.shell.engine.llama import Model
from unhosted.node.shell.engine.rowwise import is_rowwise
from unhosted.node.shell.models.gguf import GgufError, read_header

HASHES_KEPT_MAX = 64
"""Files of a dozen builds; the digest of 100 MB takes a tenth of a second, at every load of a model."""

LIBRARY_FILES_MAX = 64
BUILD_DOMAIN = b"unhosted/build/v1"
_LIBRARY_FILE = re.compile(r"(ggml|llama).*\.(so|dylib)|(ggml|llama).*\.dll", re.IGNORECASE)
_RECURRENT, _EXPERTS = "recurrent", "experts"


def weights_of(path: str) -> str:
    """Tensor types of a file's matrices with commas, as `EngineFacts.weights` says them.

    Experts and recurrent states are named too: their products are not those of plain matrices. Empty, which
    is never exact, for a file that our reader refuses; llama.cpp has its own word on it.
    """
    try:
        header = read_header(path)
    except GgufError:
        return ""
    words = [name.lower() for name in header.matrix_types]
    if header.expert_count:
        words.append(_EXPERTS)
    return ",".join(words)[:WEIGHTS_CHARS_MAX]


def describe(L: ModuleType, model: Model, order: LoadOrder, *, weights: str, threads: int) -> EngineFacts:
    """To be called in the child, with the model loaded. order: as `rowwise.settle` gave it.

    An engine that would count as exact is tried first, and says so if it is not.
    """
    library = loaded_library()
    uses_gpu = order.gpu_layers != 0 and any(each.kind != "accelerator" for each in devices(L))
    layers = int(L.llama_model_n_layer(model.ptr)) + 1
    facts = EngineFacts(
        library=library.version[:LIBRARY_CHARS_MAX] if library else "",
        build=_build(library.path) if library else "",
        device=device_text(L, uses_gpu=uses_gpu),
        weights=weights if model.keeps_every_cell else f"{_RECURRENT},{weights}"[:WEIGHTS_CHARS_MAX],
        kv_type=order.kv_type,
        flash_attention=order.flash_attention,
        is_split=order.is_split,
        slots=order.slots,
        ubatch_tokens=order.ubatch_tokens,
        gpu_layers=(layers if order.gpu_layers < 0 else min(order.gpu_layers, layers)) if uses_gpu else 0,
        kernels=KERNELS_PLAIN if order.is_exact else KERNELS_USUAL,
    )
    if exact_class(facts) is not None and not is_rowwise(model, order, threads):
        return replace(facts, kernels=KERNELS_MIXED)
    return facts


def _build(main: Path) -> str:
    """BLAKE3 over the loaded library's files, by their names: 64 hex digits."""
    from blake3 import blake3

    digest = blake3(BUILD_DOMAIN)
    for path in sorted(_loaded_files(main), key=lambda path: path.name)[:LIBRARY_FILES_MAX]:
        digest.update(bytes.fromhex(_hash_of(path)))
    return digest.hexdigest()


def _loaded_files(main: Path) -> set[Path]:
    """The files that this process has loaded; where the system does not tell, those that lie together."""
    if sys.platform == "linux":
        lines = Path("/proc/self/maps").read_text().splitlines()
        paths = {Path(line.split(maxsplit=5)[5]) for line in lines if line.count(" /")}
        return {path for path in paths if _LIBRARY_FILE.search(path.name)} | {main.resolve()}
    return {path.resolve() for path in main.parent.iterdir() if _LIBRARY_FILE.search(path.name)} | {main}


def _hash_of(path: Path) -> str:
    """The file's BLAKE3, computed once for each size and time of change."""
    from blake3 import blake3

    status = path.stat()
    key = f"{path}:{status.st_size}:{status.st_mtime_ns}:{status.st_ino}"
    cache_file = cache_dir() / "engine-hashes.json"
    cached = read_cache(cache_file)
    found = cached.get(key, {}).get("blake3")
    if not isinstance(found, str) or len(found) != 64:
        found = blake3(max_threads=blake3.AUTO).update_mmap(path).hexdigest()
        cached[key] = {"blake3": found}
        write_cache(cache_file, dict(list(cached.items())[-HASHES_KEPT_MAX:]))
    return found
