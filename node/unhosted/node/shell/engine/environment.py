"""What a model's process inherits from the node: enough to import this program and run, and no secret."""

import os
import sys

_KEPT = frozenset(
    {
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "XDG_CACHE_HOME",
        "UNHOSTED_HOME",
        "UNHOSTED_LLAMA_LIB",
        "PYTHONDONTWRITEBYTECODE",
        "OPENBLAS_CORETYPE",
    }
)
_PREFIXES_KEPT = ("LLAMA_", "GGML_", "OMP_", "GOMP_", "CUDA_", "HIP_", "ROCR_", "VK_", "DYLD_")


def child_environment() -> dict[str, str]:
    """The variables a child gets: tokens for hubs and wallets are not among them."""
    kept = {
        name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_PREFIXES_KEPT)
    }
    kept["PYTHONPATH"] = os.pathsep.join(part for part in sys.path if part)
    kept["OPENBLAS_NUM_THREADS"] = "1"  # numpy only samples; its threads would fight the model's
    return kept
