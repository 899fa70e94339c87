"""Static analysis and symbolic proofs of the contracts.

    python -m tools.analyse slither    findings that slither.toml does not explain are errors
    python -m tools.analyse halmos     every function check_* of test/halmos is proven, or it is an error

Both tools want other versions of libraries that the node uses, so they live in an environment of their own,
`.venv-analysis`, made at first use.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

from tools.toolchain import ROOT, ToolFailed, forge_binary, run, say, without_colour

PACKAGES = ("slither-analyzer==0.11.6", "halmos==0.3.3")
FOLDER = ROOT / ".venv-analysis"
INSTALL_TIMEOUT_S = 900
"""330 MB of wheels."""
SLITHER_TIMEOUT_S = 300
HALMOS_TIMEOUT_S = 1_800
SOLVER_TIMEOUT_MS = 120_000
"""For one query. What is not decided by then counts as not proven."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.analyse", description=__doc__.splitlines()[0])
    parser.add_argument("tool", choices=("slither", "halmos"))
    options = parser.parse_args(arguments)
    binaries = environment()
    return slither(binaries) if options.tool == "slither" else halmos(binaries)


def environment() -> Path:
    """The folder of the tools' programs; installs them where they are missing or of another version."""
    stamp = FOLDER / "installed"
    wanted = "\n".join(PACKAGES)
    if not stamp.is_file() or stamp.read_text("utf-8") != wanted:
        say(f"installing {', '.join(PACKAGES)} into {FOLDER.name} (a minute)")
        venv.create(FOLDER, with_pip=True, clear=True)
        pip = [
            str(FOLDER / "bin" / "python"),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
        ]
        done = run([*pip, "--prefer-binary", *PACKAGES], timeout_s=INSTALL_TIMEOUT_S)
        if done.returncode != 0:
            raise ToolFailed(f"pip could not install {', '.join(PACKAGES)}:\n{done.stderr[-3000:]}")
        stamp.write_text(wanted, "utf-8")
    return FOLDER / "bin"


def slither(binaries: Path) -> int:
    """0 where each finding in src/ is explained in slither.toml, and each explanation has its finding."""
    done = _analysed(binaries, "slither", ".", "--json", "-", timeout_s=SLITHER_TIMEOUT_S)
    start = done.stdout.find("{")
    if start < 0:
        raise ToolFailed(f"slither gave no report:\n{done.stderr[-3000:]}")
    report: dict[str, Any] = json.loads(done.stdout[start:])
    if not report["success"]:
        raise ToolFailed(f"slither failed: {report['error']}")
    found = {_place(finding) for finding in report["results"].get("detectors", [])}
    rows = tomllib.loads((ROOT / "slither.toml").read_text("utf-8"))["explained"]
    explained = {(row["check"], where) for row in rows for where in row["where"] if row["why"]}
    for check, where in sorted(found - explained):
        say(f"error: {check} in {where} is not explained")
    for check, where in sorted(explained - found):
        say(f"error: {check} in {where} is explained, and slither does not find it any more")
    say(f"slither: {len(found)} findings, {len(found & explained)} of them explained in slither.toml")
    if found != explained:
        say("Next: mend it, or say in slither.toml why it is meant")
    return 1 if found != explained else 0


def _place(finding: dict[str, Any]) -> tuple[str, str]:
    """The kind of finding and where it is, without lines: it stays when other code moves."""
    element = finding["elements"][0]
    names = [element.get("type_specific_fields", {}).get("signature") or element["name"]]
    while (parent := element.get("type_specific_fields", {}).get("parent")) is not None:
        names.append(parent["name"])
        element = parent
    return finding["check"], ".".join(
        name.split("(")[0] for name in reversed(names) if not name.endswith(".sol")
    )


def halmos(binaries: Path) -> int:
    done = _analysed(
        binaries,
        "halmos",
        "--function",
        "check_",
        "--forge-build-out",
        "build/out",
        "--solver-timeout-assertion",
        str(SOLVER_TIMEOUT_MS),
        timeout_s=HALMOS_TIMEOUT_S,
    )
    lines = without_colour(done.stdout).splitlines()
    for line in lines:
        if line.startswith(("[PASS]", "[FAIL]", "[ERROR]", "[TIMEOUT]", "Counterexample", "Error")):
            say(line)
    proven = sum(line.startswith("[PASS]") for line in lines)
    written = sum(
        len(re.findall(r"function check_\w+", path.read_text("utf-8")))
        for path in (ROOT / "test" / "halmos").rglob("*.sol")
    )
    if done.returncode != 0 or proven != written or written == 0:
        say(f"error: {proven} of {written} properties are proven\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return 1
    say(f"halmos: {proven} of {written} properties proven")
    return 0


def _analysed(
    binaries: Path, tool: str, *arguments: str, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """The tool, which finds forge by PATH."""
    path = f"{forge_binary().parent}:/usr/local/bin:/usr/bin:/bin"
    return run([binaries / tool, *arguments], timeout_s=timeout_s, extra={"PATH": path})


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
