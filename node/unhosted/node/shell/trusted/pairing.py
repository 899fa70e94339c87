"""Pairing on real channels, the book's disk and a real SPAKE2: the hands of `core.pairing`.

Events are applied one at a time, each with all of its effects, before the next: what a message may rest on is
on the disk before it goes out. A step once begun is carried through, also if whoever asked for it goes away.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import assert_never

import trio

from unhosted.node.core import pairing_words as words
from unhosted.node.core.addresses import is_dialable
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.pairing import step
from unhosted.node.core.pairing_code import SECRET_BYTES, make_code, parse_code
from unhosted.node.core.pairing_common import FINISHED, PENDING_S_MAX
from unhosted.node.core.pairing_user import view
from unhosted.node.core.pairing_words import PairingEffect, PairingEvent, PairingMessage, PairingState
from unhosted.node.core.peer_names import clean_name
from unhosted.node.core.peering import (
    Capabilities,
    Channel,
    Connection,
    Network,
    PairedPeer,
    PeerId,
)
from unhosted.node.core.service import PairingView
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.pairing_join import Joiner, Sightings, note_address
from unhosted.node.shell.trusted.pairing_line import Line
from unhosted.node.shell.trusted.pairing_pake import Pakes
from unhosted.node.shell.trusted.pairing_talk import FAREWELL_TIMEOUT_S, ask_standing, say_farewell

log = logging.getLogger(__name__)

LINES_MAX = 64
"""Channels of strangers and peers at once; each holds a few kilobytes and lives for seconds or minutes."""

LINES_HARD_MAX = 2 * LINES_MAX
"""While those that were hung up are still on their way out."""

LINES_PER_PEER_MAX = 4
"""One that pairs, one that resolves each way, one that takes leave."""

TICK_S = 1.0
RESOLVE_AGAIN_S = 15.0
"""After a question that got no answer."""

NOTICES_MAX = 16
PAIRING_ID_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingNotice:
    """Something about a pairing that the user did not ask for and should know."""

    peer: PeerId
    text: str
    unix_s: int


@dataclass(slots=True)
class _Contact:
    """A connection to somebody in the book. connection: path, address, whether we dialled."""

    connection: tuple[str, str, bool]
    again_at_s: float
    is_answered: bool = False


class Pairings:
    """Offers and uses codes, keeps the book in agreement with the peers' books. `run` must run."""

    def __init__(
        self,
        network: Network,
        book: PeerBook,
        *,
        own_name: str,
        seen: Sightings,
        on_change: Callable[[], None] = lambda: None,
        entropy: Callable[[int], bytes] = os.urandom,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        clock_unix_s: Callable[[], float] = time.time,
        tick_s: float = TICK_S,
    ) -> None:
        """seen: peers on this network and their addresses. on_change: called after each step of a pairing."""
        self._network, self._book = network, book
        self._on_change, self._tick_s = on_change, tick_s
        self._entropy, self._clock_ns, self._clock_unix_s = entropy, clock_ns, clock_unix_s
        self._state = PairingState(own=network.peer, own_name=clean_name(own_name))
        self._lock = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._lines: dict[int, Line] = {}
        self._lines_made = 0
        self._line_gone = trio.Event()
        self._pakes = Pakes(network.peer, entropy)
        self._joiner = Joiner(self, network, book, seen, clock_unix_s)
        self._contacts: dict[PeerId, _Contact] = {}
        self._notices: deque[PairingNotice] = deque(maxlen=NOTICES_MAX)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer the protocol, watch the time, and compare books with whoever connects; until cancelled."""
        self._network.serve(
            pairing_wire.PROTOCOL,
            self._serve,
            access="anyone",
            message_bytes_max=pairing_wire.MESSAGE_BYTES_MAX,
        )
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                while True:
                    await self._tick()
                    await trio.sleep(self._tick_s)
            finally:
                self._nursery = None

    async def offer(self) -> PairingView:
        """Make a code; one that was open before is dead. Raises: Refused."""
        pairing_id = self._entropy(PAIRING_ID_BYTES).hex()
        self._running()
        await self._look_around()
        code = make_code(self._network.peer, self._entropy(SECRET_BYTES))
        await self.apply(words.OfferAsked(pairing_id=pairing_id, code=code))
        return self.view(pairing_id)

    async def join(self, code: str) -> PairingView:
        """Use a code that another machine shows. Raises: Refused, also for a text that is no code."""
        parsed = parse_code(code)
        if parsed.peer == self._network.peer:
            raise Refused("pairing_failed", "this is the code of this very machine; type it on the other one")
        pairing_id = self._entropy(PAIRING_ID_BYTES).hex()
        await self._look_around()
        await self.apply(words.JoinAsked(pairing_id=pairing_id, code=parsed))
        self._running().start_soon(self._joiner.join, pairing_id, parsed)
        return self.view(pairing_id)

    def view(self, pairing_id: str) -> PairingView:
        return view(self._state, pairing_id, self._clock_ns())

    async def confirm(self, pairing_id: str, accept: bool) -> PairingView:
        await self.apply(words.UserAnswered(pairing_id=pairing_id, accept=accept))
        return self.view(pairing_id)

    async def cancel(self, pairing_id: str) -> None:
        await self.apply(words.UserCancelled(pairing_id=pairing_id))

    async def unpair(self, peer: PeerId) -> None:
        """Remove a peer, for good when this returns; it is told at once if it is connected, else when it is.

        Raises: Refused (not_paired) if it is not in the book.
        """

        def ask() -> PairingEvent:
            record = self._book.get(peer)
            if record is None:
                raise Refused("not_paired", f"{peer} is not paired with this machine", field="peer")
            return words.UnpairAsked(record=record)

        await self._apply(ask)

    def notices(self) -> tuple[PairingNotice, ...]:
        """The newest last, at most NOTICES_MAX."""
        return tuple(self._notices)

    def pairing(self, pairing_id: str) -> words.Pairing | None:
        return self._state.pairings.get(pairing_id)

    async def apply(self, event: PairingEvent) -> None:
        """Take one event to its end. Raises: Refused, and then nothing has changed."""
        await self._apply(lambda: event)

    async def _apply(self, make: Callable[[], PairingEvent]) -> None:
        """Take the event that `make` makes. It is called when all earlier ones are through, so that what it
        reads in the book is what holds at the step."""
        with trio.CancelScope(shield=True):
            async with self._lock:
                state = before = self._state
                next_event: PairingEvent | None = make()
                while next_event is not None:
                    state, effects = step(state, next_event, self._clock_ns())
                    next_event = await self._perform_all(effects)
                # Only now: no screen says "paired" before the disk does.
                self._state = state
        if state != before:
            self._on_change()

    def new_line(self, channel: Channel) -> Line:
        """A channel with a number of its own; `converse` must follow."""
        self._lines_made += 1
        line = self._lines[self._lines_made] = Line(self._lines_made, channel)
        return line

    async def converse(self, line: Line) -> None:
        """Work on a channel until it is done."""
        try:
            await line.run(self._on_message)
        finally:
            del self._lines[line.number]
            self._line_gone.set()
            self._line_gone = trio.Event()
            self._pakes.forget(line.number)
            await self.apply(words.ChannelEnded(channel=line.number))

    async def resolve(self, asked: PairedPeer) -> bool:
        """Ask a connected peer what its book says of us, and act on it. False if it gave no answer."""
        standing = await ask_standing(self._network, asked.peer, asked.state)
        if standing is None:
            return False
        await self._apply(
            lambda: words.ResolveAnswered(asked=asked, standing=standing, record=self._book.get(asked.peer))
        )
        return True

    async def _serve(self, channel: Channel) -> None:
        of_peer = sum(line.peer == channel.peer for line in self._lines.values())
        if len(self._lines) >= LINES_MAX:
            self._hang_up_idlest()
        if len(self._lines) >= LINES_HARD_MAX or of_peer >= LINES_PER_PEER_MAX:
            log.warning("pairing.lines.full peer=%s lines=%d", channel.peer[-8:], len(self._lines))
            return
        await self.converse(self.new_line(channel))

    def _hang_up_idlest(self) -> None:
        """The oldest channel that has nothing to do with a pairing makes place for the next."""
        busy = {pairing.channel for pairing in self._state.pairings.values()} | set(self._state.handshakes)
        idle = [line for line in self._lines.values() if line.number not in busy and not line.is_hung_up]
        if idle:
            idle[0].hang_up()

    async def _on_message(self, line: Line, message: PairingMessage) -> None:
        if isinstance(message, words.Start):
            await self._look_around()  # the introduction that follows tells where we can be reached
        others = (known.name for known in self._book.peers() if known.peer != line.peer)
        taken = tuple(others) if isinstance(message, words.Introduction) else ()
        await self._apply(
            lambda: words.Arrived(
                channel=line.number,
                peer=line.peer,
                message=message,
                record=self._book.get(line.peer),
                names_taken=taken,
            )
        )

    async def _tick(self) -> None:
        await self._look_around()
        connections = self._network.connections()
        for connection in connections:
            record = self._book.get(connection.peer)
            if record is not None and self._is_time_to_ask(connection):
                await self.apply(words.ContactMade(record=record))
        connected = {connection.peer for connection in connections}
        self._contacts = {peer: contact for peer, contact in self._contacts.items() if peer in connected}

    def _is_time_to_ask(self, connection: Connection) -> bool:
        """Once for each connection, and again after a while if that got no answer."""
        contact = (connection.path, connection.remote_address, connection.is_outbound)
        known = self._contacts.get(connection.peer)
        if known is not None and known.connection == contact:
            return not known.is_answered and trio.current_time() >= known.again_at_s
        self._contacts[connection.peer] = _Contact(contact, trio.current_time() + RESOLVE_AGAIN_S)
        return True

    async def _look_around(self) -> None:
        """Tell the rules what time it is, where we can be reached, and which records have waited too long."""
        now_s = self._clock_unix_s()
        stale = tuple(
            record
            for record in self._book.peers()
            if record.state == "pending" and abs(now_s - record.paired_unix_s) > PENDING_S_MAX
        )
        addresses = self._state.own_addresses
        if any(pairing.phase not in FINISHED for pairing in self._state.pairings.values()) or not addresses:
            addresses = pairing_wire.sayable_addresses(self._network.addresses())
        await self.apply(words.Ticked(addresses=addresses, stale=stale))

    async def _perform_all(self, effects: Sequence[PairingEffect]) -> PairingEvent | None:
        """Do them in order. If the book cannot be written, the rest is left, and the event that says so."""
        for effect in effects:
            match effect:
                case words.Write() | words.Drop():
                    try:
                        await trio.to_thread.run_sync(self._write, effect)
                    except Refused as error:
                        log.error("pairing.write.failed peer=%s error=%s", effect.peer[-8:], error)
                        return words.WriteFailed(peer=effect.peer, reason=error.message)
                case _:
                    self._perform(effect)
        return None

    def _perform(self, effect: PairingEffect) -> None:
        match effect:
            case words.Send(channel=channel, message=message):
                if channel in self._lines:
                    self._lines[channel].send(message)
            case words.End(channel=channel):
                if channel in self._lines:
                    self._lines[channel].end()
            case words.MakePake() | words.FinishPake():
                self._start(self._compute, effect)
            case words.AskResolve(record=record):
                self._start(self._ask, record)
            case words.TellUnpaired(peer=peer):
                self._start(say_farewell, self._network, peer)
            case words.Disconnect(peer=peer):
                self._start(self._disconnect, peer)
            case words.Notice(peer=peer, text=text):
                self._notices.append(PairingNotice(peer=peer, text=text, unix_s=int(self._clock_unix_s())))
                log.info("pairing.notice peer=%s", peer[-8:])
            case words.Write() | words.Drop():
                raise LocalFault("a write of the book was performed without waiting for it")
            case _:
                assert_never(effect)

    def _write(self, effect: words.Write | words.Drop) -> None:
        """In a thread; on the disk when it returns."""
        if isinstance(effect, words.Drop):
            self._book.remove(effect.peer)
            log.info("pairing.dropped peer=%s", effect.peer[-8:])
            return
        known = self._book.get(effect.peer)
        unix_s = int(self._clock_unix_s())
        capabilities = Capabilities() if known is None else known.capabilities
        self._book.put(
            PairedPeer(
                peer=effect.peer,
                name=effect.name,
                state=effect.state,
                paired_unix_s=unix_s,
                capabilities=capabilities,
            )
        )
        log.info("pairing.written peer=%s state=%s", effect.peer[-8:], effect.state)
        for address in filter(is_dialable, effect.addresses):
            note_address(self._book, effect.peer, address, unix_s)

    async def _compute(self, effect: words.MakePake | words.FinishPake) -> None:
        await self.apply(await self._pakes.compute(effect))

    async def _ask(self, record: PairedPeer) -> None:
        is_answered = await self.resolve(record)
        if is_answered and (contact := self._contacts.get(record.peer)) is not None:
            contact.is_answered = True

    async def _disconnect(self, peer: PeerId) -> None:
        """After our last message to it had time to leave: the line's own end, or its linger."""
        with trio.move_on_after(FAREWELL_TIMEOUT_S):
            while any(line.peer == peer for line in self._lines.values()):
                await self._line_gone.wait()
        await self._network.disconnect(peer)

    def _start(self, task: Callable[..., Awaitable[None]], *arguments: object) -> None:
        if self._nursery is not None:  # else the node is going down, and so are its channels
            self._nursery.start_soon(task, *arguments)

    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise Refused("not_supported", "pairing is off: this node does not run its network of peers")
        return self._nursery
