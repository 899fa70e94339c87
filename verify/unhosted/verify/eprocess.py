"""Evidence that a seller does not serve what it sold: one e-process per (seller, model).

H0, the seller is honest: for every token, the mean of X given everything before it and the bin of the gap is
at most the table's `mean_max`. Under H0 no bet of `increments` gains on average, whatever was bet before.
The process is the total wealth of a gambler who starts with 1 and splits it, once and for all, in three:

A  always:   bets on every token of every answer. A seller that always cheats.
B  fraction: before each answer it puts a share w of its wealth into a purse that bets, and keeps the rest:
             wealth *= (1 - w) + w * purse. A seller that cheats on some answers. Several w side by side.
C  late:     1/((k+1)(k+2)) of it starts with answer k and bets half of itself on each answer from then on;
             the rest waits. A seller that is honest until it is trusted.

and each part equally between the rows of bets. The purse of one answer starts at 1, half of it at stake and
half idle. Every BLOCK_TOKENS tokens a part of the idle half is put at stake, and a smaller part of what is at
stake is taken home. So a cheap tail after an honest head, or a cheap middle, shows as well as a cheap answer.

Why it is an e-process. Money that is at stake is multiplied by a factor with mean at most 1 under H0; money
that waits stays; how much moves between the two is fixed before the token is seen, and what moves is neither
made nor lost. The shares of the three parts, of the rows, of the w and of the starts (1/2 + 1/6 + 1/12 + ...)
sum to 1. So the total is a nonnegative supermartingale that starts at 1, at every token, and by Ville's
inequality the probability that it *ever* reaches 1/alpha is at most alpha. One may look after every token,
stop when one likes, and go on later: the running maximum counts. Answers are added in an order that was not
chosen by their content (that of their receipts), and each once.

What the caller must see to: rounding is deterministic, so the same prompt with the same seed gives the same
honest flip again, and given the first time X of the second is certain. A prompt counts once for a seller.

Unlike a sum that is reset to 0 when it falls (CUSUM), or a maximum over starts, nothing here is won by
looking many times: each start has paid for its chance beforehand.

All wealth is rounded down. State is a handful of integers, however many answers it has seen.
"""

from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from decimal import Decimal

from unhosted.verify.increments import EXACT, NANONATS_PER_DECADE, bets_of, exp_down, log_down
from unhosted.verify.noise import BET_ROWS_MAX, NoiseTable
from unhosted.verify.observations import Observations

ROWS = BET_ROWS_MAX
"""Accounts; a table with fewer rows of bets has them taken in turn, so that tables may follow each other."""

BLOCK_TOKENS = 16
"""A tail of 40 tokens is at stake after 8 of them on average; shorter blocks win little and cost time."""

STAKE_AT_START = Decimal("0.5")
"""Of an answer's purse; the rest is idle."""

PUT_AT_STAKE = Decimal("0.0625")
"""Of the idle half, per block. A tail that begins after ten blocks has half of its chance left."""

TAKEN_HOME = Decimal("0.015625")
"""Of what is at stake, per block: the price for seeing a cheap middle."""

SHARES = (Decimal("0.015625"), Decimal("0.125"), Decimal("0.5"))
"""w of B: cheating on one answer in fifty, in eight, in two. A cheat costs ln(1/w) nats of its evidence."""

LATE_SHARE = Decimal("0.5")
"""Of C, on each answer after the start."""

LOG_NNAT_MAX = 1_000_000_000_000_000
"""A million nats: an account above it stays there, one below minus it is lost. No history gets there."""

