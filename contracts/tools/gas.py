"""What the calls cost, held against what is written down.

python -m tools.gas            runs test/*.gas.t.sol and compares with snapshots/*.json
python -m tools.gas --write    writes them anew
"""

import argparse
import sys

from tools.toolchain import ROOT, ToolFailed, forge, say

TIMEOUT_S = 300


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.gas", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write what the calls cost now")
    options = parser.parse_args(arguments)
    # With nothing to compare with, forge would be content.
    if not options.write and not list((ROOT / "snapshots").glob("*.json")):
        raise ToolFailed("snapshots/ is empty. Next: python -m tools.gas --write, and commit what it wrote")
    extra = {"FORGE_SNAPSHOT_EMIT": "true"} if options.write else {"FORGE_SNAPSHOT_CHECK": "true"}
    done = forge("test", "--match-path", "test/*.gas.t.sol", timeout_s=TIMEOUT_S, extra=extra)
    if done.returncode != 0:
        say(done.stdout[-4000:] + done.stderr[-4000:])
        say("Next: mend it, or if the cost is meant, python -m tools.gas --write")
        return 1
    names = ", ".join(path.name for path in sorted((ROOT / "snapshots").glob("*.json")))
    say(f"{'wrote' if options.write else 'unchanged:'} {names}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
