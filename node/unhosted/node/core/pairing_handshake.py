"""The first half of pairing: both machines prove that they know the code, then say their names."""

from collections.abc import Sequence
from dataclasses import replace

from unhosted.node.core import pairing_reasons as reasons
from unhosted.node.core.pairing_common import (
    ASKING,
    CONFIRM_NS_MAX,
    HANDSHAKE_NS_MAX,
    HANDSHAKES_MAX,
    JOINER_GRACE_NS,
    SECOND_NS,
    STARTS_PER_MINUTE_MAX,
    STARTS_PER_PEER_MAX,
    Result,
    fail,
    forget_handshake,
    open_offer,
    put,
    undecided_with,
)
from unhosted.node.core.pairing_proof import is_same, prove, prove_introduction
from unhosted.node.core.pairing_words import (
    Answer,
    Arrived,
    AttemptBegan,
    Decline,
    End,
    FinishPake,
    Handshake,
    Introduction,
    MakePake,
    Pairing,
    PairingEffect,
    PairingState,
    PakeReady,
    Proof,
    Role,
    Send,
    Start,
    Why,
)
from unhosted.node.core.peer_names import clean_name, distinct_name


def admit(state: PairingState, event: Arrived, start: Start, now_ns: int) -> Result:
    """A stranger wants to use our code."""
    offer = open_offer(state)
    if offer is None:
        return _say(state, event.channel, _why_closed(state))
    starts = tuple((at, peer) for at, peer in state.starts if now_ns - at < 60 * SECOND_NS)
    by_peer = sum(peer == event.peer for _, peer in starts)
    is_at_it = any(handshake.peer == event.peer for handshake in state.handshakes.values())
    left = undecided_with(state, event.peer)
    is_joining = left is not None and left.role == "join"
    strangers = [handshake for handshake in state.handshakes.values() if handshake.role == "offer"]
    unproved = [h for h in strangers if state.pairings[h.pairing_id].channel != h.channel]
    is_full = len(strangers) >= HANDSHAKES_MAX
    is_flood = len(starts) >= STARTS_PER_MINUTE_MAX or by_peer >= STARTS_PER_PEER_MAX
    if is_at_it or is_joining or is_flood or (is_full and not unproved):
        return _say(state, event.channel, "busy")
    effects: list[PairingEffect] = []
    state = replace(state, starts=(*starts, (now_ns, event.peer)))
    if is_full:
        oldest = unproved[0].channel
        state, effects = _say(forget_handshake(state, oldest), oldest, "busy")
    if left is not None and left.channel is not None:
        # It starts anew, so it has lost the channel that we still think of as open.
        state = fail(state, left, reasons.LOST)
        effects.append(End(channel=left.channel))
    handshake = Handshake(
        channel=event.channel,
        pairing_id=offer.pairing_id,
        role="offer",
        peer=event.peer,
        deadline_at_ns=now_ns + HANDSHAKE_NS_MAX,
        theirs=start.pake,
    )
    return _put(state, handshake), [*effects, _make_pake(handshake, offer, theirs=start.pake)]


def begin_attempt(state: PairingState, event: AttemptBegan, now_ns: int) -> Result:
    """Our channel to somebody who may have offered the code stands."""
    pairing = state.pairings.get(event.pairing_id)
    if pairing is None or pairing.phase != "waiting":
        return state, [End(channel=event.channel)]
    record, other = event.record, undecided_with(state, event.peer)
    if record is not None and record.state == "paired":
        reason = f"{record.name} is paired already; `unhosted peers rm` ends that first"
        return fail(state, pairing, reason), [End(channel=event.channel)]
    if other is not None or any(h.peer == event.peer for h in state.handshakes.values()):
        reason = "a pairing with that machine is under way already; finish or cancel it first"
        return fail(state, pairing, reason), [End(channel=event.channel)]
    handshake = Handshake(
        channel=event.channel,
        pairing_id=pairing.pairing_id,
        role="join",
        peer=event.peer,
        deadline_at_ns=now_ns + HANDSHAKE_NS_MAX,
    )
    return _put(state, handshake), [_make_pake(handshake, pairing, theirs=None)]


def pake_ready(state: PairingState, event: PakeReady) -> Result:
    handshake = state.handshakes.get(event.channel)
    if handshake is None:
        return state, []
    handshake = replace(handshake, mine=event.pake, key=event.key)
    state = _put(state, handshake)
    if handshake.role == "offer":
        return state, [Send(channel=event.channel, message=Answer(pake=event.pake))]
    if event.key is None:
        return state, [Send(channel=event.channel, message=Start(pake=event.pake))]
    proof = Proof(mac=prove(handshake, state.own, "join"))
    return state, [Send(channel=event.channel, message=proof)]


def advance_handshake(state: PairingState, event: Arrived, handshake: Handshake, now_ns: int) -> Result:
    """A message on a channel where something is still to be proved."""
    pairing = state.pairings[handshake.pairing_id]
    match handshake.role, event.message:
        case _, Decline(why=why, tries_left=tries_left):
            reason = reasons.declined(why, role=handshake.role, tries_left=tries_left)
            return end_handshake(state, handshake, reason, why=why), [End(channel=event.channel)]
        case "join", Answer(pake=theirs) if handshake.mine and not handshake.theirs:
            state = _put(state, replace(handshake, theirs=theirs))
            return state, [FinishPake(channel=event.channel, theirs=theirs)]
        case "join", Introduction() as introduction if handshake.key is not None:
            return _check_offerer(state, event, handshake, introduction, now_ns)
        case "offer", Proof(mac=mac) if handshake.key is not None and pairing.channel != event.channel:
            return _check_joiner(state, handshake, mac, now_ns)
        case "offer", Introduction() as introduction if pairing.channel == event.channel:
            # It is in phase `naming`: whatever ends a pairing forgets its handshake.
            return _hear_joiner(state, event, handshake, introduction, now_ns)
        case _:
            state = end_handshake(state, handshake, reasons.BROKEN_RULE, why="failed")
            return _say(state, event.channel, "failed")


