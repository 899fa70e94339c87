"""When a conviction may leave the machine: two independent readers, no refutation, and the seller heard.

The rules. Nothing is published and no bond is touched (`market.receipts.verdict_digest`) before

1. this node's own engine ran the evidence again and convicts, what the choice of answers could have won taken
   off, and at least one other reader did as well;
2. any two of those who confirm have distinct keys and distinct hosts; and among the statistical readings
   there are two classes of engines, since one class that is measured wrongly is wrong for all who share it.
   Exact readings have one class by their nature, and faults that need no statistics have no noise: there
   distinct hosts must do;
3. no reader that counts says otherwise. A refutation blocks for good: the seller is still avoided by this
   node, which needs no proof for that;
4. the seller was told and had APPEAL_NS to answer. An appeal is an exact replay on its declared settings; if
   that explains the tokens, the case is over, and if it does not, it goes on when the time has passed.

E-values of readers of the same answers are averaged, never multiplied: they are not independent draws of the
seller's behaviour, only of the readers' honesty. Each must reach the threshold by itself.

Whether signatures under confirmations hold is the shell's to find out before it feeds them; so is which host
a reader is on. Publishing itself is the caller's: it does what `Publish` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Literal, assert_never

from unhosted.market.ids import PeerText
from unhosted.market.offers import CheckClass
from unhosted.node.core.evidence_weight import CONVICT_LOG10_MILLI
from unhosted.node.core.evidence_wire import EvidenceHash

VOTES_MAX = 16
"""Readers of one case. Two suffice; more are asked only where two disagree, and then it is blocked anyway."""

APPEAL_NS = 24 * 3_600 * 1_000_000_000
"""As long as a seller has to claim in a closing channel: sellers at home sleep."""

CASE_NS_MAX = 30 * 24 * 3_600 * 1_000_000_000
"""A case that nobody confirms in a month is dropped; the evidence stays in its file."""

_DOWN = Context(prec=28, rounding=ROUND_FLOOR, Emax=100_000_000, Emin=-100_000_000)

Status = Literal["waiting", "told", "published", "refuted", "explained", "dropped"]
"""`waiting` for readers; `told`: confirmed, the seller may appeal; the other four are ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One reader's result on one file, as it signed it.

    reader: its peer id. host: what the shell knows of where it runs, equal for readers that share a machine.
    engine_class: `core.engine_facts.engine_class` of its engine. convicts: its verdict. left_milli: log10 E
    less the cost of the choice, in thousandths. is_proven: by a fault that needs no statistics.
    """

    evidence: EvidenceHash
    reader: PeerText
    host: str
    engine_class: str
    check: CheckClass
    convicts: bool
    left_milli: int
    is_proven: bool = False
    is_own: bool = False

    @property
    def is_confirming(self) -> bool:
        return self.convicts and (self.is_proven or self.left_milli >= CONVICT_LOG10_MILLI)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """votes: the first of each reader, in the order in which they came. appeal_until_ns: 0 until told."""

    evidence: EvidenceHash
    opened_ns: int
    status: Status = "waiting"
    votes: tuple[Vote, ...] = ()
    appeal_until_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VoteCame:
    """Its signature is checked, and the reader is one that was asked."""

    vote: Vote


@dataclass(frozen=True, slots=True, kw_only=True)
class AppealHeard:
    """This node replayed the seller's declared settings: whether they explain the tokens."""

    explains: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TimePassed:
    """Nothing came; a deadline may be over."""


Event = VoteCame | AppealHeard | TimePassed


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSeller:
    """Send it the evidence's hash and how long it has."""

    evidence: EvidenceHash
    until_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Publish:
    """Now it may be published, and a verdict signed. log10_e_milli: the average over the readers."""

    evidence: EvidenceHash
    readers: tuple[PeerText, ...]
    log10_e_milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Nothing will be published. why: for the user."""

    evidence: EvidenceHash
    why: str


Effect = TellSeller | Publish | Close


def step(case: Case, event: Event, now_ns: int) -> tuple[Case, tuple[Effect, ...]]:
    """Raises: ValueError for a vote on other evidence."""
    if case.status not in ("waiting", "told"):
        return case, ()
    match event:
        case VoteCame(vote=vote):
            return _voted(case, vote, now_ns)
        case AppealHeard(explains=explains):
            if case.status == "told" and explains:
                why = "the settings that the seller had declared explain its tokens"
                return _closed(case, "explained", why)
            return _timed(case, now_ns)
        case TimePassed():
            return _timed(case, now_ns)
    assert_never(event)


def is_confirmed(votes: Sequence[Vote]) -> bool:
    """Whether rules 1 to 3 hold."""
    if any(not vote.convicts for vote in votes):
        return False
    confirming = [vote for vote in votes if vote.is_confirming]
    own = [vote for vote in confirming if vote.is_own]
    return any(_is_independent(mine, other) for mine in own for other in confirming)


def average_log10_milli(values: Sequence[int]) -> int:
    """log10 of the mean of E-values, all in thousandths of a decade, rounded down. For the same answers.

    Raises: ValueError without a value.
    """
    if not values:
        raise ValueError("no E-values to average")
    total = Decimal(0)
    for value in values:
        total = _DOWN.add(total, _DOWN.power(Decimal(10), Decimal(value).scaleb(-3)))
    mean = _DOWN.divide(total, Decimal(len(values)))
    return int((_DOWN.log10(mean) * 1_000).to_integral_value(ROUND_FLOOR))


def _voted(case: Case, vote: Vote, now_ns: int) -> tuple[Case, tuple[Effect, ...]]:
    if vote.evidence != case.evidence:
        raise ValueError(f"a vote on {vote.evidence.hex()[:8]}, the case is {case.evidence.hex()[:8]}")
    if any(one.reader == vote.reader for one in case.votes) or len(case.votes) >= VOTES_MAX:
        return _timed(case, now_ns)  # a reader's first word counts
    case = replace(case, votes=(*case.votes, vote))
    if not vote.convicts:
        return _closed(case, "refuted", "a reader ran the same evidence and does not convict")
    if case.status == "waiting" and is_confirmed(case.votes):
        until_ns = now_ns + APPEAL_NS
        case = replace(case, status="told", appeal_until_ns=until_ns)
        return case, (TellSeller(evidence=case.evidence, until_ns=until_ns),)
    return _timed(case, now_ns)


def _timed(case: Case, now_ns: int) -> tuple[Case, tuple[Effect, ...]]:
    if case.status == "told" and now_ns >= case.appeal_until_ns:
        confirming = [vote for vote in case.votes if vote.is_confirming]
        publish = Publish(
            evidence=case.evidence,
            readers=tuple(vote.reader for vote in confirming),
            log10_e_milli=average_log10_milli([vote.left_milli for vote in confirming]),
        )
        return replace(case, status="published"), (publish,)
    if case.status == "waiting" and now_ns - case.opened_ns >= CASE_NS_MAX:
        return _closed(case, "dropped", "no second reader confirmed it in time")
    return case, ()


def _closed(case: Case, status: Status, why: str) -> tuple[Case, tuple[Effect, ...]]:
    return replace(case, status=status), (Close(evidence=case.evidence, why=why),)


def _is_independent(one: Vote, other: Vote) -> bool:
    if one.reader == other.reader or one.host == other.host:
        return False
    needs_no_noise = (one.check == "exact" and other.check == "exact") or (one.is_proven and other.is_proven)
    return needs_no_noise or one.engine_class != other.engine_class
