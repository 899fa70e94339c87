"""Runs the contracts' tests with branches counted, and refuses a contract in src/ with too few of them taken.

python -m tools.coverage            at least 95 % of the branches of every file in src/
"""

import argparse
import re
import sys

from tools.toolchain import ToolFailed, forge, say, without_colour

BRANCHES_PERCENT_MIN = 95.0
TIMEOUT_S = 600
"""Without the optimizer the compile alone takes a minute on two cores."""

ROW = re.compile(
    r"^\|\s*(?P<path>src/\S+\.sol)\s*"
    r"\|\s*(?P<lines>[\d.]+)%[^|]*\|\s*(?P<statements>[\d.]+)%[^|]*"
    r"\|\s*(?P<branches>[\d.]+)%\s*\((?P<taken>\d+)/(?P<all>\d+)\)\s*\|",
    re.MULTILINE,
)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.coverage", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--match-path", default=None, help="only these test files (glob), to look at one contract"
    )
    options = parser.parse_args(arguments)
    extra = ["--match-path", options.match_path] if options.match_path else []
    done = forge(
        "coverage", "--report", "summary", "--no-match-coverage", "^test/", *extra, timeout_s=TIMEOUT_S
    )
    if done.returncode != 0:
        raise ToolFailed(f"forge coverage failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    rows = list(ROW.finditer(without_colour(done.stdout)))
    if not rows:
        raise ToolFailed(f"forge coverage printed no table:\n{done.stdout[-4000:]}")
    too_few = 0
    for row in rows:
        total = int(row["all"])
        percent = 100.0 if total == 0 else 100 * int(row["taken"]) / total
        is_enough = percent >= BRANCHES_PERCENT_MIN
        too_few += not is_enough
        say(
            f"{'ok   ' if is_enough else 'error'} {row['path']}: {row['taken']} of {total} branches, "
            f"{row['lines']} % of lines"
        )
    if too_few:
        say(f"Next: test the branches that are left; {BRANCHES_PERCENT_MIN:g} % must be taken")
    return 1 if too_few else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
