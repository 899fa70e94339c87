"""Plants faults in the contracts, one at a time, and sees whether a test fails: one that cannot is no proof.

    python -m tools.mutants                  all of mutants.toml
    python -m tools.mutants --only operator  those whose `what` contains this

Each fault is an exact text that is replaced by another in a copy of the project. A text that is not there
exactly once is an error: the list must follow the source.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tools.toolchain import ROOT, ToolFailed, forge, say

MUTANTS_MIN = 20
TIMEOUT_S = 600
"""One compile and one run of a contract's tests: 5 s on two idle cores. A fault that makes a test run for
ever is caught by it too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`tests` is a regular expression over the names of the test contracts that should notice."""

    what: str
    file: str
    old: str
    new: str
    tests: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    mutant: Mutant
    is_caught: bool
    how: str
    seconds: float


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.mutants", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="plant only the faults whose description contains this")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="copies to work in")
    options = parser.parse_args(arguments)
    mutants = read_mutants()
    if len(mutants) < MUTANTS_MIN:
        raise ToolFailed(f"mutants.toml has {len(mutants)} faults, {MUTANTS_MIN} are the least")
    chosen = [mutant for mutant in mutants if options.only in mutant.what]
    if not chosen:
        raise ToolFailed(f"no fault of mutants.toml says {options.only!r}")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants ") as folder:
        copies: SimpleQueue[Path] = SimpleQueue()
        first = _copy(ROOT, Path(folder) / "0")
        _check_sound(first, chosen)
        copies.put(first)
        for number in range(1, min(options.jobs, len(chosen))):
            copies.put(_copy(first, Path(folder) / str(number)))
        with ThreadPoolExecutor(options.jobs) as pool:
            outcomes = list(pool.map(lambda mutant: _plant(copies, mutant), chosen))
    survivors = [outcome for outcome in outcomes if not outcome.is_caught]
    say(f"{len(outcomes) - len(survivors)} of {len(outcomes)} caught in {time.monotonic() - started:.0f} s")
    for survivor in survivors:
        say(f"error: not caught: {survivor.mutant.what} ({survivor.mutant.file})")
    return 1 if survivors else 0


def read_mutants() -> list[Mutant]:
    """The faults, each checked against the source as it is.

    Raises: ToolFailed for a text that is not in its file exactly once, or that is replaced by itself.
    """
    rows = tomllib.loads((ROOT / "tools" / "mutants.toml").read_text("utf-8"))["mutant"]
    mutants = [Mutant(**row) for row in rows]
    for mutant in mutants:
        count = (ROOT / mutant.file).read_text("utf-8").count(mutant.old)
        if count != 1 or mutant.old == mutant.new:
            raise ToolFailed(
                f"mutant {mutant.what!r}: its text is {count} times in {mutant.file}, must be once"
            )
    return mutants


def _copy(source: Path, target: Path) -> Path:
    """What a test run needs, with what is built already, so that only the changed is compiled again."""
    target.mkdir(parents=True)
    for name in ("src", "test", "build"):
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name)
    (target / "tools").mkdir()
    for name in ("foundry.toml", "tools/solc"):
        shutil.copy2(source / name, target / name)
    (target / "node_modules").symlink_to((source / "node_modules").resolve(), target_is_directory=True)
    (target / "snapshots").mkdir()  # where the gas tests may write
    return target


def _check_sound(folder: Path, mutants: list[Mutant]) -> None:
    """Without a fault every test that is to notice one must pass, or its failure would say nothing."""
    for tests in sorted({mutant.tests for mutant in mutants}):
        done = _test(folder, tests)
        if done.returncode != 0 or "0 failed" not in done.stdout:
            raise ToolFailed(
                f"tests {tests} fail without a fault:\n{done.stdout[-3000:]}{done.stderr[-2000:]}"
            )


def _plant(copies: "SimpleQueue[Path]", mutant: Mutant) -> Outcome:
    folder = copies.get()
    path = folder / mutant.file
    sound = path.read_text("utf-8")
    started = time.monotonic()
    try:
        path.write_text(sound.replace(mutant.old, mutant.new), "utf-8")
        done = _test(folder, mutant.tests)
    except ToolFailed:
        is_caught, how = True, "a test did not end"
    else:
        # A fault that does not compile makes no test fail and so counts as not caught.
        failed = [line for line in done.stdout.splitlines() if line.startswith("[FAIL")]
        is_caught = done.returncode != 0 and bool(failed)
        how = (
            failed[0][:120] if failed else (done.stderr.strip().splitlines() or ["no test failed"])[-1][:120]
        )
    finally:
        path.write_text(sound, "utf-8")
        copies.put(folder)
    outcome = Outcome(mutant=mutant, is_caught=is_caught, how=how, seconds=time.monotonic() - started)
    say(f"{'caught  ' if is_caught else 'SURVIVED'} {outcome.seconds:4.0f} s  {mutant.what}  {how}")
    return outcome


def _test(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    return forge(
        "test", "--match-contract", tests, "--fail-fast", root=folder, profile="mutants", timeout_s=TIMEOUT_S
    )


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
