"""llama-cpp-python's low-level ctypes module, imported alone and over a library of our choice.

`import llama_cpp` would also import its high-level classes, jinja2 and diskcache, which the engine's
child does not use: beside numpy 30 ms and 6 MB more, each time. A package object of ours stands in for
its `__init__`, so its submodules import as usual. Nothing in site-packages is changed.
"""

import ctypes
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

DISTRIBUTION = "llama-cpp-python"
_PACKAGE = "llama_cpp"

SYMBOLS_OPTIONAL = frozenset(
    {
        # Left out of the xllamacpp wheels; the engine calls none of them.
        "llama_max_parallel_sequences",
        "llama_model_quantize",
        "llama_model_quantize_default_params",
    }
)
"""Functions a library may lack. Any other missing function makes it unusable."""


class BindingsError(Exception):
    """The bindings are not installed, were imported by someone else first, or a function is missing."""


def bindings_version() -> str:
    """Raises: BindingsError if llama-cpp-python is not installed."""
    release = release_of(package_dir(), DISTRIBUTION)
    if release is None:
        raise BindingsError(
            f"{DISTRIBUTION} has no metadata beside its package; next: pip install {DISTRIBUTION}"
        )
    return release


def release_of(package: Path, distribution: str) -> str | None:
    """The installed version, from the name of its metadata directory beside the package.

    `importlib.metadata` gives the same, and costs every child 30 ms for its imports.
    """
    stem = distribution.replace("-", "_")
    found = next(iter(package.parent.glob(f"{stem}-*.dist-info")), None)
    return None if found is None else found.name.removeprefix(f"{stem}-").removesuffix(".dist-info")


def package_dir() -> Path:
    """Where the bindings' package lies. Raises: BindingsError if it is not installed."""
    module = sys.modules.get(_PACKAGE)
    paths = getattr(module, "__path__", None)
    if paths is None:
        spec = importlib.util.find_spec(_PACKAGE)
        paths = spec.submodule_search_locations if spec is not None else None
    if not paths:
        raise BindingsError(
            f"{DISTRIBUTION} is not installed; next: CMAKE_ARGS=-DLLAMA_BUILD=OFF pip install {DISTRIBUTION}"
        )
    return Path(next(iter(paths)))


def import_bindings(library: ctypes.CDLL) -> tuple[ModuleType, tuple[str, ...]]:
    """Import the low-level module over `library`; give it and the optional functions that are missing.

    Raises: BindingsError if a function outside `SYMBOLS_OPTIONAL` is missing.
    """
    if f"{_PACKAGE}.{_PACKAGE}" in sys.modules:
        raise BindingsError(
            f"{_PACKAGE} was imported before its library was chosen and probed; import it with load_library()"
        )
    package = _install_package()
    extensions: Any = importlib.import_module(f"{_PACKAGE}._ctypes_extensions")
    original = extensions.load_shared_library, extensions.ctypes_function_for_shared_library
    missing: list[str] = []
    extensions.load_shared_library = lambda base_name, base_path: library
    extensions.ctypes_function_for_shared_library = lambda lib: _tolerant(original[1](lib), lib, missing)
    try:
        module = importlib.import_module(f"{_PACKAGE}.{_PACKAGE}")
    except AttributeError as error:
        # Some functions are looked up outside the decorator; ctypes names the missing one.
        raise BindingsError(f"it lacks a function that the engine needs: {error}") from error
    finally:
        extensions.load_shared_library, extensions.ctypes_function_for_shared_library = original
    absent = sorted(set(missing) - SYMBOLS_OPTIONAL)
    if absent:
        sys.modules.pop(f"{_PACKAGE}.{_PACKAGE}", None)
        raise BindingsError(
            f"it lacks {len(absent)} functions that the engine needs, first {absent[0]} ({library._name})"
        )
    # `import llama_cpp` elsewhere in this process gives the same names.
    vars(package).update({name: value for name, value in vars(module).items() if not name.startswith("__")})
    return module, tuple(sorted(missing))


def import_grammar() -> ModuleType:
    """llama-cpp-python's JSON-schema converter (`json_schema_to_gbnf`), which needs no library at all."""
    _install_package()
    return importlib.import_module(f"{_PACKAGE}.llama_grammar")


def _install_package() -> ModuleType:
    """A stand-in for the package's `__init__`, with the package's real search path."""
    existing = sys.modules.get(_PACKAGE)
    if existing is not None:
        return existing
    directory = package_dir()
    spec = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
    spec.submodule_search_locations = [str(directory)]
    package = importlib.util.module_from_spec(spec)
    package.__path__ = [str(directory)]
    package.__version__ = bindings_version()  # type: ignore[attr-defined]
    sys.modules[_PACKAGE] = package
    return package


def _tolerant(
    declare: Callable[..., Callable[[Any], Any]], library: ctypes.CDLL, missing: list[str]
) -> Callable[..., Callable[[Any], Any]]:
    """The bindings' own decorator, but a missing function is noted and fails when it is called."""

    def decorate(name: str, argtypes: list[Any], restype: Any, enabled: bool = True) -> Callable[[Any], Any]:
        if not enabled or hasattr(library, name):
            return declare(name, argtypes, restype, enabled)
        missing.append(name)

        def absent(*arguments: object) -> Any:
            raise BindingsError(f"{name} is not in {library._name}; next: make engine")

        return lambda function: absent

    return decorate