def end_handshake(state: PairingState, handshake: Handshake, reason: str, *, why: Why | None) -> PairingState:
    """It came to nothing. A joiner may ask somebody else; an offer goes on, unless this one had proved it."""
    state = forget_handshake(state, handshake.channel)
    pairing = state.pairings[handshake.pairing_id]
    if handshake.role == "join" and pairing.phase == "waiting":
        return put(state, replace(pairing, reason=reason, declined=why))
    if pairing.channel == handshake.channel and pairing.phase in ASKING:
        return fail(state, pairing, reason)
    return state


def _check_joiner(state: PairingState, handshake: Handshake, mac: bytes, now_ns: int) -> Result:
    pairing, channel = state.pairings[handshake.pairing_id], handshake.channel
    if pairing.phase != "waiting":
        return _say(forget_handshake(state, channel), channel, _why_closed(state))
    if not is_same(mac, prove(handshake, state.own, "join")):
        tries_left = pairing.tries_left - 1
        reason = reasons.wrong_try(handshake.peer)
        pairing = replace(pairing, tries_left=tries_left, reason=reason)
        state = forget_handshake(put(state, pairing), channel)
        if not tries_left:
            state = fail(state, pairing, reasons.OWN_DEAD)
        return _say(state, channel, "wrong-code" if tries_left else "dead", tries_left=tries_left)
    deadline_at_ns = now_ns + CONFIRM_NS_MAX
    taken = replace(
        pairing,
        phase="naming",
        channel=channel,
        peer=handshake.peer,
        deadline_at_ns=deadline_at_ns,
        reason="",
    )
    introduction = _introduce(state, handshake, "offer")
    return put(state, taken), [Send(channel=channel, message=introduction)]


def _check_offerer(
    state: PairingState, event: Arrived, handshake: Handshake, said: Introduction, now_ns: int
) -> Result:
    pairing, channel = state.pairings[handshake.pairing_id], event.channel
    if pairing.phase != "waiting":
        return _say(forget_handshake(state, channel), channel, "cancelled")
    if not _is_proved(state, handshake, "offer", said):
        state = end_handshake(state, handshake, reasons.WRONG_PROOF, why="wrong-code")
        return _say(state, channel, "wrong-code")
    introduction = _introduce(state, handshake, "join")
    deadline_at_ns = now_ns + CONFIRM_NS_MAX + JOINER_GRACE_NS
    pairing = replace(pairing, deadline_at_ns=deadline_at_ns, channel=channel, peer=event.peer, reason="")
    state = _ask_user(forget_handshake(state, channel), pairing, event, said)
    return state, [Send(channel=channel, message=introduction)]


def _hear_joiner(
    state: PairingState, event: Arrived, handshake: Handshake, said: Introduction, now_ns: int
) -> Result:
    pairing = state.pairings[handshake.pairing_id]
    if not _is_proved(state, handshake, "join", said):
        state = end_handshake(state, handshake, reasons.WRONG_PROOF, why="wrong-code")
        return _say(state, event.channel, "wrong-code")
    pairing = replace(pairing, deadline_at_ns=now_ns + CONFIRM_NS_MAX)
    return _ask_user(forget_handshake(state, event.channel), pairing, event, said), []


def _ask_user(state: PairingState, pairing: Pairing, event: Arrived, said: Introduction) -> PairingState:
    under_way = [other.name for other in state.pairings.values() if other.phase in ASKING]
    name = distinct_name(clean_name(said.name), [*event.names_taken, state.own_name, *under_way])
    return put(state, replace(pairing, phase="confirm", name=name, addresses=said.addresses))


def _introduce(state: PairingState, handshake: Handshake, sender: Role) -> Introduction:
    mac = prove_introduction(handshake, state.own, sender, name=state.own_name, addresses=state.own_addresses)
    return Introduction(mac=mac, name=state.own_name, addresses=state.own_addresses)


def _is_proved(state: PairingState, handshake: Handshake, sender: Role, said: Introduction) -> bool:
    expected = prove_introduction(handshake, state.own, sender, name=said.name, addresses=said.addresses)
    return is_same(said.mac, expected)


def _make_pake(handshake: Handshake, pairing: Pairing, *, theirs: bytes | None) -> MakePake:
    return MakePake(
        channel=handshake.channel,
        role=handshake.role,
        code=pairing.code.text,
        peer=handshake.peer,
        theirs=theirs,
    )


def _why_closed(state: PairingState) -> Why:
    """What to tell somebody who comes when no code is open: the last one's fate."""
    offers: Sequence[Pairing] = [p for p in state.pairings.values() if p.role == "offer"]
    if not offers:
        return "no-code"
    if offers[-1].channel is not None:
        return "used"
    return "dead" if offers[-1].tries_left == 0 else "no-code"


def _say(state: PairingState, channel: int, why: Why, *, tries_left: int = 0) -> Result:
    said = Send(channel=channel, message=Decline(why=why, tries_left=tries_left))
    effects: list[PairingEffect] = [said, End(channel=channel)]
    return state, effects


def _put(state: PairingState, handshake: Handshake) -> PairingState:
    return replace(state, handshakes={**state.handshakes, handshake.channel: handshake})
