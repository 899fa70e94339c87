"""What pairing is made of: messages between the machines, events, effects, state. Rules: `core.pairing`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from unhosted.node.core.pairing_code import PairingCode
from unhosted.node.core.peering import PairedPeer, PeerId

Role = Literal["offer", "join"]
Standing = Literal["none", "pending", "paired"]
"""What a book says of the other machine."""

Why = Literal[
    "no-code",  # no code is open here
    "busy",  # too many tries now: come back in a few seconds
    "wrong-code",  # the proof does not fit the code
    "dead",  # that was the last try: the code is no more
    "used",  # another machine was faster
    "said-no",  # the user there said no, or went away from the question
    "cancelled",
    "timeout",
    "version",
    "failed",  # a rule of the protocol is broken, or the disk refused
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """joiner → offerer. pake: the joiner's SPAKE2 message, of side A."""

    pake: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """offerer → joiner. pake: the offerer's SPAKE2 message, of side B."""

    pake: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """joiner → offerer: it knows the code. The first of the two proofs, so that a guess costs a try."""

    mac: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Introduction:
    """Either way: who the sender says it is and where it listens, with the proof that it knows the code."""

    mac: bytes
    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """joiner → offerer: my user said yes, and I have written that down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """offerer → joiner: both said yes, and I have written down that we are paired."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decline:
    """Either way, at any point: this pairing is over."""

    why: Why
    tries_left: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolve:
    """Either way, on a channel of its own: my book says this of you, what does yours say of me?"""

    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    standing: Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpaired:
    """Either way, on a channel of its own: I have removed you."""


PairingMessage = (
    Start | Answer | Proof | Introduction | Accept | Commit | Decline | Resolve | Resolved | Unpaired
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferAsked:
    pairing_id: str
    code: PairingCode


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinAsked:
    pairing_id: str
    code: PairingCode


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptBegan:
    """A channel stands to a machine that may have offered the code. record: what our book says of it."""

    pairing_id: str
    channel: int
    peer: PeerId
    record: PairedPeer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptsFailed:
    """Nobody is left to ask. reason: for the user; empty leaves the one of the last attempt."""

    pairing_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PakeReady:
    """Our own SPAKE2 message, for the other side. key: None while the other's is still to come."""

    channel: int
    pake: bytes
    key: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PakeFailed:
    """The other side's SPAKE2 message is no element of the group."""

    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """A message on a channel. record: what our book says of the peer at this moment.

    names_taken: the names of all others in the book.
    """

    channel: int
    peer: PeerId
    message: PairingMessage
    record: PairedPeer | None = None
    names_taken: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelEnded:
    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserAnswered:
    pairing_id: str
    accept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCancelled:
    pairing_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpairAsked:
    record: PairedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteFailed:
    """The book could not be written; what should have followed the write was not done."""

    peer: PeerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactMade:
    """A connection to somebody in the book stands."""

    record: PairedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolveAnswered:
    """asked: our record when we asked; record: as it is now."""

    asked: PairedPeer
    standing: Standing
    record: PairedPeer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticked:
    """A second or so has passed. stale: pending records older than PENDING_S_MAX."""

    addresses: tuple[str, ...]
    stale: tuple[PairedPeer, ...] = ()


PairingEvent = (
    OfferAsked
    | JoinAsked
    | AttemptBegan
    | AttemptsFailed
    | PakeReady
    | PakeFailed
    | Arrived
    | ChannelEnded
    | UserAnswered
    | UserCancelled
    | UnpairAsked
    | WriteFailed
    | ContactMade
    | ResolveAnswered
    | Ticked
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MakePake:
    """Compute our SPAKE2 message with `code`; with the other's too, if it is here, then also the key."""

    channel: int
    role: Role
    code: str
    peer: PeerId
    theirs: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishPake:
    """The joiner's second half: the other's message is here."""

    channel: int
    theirs: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    channel: int
    message: PairingMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Say that nothing more follows, once what was sent is out."""

    channel: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Put the peer into the book, durably, before any effect that follows."""

    peer: PeerId
    name: str
    state: Literal["pending", "paired"]
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Remove the peer from the book, durably, before any effect that follows."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class AskResolve:
    record: PairedPeer


@dataclass(frozen=True, slots=True, kw_only=True)
class TellUnpaired:
    """Tell the peer over its live connection, if there is one, and end the connection."""

    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect:
    peer: PeerId


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """What the user did not ask for and should know."""

    peer: PeerId
    text: str


PairingEffect = (
    MakePake | FinishPake | Send | End | Write | Drop | AskResolve | TellUnpaired | Disconnect | Notice
)

Phase = Literal["waiting", "naming", "confirm", "confirmed", "unresolved", "paired", "failed"]
"""naming: the code is proved, the joiner's name is to come. unresolved: we wrote `pending` and lost sight of
the offerer; the next contact decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """One pairing as its user sees it. channel: the one whose other end has proved that it knows the code.

    declined: how the last attempt to join ended.
    """

    pairing_id: str
    role: Role
    code: PairingCode
    phase: Phase
    deadline_at_ns: int
    tries_left: int
    channel: int | None = None
    peer: PeerId | None = None
    name: str = ""
    addresses: tuple[str, ...] = ()
    other_accepted: bool = False
    reason: str = ""
    declined: Why | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """A channel on which nothing is proved yet, or not by both. key: SPAKE2's, None until computed."""

    channel: int
    pairing_id: str
    role: Role
    peer: PeerId
    deadline_at_ns: int
    mine: bytes = b""
    theirs: bytes = b""
    key: bytes | None = None

    def __repr__(self) -> str:
        return f"Handshake(channel={self.channel})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingState:
    """pairings: by id, oldest first. starts: handshakes of the last minute, when and by whom."""

    own: PeerId
    own_name: str
    own_addresses: tuple[str, ...] = ()
    pairings: Mapping[str, Pairing] = field(default_factory=dict)
    handshakes: Mapping[int, Handshake] = field(default_factory=dict)
    starts: tuple[tuple[int, PeerId], ...] = ()
