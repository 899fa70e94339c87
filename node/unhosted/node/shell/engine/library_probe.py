"""The throw-away process in which an unknown libllama is tried: `python -m …library_probe PATH`.

Prints one line of JSON: the layout and version, or `fault`. A library that crashes takes only this
process with it; `library` reads the exit code.
"""

import ctypes
import json
import sys
from types import ModuleType

from unhosted.node.shell.engine.bindings import BindingsError, import_bindings
from unhosted.node.shell.engine.layout import LayoutMismatch, probe_layout


def probe(path: str) -> dict[str, object]:
    """What `library` needs to know about the library at `path`; `fault` is set if it cannot be used."""
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        return {"fault": f"cannot be loaded: {error}"}
    found: dict[str, object] = {"version": _version(library)}
    try:
        bindings, missing = import_bindings(library)
        found["missing"] = missing
        found["layout"] = probe_layout(bindings, library).name
        found["supports_rpc"] = bool(bindings.llama_supports_rpc())
        found["features"] = _features(bindings)
    except BindingsError as error:
        found["fault"] = str(error)
    except LayoutMismatch as error:
        found["fault"] = f"its structs fit no known layout: {error}"
    return found


def _version(library: ctypes.CDLL) -> str:
    """Such as `llama.cpp 0.5.0-dev, ggml 0.25.3 0c1e570`, of the parts the library knows."""

    def text(function: str) -> str:
        try:
            call = getattr(library, function)
        except AttributeError:
            return ""
        call.restype = ctypes.c_char_p
        value = (call() or b"").decode(errors="replace")
        return "" if value == "unknown" else value

    ggml = " ".join(part for part in (text("ggml_version"), text("ggml_commit")) if part)
    return f"llama.cpp {text('llama_version') or 'of unknown version'}, ggml {ggml or 'of unknown version'}"


def _features(bindings: ModuleType) -> tuple[str, ...]:
    """The instruction sets and options it was built with, such as AVX2 and OPENMP."""
    info: str = bindings.llama_print_system_info().decode(errors="replace")
    return tuple(part.split("=")[0].split(":")[-1].strip() for part in info.split("|") if "= 1" in part)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(probe(sys.argv[1])) + "\n")
    sys.stdout.flush()