_NOTHING = Decimal(0)
_ONE = Decimal(1)
_THIRD = EXACT.divide(_ONE, Decimal(3))
_PER_ROW = EXACT.divide(_THIRD, Decimal(ROWS))
_PER_SHARE = EXACT.divide(_PER_ROW, Decimal(len(SHARES)))
_IDLE_AT_START = EXACT.subtract(_ONE, STAKE_AT_START)
_NOT_LATE = EXACT.subtract(_ONE, LATE_SHARE)
_KEPT = tuple(EXACT.subtract(_ONE, share) for share in SHARES)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceState:
    """Logarithms in nanonats. always, late: one per row. fraction: per row, then per share of SHARES.

    late holds what is at stake before the next answer, its new start included. log_e_nnat: of the whole
    process after the last answer. peak_nnat: the greatest that it had after any token.
    """

    answers: int = 0
    tokens: int = 0
    mismatches: int = 0
    always_nnat: tuple[int, ...] = (0,) * ROWS
    fraction_nnat: tuple[int, ...] = (0,) * (ROWS * len(SHARES))
    late_nnat: tuple[int, ...] = (log_down(Decimal("0.5")),) * ROWS
    log_e_nnat: int = 0
    peak_nnat: int = 0

    def __post_init__(self) -> None:
        for name, size in (
            ("always_nnat", ROWS),
            ("fraction_nnat", ROWS * len(SHARES)),
            ("late_nnat", ROWS),
        ):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} accounts, {size} are needed")
        if not 0 <= self.mismatches <= self.tokens or self.answers < 0:
            raise ValueError(
                f"{self.mismatches} mismatches of {self.tokens} tokens in {self.answers} answers"
            )
        for account in (*self.always_nnat, *self.fraction_nnat, *self.late_nnat, self.log_e_nnat):
            if not -LOG_NNAT_MAX <= account <= LOG_NNAT_MAX:
                raise ValueError(f"an account of {account} nanonats is outside +-{LOG_NNAT_MAX}")
        if not max(0, self.log_e_nnat) <= self.peak_nnat <= LOG_NNAT_MAX:
            raise ValueError(f"peak {self.peak_nnat} is not the greatest of what was reached")


def add_answer(state: EvidenceState, table: NoiseTable, seen: Observations) -> EvidenceState:
    """The state after one more answer, or a prefix of one that was drawn at random. No token, no change."""
    if not seen.tokens:
        return state
    run = _Run(state)
    rows = len(table.bets_ppb)
    for index, factors in enumerate(bets_of(table).each(seen)):
        if index and index % BLOCK_TOKENS == 0:
            run.move()
        run.bet(factors if rows == ROWS else tuple(factors[row % rows] for row in range(ROWS)))
    return run.end(state, seen)


def log10_e_milli(state: EvidenceState) -> int:
    """Thousandths of a decade, rounded down: 6000 is E of a million."""
    return state.log_e_nnat * 1_000 // NANONATS_PER_DECADE


def peak_log10_e_milli(state: EvidenceState) -> int:
    """The greatest that it had after any token, never below 0. Ville's bound is on this one."""
    return state.peak_nnat * 1_000 // NANONATS_PER_DECADE


def tokens_until(table: NoiseTable, answers: Iterable[Observations], *, log10_milli: int) -> int | None:
    """How many tokens a fresh process reads before it reaches this; None if these answers never do."""
    state = EvidenceState()
    for seen in answers:
        before, state = state, add_answer(state, table, seen)
        if peak_log10_e_milli(state) >= log10_milli:
            below, enough = 0, seen.tokens
            while enough - below > 1:
                middle = (below + enough) // 2
                reached = add_answer(before, table, seen.part(0, middle))
                if peak_log10_e_milli(reached) >= log10_milli:
                    enough = middle
                else:
                    below = middle
            return before.tokens + enough
    return None


def to_fields(state: EvidenceState) -> tuple[int | tuple[int, ...], ...]:
    """Plain integers and tuples of them, in the order of the fields, for a database or CBOR."""
    return astuple(state)


def from_fields(values: tuple[int | tuple[int, ...], ...]) -> EvidenceState:
    """Raises: ValueError if that is no state."""
    names = [one.name for one in fields(EvidenceState)]
    if len(values) != len(names):
        raise ValueError(f"{len(values)} fields, a state has {len(names)}")
    named: dict[str, int | tuple[int, ...]] = {}
    for name, value in zip(names, values, strict=True):
        parts = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not all(type(part) is int for part in parts):
            raise ValueError(f"{name} holds what is no integer")
        is_row = name in ("always_nnat", "fraction_nnat", "late_nnat")
        if is_row != isinstance(value, list | tuple):
            raise ValueError(f"{name} is {'no row' if is_row else 'a row'}")
        named[name] = parts if is_row else parts[0]
    return EvidenceState(**named)  # type: ignore[arg-type]


