"""What a pull is to fetch, worked out before anything is fetched: its name, its source, its known digests."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.model_ref import (
    AliasRef,
    HashRef,
    ModelRef,
    PathRef,
    PypiRef,
    UrlRef,
)
from unhosted.node.shell.models.catalogue import Build
from unhosted.node.shell.models.download import Remote
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.models.web import public

if TYPE_CHECKING:
    from unhosted.node.shell.transfer.fetch import PeerModels

BLAKE3_CHARS = 64
HASH_NAME_CHARS = 16
"""Of a model that is known by its hash alone: 64 bits, which no store confuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to fetch and what it is to be called. build: the catalogue's digests, where it has any. blake3: of
    the file, where it is known before anybody is asked.
    """

    ref: ModelRef
    name: str
    build: Build | None
    blake3: str | None

    @property
    def source(self) -> str:
        match self.ref:
            case UrlRef(url=url):
                return public(url)
            case PathRef(path=path):
                return str(Path(path).expanduser().resolve())  # the same from whatever folder it was typed in
            case ref:
                return str(ref)


def plan_job(store: ModelStore, ref: ModelRef, name: str | None, peers: "PeerModels | None") -> Job:
    if isinstance(ref, AliasRef):
        build = store.catalogue.find(ref.name)
        if build is not None:
            return Job(ref=build.ref, name=name or build.name, build=build, blake3=build.blake3)
        if (held := store.find(ref.name)) is not None:
            return Job(ref=ref, name=held.name, build=None, blake3=None)
        if peers is not None and (blake3 := peers.find_name(ref.name)):
            return Job(ref=HashRef(blake3=blake3), name=name or ref.name, build=None, blake3=blake3)
        store.resolve(ref.name)  # raises, with the names that come close
        raise LocalFault(f"{ref.name!r} was not found and found")
    if isinstance(ref, HashRef):
        return _plan_hash(store, ref, name, peers)
    build = store.catalogue.find_ref(ref)
    if isinstance(ref, PathRef | UrlRef | PypiRef):
        file = ref.path if isinstance(ref, PathRef) else ref.file
        usual = file.rsplit("/", 1)[-1].removesuffix(".gguf")
    else:
        usual = str(ref)
    name = name or (build.name if build else usual)
    return Job(ref=ref, name=name, build=build, blake3=build.blake3 if build else None)


def _plan_hash(store: ModelStore, ref: HashRef, name: str | None, peers: "PeerModels | None") -> Job:
    if (held := store.find(str(ref))) is not None:
        return Job(ref=ref, name=held.name, build=None, blake3=None)
    is_whole = len(ref.blake3) == BLAKE3_CHARS
    blake3 = None if peers is None else ref.blake3 if is_whole else peers.find_name(str(ref))
    if peers is None or blake3 is None:
        raise Refused(
            "model_not_found",
            f"{ref} is not here, and no paired peer that is connected says that it has it: start `unhosted "
            "serve` here and there, and see `unhosted peers`.",
            field="model",
        )
    whole = HashRef(blake3=blake3)
    if name is None:
        # What a peer calls it is its own choice, and may be taken here.
        name = peers.name_of(blake3) or ""
        try:
            store.check_name(name, str(whole))
        except Refused:
            name = f"b3:{blake3[:HASH_NAME_CHARS]}"
    return Job(ref=whole, name=name, build=None, blake3=blake3)


def partial_key(job: Job) -> str:
    from blake3 import blake3

    return blake3(job.source.encode()).hexdigest()[:32]


def wanted_digests(job: Job, remote: Remote | None) -> tuple[str | None, int | None]:
    """SHA-256 and size that the model file itself must have, as far as anybody says."""
    sha256 = job.build.sha256 if job.build else None
    size_bytes = job.build.size_bytes if job.build and job.build.size_exact else None
    if remote is not None and not isinstance(job.ref, PypiRef):
        return sha256 or remote.sha256, size_bytes or remote.size_bytes
    return sha256, size_bytes


def check_digests(job: Job, sha256: str | None, size_bytes: int | None, digests: Digests, what: str) -> None:
    """Raises: Refused (digest_mismatch) naming what was found and what was expected."""
    expected = [("size", size_bytes, digests.size_bytes), ("SHA-256", sha256, digests.sha256)]
    if job.build and what == job.source:
        expected.append(("BLAKE3", job.build.blake3, digests.blake3))
    for kind, wanted, found in expected:
        if wanted is not None and wanted != found:
            raise Refused(
                "digest_mismatch",
                f"{what} has {kind} {found}, must be {wanted}: the bytes were thrown away; pull again, and "
                "if that repeats, report it to who publishes the file.",
                details={"kind": kind, "expected": wanted, "found": found},
            )
