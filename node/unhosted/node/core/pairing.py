"""Pairing: two machines come to trust each other by a one-time code that a person carries across.

1. The offerer makes a code. One code is open at a time; it works once, for ten minutes, for three tries.
   Codes live in memory alone, so a restart kills them: it gives nobody new tries.
2. The joiner opens a channel. SPAKE2 on the code, bound to both ids as the connection proved them, gives each
   a key. The joiner proves it first: a guess costs a try, and whoever only pretends to be the offerer gets
   one guess from it as well. Then the offerer proves it and says its name, then the joiner says its own.
3. Both users see the other's name and say yes or no.
4. The joiner's yes is written down as `pending`, which grants nothing, **before** it is sent. The offerer
   writes `paired` once both said yes, **before** it sends `Commit`. That write is the one moment that
   decides. On `Commit` the joiner writes `paired`.
5. Whoever is killed in between: at the next contact each side asks what the other's book says (`Resolve`).
   An offerer that is asked and has not decided never will: it ends that pairing, so that its "none" stays
   true. `pending` becomes `paired` if the other says so, and goes if it says none; `paired` goes if the other
   says none, which is also how a machine learns that it was unpaired while it was away.

`step` raises Refused for a user who asks what cannot be; the state is then as before.
"""

from dataclasses import replace
from typing import assert_never

from unhosted.node.core import pairing_reasons as reasons
from unhosted.node.core.errors import LocalFault
from unhosted.node.core.pairing_common import (
    ASKING,
    FINISHED,
    HANDSHAKES_MAX,
    JOINS_MAX,
    PAIRINGS_MAX,
    Result,
    by_channel,
    commit_if_both_said_yes,
    fail,
    fail_and_say,
    put,
)
from unhosted.node.core.pairing_handshake import (
    admit,
    advance_handshake,
    begin_attempt,
    end_handshake,
    pake_ready,
)
from unhosted.node.core.pairing_resolve import (
    answer_resolve,
    ask_on_contact,
    drop_stale,
    hear_resolved,
    hear_unpaired,
    unpair,
)
from unhosted.node.core.pairing_user import accept, get, join, offer, stop
from unhosted.node.core.pairing_words import (
    Accept,
    Arrived,
    AttemptBegan,
    AttemptsFailed,
    ChannelEnded,
    Commit,
    ContactMade,
    Decline,
    Drop,
    End,
    JoinAsked,
    OfferAsked,
    Pairing,
    PairingEffect,
    PairingEvent,
    PairingState,
    PakeFailed,
    PakeReady,
    Resolve,
    ResolveAnswered,
    Send,
    Start,
    Ticked,
    UnpairAsked,
    Unpaired,
    UserAnswered,
    UserCancelled,
    Write,
    WriteFailed,
)


def step(state: PairingState, event: PairingEvent, now_ns: int) -> tuple[PairingState, list[PairingEffect]]:
    """What becomes of the state, and what is to be done, in this order. Raises: Refused; LocalFault."""
    state, effects = _decide(state, event, now_ns)
    _check(state)
    return state, effects


def _decide(state: PairingState, event: PairingEvent, now_ns: int) -> Result:
    match event:
        case OfferAsked():
            return offer(state, event, now_ns)
        case JoinAsked():
            return join(state, event, now_ns)
        case AttemptBegan():
            return begin_attempt(state, event, now_ns)
        case AttemptsFailed():
            return _give_up(state, event), []
        case PakeReady():
            return pake_ready(state, event)
        case PakeFailed(channel=channel):
            return _break_off(state, channel)
        case Arrived():
            return _arrived(state, event, now_ns)
        case ChannelEnded(channel=channel):
            return _channel_ended(state, channel), []
        case UserAnswered(pairing_id=pairing_id, accept=True):
            return accept(state, get(state, pairing_id))
        case UserAnswered(pairing_id=pairing_id):
            return stop(state, get(state, pairing_id), "said-no", reasons.OWN_NO)
        case UserCancelled(pairing_id=pairing_id):
            return stop(state, get(state, pairing_id), "cancelled", reasons.OWN_CANCEL)
        case UnpairAsked():
            return unpair(state, event)
        case WriteFailed():
            return _write_failed(state, event)
        case ContactMade():
            return ask_on_contact(state, event)
        case ResolveAnswered():
            return hear_resolved(state, event)
        case Ticked():
            return _tick(state, event, now_ns)
        case _:
            assert_never(event)


def _give_up(state: PairingState, event: AttemptsFailed) -> PairingState:
    pairing = state.pairings.get(event.pairing_id)
    if pairing is None or pairing.phase != "waiting":
        return state
    return fail(state, pairing, event.reason or pairing.reason or reasons.NO_ANSWER)


def _arrived(state: PairingState, event: Arrived, now_ns: int) -> Result:
    handshake = state.handshakes.get(event.channel)
    pairing = by_channel(state, event.channel)
    if handshake is not None:
        return advance_handshake(state, event, handshake, now_ns)
    if pairing is not None:
        return _advance(state, event, pairing)
    match event.message:
        case Start() as start:
            return admit(state, event, start, now_ns)
        case Resolve() as asked:
            return answer_resolve(state, event, asked)
        case Unpaired():
            return hear_unpaired(state, event)
        case Decline():
            return state, [End(channel=event.channel)]
        case _:
            said = Send(channel=event.channel, message=Decline(why="failed"))
            return state, [said, End(channel=event.channel)]


