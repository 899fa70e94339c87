"""The trusted ring of a fake node: peers that are as a test sets them, and pairings that go on when asked."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities, ModelFacts, PeerFacts, PeerStatus
from unhosted.node.core.service import ModelEntry, PairingView

CODE = "K7P-4QX-9TM2"
ADDRESS_CODE = f"{CODE}@192.0.2.7:8643/12D3KooWOwnIdOfTheFakeNode"
OTHER = "12D3KooWOtherMachineThatPairsNow7vQm"
LAST_WORD = "paired with attic"

FACTS = ModelFacts(
    name="llama3.1:8b",
    aliases=("llama3.1",),
    blake3="ab" * 32,
    size_bytes=4_920_000_000,
    architecture="llama",
    parameters=8_030_000_000,
    quantization="Q4_K_M",
    context_tokens=8192,
    generates=True,
    is_loaded=True,
    slots=4,
    slots_free=3,
    queued=0,
    prefill_tokens_per_s=900.0,
    decode_tokens_per_s=60.0,
)
DESKTOP = PeerStatus(
    peer="12D3KooWDesktopDesktopDesktopDesktopDesktop4kQz",
    name="desktop",
    state="paired",
    reachable=True,
    why_not="",
    path="lan",
    addresses=("/ip4/192.0.2.20/tcp/8643",),
    round_trip_s=0.0012,
    last_seen_unix_s=1_700_000_000,
    capabilities=Capabilities(),
    tokens_today=1234,
    facts=PeerFacts(name="desktop", version="0.1.0", accepting=True, why_not="", models=(FACTS,)),
)
LAPTOP = replace(
    DESKTOP,
    peer="12D3KooWLaptopLaptopLaptopLaptopLaptopLaptop9aBc",
    name="laptop",
    reachable=False,
    why_not="no answer at 192.0.2.30:8643 for 2 h; is it asleep?",
    path="",
    round_trip_s=None,
    tokens_today=0,
    facts=None,
)
STRANGER = replace(
    LAPTOP,
    peer="12D3KooWStrangerStrangerStrangerStrangerStrang1xYz",
    name="attic",
    state="seen",
    why_not="not paired: unhosted pair",
    capabilities=None,
)

Report = Callable[[Mapping[str, object]], None]


class FakePeers:
    """`script`: states that a pairing takes, one at each look at it. `drained`, `allowed`: what was asked."""

    def __init__(self) -> None:
        self.statuses: list[PeerStatus] = [DESKTOP, LAPTOP, STRANGER]
        self.pairings: dict[str, PairingView] = {}
        self.script: list[dict[str, Any]] = []
        self.answers: list[bool] = []
        self.drained: list[bool] = []
        self.allowed: list[Mapping[str, object]] = []
        self.pulled: list[tuple[str, str | None]] = []
        self.pull_refusal: Refused | None = None
        self.pull_reports: list[Mapping[str, object]] = [_progress(25), _progress(75)]
        self.pull_left = 0
        self.own_place: dict[str, Any] = {
            "peer": "12D3KooWOwnIdOfTheFakeNode",
            "name": "fake",
            "addresses": ["/ip4/192.0.2.7/tcp/8643"],
            "accepting": True,
            "why_not": "",
            "draining": False,
            "problems": [],
            "notices": [],
            "port_mapping": "",
        }
        self._change = 1
        self._changed = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None

    def peers(self) -> tuple[PeerStatus, ...]:
        return tuple(self.statuses)

    def peer_models(self) -> tuple[tuple[ModelFacts, tuple[str, ...]], ...]:
        owners = [one for one in self.statuses if one.state == "paired" and one.facts is not None]
        return tuple((model, (one.name,)) for one in owners if one.facts for model in one.facts.models)

    async def offer_pairing(self) -> PairingView:
        return self._begin(state="waiting", code=CODE, address_code=ADDRESS_CODE)

    async def join_pairing(self, code: str) -> PairingView:
        if code.upper() not in (CODE, ADDRESS_CODE.upper()):
            raise Refused("pairing_failed", f"{code} is no code: a character is wrong; type it again")
        return self._begin(state="confirm", other_peer=OTHER, other_name="attic")

    def pairing(self, pairing_id: str) -> PairingView:
        if pairing_id not in self.pairings:
            raise Refused(
                "pairing_failed", f"no pairing {pairing_id} is under way; start with `unhosted pair`"
            )
        if self.script:
            self.advance(pairing_id, **self.script.pop(0))
        return self.pairings[pairing_id]

    async def confirm_pairing(self, pairing_id: str, *, accept: bool) -> PairingView:
        self.answers.append(accept)
        if accept:
            self.advance(pairing_id, state="paired", reason=LAST_WORD)
        else:
            self.advance(pairing_id, state="failed", reason="declined here; start again with `unhosted pair`")
        return self.pairings[pairing_id]

    async def cancel_pairing(self, pairing_id: str) -> None:
        self.pairing(pairing_id)
        del self.pairings[pairing_id]

    async def unpair(self, peer: str) -> PeerStatus:
        found = self._find(peer)
        self.statuses.remove(found)
        self.bump()
        return found

    async def allow_peer(self, peer: str, changes: Mapping[str, object]) -> PeerStatus:
        found = self._find(peer)
        assert found.capabilities is not None
        self.allowed.append(changes)
        values: dict[str, Any] = dict(changes)
        changed = replace(found, capabilities=replace(found.capabilities, **values))
        self.statuses[self.statuses.index(found)] = changed
        self.bump()
        return changed

    async def set_draining(self, draining: bool) -> None:
        self.drained.append(draining)

    async def pull(self, model: str, progress: Report, *, name: str | None = None) -> ModelEntry:
        self.pulled.append((model, name))
        try:
            for report in self.pull_reports:
                progress(report)
                await trio.lowlevel.checkpoint()
            if self.pull_refusal is not None:
                raise self.pull_refusal
            if model == "endless":
                await trio.sleep_forever()
        except trio.Cancelled:
            self.pull_left += 1
            raise
        return ModelEntry(
            name=name or model,
            aliases=(),
            size_bytes=100,
            blake3="cd" * 32,
            architecture="llama",
            parameters=None,
            quantization="Q4_1",
            context_tokens=4096,
            licence=None,
            source="peers",
            created_unix_s=1_700_000_000,
        )

    async def wait_change(self, after: int) -> int:
        self._token = trio.lowlevel.current_trio_token()
        while self._change <= after:
            await self._changed.wait()
        return self._change

    def bump(self) -> None:
        """Something changed; from whichever thread."""
        self._change += 1
        changed, self._changed = self._changed, trio.Event()
        if self._token is not None:
            self._token.run_sync_soon(changed.set)

    def advance(self, pairing_id: str, **changes: Any) -> None:
        self.pairings[pairing_id] = replace(self.pairings[pairing_id], **changes)
        self.bump()

    def _begin(self, **given: Any) -> PairingView:
        pairing_id = f"pairing{len(self.pairings)}"
        blank: dict[str, Any] = dict.fromkeys(("code", "address_code", "other_peer", "other_name"))
        view = PairingView(
            pairing_id=pairing_id, expires_in_s=600, tries_left=3, reason="", **(blank | given)
        )
        self.pairings[pairing_id] = view
        self.bump()
        return view

    def _find(self, peer: str) -> PeerStatus:
        for one in self.statuses:
            if peer == one.name or one.peer.startswith(peer):
                return one
        raise Refused("not_paired", f"no machine {peer!r} is paired; `unhosted peers` lists them")


def _progress(done_bytes: int) -> dict[str, object]:
    return {
        "stage": "downloading",
        "name": "m:1b",
        "done_bytes": done_bytes,
        "total_bytes": 100,
        "resumed_bytes": 0,
        "rate_bytes_per_s": None,
        "eta_s": None,
        "source": "desktop",
    }
