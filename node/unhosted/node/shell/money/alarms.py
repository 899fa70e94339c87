"""What the operator must act on, or money is lost: kept until it is over, for status, log and metrics."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

AlarmKind = Literal[
    "chain_unreachable",  # no endpoint gave an answer for too long: a close could go by unseen
    "no_gas",  # the key that sends claims cannot pay the fee
    "claim_overdue",  # a channel closes, and the claim on it is not safe yet
    "claim_given_up",  # a channel closes with less on it than a claim costs
    "claim_refused",  # the contract refused a claim: the numbers are in the message
    "book_unwritable",  # the seller's book cannot be written: nothing is sold, and nothing claimed
]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """message: the value, what it means, and what to do next; it names no secret."""

    kind: AlarmKind
    message: str
    since_unix_s: int


class Alarms:
    """At most one of each kind. on_change: told of each that begins, changes or ends, with all there are."""

    def __init__(
        self,
        *,
        now_unix_s: Callable[[], int],
        on_change: Callable[[tuple[Alarm, ...]], None] = lambda alarms: None,
    ) -> None:
        self._now_unix_s = now_unix_s
        self._on_change = on_change
        self._by_kind: dict[AlarmKind, Alarm] = {}

    @property
    def all(self) -> tuple[Alarm, ...]:
        return tuple(self._by_kind.values())

    def is_on(self, kind: AlarmKind) -> bool:
        return kind in self._by_kind

    def begin(self, kind: AlarmKind, message: str) -> None:
        """Or go on, with the newest message."""
        present = self._by_kind.get(kind)
        if present is not None and present.message == message:
            return
        if present is None:
            _LOG.error("alarm_began kind=%s message=%s", kind, message)
        since_unix_s = self._now_unix_s() if present is None else present.since_unix_s
        self._by_kind[kind] = Alarm(kind=kind, message=message, since_unix_s=since_unix_s)
        self._on_change(self.all)

    def end(self, kind: AlarmKind) -> None:
        if self._by_kind.pop(kind, None) is not None:
            _LOG.warning("alarm_ended kind=%s", kind)
            self._on_change(self.all)
