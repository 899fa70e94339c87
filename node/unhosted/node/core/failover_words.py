"""What a request over several servers is made of: state, events and effects. Rules: `core.failover`."""

from dataclasses import dataclass
from typing import Literal

from unhosted.node.core.errors import Refused
from unhosted.node.core.routing import Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """resume_from: tokens that the client had when it began. deadline_ns: when something is to be done."""

    number: int
    choice: Choice
    phase: Literal["opening", "waiting", "streaming"]
    resume_from: int
    started_at_ns: int
    deadline_ns: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An attempt that ended without an answer. refused: what the server said; None if it was lost."""

    choice: Choice
    reason: str
    refused: Refused | None
    accepted: bool
    delivered: int

    def __str__(self) -> str:
        return f"{self.choice.name}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """delivered: output tokens that the client has. answered: who delivered any of them, in order.

    retry: a server that is tried again at the instant beside it.
    """

    choices: tuple[Choice, ...]
    live: tuple[Attempt, ...] = ()
    failures: tuple[Failure, ...] = ()
    answered: tuple[Choice, ...] = ()
    retry: tuple[Choice, int] | None = None
    attempts: int = 0
    delivered: int = 0
    hedged: bool = False
    outcome: Literal["open", "answered", "gave up"] = "open"


@dataclass(frozen=True, slots=True)
class Begun:
    """The client waits."""


@dataclass(frozen=True, slots=True)
class Accepted:
    number: int


@dataclass(frozen=True, slots=True)
class FirstDelta:
    """tokens: in it. is_last: it says how the answer finished."""

    number: int
    tokens: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer's end was delivered. tokens: delivered since the first delta, without that one's."""

    number: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Failed:
    """reason: for people. refused: what the server said; None if it is lost. tokens: see `Finished`."""

    number: int
    reason: str
    refused: Refused | None = None
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """What the router says now."""

    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class TimePassed:
    """`next_deadline_ns` has come."""


Event = Begun | Accepted | FirstDelta | Finished | Failed | Planned | TimePassed


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the server, with the tokens that were delivered so far as `resume_ids`."""

    number: int
    choice: Choice
    resume_from: int


@dataclass(frozen=True, slots=True)
class Cancel:
    number: int


@dataclass(frozen=True, slots=True)
class Stream:
    """Deliver its first delta, then whatever it sends, until it ends or fails."""

    number: int


@dataclass(frozen=True, slots=True)
class Replan:
    """Ask the router again: what it knew is older than the failure."""


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Nobody can go on: see `final_refusal`."""


Effect = Start | Cancel | Stream | Replan | GiveUp
Result = tuple[Session, tuple[Effect, ...]]
