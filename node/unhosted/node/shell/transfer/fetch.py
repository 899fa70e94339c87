"""Fetches a model's file from paired peers, from all that have it at once.

The peers are asked; those that offer the same file with the same chunk list form a group, and the largest
group is believed first. Every chunk is checked against the list before it is written, and the whole file
against its hash at the end. If that fails, the list was a lie: its peers are reported and not asked again,
and the next group, or the origin, takes over.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from unhosted.node.core.chunks import SOURCES_MAX
from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import ChannelBroken, Network, PeerFacts, PeerId, PeerUnreachable
from unhosted.node.shell.models.files import allocated_bytes, check_disk, remove
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter
from unhosted.node.shell.transfer.messages import Offered, Open, WireError
from unhosted.node.shell.transfer.part_file import PartFile
from unhosted.node.shell.transfer.running import RunningTransfer
from unhosted.node.shell.transfer.source import open_source

log = logging.getLogger(__name__)

GROUPS_MAX = 3
"""Different chunk lists that are tried for one file: one of three sources being honest is enough to ask."""

_FAILURES = (PeerUnreachable, ChannelBroken, WireError, Refused, trio.TooSlowError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A paired peer that is connected now. facts: what it says of itself, if it has."""

    peer: PeerId
    name: str
    facts: PeerFacts | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """A file by what is known of it: at least one of the digests, in hexadecimal; size: None if unknown."""

    blake3: str | None = None
    sha256: str | None = None
    size_bytes: int | None = None

    @property
    def label(self) -> str:
        return f"b3:{self.blake3}" if self.blake3 else f"sha256:{self.sha256}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A whole file, its digests checked. given_bytes: by the names of the peers. name: what they call it."""

    digests: Digests
    name: str
    given_bytes: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Group:
    """Sources that offer the same."""

    offer: Offered
    sources: tuple[Source, ...]


