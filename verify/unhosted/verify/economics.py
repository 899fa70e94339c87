"""What makes cheating a loss: how often a seller must be checked, for what it gains and what it can lose.

A cheat saves the part `gain` of a request's price. A checked cheat is convicted with chance `detection`,
unless a checker who is its friend had the check (`collusion`). A conviction costs the seller its stake,
counted in requests' pay: the bond that is slashed, pay that was not authorised yet, and what its reputation
would still earn. It pays to cheat while

    rate * (1 - collusion) * detection * stake < gain,

and a cheat that is not caught for long enough gains `gain / (rate * (1 - collusion) * detection)` in all
before it is: the same condition, seen from its end. All shares are in parts per million. Honest sellers lose
at most 1e-6 of their stake in a lifetime, which counts for nothing here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log

PPM = 1_000_000

HELD_BACK_REQUESTS = 20
"""Pay of so many last requests may wait where the seller's own credit allows it: a stake from the first day,
without a bond or a name to lose."""

PAID_CHECKS_SHARE_PPM = 50_000
"""5 % of what answers cost: at most that goes to others who check them. Even where a check costs as much as
its answer, 5 % of the answers can be checked, and 2 % are enough of a seller that is known."""

STAKES_REQUESTS = (1, 5, 10, 20, 50, 100, 1_000)
COLLUSIONS_PPM = (0, 300_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cheat:
    """gain: what it saves of the price. detection: of one checked answer."""

    name: str
    gain_ppm: int
    detection_ppm: int


CHEATS = (
    Cheat(name="a small model or a replayed answer", gain_ppm=850_000, detection_ppm=950_000),
    Cheat(name="one quantization step", gain_ppm=400_000, detection_ppm=950_000),
    Cheat(name="one quantization step, short answers", gain_ppm=400_000, detection_ppm=300_000),
    Cheat(name="near the noise", gain_ppm=400_000, detection_ppm=50_000),
)
"""What decoding saves is about the memory that it reads: 35 to 45 % for a step, 85 % for an eighth of the
parameters. Detections of the first two are for answers of 100 tokens or more."""


def rate_min_ppm(cheat: Cheat, *, stake_requests: int, collusion_ppm: int = 0) -> int | None:
    """The least rate, rounded up, at which the cheat is no gain; None where checking everything is too
    little."""
    _check_share("collusion_ppm", collusion_ppm)
    _check_cheat(cheat)
    if stake_requests < 1:
        raise ValueError(f"a stake of {stake_requests} requests' pay: at least 1 is needed")
    caught_ppm3 = cheat.detection_ppm * (PPM - collusion_ppm) * stake_requests
    if caught_ppm3 == 0:
        return None
    rate_ppm = -(-cheat.gain_ppm * PPM * PPM // caught_ppm3)
    return rate_ppm if rate_ppm <= PPM else None


def requests_until_caught(cheat: Cheat, *, rate_ppm: int, collusion_ppm: int = 0) -> float:
    """The mean number of cheats up to the conviction; infinite where nothing convicts."""
    for name, share in (("rate_ppm", rate_ppm), ("collusion_ppm", collusion_ppm)):
        _check_share(name, share)
    _check_cheat(cheat)
    caught = rate_ppm * (PPM - collusion_ppm) * cheat.detection_ppm
    return PPM**3 / caught if caught else float("inf")


def gain_until_caught(cheat: Cheat, *, rate_ppm: int, collusion_ppm: int = 0) -> float:
    """What the cheat earns in all up to the conviction, in requests' pay: a stake above it makes it a
    loss."""
    until_caught = requests_until_caught(cheat, rate_ppm=rate_ppm, collusion_ppm=collusion_ppm)
    return cheat.gain_ppm / PPM * until_caught


def detection_ppm(*, answer_tokens: int, convicting_tokens: int) -> int:
    """What one checked answer is worth, where convictions take so many tokens on average: evidence adds up
    over answers, so an answer of a tenth of them is a tenth of a conviction."""
    if answer_tokens < 0 or convicting_tokens < 1:
        raise ValueError(f"{answer_tokens} of {convicting_tokens} tokens: at least 0 of 1 are needed")
    return min(PPM, PPM * answer_tokens // convicting_tokens)


def checks_to_catch(*, cheated_ppm: int, cheat: Cheat, certainty_ppm: int) -> int | None:
    """Checks until a seller that cheats on a part of its requests is caught with that certainty."""
    _check_share("cheated_ppm", cheated_ppm)
    _check_cheat(cheat)
    if not 0 <= certainty_ppm < PPM:
        raise ValueError(f"certainty_ppm {certainty_ppm} is outside 0 to {PPM - 1}")
    per_check = cheated_ppm / PPM * cheat.detection_ppm / PPM
    if per_check == 0:
        return None
    return 1 if per_check == 1 else max(1, ceil(log(1 - certainty_ppm / PPM) / log(1 - per_check)))


def held_back_micros(
    dues_micros: Sequence[int], *, credit_micros: int, requests: int = HELD_BACK_REQUESTS
) -> int:
    """How much of what is due for finished requests may wait unauthorised: the last `requests` of them, as
    far as the seller itself gives credit. dues: oldest first; credit: what the seller serves on before it is
    paid.

    Never more than the credit: a seller that waits for its pay serves nothing, and an honest one must not
    notice.
    """
    if requests < 0 or credit_micros < 0 or any(due < 0 for due in dues_micros):
        raise ValueError("a hold-back of negative requests, credit or dues")
    last = dues_micros[-requests:] if requests else ()
    return min(sum(last), credit_micros)


def paid_check_room_micros(
    *, answers_micros: int, checks_micros: int, cap_room_micros: int, share_ppm: int = PAID_CHECKS_SHARE_PPM
) -> int:
    """The most that one more paid check may cost. It is reserved under the cap, like a request, before
    anybody is asked to check.

    answers, checks: what both cost this month. cap_room: what the cap leaves, reservations taken off.
    """
    _check_share("share_ppm", share_ppm)
    if answers_micros < 0 or checks_micros < 0 or cap_room_micros < 0:
        raise ValueError("a negative amount was spent, or is left")
    return max(0, min(cap_room_micros, answers_micros * share_ppm // PPM - checks_micros))


def rate_table(
    *, collusion_ppm: int, cheats: Sequence[Cheat] = CHEATS, stakes: Sequence[int] = STAKES_REQUESTS
) -> list[tuple[str, ...]]:
    """Rows for people, the header first: for each cheat the least rate by stake, `-` where none suffices."""
    header = ("cheat", "saves", "caught when checked", *(f"stake {stake:,}" for stake in stakes))
    rows = [
        (
            cheat.name,
            _percent(cheat.gain_ppm),
            _percent(cheat.detection_ppm),
            *(
                _percent(rate_min_ppm(cheat, stake_requests=stake, collusion_ppm=collusion_ppm))
                for stake in stakes
            ),
        )
        for cheat in cheats
    ]
    return [header, *rows]


def _percent(share_ppm: int | None) -> str:
    if share_ppm is None:
        return "-"
    percent = share_ppm / PPM * 100
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _check_cheat(cheat: Cheat) -> None:
    _check_share("gain_ppm", cheat.gain_ppm)
    _check_share("detection_ppm", cheat.detection_ppm)


def _check_share(name: str, share_ppm: int) -> None:
    if not 0 <= share_ppm <= PPM:
        raise ValueError(f"{name} {share_ppm} is outside 0 to {PPM}")
