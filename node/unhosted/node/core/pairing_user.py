"""What the user does in a pairing, and what the user's screen shows of it."""

from dataclasses import replace
from typing import Literal

from unhosted.node.core import pairing_reasons as reasons
from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing_code import show_address_code, show_code
from unhosted.node.core.pairing_common import (
    CODE_NS_MAX,
    FINISHED,
    JOINS_MAX,
    PAIRINGS_MAX,
    SECOND_NS,
    TRIES_MAX,
    Result,
    commit_if_both_said_yes,
    fail_and_say,
    open_offer,
    put,
)
from unhosted.node.core.pairing_words import (
    Accept,
    JoinAsked,
    OfferAsked,
    Pairing,
    PairingEffect,
    PairingState,
    Phase,
    Send,
    TellUnpaired,
    Why,
    Write,
)
from unhosted.node.core.service import PairingView

_SHOWN: dict[Phase, Literal["waiting", "confirm", "confirmed", "paired", "failed"]] = {
    "waiting": "waiting",
    "naming": "waiting",
    "confirm": "confirm",
    "confirmed": "confirmed",
    "unresolved": "confirmed",
    "paired": "paired",
    "failed": "failed",
}


def view(state: PairingState, pairing_id: str, now_ns: int) -> PairingView:
    """A pairing as its user's screen shows it. Raises: Refused if it is not known, or no longer."""
    pairing = get(state, pairing_id)
    is_open = pairing.phase == "waiting" and pairing.role == "offer"
    left_ns = 0 if pairing.phase in FINISHED else max(0, pairing.deadline_at_ns - now_ns)
    code = pairing.code
    return PairingView(
        pairing_id=pairing_id,
        state=_SHOWN[pairing.phase],
        code=show_code(code) if is_open else None,
        address_code=show_address_code(code, state.own, state.own_addresses) if is_open else None,
        expires_in_s=-(-left_ns // SECOND_NS),
        tries_left=pairing.tries_left,
        other_peer=pairing.peer if pairing.name else None,
        other_name=pairing.name or None,
        reason=pairing.reason,
    )


def get(state: PairingState, pairing_id: str) -> Pairing:
    pairing = state.pairings.get(pairing_id)
    if pairing is None:
        raise Refused(
            "pairing_failed", f"no pairing {pairing_id[:40]!r} is known here; run `unhosted pair` again"
        )
    return pairing


def offer(state: PairingState, event: OfferAsked, now_ns: int) -> Result:
    effects: list[PairingEffect] = []
    older = open_offer(state)
    if older is not None:
        state, effects = fail_and_say(state, older, "no-code", reasons.NEWER_CODE)
    state = _make_room(state)
    pairing = Pairing(
        pairing_id=event.pairing_id,
        role="offer",
        code=event.code,
        phase="waiting",
        deadline_at_ns=now_ns + CODE_NS_MAX,
        tries_left=TRIES_MAX,
    )
    return put(state, pairing), effects


def join(state: PairingState, event: JoinAsked, now_ns: int) -> Result:
    joining = [p for p in state.pairings.values() if p.role == "join" and p.phase not in FINISHED]
    if len(joining) >= JOINS_MAX:
        raise Refused(
            "pairing_failed",
            f"{len(joining)} codes are being tried already; finish or cancel one of them first",
        )
    if any(pairing.code.text == event.code.text for pairing in joining):
        raise Refused("pairing_failed", "this code is being tried already; look at that pairing")
    own = open_offer(state)
    if own is not None and own.code.text == event.code.text:
        raise Refused("pairing_failed", "this is the code of this very machine; type it on the other one")
    pairing = Pairing(
        pairing_id=event.pairing_id,
        role="join",
        code=event.code,
        phase="waiting",
        deadline_at_ns=now_ns + CODE_NS_MAX,
        tries_left=TRIES_MAX,
    )
    return put(_make_room(state), pairing), []


def accept(state: PairingState, pairing: Pairing) -> Result:
    """The user's yes. A joiner's is written down before it is sent: see the head of `core.pairing`."""
    if pairing.phase in {"confirmed", "unresolved", "paired"}:
        return state, []
    peer, channel = pairing.peer, pairing.channel
    if pairing.phase != "confirm" or peer is None or channel is None:
        raise Refused(
            "pairing_failed", pairing.reason or "there is nothing to confirm yet: no machine has come"
        )
    pairing = replace(pairing, phase="confirmed")
    if pairing.role == "offer":
        return commit_if_both_said_yes(state, pairing)
    written = Write(peer=peer, name=pairing.name, state="pending", addresses=pairing.addresses)
    return put(state, pairing), [written, Send(channel=channel, message=Accept())]


def stop(state: PairingState, pairing: Pairing, why: Why, reason: str) -> Result:
    if pairing.phase in FINISHED:
        return state, []
    is_unresolved = pairing.phase == "unresolved"
    state, effects = fail_and_say(state, pairing, why, reason)
    if is_unresolved and pairing.peer is not None:
        effects.append(TellUnpaired(peer=pairing.peer))
    return state, effects


def _make_room(state: PairingState) -> PairingState:
    """Forget the oldest finished pairing if there is no place for one more."""
    if len(state.pairings) < PAIRINGS_MAX:
        return state
    busy = {handshake.pairing_id for handshake in state.handshakes.values()}
    finished = (p for p in state.pairings.values() if p.phase in FINISHED and p.pairing_id not in busy)
    oldest = next(finished, None)
    if oldest is None:
        raise Refused("pairing_failed", f"{PAIRINGS_MAX} pairings are under way; finish or cancel one first")
    kept = {name: pairing for name, pairing in state.pairings.items() if pairing is not oldest}
    return replace(state, pairings=kept)
