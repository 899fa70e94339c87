"""Two machines that run `core.pairing` alone, on a network and with deaths that a list of numbers decides."""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tests.node.pairing.machines import peer_id
from unhosted.node.core import pairing_words as words
from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing import step
from unhosted.node.core.pairing_code import make_code
from unhosted.node.core.pairing_words import PairingEffect, PairingEvent, PairingMessage, PairingState
from unhosted.node.core.peering import PairedPeer, PeerId

CODE = make_code(peer_id("offerer"), b"code")
PEERS = {"offerer": peer_id("offerer"), "joiner": peer_id("joiner")}


class Died(Exception):
    """The machine was killed between two effects."""


@dataclass(eq=False, kw_only=True)
class Side:
    """state dies with the machine, book does not. sends_first: the fault that the tests must notice."""

    name: str
    state: PairingState
    book: dict[PeerId, PairedPeer] = field(default_factory=dict)
    sends_first: bool = False
    now_ns: int = 0
    effects_left: int | None = None
    said_yes: bool = False


@dataclass(eq=False, kw_only=True)
class Link:
    """A channel: what is on its way to each side, and the question it carries, if it is one.

    dead: whose end died. What that side sent before arrives all the same, then the other notices.
    """

    number: int
    waiting: dict[str, deque[PairingMessage]]
    asked: PairedPeer | None = None
    asker: str = ""
    dead: str = ""


