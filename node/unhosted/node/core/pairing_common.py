"""What the rules of pairing share: limits, finding a pairing, ending one, and the write that decides."""

from dataclasses import replace

from unhosted.node.core import pairing_reasons as reasons
from unhosted.node.core.pairing_words import (
    Commit,
    Decline,
    Drop,
    End,
    Pairing,
    PairingEffect,
    PairingState,
    Phase,
    Send,
    Why,
    Write,
)
from unhosted.node.core.peering import PeerId

SECOND_NS = 1_000_000_000

CODE_NS_MAX = 600 * SECOND_NS
"""Ten minutes: long enough to walk to the other machine, short enough that nobody forgets an open code."""

TRIES_MAX = 3
"""Wrong proofs for one code. Each is one guess among 2^30."""

CONFIRM_NS_MAX = 300 * SECOND_NS
"""How long both users have to answer the question."""

JOINER_GRACE_NS = 30 * SECOND_NS
"""The offerer decides alone; the joiner gives it this much longer to say how."""

HANDSHAKE_NS_MAX = 15 * SECOND_NS
"""From the first message to the proof: computing takes 10 ms, the rest is the network's."""

HANDSHAKES_MAX = 8
"""Strangers that may be at it at once, one for each id; one more and the oldest has to go, so that those who
only hold a place cannot keep it from somebody who needs it for a tenth of a second."""

STARTS_PER_MINUTE_MAX = 240
"""Handshakes with strangers, all codes together: each costs 8 ms of computing, so 3 % of a core."""

STARTS_PER_PEER_MAX = 6
"""Of those by one id: twice what a code's tries allow."""

PAIRINGS_MAX = 32
"""Pairings remembered for the screens, finished ones included; the oldest finished goes first."""

JOINS_MAX = 4
"""Codes that the user may be trying at once."""

PENDING_S_MAX = 86_400
"""A day: after it a joiner whose offerer never came back gives up."""

FINISHED: frozenset[Phase] = frozenset({"paired", "failed"})
ASKING: frozenset[Phase] = frozenset({"naming", "confirm", "confirmed"})
"""The code is proved by the joiner, the channel stands, nothing is decided."""

Result = tuple[PairingState, list[PairingEffect]]


def put(state: PairingState, pairing: Pairing) -> PairingState:
    return replace(state, pairings={**state.pairings, pairing.pairing_id: pairing})


def forget_handshake(state: PairingState, channel: int) -> PairingState:
    kept = {number: other for number, other in state.handshakes.items() if number != channel}
    return replace(state, handshakes=kept)


def by_channel(state: PairingState, channel: int) -> Pairing | None:
    found = (pairing for pairing in state.pairings.values() if pairing.channel == channel)
    return next(found, None)


def undecided_with(state: PairingState, peer: PeerId) -> Pairing | None:
    """The pairing with `peer` that is under way, if any; there is at most one."""
    found = (
        pairing
        for pairing in state.pairings.values()
        if pairing.peer == peer and (pairing.phase in ASKING or pairing.phase == "unresolved")
    )
    return next(found, None)


def open_offer(state: PairingState) -> Pairing | None:
    found = (p for p in state.pairings.values() if p.role == "offer" and p.phase == "waiting")
    return next(found, None)


def fail(state: PairingState, pairing: Pairing, reason: str) -> PairingState:
    if pairing.channel is not None:
        state = forget_handshake(state, pairing.channel)
    return put(state, replace(pairing, phase="failed", reason=reason))


def fail_and_say(state: PairingState, pairing: Pairing, why: Why, reason: str) -> Result:
    """End a pairing from this side. A joiner that said yes takes its record back before it says so."""
    effects: list[PairingEffect] = []
    if pairing.role == "join" and pairing.phase in {"confirmed", "unresolved"} and pairing.peer is not None:
        effects.append(Drop(peer=pairing.peer))
    channels = [h.channel for h in state.handshakes.values() if h.pairing_id == pairing.pairing_id]
    if pairing.channel is not None and pairing.channel not in channels:
        channels.append(pairing.channel)
    for channel in channels:
        effects += [Send(channel=channel, message=Decline(why=why)), End(channel=channel)]
        state = forget_handshake(state, channel)
    return fail(state, pairing, reason), effects


def commit_if_both_said_yes(state: PairingState, pairing: Pairing) -> Result:
    """The offerer's decision. Written before it is sent: see the head of `core.pairing`."""
    if pairing.phase != "confirmed" or not pairing.other_accepted or pairing.channel is None:
        return put(state, pairing), []
    assert pairing.peer is not None  # phase confirmed: it has introduced itself
    written = Write(peer=pairing.peer, name=pairing.name, state="paired", addresses=pairing.addresses)
    sent = Send(channel=pairing.channel, message=Commit())
    return put(state, replace(pairing, phase="paired")), [written, sent, End(channel=pairing.channel)]


def settle(state: PairingState, peer: PeerId, *, is_paired: bool) -> PairingState:
    """What the screens show once a resolved question is answered."""
    pairing = undecided_with(state, peer)
    if pairing is None:
        return state
    if is_paired:
        return put(state, replace(pairing, phase="paired", reason=""))
    return fail(state, pairing, reasons.NOT_COMPLETED)
