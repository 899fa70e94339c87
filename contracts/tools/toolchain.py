"""Where the tools are and how they are called: the npm packages' own binaries, never a downloaded compiler.

Programs are run from `contracts/` as `python -m tools.NAME`. Node's wrappers are left out: they cost a second
for each call and a kill would hit the wrapper only.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
COMPILE_TIMEOUT_S = 120
"""A compile takes 3 to 8 s; a shared machine may be ten times slower."""

QUIET = {"NO_COLOR": "1", "FORGE_SNAPSHOT_EMIT": "false"}
"""No escape codes; and only tools.gas writes down what calls cost, since other runs may compile otherwise."""


class ToolFailed(Exception):
    """A tool is missing or said no. The message is for the terminal and says what to do next."""


def say(text: str) -> None:
    """One line, at once: the tools run for minutes."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def forge_binary() -> Path:
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine().lower(), platform.machine()
    )
    path = ROOT / "node_modules" / "@foundry-rs" / f"forge-{system}-{machine}" / "bin" / "forge"
    if not path.is_file():
        raise ToolFailed(f"{path} is missing. Next: run npm install --ignore-scripts in {ROOT}")
    return path


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float,
    root: Path = ROOT,
    profile: str = "default",
    extra: Mapping[str, str] | None = None,
    text_in: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """The finished command, also where it failed. Its process group ends with it or with the time."""
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words,
        cwd=root,
        env={**os.environ, **QUIET, "FOUNDRY_PROFILE": profile, **(extra or {})},
        stdin=subprocess.DEVNULL if text_in is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(text_in, timeout=timeout_s)
    except BaseException as fault:
        os.killpg(process.pid, 9)
        process.wait()
        if isinstance(fault, subprocess.TimeoutExpired):
            raise ToolFailed(f"{' '.join(words)} did not end within {timeout_s:g} s") from None
        raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def forge(
    *arguments: str,
    timeout_s: float,
    root: Path = ROOT,
    profile: str = "default",
    extra: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    return run([forge_binary(), *arguments], timeout_s=timeout_s, root=root, profile=profile, extra=extra)


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def compiler_settings() -> dict[str, Any]:
    """What foundry.toml says to the compiler, in the compiler's own words."""
    profile = tomllib.loads((ROOT / "foundry.toml").read_text("utf-8"))["profile"]["default"]
    return {
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "viaIR": profile["via_ir"],
        "evmVersion": profile["evm_version"],
        "metadata": {"bytecodeHash": profile["bytecode_hash"], "appendCBOR": profile["cbor_metadata"]},
    }


def compile_sources() -> dict[str, Any]:
    """The output of the plain compiler for all of src/, without forge.

    Raises: ToolFailed with the compiler's errors.
    """
    paths = sorted((ROOT / "src").rglob("*.sol"))
    request = {
        "language": "Solidity",
        "sources": {
            path.relative_to(ROOT).as_posix(): {"content": path.read_text("utf-8")} for path in paths
        },
        "settings": {
            **compiler_settings(),
            "outputSelection": {
                "*": {
                    "": ["ast"],
                    "*": [
                        "abi",
                        "evm.bytecode.object",
                        "evm.deployedBytecode.object",
                        "evm.deployedBytecode.immutableReferences",
                    ],
                }
            },
        },
    }
    done = run(
        [ROOT / "tools" / "solc", "--standard-json"],
        timeout_s=COMPILE_TIMEOUT_S,
        text_in=json.dumps(request),
    )
    if done.returncode != 0:
        raise ToolFailed(f"the compiler failed: {done.stderr.strip()}")
    output: dict[str, Any] = json.loads(done.stdout)
    faults = [fault for fault in output.get("errors", []) if fault["severity"] == "error"]
    if faults:
        raise ToolFailed("".join(fault["formattedMessage"] for fault in faults))
    return output


def compiler_version() -> str:
    done = run([ROOT / "tools" / "solc", "--version"], timeout_s=COMPILE_TIMEOUT_S)
    found = re.search(r"Version: (\S+?)(?:\.Emscripten\S*)?\s", done.stdout)
    if found is None:
        raise ToolFailed(f"tools/solc does not say its version: {done.stdout}{done.stderr}")
    return found[1]
