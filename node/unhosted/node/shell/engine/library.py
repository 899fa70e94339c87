"""Finds a libllama, proves that its structs are those we know, and hands out the bindings over it.

Order: the one the user names, the native build of `make engine`, the one llama-cpp-python was built with
(CUDA, Metal, Vulkan), then prebuilt ones from other wheels. A library that the user names is used or
refused; the others are passed over with a reason that `unhosted doctor` shows.
"""

import ctypes
import hashlib
import json
import logging
import os
import platform
import sys
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from unhosted.node.shell.engine import bindings, layout

log = logging.getLogger(__name__)

Kind = Literal["environment", "native", "llama-cpp-python", "llama-cpp-py-sync", "xllamacpp"]

ENVIRONMENT_VARIABLES = ("UNHOSTED_LLAMA_LIB", "LLAMA_CPP_LIB_PATH")
"""A file, or a directory with libllama in it. The second one is llama-cpp-python's own."""

PROBE_TIMEOUT_S = 60.0
"""A probe takes 0.2 s; a cold disk and a loaded machine take longer, a hanging one must end."""

CACHE_ENTRIES_MAX = 16
"""Answers kept on disk: more libraries than one machine has, few enough to read at every start."""

ERRORS_MAX = 32
"""llama.cpp's last warnings and errors, kept to say why a model did not load."""

ERROR_CHARS_MAX = 500

_GGML_LOG_WARN = 3
_GGML_LOG_ERROR = 4
_GGML_LOG_CONTINUED = 5


class LibraryError(Exception):
    """No usable libllama. The message names what was tried, both versions and the next command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A libllama that passed its probe.

    layout: a name from `layout.LAYOUTS`. features: what it was built with, such as AVX2, OPENMP.
    missing: optional functions it lacks. passed_over: better-placed libraries and why they were not used.
    """

    path: Path
    kind: Kind
    version: str
    supports_rpc: bool
    bindings_version: str
    layout: str
    features: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()


_lock = threading.Lock()
_loaded: tuple[ModuleType, Library] | None = None
_errors: deque[str] = deque(maxlen=ERRORS_MAX)


def native_dir() -> Path:
    """Where `make engine` puts its build: it belongs to the environment, as an installed package would."""
    return Path(sys.prefix) / "lib" / "unhosted-engine"


def set_environment() -> None:
    """Set what llama.cpp and its OpenMP runtime read once, when they are loaded. Values already set win.

    Threads wait for each other some 600 times per token. With OpenMP's default they burn the core that the
    others need: on a busy machine decoding was 20 to 30 times slower. Asleep at once (passive) they lose
    an idle machine: 39 tokens/s where one thread alone gives 84. A spin of some 5 µs and then sleep gives
    both: docs/decisions has the table. GGML_NO_BACKTRACE: an abort would fork a debugger.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "300")
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")


def find_library() -> Library:
    """Give the first usable library. Loads none: what is not cached is probed in another process.

    Raises: LibraryError.
    """
    try:
        known_version = bindings.bindings_version()
        known_dir = bindings.package_dir()
    except bindings.BindingsError as error:
        raise LibraryError(str(error)) from None
    passed_over: list[str] = []
    for kind, path in _candidates(known_dir):
        found = _probe_cached(path, known_version)
        fault = found.get("fault")
        name = _describe(kind, path, found)
        if fault is None:
            return _library(kind, path, found, known_version, tuple(passed_over))
        refusal = f"{name}: {fault}"
        if kind == "environment":
            raise LibraryError(_refusal((refusal,), known_version))
        passed_over.append(refusal)
        log.debug("library_passed_over path=%s", path)
    raise LibraryError(_refusal(tuple(passed_over), known_version))


def other_libraries() -> tuple[Library, ...]:
    """Usable ones that `find_library` does not take: other builds to measure with. Raises: LibraryError."""
    taken = find_library()
    known_dir = bindings.package_dir()
    others: dict[Path, Library] = {}
    for kind, path in _installed(known_dir):
        if path.resolve() == taken.path.resolve() or path.resolve() in others:
            continue
        found = _probe_cached(path, taken.bindings_version)
        if "fault" not in found:
            others[path.resolve()] = _library(kind, path, found, taken.bindings_version, ())
    return tuple(others.values())


def load_library(*, debug: bool = False) -> ModuleType:
    """Load the library into this process and give llama_cpp's low-level module over it, once.

    debug: leave llama.cpp's own log on stderr; otherwise its warnings are kept for `recent_errors`.
    Raises: LibraryError.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            library = find_library()
            set_environment()
            try:
                module, _ = bindings.import_bindings(ctypes.CDLL(str(library.path)))
            except (OSError, bindings.BindingsError) as error:
                raise LibraryError(f"{library.path}: {error}") from error
            layout.install_layout(module, layout.layout_by_name(library.layout))
            if not debug:
                _keep_log(module)
            _loaded = module, library
        return _loaded[0]


def probe_file(path: Path) -> dict[str, Any]:
    """Try the library at `path` in a process of its own; the answer of `library_probe.probe`."""
    import subprocess

    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-m", "unhosted.node.shell.engine.library_probe", str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PROBE_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return {"fault": f"its probe did not end within {PROBE_TIMEOUT_S:g} s"}
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if "libgomp.so.1" in str(found.get("fault", "")):
            found["fault"] += " (the system's OpenMP runtime; on Debian and Ubuntu: apt-get install libgomp1)"
        return found
    last_line = (done.stderr.decode(errors="replace").strip().splitlines() or [""])[-1]
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return {"fault": f"its probe ended with {ended} {last_line[:ERROR_CHARS_MAX]}".rstrip()}


