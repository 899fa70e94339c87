"""Agreement after a kill, a lost connection or an unpairing: each side asks what the other's book says."""

from unhosted.node.core import pairing_reasons as reasons
from unhosted.node.core.pairing_common import ASKING, Result, fail, settle, undecided_with
from unhosted.node.core.pairing_words import (
    Arrived,
    AskResolve,
    ContactMade,
    Disconnect,
    Drop,
    End,
    Notice,
    PairingEffect,
    PairingState,
    Resolve,
    ResolveAnswered,
    Resolved,
    Send,
    Standing,
    TellUnpaired,
    UnpairAsked,
    Write,
)
from unhosted.node.core.peering import PairedPeer, PeerId


def ask_on_contact(state: PairingState, event: ContactMade) -> Result:
    """Ask whoever is in the book, unless the very channel that decides about it still stands."""
    under_way = undecided_with(state, event.record.peer)
    if under_way is not None and under_way.phase in ASKING:
        return state, []
    return state, [AskResolve(record=event.record)]


def answer_resolve(state: PairingState, event: Arrived, asked: Resolve) -> Result:
    """Say what our book says; and if the answer is none, see to it that it stays so."""
    ours: Standing = "none" if event.record is None else event.record.state
    effects: list[PairingEffect] = []
    if event.record is not None and ours == "pending" and asked.standing == "paired":
        ours = "paired"
        effects.append(_confirm(event.record))
    if ours == "paired":
        state = settle(state, event.peer, is_paired=True)
        return state, [*effects, *_reply(event.channel, "paired")]
    under_way = undecided_with(state, event.peer)
    if under_way is not None and under_way.role == "offer":
        # It asks because it lost the channel that we still think of as open. Whatever is on its way there
        # must find this pairing closed.
        state = fail(state, under_way, reasons.LOST)
        if under_way.channel is not None:
            effects.append(End(channel=under_way.channel))
    return state, [*effects, *_reply(event.channel, "none")]


def hear_resolved(state: PairingState, event: ResolveAnswered) -> Result:
    asked = event.asked
    if event.record != asked:
        return state, []  # the book has changed since we asked: the answer is about something else
    if event.standing == "paired" and asked.state == "pending":
        return settle(state, asked.peer, is_paired=True), [_confirm(asked)]
    if event.standing != "none":
        return state, []
    state = settle(state, asked.peer, is_paired=False)
    if asked.state == "pending":
        return state, [Drop(peer=asked.peer), Notice(peer=asked.peer, text=_not_completed(asked))]
    return state, [Drop(peer=asked.peer), _ended_by(asked), Disconnect(peer=asked.peer)]


def unpair(state: PairingState, event: UnpairAsked) -> Result:
    """This user removes a peer: first here, for good; then the peer is told, if it is there."""
    peer = event.record.peer
    return _end_under_way(state, peer, reasons.OWN_CANCEL), [Drop(peer=peer), TellUnpaired(peer=peer)]


def hear_unpaired(state: PairingState, event: Arrived) -> Result:
    state = _end_under_way(state, event.peer, reasons.declined("cancelled", role="join", tries_left=0))
    effects: list[PairingEffect] = [End(channel=event.channel)]
    if event.record is not None:
        ended = _ended_by(event.record)
        effects = [Drop(peer=event.peer), ended, *effects, Disconnect(peer=event.peer)]
    return state, effects


def drop_stale(state: PairingState, record: PairedPeer) -> Result:
    """A pending record has waited long enough."""
    under_way = undecided_with(state, record.peer)
    if under_way is not None and under_way.phase in ASKING:
        return state, []
    state = settle(state, record.peer, is_paired=False)
    return state, [Drop(peer=record.peer), Notice(peer=record.peer, text=_not_completed(record))]


def _end_under_way(state: PairingState, peer: PeerId, reason: str) -> PairingState:
    under_way = undecided_with(state, peer)
    return state if under_way is None else fail(state, under_way, reason)


def _confirm(record: PairedPeer) -> Write:
    return Write(peer=record.peer, name=record.name, state="paired")


def _reply(channel: int, standing: Standing) -> list[PairingEffect]:
    return [Send(channel=channel, message=Resolved(standing=standing)), End(channel=channel)]


def _ended_by(record: PairedPeer) -> Notice:
    return Notice(peer=record.peer, text=f"{record.name} ended the pairing")


def _not_completed(record: PairedPeer) -> str:
    return f"the pairing with {record.name} was not completed; run `unhosted pair` again"
