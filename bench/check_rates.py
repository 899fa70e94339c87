"""How often sellers must be checked so that cheating is a loss: `python -m bench.check_rates`.

Nothing is measured here: gains and detections are those of `unhosted.verify.economics`, or, with
`--convicting-tokens`, a detection from measured tokens to a conviction and the length of answers.
"""

import argparse
import sys
from dataclasses import replace

from bench.common import Report
from unhosted.verify.economics import (
    CHEATS,
    COLLUSIONS_PPM,
    PPM,
    Cheat,
    checks_to_catch,
    detection_ppm,
    gain_until_caught,
    rate_table,
)
from unhosted.verify.selection import RATE_MIN_PPM

ANSWER_TOKENS = 200
CHEATED_PPM = (1_000_000, 200_000, 50_000, 10_000)
CERTAINTY_PPM = 990_000


def run(report: Report, *, cheats: tuple[Cheat, ...] = CHEATS) -> None:
    for collusion_ppm in COLLUSIONS_PPM:
        friends = f", {collusion_ppm // 10_000} % of the checkers are its friends" if collusion_ppm else ""
        report.title(f"The least rate at which a cheat is a loss, by its stake in requests' pay{friends}")
        header, *rows = rate_table(collusion_ppm=collusion_ppm, cheats=cheats)
        report.table(header, rows)
    report.title(f"At {RATE_MIN_PPM / PPM:.0%} checked, until the conviction")
    caught = [_until_caught(cheat) for cheat in cheats]
    shares = [f"checks to catch one that cheats on {share / PPM:.0%}" for share in CHEATED_PPM]
    report.table(["cheat", "gain in all, in requests' pay", *shares], caught)


def _until_caught(cheat: Cheat) -> list[str]:
    counts = (
        checks_to_catch(cheated_ppm=share_ppm, cheat=cheat, certainty_ppm=CERTAINTY_PPM)
        for share_ppm in CHEATED_PPM
    )
    gain = gain_until_caught(cheat, rate_ppm=RATE_MIN_PPM)
    return [cheat.name, f"{gain:.0f}", *("-" if count is None else f"{count:,}" for count in counts)]


def main() -> int:
    made = argparse.ArgumentParser(description="What makes cheating a loss.")
    made.add_argument("--answer-tokens", type=int, default=ANSWER_TOKENS)
    made.add_argument(
        "--convicting-tokens",
        type=int,
        action="append",
        default=[],
        help="measured median of a quantization step; may be repeated",
    )
    options = made.parse_args()
    measured = tuple(
        replace(
            CHEATS[1],
            name=f"one quantization step, convicted after {tokens} tokens",
            detection_ppm=detection_ppm(answer_tokens=options.answer_tokens, convicting_tokens=tokens),
        )
        for tokens in options.convicting_tokens
    )
    run(Report(), cheats=(*CHEATS, *measured))
    return 0


if __name__ == "__main__":
    sys.exit(main())
