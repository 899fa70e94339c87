"""Where anvil is: named by the environment, on the PATH, or installed by npm beside us.

npm puts a JavaScript wrapper on the PATH. It costs 0.9 s at each start and a signal reaches the wrapper
instead of the chain, so the program behind it is run.
"""

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import unhosted.contracts
from unhosted.node.core.errors import Refused

VARIABLE = "UNHOSTED_ANVIL"

MACHINES = {"x86_64": "amd64", "AMD64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def find_anvil(environ: Mapping[str, str] = os.environ, *, cwd: Path | None = None) -> Path | None:
    """The program itself, or None.

    Raises: Refused when UNHOSTED_ANVIL names something that cannot be run: what is asked for explicitly is
    not replaced in silence.
    """
    named = environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not _is_program(path):
            raise Refused("invalid_request", f"{VARIABLE}={named} is not a program; correct or unset it")
        return _behind_wrapper(path)
    on_path = shutil.which("anvil", path=environ.get("PATH", ""))
    if on_path is not None:
        found = _behind_wrapper(Path(on_path))
        if found is not None:
            return found
    return next((path for path in _npm_places(cwd or Path.cwd()) if _is_program(path)), None)


def _npm_places(cwd: Path) -> Iterator[Path]:
    checkout = Path(unhosted.contracts.__file__).resolve().parents[2]
    for folder in (cwd, cwd / "contracts", checkout):
        yield folder / "node_modules" / "@foundry-rs" / _package() / "bin" / "anvil"


def _package() -> str:
    system = "darwin" if sys.platform == "darwin" else "linux"
    return f"anvil-{system}-{MACHINES.get(platform.machine(), platform.machine())}"


def _behind_wrapper(path: Path) -> Path | None:
    """The program that npm's wrapper would run; anything else is what it is."""
    real = path.resolve()
    if real.suffix not in {".mjs", ".js"}:
        return path
    scope = next((parent for parent in real.parents if parent.name == "@foundry-rs"), None)
    program = scope / _package() / "bin" / "anvil" if scope is not None else None
    return program if program is not None and _is_program(program) else None


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