class _Run:
    """The gambler's money through one answer, row by row.

    Within an answer the whole is the sum over rows of always * product + slope * purse, and what waits.
    """

    __slots__ = (
        "_always",
        "_at_stake",
        "_fraction",
        "_idle",
        "_late",
        "_peak",
        "_slope",
        "_total",
        "_waits",
        "_whole",
    )

    def __init__(self, state: EvidenceState) -> None:
        multiply, add = EXACT.multiply, EXACT.add
        self._always = [multiply(_PER_ROW, _wealth(one)) for one in state.always_nnat]
        self._fraction = [_wealth(one) for one in state.fraction_nnat]
        self._late = [_wealth(one) for one in state.late_nnat]
        self._idle = [_IDLE_AT_START] * ROWS
        self._at_stake = [STAKE_AT_START] * ROWS
        self._peak = Decimal(0)
        self._slope: list[Decimal] = []
        self._waits = multiply(_THIRD, EXACT.divide(_ONE, Decimal(state.answers + 2)))
        for row in range(ROWS):
            late = multiply(_PER_ROW, self._late[row])
            slope = multiply(late, LATE_SHARE)
            self._waits = add(self._waits, multiply(late, _NOT_LATE))
            for share, kept, account in zip(SHARES, _KEPT, self._of_row(row), strict=True):
                fraction = multiply(_PER_SHARE, account)
                slope = add(slope, multiply(fraction, share))
                self._waits = add(self._waits, multiply(fraction, kept))
            self._slope.append(slope)
        self._whole = self._sum_idle()

    def move(self) -> None:
        """Between two blocks: some of the idle half is put at stake, some comes home."""
        multiply, add, subtract = EXACT.multiply, EXACT.add, EXACT.subtract
        for row in range(ROWS):
            put = multiply(self._idle[row], PUT_AT_STAKE)
            taken = multiply(self._at_stake[row], TAKEN_HOME)
            self._idle[row] = add(subtract(self._idle[row], put), taken)
            self._at_stake[row] = add(subtract(self._at_stake[row], taken), put)
        self._whole = self._sum_idle()

    def bet(self, factors: tuple[Decimal, ...]) -> None:
        """One token."""
        multiply, fma = EXACT.multiply, EXACT.fma
        always, at_stake, slope = self._always, self._at_stake, self._slope
        total = self._whole
        for row, factor in enumerate(factors):
            always[row] = multiply(always[row], factor)
            at_stake[row] = multiply(at_stake[row], factor)
            total = fma(slope[row], at_stake[row], EXACT.add(total, always[row]))
        if total > self._peak:
            self._peak = total
        self._total = total

    def end(self, state: EvidenceState, seen: Observations) -> EvidenceState:
        multiply, add, fma = EXACT.multiply, EXACT.add, EXACT.fma
        start = EXACT.divide(_ONE, Decimal((state.answers + 2) * (state.answers + 3)))
        always: list[int] = []
        fraction: list[int] = []
        late: list[int] = []
        for row in range(ROWS):
            purse = add(self._idle[row], self._at_stake[row])
            always.append(_log(EXACT.divide(self._always[row], _PER_ROW)))
            late.append(_log(fma(self._late[row], fma(LATE_SHARE, purse, _NOT_LATE), start)))
            for share, kept, account in zip(SHARES, _KEPT, self._of_row(row), strict=True):
                fraction.append(_log(multiply(account, fma(share, purse, kept))))
        log_e = _log(self._total)
        return EvidenceState(
            answers=state.answers + 1,
            tokens=state.tokens + seen.tokens,
            mismatches=state.mismatches + seen.mismatches,
            always_nnat=tuple(always),
            fraction_nnat=tuple(fraction),
            late_nnat=tuple(late),
            log_e_nnat=log_e,
            peak_nnat=max(state.peak_nnat, _log(self._peak)),
        )

    def _of_row(self, row: int) -> list[Decimal]:
        return self._fraction[row * len(SHARES) : (row + 1) * len(SHARES)]

    def _sum_idle(self) -> Decimal:
        total = self._waits
        for row in range(ROWS):
            total = EXACT.fma(self._slope[row], self._idle[row], total)
        return total


def _wealth(nanonats: int) -> Decimal:
    return _NOTHING if nanonats <= -LOG_NNAT_MAX else exp_down(nanonats)


def _log(wealth: Decimal) -> int:
    if wealth <= _NOTHING:
        return -LOG_NNAT_MAX
    return max(-LOG_NNAT_MAX, min(LOG_NNAT_MAX, log_down(wealth)))
