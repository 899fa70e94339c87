"""The trusted ring as the node sees it: off, starting or on. Its parts are imported when it starts."""

from __future__ import annotations

import importlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import trio

from unhosted.node.config import Config
from unhosted.node.core.asks import Answering
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.inference import Engines, LoadedModel
from unhosted.node.core.peering import Capabilities, ModelFacts, PeerId, PeerStatus, PeerUnreachable
from unhosted.node.core.service import PairingView
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.trusted.server_records import PeerCandidate
from unhosted.node.version import installed_version

if TYPE_CHECKING:
    from unhosted.node.app_trusted_parts import Parts
    from unhosted.node.core.evidence_wire import EvidenceHash
    from unhosted.node.shell.checking.third_party import Answered
    from unhosted.node.shell.transfer.fetch import PeerModels

log = logging.getLogger(__name__)

AGAIN_FIRST_S, AGAIN_MAX_S = 5.0, 300.0
"""Before the ring is started again; longer each time, for what ended it may come back at once."""

ASK_CONNECT_S = 15.0
"""To a peer that is to read evidence: the user waits."""

Observer = Callable[[PeerId, bool, str], None]
"""Told when a peer was heard of (True), and when it was lost or not reached (False) and why."""


class Changes:
    """Counts changes, for those who wait for the next one. To be used in the loop's thread."""

    def __init__(self) -> None:
        self.number = 1
        self._changed = trio.Event()

    def note(self) -> None:
        self.number += 1
        self._changed.set()
        self._changed = trio.Event()

    async def wait_above(self, number: int) -> int:
        while self.number <= number:
            await self._changed.wait()
        return self.number


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPlace:
    """This machine among its paired ones. problems: what keeps it from being found. notices: of pairings.

    port_mapping: what became of asking the router; empty if it is not asked.
    """

    peer: PeerId
    name: str
    addresses: tuple[str, ...]
    accepting: bool
    why_not: str
    draining: bool
    problems: tuple[str, ...]
    notices: tuple[str, ...]
    port_mapping: str