def _advance(state: PairingState, event: Arrived, pairing: Pairing) -> Result:
    """A message on a channel whose both ends know the code."""
    match pairing.role, pairing.phase, event.message:
        case "offer", "confirm" | "confirmed", Accept() if not pairing.other_accepted:
            return commit_if_both_said_yes(state, replace(pairing, other_accepted=True))
        case "join", "confirmed" | "unresolved", Commit():
            written = Write(peer=event.peer, name=pairing.name, state="paired", addresses=pairing.addresses)
            return put(state, replace(pairing, phase="paired", reason="")), [
                written,
                End(channel=event.channel),
            ]
        case _, "failed", _:
            return state, []
        case _, _, Decline(why=why, tries_left=tries_left):
            return _declined(state, pairing, reasons.declined(why, role=pairing.role, tries_left=tries_left))
        case _, "paired", _:
            return state, []
        case _:
            return fail_and_say(state, pairing, "failed", reasons.BROKEN_RULE)


def _declined(state: PairingState, pairing: Pairing, reason: str) -> Result:
    """The other side ended it. It may have done so as our last word was on its way: then it is taken back."""
    effects: list[PairingEffect] = []
    has_record = pairing.phase == "paired" or (
        pairing.role == "join" and pairing.phase in {"confirmed", "unresolved"}
    )
    if has_record and pairing.peer is not None:
        effects.append(Drop(peer=pairing.peer))
    if pairing.channel is not None:
        effects.append(End(channel=pairing.channel))
    return fail(state, pairing, reason), effects


def _channel_ended(state: PairingState, channel: int) -> PairingState:
    handshake = state.handshakes.get(channel)
    if handshake is not None:
        return end_handshake(state, handshake, reasons.LOST, why=None)
    pairing = by_channel(state, channel)
    if pairing is None or pairing.phase not in ASKING:
        return state
    if pairing.role == "join" and pairing.phase == "confirmed":
        return put(state, replace(pairing, phase="unresolved", reason=reasons.UNRESOLVED))
    return fail(state, pairing, reasons.LOST)


def _write_failed(state: PairingState, event: WriteFailed) -> Result:
    """The newest pairing with that peer claims what the book does not say."""
    claimed = [
        p for p in state.pairings.values() if p.peer == event.peer and p.phase in {"confirmed", "paired"}
    ]
    if not claimed:
        return state, []
    pairing = claimed[-1]
    effects: list[PairingEffect] = []
    if pairing.channel is not None:
        said = Send(channel=pairing.channel, message=Decline(why="failed"))
        effects = [said, End(channel=pairing.channel)]
    return fail(state, pairing, event.reason), effects


def _break_off(state: PairingState, channel: int) -> Result:
    """What came as a SPAKE2 message is none."""
    handshake = state.handshakes.get(channel)
    if handshake is None:
        return state, []
    said = Send(channel=channel, message=Decline(why="failed"))
    state = end_handshake(state, handshake, reasons.BROKEN_RULE, why="failed")
    return state, [said, End(channel=channel)]


def _tick(state: PairingState, event: Ticked, now_ns: int) -> Result:
    state = replace(state, own_addresses=event.addresses)
    effects: list[PairingEffect] = []
    for handshake in list(state.handshakes.values()):
        if now_ns >= handshake.deadline_at_ns and state.pairings[handshake.pairing_id].phase == "waiting":
            said = Send(channel=handshake.channel, message=Decline(why="timeout"))
            reason = reasons.declined("timeout", role=handshake.role, tries_left=0)
            state = end_handshake(state, handshake, reason, why="timeout")
            effects += [said, End(channel=handshake.channel)]
    for pairing in list(state.pairings.values()):
        if pairing.phase in FINISHED or pairing.phase == "unresolved" or now_ns < pairing.deadline_at_ns:
            continue
        if pairing.role == "join" and pairing.phase == "confirmed":
            # We said yes and may not take it back alone: the other may have decided. The next contact tells.
            state = put(state, replace(pairing, phase="unresolved", reason=reasons.UNRESOLVED))
            continue
        is_code = pairing.phase == "waiting"
        reason = reasons.EXPIRED if is_code else reasons.OWN_TIMEOUT
        state, ended = fail_and_say(state, pairing, "no-code" if is_code else "timeout", reason)
        effects += ended
    for record in event.stale:
        state, dropped = drop_stale(state, record)
        effects += dropped
    return state, effects


def _check(state: PairingState) -> None:
    """What holds after every step."""
    pairings = list(state.pairings.values())
    peers = [p.peer for p in pairings if p.phase in ASKING]
    rules = {
        "one open code": sum(p.role == "offer" and p.phase == "waiting" for p in pairings) <= 1,
        "one pairing with a peer at a time": len(peers) == len(set(peers)),
        "an open code has tries left": all(p.tries_left > 0 for p in pairings if p.phase == "waiting"),
        "who is asked about has a channel and an id": all(
            p.peer is not None and p.channel is not None for p in pairings if p.phase in ASKING
        ),
        "a handshake has its pairing": all(h.pairing_id in state.pairings for h in state.handshakes.values()),
        "tables are bounded": len(pairings) <= PAIRINGS_MAX
        and len(state.handshakes) <= HANDSHAKES_MAX + JOINS_MAX,
    }
    if broken := [rule for rule, holds in rules.items() if not holds]:
        raise LocalFault(f"pairing: {', '.join(broken)}")
