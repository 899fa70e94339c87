"""The joiner's way to the machine that shows the code: whom to ask, in which order, how often."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from unhosted.node.core import pairing_words as words
from unhosted.node.core.addresses import show_endpoint
from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing_code import PairingCode, hint_of
from unhosted.node.core.peering import Channel, ChannelBroken, Network, PairedPeer, PeerId, PeerUnreachable
from unhosted.node.shell.trusted.book import PeerBook
from unhosted.node.shell.trusted.pairing_line import Line
from unhosted.node.shell.trusted.pairing_talk import open_channel

log = logging.getLogger(__name__)

Sightings = Callable[[], Sequence[tuple[PeerId, Sequence[str]]]]
"""Peers on this network and where they say they are."""

CANDIDATES_MAX = 4
"""Machines asked for one code. One in 32768 fits a hint by chance; each more is one guess for a fraud."""

SEARCH_S = 20.0
"""How long to look for the machine on this network: one that just started is seen after three seconds."""

SEARCH_STEP_S = 0.5
CONNECT_TIMEOUT_S = 10.0
BUSY_TRIES_MAX = 5
BUSY_WAIT_S = 2.0
PURSUE_TRIES_MAX = 5
"""Tries to reach an offerer that went out of sight after our yes; later its own or our dialling will do."""

PURSUE_WAIT_S = 1.0


class PairingWork(Protocol):
    """What the joiner needs of `Pairings`."""

    async def apply(self, event: words.PairingEvent) -> None: ...
    async def converse(self, line: Line) -> None: ...
    async def resolve(self, asked: PairedPeer) -> bool: ...
    def new_line(self, channel: Channel) -> Line: ...
    def pairing(self, pairing_id: str) -> words.Pairing | None: ...


def note_address(book: PeerBook, peer: PeerId, address: str, unix_s: int) -> None:
    """Blocks. A full disk does not undo a pairing that is written: the peer is found by other ways."""
    try:
        book.note_address(peer, address, source="pairing", unix_s=unix_s)
    except Refused as refused:
        log.warning("pairing.address.lost peer=%s error=%s", peer[-8:], refused)


class Joiner:
    def __init__(
        self,
        work: PairingWork,
        network: Network,
        book: PeerBook,
        seen: Sightings,
        clock_unix_s: Callable[[], float],
    ) -> None:
        self._work, self._network, self._book = work, network, book
        self._seen, self._clock_unix_s = seen, clock_unix_s

    async def join(self, pairing_id: str, code: PairingCode) -> None:
        """Ask every machine that may have made the code, until one proves it or none is left."""
        if code.peer is not None:
            reason = await self._ask(pairing_id, code.peer, code.addresses)
        else:
            reason = await self._search(pairing_id, code)
        await self._work.apply(words.AttemptsFailed(pairing_id=pairing_id, reason=reason))
        await self._pursue(pairing_id)

    async def _search(self, pairing_id: str, code: PairingCode) -> str:
        """Why nobody could be asked; empty if somebody was."""
        asked: set[PeerId] = set()
        reason = ""
        with trio.move_on_after(SEARCH_S) as search:
            while not asked:
                for peer, addresses in self._candidates(code)[:CANDIDATES_MAX]:
                    search.deadline = float("inf")  # an attempt has its own limits
                    asked.add(peer)
                    reason = await self._ask(pairing_id, peer, addresses)
                if not asked:
                    await trio.sleep(SEARCH_STEP_S)
                if not self._is_waiting(pairing_id):
                    return ""
        return reason if asked else self._nobody(code)

    def _candidates(self, code: PairingCode) -> list[tuple[PeerId, Sequence[str]]]:
        return [sight for sight in self._seen() if hint_of(sight[0]) == code.hint]

    def _nobody(self, code: PairingCode) -> str:
        count = len(self._seen())
        return (
            f"no machine on this network can have made a code that begins with {code.hint} (seen: {count});"
            " are both on the same network, and is it running there? Else use the long code that it shows"
        )

    async def _ask(self, pairing_id: str, peer: PeerId, addresses: Sequence[str]) -> str:
        """Why the machine could not be asked; empty if it was, the pairing then says how it ended."""
        for _ in range(BUSY_TRIES_MAX):
            try:
                await self._attempt(pairing_id, peer, addresses)
            except PeerUnreachable as error:
                shown = ", ".join(map(show_endpoint, addresses))
                return f"the machine …{peer[-6:]} cannot be reached at {shown}: {error}"
            except ChannelBroken:
                pass  # as if it had said that it is busy
            pairing = self._work.pairing(pairing_id)
            if pairing is None or pairing.phase != "waiting" or pairing.declined not in {None, "busy"}:
                return ""
            await trio.sleep(BUSY_WAIT_S)
        return ""

    async def _attempt(self, pairing_id: str, peer: PeerId, addresses: Sequence[str]) -> None:
        connection = await self._network.connect(peer, addresses, timeout_s=CONNECT_TIMEOUT_S)
        if (record := self._book.get(peer)) is not None:
            await self._work.resolve(record)  # it may know nothing of a pairing that we believe in
        async with open_channel(self._network, peer) as channel:
            line = self._work.new_line(channel)
            record = self._book.get(peer)
            began = words.AttemptBegan(pairing_id=pairing_id, channel=line.number, peer=peer, record=record)
            await self._work.apply(began)
            await self._work.converse(line)
        if connection.is_outbound and self._book.get(peer) is not None:
            await trio.to_thread.run_sync(self._note, peer, connection.remote_address)

    def _note(self, peer: PeerId, address: str) -> None:
        note_address(self._book, peer, address, int(self._clock_unix_s()))

    async def _pursue(self, pairing_id: str) -> None:
        """We said yes and lost sight of the offerer: ask it what became of it."""
        for _ in range(PURSUE_TRIES_MAX):
            pairing = self._work.pairing(pairing_id)
            if pairing is None or pairing.phase != "unresolved" or pairing.peer is None:
                return
            known = [known.address for known in self._book.addresses(pairing.peer)]
            try:
                await self._network.connect(pairing.peer, known, timeout_s=CONNECT_TIMEOUT_S)
                record = self._book.get(pairing.peer)
                if record is None or await self._work.resolve(record):
                    return
            except PeerUnreachable:
                pass  # the node's own dialling goes on where this ends
            await trio.sleep(PURSUE_WAIT_S)

    def _is_waiting(self, pairing_id: str) -> bool:
        pairing = self._work.pairing(pairing_id)
        return pairing is not None and pairing.phase == "waiting"