def loaded_library() -> Library | None:
    """The library that `load_library` took in this process."""
    return None if _loaded is None else _loaded[1]


def library_names() -> tuple[str, ...]:
    """What libllama's file is called here, the usual name first."""
    return ("libllama.dylib", "libllama.so") if sys.platform == "darwin" else ("libllama.so",)


def recent_errors() -> tuple[str, ...]:
    """llama.cpp's last warnings and errors in this process, oldest first: why a model did not load."""
    return tuple(_errors)


def _candidates(known_dir: Path) -> Iterator[tuple[Kind, Path]]:
    for variable in ENVIRONMENT_VARIABLES:
        named = os.environ.get(variable)
        if named:
            path = Path(named).absolute()
            yield "environment", (_library_in(path) or path) if path.is_dir() else path
            return
    yield from _installed(known_dir)


def _installed(known_dir: Path) -> Iterator[tuple[Kind, Path]]:
    places: tuple[tuple[Kind, Path | None], ...] = (
        ("native", _library_in(native_dir())),
        ("llama-cpp-python", _library_in(known_dir / "lib")),
        ("llama-cpp-py-sync", _library_in(_package_dir("llama_cpp_py_sync"))),
        ("xllamacpp", _first(_package_dir("xllamacpp"), "xllamacpp*.so")),
    )
    for kind, found in places:
        if found is not None:
            yield kind, found


def _library_in(directory: Path | None) -> Path | None:
    return next((path for name in library_names() if (path := _first(directory, name)) is not None), None)


def _first(directory: Path | None, pattern: str) -> Path | None:
    return None if directory is None else next(iter(sorted(directory.glob(pattern))), None)


def _package_dir(package: str) -> Path | None:
    """Found without importing it: the package would load its library on its own terms."""
    spec = PathFinder.find_spec(package)
    locations = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(locations))) if locations else None


def _library(
    kind: Kind, path: Path, found: dict[str, Any], known_version: str, passed_over: tuple[str, ...]
) -> Library:
    return Library(
        path=path,
        kind=kind,
        version=found["version"],
        supports_rpc=found["supports_rpc"],
        bindings_version=known_version,
        layout=found["layout"],
        features=tuple(found["features"]),
        missing=tuple(found["missing"]),
        passed_over=passed_over,
    )


def _describe(kind: Kind, path: Path, found: dict[str, Any]) -> str:
    """Such as `xllamacpp 2026.10.11549 (llama.cpp 0.6.0-dev, ggml 0.26.0) at /…/xllamacpp.abi3.so`."""
    release = ""
    if kind in ("llama-cpp-py-sync", "xllamacpp"):
        release = f" {bindings.release_of(path.parent, kind) or 'of unknown release'}"
    built = f" ({found['version']})" if "version" in found else ""
    return f"{kind}{release}{built} at {path}"


def _refusal(refusals: tuple[str, ...], known_version: str) -> str:
    tried = "; ".join(refusals) if refusals else "none is installed"
    return (
        f"no usable libllama for {bindings.DISTRIBUTION} {known_version}: {tried}. "
        "Next: `pip install xllamacpp` for a prebuilt one, `make engine` for a native one, "
        "`unhosted doctor` for the whole picture"
    )


def _probe_cached(path: Path, known_version: str) -> dict[str, Any]:
    """What the probe says about `path`; asked anew if the file, the bindings or our tables changed."""
    try:
        status = path.stat()
    except OSError as error:
        return {"fault": error.strerror or str(error)}
    identity = (
        *(str(path), status.st_mtime_ns, status.st_size, known_version, layout.REVISION),
        # A home directory may be shared by machines with other processors and other system libraries.
        *(platform.node(), platform.machine(), sys.prefix, sys.version),
    )
    key = hashlib.sha256(repr(identity).encode()).hexdigest()
    cache_file = cache_dir() / "engine-library.json"
    cached = read_cache(cache_file)
    if key in cached:
        return cached[key]
    found = probe_file(path)
    if "fault" not in found:
        # A fault may be cured from outside (a missing libgomp): it is looked at again every time.
        cached[key] = found
        write_cache(cache_file, dict(list(cached.items())[-CACHE_ENTRIES_MAX:]))
    return found


def cache_dir() -> Path:
    """Where answers about libraries are kept; it may be lost at any time."""
    home = os.environ.get("UNHOSTED_HOME")
    if home:
        return Path(home) / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("unhosted")


def read_cache(path: Path) -> dict[str, dict[str, Any]]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}  # Absent, unreadable or cut off: the probe runs again and writes a new one.
    return value if isinstance(value, dict) else {}


def write_cache(path: Path, value: dict[str, dict[str, Any]]) -> None:
    import tempfile

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(value, file)
        os.replace(file.name, path)
    except OSError as error:
        # A read-only home only means that the next start probes again.
        log.debug("library_cache_not_written error=%s", error)


def _keep_log(module: Any) -> None:
    """Take llama.cpp's log: nothing reaches stderr, and the last warnings stay readable."""
    continues = False

    def note(level: int, text: bytes | None, _: object) -> None:
        nonlocal continues
        if level != _GGML_LOG_CONTINUED:
            continues = level in (_GGML_LOG_WARN, _GGML_LOG_ERROR)
            if continues:
                _errors.append("")
        if continues and text and _errors:
            _errors[-1] = (_errors[-1] + text.decode(errors="replace")).strip()[:ERROR_CHARS_MAX]

    callback = module.llama_log_callback(note)
    module.llama_log_set(callback, None)
    module.unhosted_log_callback = callback  # ctypes frees a callback that nobody holds.