class TrustedRing:
    """Constructing it starts nothing; before `run` has started its parts, nobody is there."""

    def __init__(
        self,
        config: Config,
        *,
        name: str,
        store: ModelStore,
        answering: Answering,
        models: Callable[[], tuple[ModelFacts, ...]],
        loaded: Callable[[], tuple[LoadedModel, ...]],
        engines: Engines | None = None,
    ) -> None:
        """answering: this machine's, with the priority of peers. engines: to read evidence for them with."""
        self.changes = Changes()
        self.on_observed: Observer = lambda peer, heard, why: None
        self.why_off = _why_off(config)
        self._config = config
        self._name = name
        self._store = store
        self._answering = answering
        self._models = models
        self._loaded = loaded
        self._engines = engines
        self._parts: Parts | None = None
        self._draining = False

    @property
    def state(self) -> str:
        if self._parts is not None:
            return "on"
        return f"off: {self.why_off}" if self.why_off else "starting"

    @property
    def parts(self) -> Parts:
        """Raises: Refused, while the ring is not on."""
        if self._parts is None:
            if self.why_off:
                raise Refused(
                    "offline" if self._config.offline else "not_supported",
                    f"other machines are not reached: {self.why_off}",
                )
            raise Refused("not_supported", "the trusted ring is still starting; try again", retry_after_s=1)
        return self._parts

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. started() at once if the ring is off, else when its parts run or could not start.

        Whatever ends the parts (a port that is taken, a broken book, a defect that a peer found) turns the
        ring off, is logged, and is tried again after a while: this machine answers by itself all the same.
        Raises: LocalFault alone.
        """
        if self.why_off:
            task_status.started()
            return
        is_told = False
        pause_s = AGAIN_FIRST_S

        def on_ready() -> None:
            nonlocal is_told
            if not is_told:
                is_told = True
                task_status.started()

        while True:
            began_s = trio.current_time()
            try:
                await self._run(on_ready)
            except Exception as error:
                if _holds_local_fault(error):
                    raise
                self.why_off = _in_words(error)
                log.warning("trusted_ring_off fault=%s again_in_s=%d", _kind(error), pause_s)
            self.changes.note()
            on_ready()
            # Whoever can break it may do so at each start: only one that has lived for a while begins anew.
            if trio.current_time() - began_s >= AGAIN_MAX_S:
                pause_s = AGAIN_FIRST_S
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    async def _run(self, on_ready: Callable[[], None]) -> None:
        # A second of imports, which must not keep answers under way waiting.
        await trio.to_thread.run_sync(importlib.import_module, "unhosted.node.app_trusted_parts")
        from unhosted.node.app_trusted_parts import Needs, open_parts

        needs = Needs(
            config=self._config,
            name=self._name,
            version=installed_version(),
            store=self._store,
            answering=self._answering,
            models=self._models,
            engine_pids=lambda: tuple(one.pid for one in self._loaded()),
            unix_s=lambda: int(time.time()),
            on_observed=lambda peer, heard, why: self.on_observed(peer, heard, why),
            on_change=self.changes.note,
            engines=self._engines,
        )
        async with open_parts(needs) as parts:
            parts.presence.set_draining(self._draining)  # what the owner asked for outlives a restart
            self._parts, self.why_off = parts, ""
            self.changes.note()
            on_ready()
            try:
                await trio.sleep_forever()
            finally:
                self._parts = None

    # ---- for routing

    def candidates(self) -> Sequence[PeerCandidate]:
        """The paired peers as they look now."""
        parts = self._parts
        if parts is None:
            return ()
        live = {connection.peer: connection for connection in parts.network.connections()}
        return [
            PeerCandidate(
                peer=one.peer,
                name=one.name,
                facts=parts.links.facts(one.peer),
                reachable=one.peer in live,
                why_not="" if one.peer in live else parts.finder.why_not(one.peer),
                round_trip_s=live[one.peer].round_trip_s if one.peer in live else None,
            )
            for one in parts.book.peers()
            if one.state == "paired"
        ]

    def link(self, peer: PeerId) -> Answering:
        """Raises: PeerUnreachable, Refused (not_paired)."""
        if self._parts is None:
            raise PeerUnreachable(f"{peer}: {self.state}")
        return self._parts.links.link(peer)

    async def settle(self, timeout_s: float) -> None:
        """Wait until every paired peer has been reached, or for so long."""
        with trio.move_on_after(timeout_s):
            while self._parts is None and not self.why_off:
                await self.changes.wait_above(self.changes.number)
            while any(one.facts is None or not one.reachable for one in self.candidates()):
                await self.changes.wait_above(self.changes.number)

    def models_of_peers(self) -> PeerModels | None:
        """Where models can be fetched from beside their origin; None while the ring is not on."""
        return None if self._parts is None else self._parts.models

    # ---- for people

    def statuses(self) -> tuple[PeerStatus, ...]:
        return () if self._parts is None else self._parts.finder.statuses()

    def status(self, peer: PeerId) -> PeerStatus:
        return next(one for one in self.statuses() if one.peer == peer)

    async def offer(self) -> PairingView:
        return await self.parts.pairings.offer()

    async def join(self, code: str) -> PairingView:
        return await self.parts.pairings.join(code)

    def pairing(self, pairing_id: str) -> PairingView:
        return self.parts.pairings.view(pairing_id)

    async def confirm(self, pairing_id: str, *, accept: bool) -> PairingView:
        return await self.parts.pairings.confirm(pairing_id, accept)

    async def cancel(self, pairing_id: str) -> None:
        await self.parts.pairings.cancel(pairing_id)

    async def unpair(self, text: str) -> PeerStatus:
        """text: an id, the start of one, or a name. Raises: Refused (not_paired)."""
        found = self.parts.book.find(text)
        before = self.status(found.peer)
        await self.parts.pairings.unpair(found.peer)
        self.changes.note()
        return before

    async def allow(self, text: str, changes: Mapping[str, object]) -> PeerStatus:
        """Raises: Refused that names the peer or the field."""
        found = self.parts.book.find(text)
        known = {field.name for field in fields(Capabilities)}
        for name in changes:
            if name not in known:
                raise Refused(
                    "invalid_request",
                    f"{name} is no capability; these are: {', '.join(sorted(known))}",
                    field=name,
                )
        capabilities = replace(found.capabilities, **changes)  # type: ignore[arg-type]
        book = self.parts.book
        await trio.to_thread.run_sync(book.set_capabilities, found.peer, capabilities)
        self.changes.note()
        return self.status(found.peer)

    async def ask_for_word(self, text: str, data: bytes, evidence: EvidenceHash) -> Answered:
        """Have a paired peer read evidence again. evidence: what the user just agreed to show it.

        Raises: Refused; RemoteFault of a peer that breaks the rules.
        """
        from unhosted.node.core.check_protocol import Consent

        parts = self.parts
        found = parts.book.find(text)
        try:
            await parts.finder.ensure(found.peer, timeout_s=ASK_CONNECT_S)
        except PeerUnreachable as error:
            raise Refused("peer_unreachable", f"{found.name} cannot be reached: {error}") from None
        consent = Consent(evidence=evidence, peer=found.peer, given_ns=time.time_ns())
        return await parts.asker.ask(data, consent)

    def set_draining(self, draining: bool) -> None:
        self.parts.presence.set_draining(draining)
        self._draining = draining
        self.changes.note()

    def describe(self) -> OwnPlace | None:
        """This machine among the others; None while the ring is not on."""
        parts = self._parts
        if parts is None:
            return None
        accepting, why_not = parts.presence.accepting()
        outside = parts.outside()
        return OwnPlace(
            peer=parts.network.peer,
            name=self._name,
            addresses=parts.network.addresses(),
            accepting=accepting,
            why_not=why_not,
            draining=parts.presence.draining,
            problems=parts.finder.problems(),
            notices=tuple(notice.text for notice in parts.pairings.notices()),
            port_mapping="" if outside is None else outside.why_not or f"works ({outside.how})",
        )


def _why_off(config: Config) -> str:
    if config.offline:
        return "this node runs with --offline"
    if not config.peers_enabled:
        return "peers are turned off; next: unhosted config set peers.enabled true"
    if config.radius == "local":
        return "the radius is local; next: unhosted config set radius trusted"
    return ""


def _holds_local_fault(error: Exception) -> bool:
    if isinstance(error, ExceptionGroup):
        return any(_holds_local_fault(one) for one in error.exceptions)
    return isinstance(error, LocalFault)


def _in_words(error: Exception) -> str:
    """For people. What a peer may have had a hand in is not repeated, its kind is."""
    if isinstance(error, Refused):
        return error.message
    if isinstance(error, OSError):
        return str(error)
    return f"it broke ({_kind(error)}) and is started again in a while; see the node's log"


def _kind(error: Exception) -> str:
    if isinstance(error, ExceptionGroup):
        return ", ".join(_kind(one) for one in error.exceptions)
    return type(error).__name__