class PeerModels:
    """sources: the paired peers that are connected now. on_fault: told of each peer that broke the rules of a
    transfer, with the rule, for people.
    """

    def __init__(
        self,
        network: Network,
        *,
        sources: Callable[[], Sequence[Source]],
        on_fault: Callable[[PeerId, str], None] = lambda peer, what: None,
    ) -> None:
        self._network = network
        self._sources = sources
        self._on_fault = on_fault

    def find_name(self, name: str) -> str | None:
        """The BLAKE3 of what most connected peers call `name`, or the one hash that starts with `b3:…`."""
        votes: dict[str, int] = {}
        for source in self._sources():
            for model in source.facts.models if source.facts else ():
                if name in (model.name, *model.aliases) or f"b3:{model.blake3}".startswith(name):
                    votes[model.blake3] = votes.get(model.blake3, 0) + 1
        if name.startswith("b3:") and len(votes) > 1:
            return None
        return max(votes, key=lambda blake3: (votes[blake3], blake3), default=None)

    def name_of(self, blake3: str) -> str | None:
        """What the first connected peer that has it calls the file."""
        for source in self._sources():
            for model in source.facts.models if source.facts else ():
                if model.blake3 == blake3:
                    return model.name
        return None

    async def fetch(
        self, wanted: Wanted, *, data_path: Path, journal_path: Path, meter: Meter
    ) -> Fetched | None:
        """Fetch `wanted` to `data_path`. None if no peer has it, or all that had it failed.

        Then what is in the file is right as far as its journal says, and may be gone on with; after a lie
        both are removed. Raises: Refused (disk_full); OSError from the disk. Cancelled or killed, it leaves
        data and journal for the next call.
        """
        full: Refused | None = None
        for group in await self._find_groups(wanted):
            missing_bytes = max(0, group.offer.size_bytes - allocated_bytes(data_path))
            try:
                check_disk(data_path.parent, missing_bytes, wanted.label)
            except Refused as refusal:
                full = refusal  # a size that one group claims; another may say less
                continue
            hashes = await self._fetch_hashes(group)
            if hashes is None:
                continue
            with self._part_file(group, hashes, data_path, journal_path) as part:
                names = {source.peer: source.name for source in group.sources}
                meter.start(
                    "downloading",
                    total_bytes=part.size_bytes,
                    resumed_bytes=part.resumed_bytes,
                    source=_and(names.values()),
                )
                transfer = RunningTransfer(
                    self._network,
                    part,
                    names=names,
                    wanted=Open(blake3=group.offer.blake3),
                    root=group.offer.root,
                    meter=meter,
                    on_fault=self._on_fault,
                )
                digests = await transfer.run()
            if digests is None:
                continue
            if _is_right(wanted, group.offer, digests):
                given = {names[peer]: given for peer, given in transfer.given_bytes.items()}
                return Fetched(digests=digests, name=group.offer.name, given_bytes=given)
            for source in group.sources:
                log.warning("model_list_lied peer=%s", source.peer[-8:])
                self._on_fault(source.peer, f"gave a false chunk list for {wanted.label}")
            remove(data_path)
            remove(journal_path)
        if full is not None:
            raise full
        return None

    @contextmanager
    def _part_file(
        self, group: _Group, hashes: bytes, data_path: Path, journal_path: Path
    ) -> Iterator[PartFile]:
        part = PartFile(
            data_path,
            journal_path,
            url=f"b3:{group.offer.blake3.hex()}",
            size_bytes=group.offer.size_bytes,
            hashes=hashes,
            root=group.offer.root.hex(),
        )
        try:
            yield part
        finally:
            part.close()

    async def _find_groups(self, wanted: Wanted) -> list[_Group]:
        """Those who offer the file, in groups that agree; the largest first."""
        found: dict[Offered, list[Source]] = {}

        async def ask(source: Source) -> None:
            request = (
                Open(blake3=bytes.fromhex(wanted.blake3))
                if wanted.blake3
                else Open(sha256=bytes.fromhex(wanted.sha256 or ""))
            )
            try:
                async with open_source(self._network, source.peer, request) as session:
                    offer = session.offer
            except _FAILURES as error:
                log.info("model_not_offered peer=%s why=%s", source.peer[-8:], error)
                return
            if wanted.size_bytes not in (None, offer.size_bytes):
                self._on_fault(source.peer, f"offers {wanted.label} with {offer.size_bytes} bytes")
                return
            same = next((known for known in found if _key(known) == _key(offer)), offer)
            found.setdefault(same, []).append(source)

        async with trio.open_nursery() as nursery:
            for source in self._likely(wanted):
                nursery.start_soon(ask, source)
        groups = [_Group(offer=offer, sources=tuple(sources)) for offer, sources in found.items()]
        groups.sort(key=lambda group: (-len(group.sources), group.offer.root))
        return groups[:GROUPS_MAX]

    def _likely(self, wanted: Wanted) -> list[Source]:
        """Whom to ask: those that say they have it first, then those whose list is not known."""

        def has(source: Source) -> bool:
            models = source.facts.models if source.facts else ()
            return any(model.blake3 == wanted.blake3 for model in models)

        return sorted(self._sources(), key=lambda source: not has(source))[:SOURCES_MAX]

    async def _fetch_hashes(self, group: _Group) -> bytes | None:
        """The group's chunk list, from the first that gives it."""
        for source in group.sources:
            try:
                async with open_source(
                    self._network, source.peer, Open(blake3=group.offer.blake3)
                ) as session:
                    if _key(session.offer) != _key(group.offer):
                        continue
                    return await session.fetch_hashes()
            except WireError as error:
                self._on_fault(source.peer, f"broke the transfer protocol: {error}")
            except _FAILURES as error:
                log.info("chunk_list_not_given peer=%s why=%s", source.peer[-8:], error)
        return None


def _key(offer: Offered) -> tuple[int, bytes, bytes]:
    """What sources must agree on; what they call the model is their own matter."""
    return offer.size_bytes, offer.blake3, offer.root


def _is_right(wanted: Wanted, offer: Offered, digests: Digests) -> bool:
    return (
        digests.blake3 == offer.blake3.hex()
        and wanted.blake3 in (None, digests.blake3)
        and wanted.sha256 in (None, digests.sha256)
    )


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
