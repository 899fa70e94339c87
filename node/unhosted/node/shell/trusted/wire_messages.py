"""The messages of `/unhosted/infer/1` as frozen values; `wire` and `wire_replies` are how they cross."""

from dataclasses import dataclass

from unhosted.node.core.asks import Ask
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, Embeddings
from unhosted.node.core.peering import PeerFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The first message of each side. name and version (of the program) are for people."""

    name: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskRequest:
    request_id: int
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class CountRequest:
    request_id: int
    ask: Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedRequest:
    request_id: int
    model: str
    inputs: tuple[str | tuple[int, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelRequest:
    request_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComingRequest:
    """A long request is on its way: heartbeats are due from now on."""

    request_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongRequest:
    """A request that breaks a rule, which the others on its channel do not suffer for."""

    request_id: int
    field: str
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WrongVersion:
    version: int


Request = (
    Hello
    | AskRequest
    | CountRequest
    | EmbedRequest
    | CancelRequest
    | ComingRequest
    | WrongRequest
    | WrongVersion
    | None
)
"""None: a kind that this version does not know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    request_id: int


@dataclass(frozen=True, slots=True)
class Deltas:
    entries: list[tuple[int, Delta]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedReply:
    """request_id: 0 for the channel as a whole."""

    request_id: int
    refusal: Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    request_id: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    request_id: int
    embeddings: Embeddings


Reply = Hello | WrongVersion | PeerFacts | Accepted | Deltas | RefusedReply | Counted | Embedded | None
"""None: a heartbeat, or a kind that this version does not know."""