class RulesWorld:
    def __init__(self, *, sends_first: bool = False) -> None:
        self.sides = {
            name: Side(name=name, state=PairingState(own=peer, own_name=name), sends_first=sends_first)
            for name, peer in PEERS.items()
        }
        self.links: dict[int, Link] = {}
        self.links_made = 0
        self.are_connected = True

    def other(self, side: Side) -> Side:
        return self.sides["joiner" if side.name == "offerer" else "offerer"]

    def record(self, side: Side) -> PairedPeer | None:
        return side.book.get(self.other(side).state.own)

    def standing(self, name: str) -> str:
        record = self.record(self.sides[name])
        return "none" if record is None else record.state

    def begin(self) -> None:
        """An open code, and a channel from the one who knows it."""
        self.apply(self.sides["offerer"], words.OfferAsked(pairing_id="offer", code=CODE))
        joiner = self.sides["joiner"]
        self.apply(joiner, words.JoinAsked(pairing_id="join", code=CODE))
        link = self.new_link()
        began = words.AttemptBegan(
            pairing_id="join", channel=link.number, peer=PEERS["offerer"], record=self.record(joiner)
        )
        self.apply(joiner, began)

    def new_link(self) -> Link:
        self.links_made += 1
        link = Link(number=self.links_made, waiting={name: deque() for name in self.sides})
        self.links[link.number] = link
        return link

    def apply(self, side: Side, event: PairingEvent) -> None:
        """One step and its effects; a death in the midst of them is a restart."""
        try:
            side.state, effects = step(side.state, event, side.now_ns)
        except Refused:
            return
        if side.sends_first:
            effects.sort(key=lambda effect: isinstance(effect, words.Write | words.Drop))
        try:
            for effect in effects:
                if side.effects_left is not None:
                    if side.effects_left == 0:
                        raise Died
                    side.effects_left -= 1
                self.perform(side, effect)
        except Died:
            self.restart(side)

    def perform(self, side: Side, effect: PairingEffect) -> None:
        other = self.other(side)
        match effect:
            case words.Send(channel=channel, message=message) if channel in self.links:
                if self.links[channel].dead != other.name:
                    self.links[channel].waiting[other.name].append(message)
            case words.Write(peer=peer, name=name, state=state):
                side.book[peer] = PairedPeer(peer=peer, name=name, state=state, paired_unix_s=side.now_ns)
            case words.Drop(peer=peer):
                side.book.pop(peer, None)
            case words.MakePake() | words.FinishPake():
                self.apply(side, fake_pake(side, effect))
            case words.AskResolve(record=record) if self.are_connected:
                link = self.new_link()
                link.asked, link.asker = record, side.name
                link.waiting[other.name].append(words.Resolve(standing=record.state))
            case words.TellUnpaired() if self.are_connected:
                self.new_link().waiting[other.name].append(words.Unpaired())
            case _:
                pass

    def deliver(self, link: Link, side: Side) -> None:
        """The next message of the link to this side."""
        if not link.waiting[side.name]:
            if link.dead and link.dead != side.name:
                del self.links[link.number]
                self.apply(side, words.ChannelEnded(channel=link.number))
            return
        message = link.waiting[side.name].popleft()
        if link.asked is not None and link.asker == side.name:
            if isinstance(message, words.Resolved):
                answered = words.ResolveAnswered(
                    asked=link.asked, standing=message.standing, record=self.record(side)
                )
                self.apply(side, answered)
            return
        arrived = words.Arrived(
            channel=link.number,
            peer=self.other(side).state.own,
            message=message,
            record=self.record(side),
        )
        self.apply(side, arrived)

    def restart(self, side: Side) -> None:
        side.effects_left = None
        side.state = PairingState(own=side.state.own, own_name=side.name)
        for link in list(self.links.values()):
            link.waiting[side.name].clear()
            if link.dead and link.dead != side.name:
                del self.links[link.number]
            else:
                link.dead = side.name

    def disconnect(self) -> None:
        """All that is on its way is lost, and both sides notice."""
        numbers, self.links = list(self.links), {}
        for side in self.sides.values():
            for number in numbers:
                self.apply(side, words.ChannelEnded(channel=number))

    def contact(self) -> None:
        for side in self.sides.values():
            if (record := self.record(side)) is not None:
                self.apply(side, words.ContactMade(record=record))

    def run_dry(self) -> None:
        """Deliver until nothing is on its way."""
        while any(any(link.waiting.values()) or link.dead for link in self.links.values()):
            for link in list(self.links.values()):
                for side in self.sides.values():
                    self.deliver(link, side)

    def agree(self) -> None:
        """The next contact, undisturbed."""
        for side in self.sides.values():
            side.effects_left = None
        self.disconnect()
        self.run_dry()
        self.contact()
        self.run_dry()
        self.contact()
        self.run_dry()

    def suffer(self, choices: Sequence[int], *, with_quarrels: bool) -> Iterator[None]:
        """What happens, as the numbers say; one step for each. Quarrels: a user says no, or unpairs."""
        for choice in choices:
            name = ("offerer", "joiner")[choice % 2]
            side, what, rest = self.sides[name], choice // 2 % 16, choice // 32
            if what < 8 and self.links:
                self.deliver(list(self.links.values())[rest % len(self.links)], side)
            elif what < 10:
                side.said_yes = side.said_yes or self.is_asked(side)
                pairing_id = "offer" if name == "offerer" else "join"
                self.apply(side, words.UserAnswered(pairing_id=pairing_id, accept=True))
            elif what in {10, 14} and not with_quarrels:
                self.contact()
            elif what == 10:
                pairing_id = "offer" if name == "offerer" else "join"
                stop = words.UserAnswered(pairing_id=pairing_id, accept=False)
                self.apply(side, words.UserCancelled(pairing_id=pairing_id) if rest % 2 else stop)
            elif what == 11:
                self.restart(side)
            elif what == 12:
                side.effects_left = rest % 5
            elif what == 13:
                self.disconnect()
                self.contact()
            elif what == 14 and (record := self.record(side)) is not None:
                self.apply(side, words.UnpairAsked(record=record))
            elif what == 15:
                side.now_ns += 200_000_000_000
                self.apply(side, words.Ticked(addresses=()))
            yield

    def is_asked(self, side: Side) -> bool:
        return any(pairing.phase == "confirm" for pairing in side.state.pairings.values())


def fake_pake(side: Side, effect: words.MakePake | words.FinishPake) -> words.PakeReady:
    """Any function that gives both sides one key will do for the rules; the code is the same here."""
    mine = side.name.encode()
    theirs = effect.theirs
    key = None if theirs is None else hashlib.sha256(b"".join(sorted((mine, theirs)))).digest()
    return words.PakeReady(channel=effect.channel, pake=mine, key=key)
