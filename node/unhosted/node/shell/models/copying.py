"""Models by hand: onto a stick, and from one into the store, checked while they are copied.

Beside an exported `MODEL.gguf` stands `MODEL.gguf.json` with its name, size, digests and licence. A copy that
fails half-way (full disk, stick pulled out) leaves nothing behind.
"""

import errno
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.files import (
    HASH_STEP_BYTES,
    Hasher,
    check_disk,
    disk_full,
    remove,
    sync_data,
    sync_directory,
    write_atomically,
)
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter, Report
from unhosted.node.shell.models.store import InstalledModel, ModelStore
from unhosted.node.shell.models.wheel import run_steps

SIDECAR_VERSION = 1
SIDECAR_BYTES_MAX = 64 << 10
"""A sidecar has a few hundred bytes; whatever else lies there under its name is not read."""

_HEX = re.compile(r"[0-9a-f]{64}")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    path: Path
    sidecar: Path
    size_bytes: int
    blake3: str
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sidecar:
    name: str
    blake3: str
    sha256: str


async def export_model(store: ModelStore, model: str, target: Path, *, progress: Report) -> Exported:
    """Copy a model to `target`, a folder or a new file, with its sidecar.

    Raises: Refused: model_not_found; invalid_request if the target is there already or cannot be written;
    disk_full; digest_mismatch if the store's own file has rotted. Then no part of the copy is left.
    """
    installed = await trio.to_thread.run_sync(store.resolve, model)
    entry = installed.entry
    path, sidecar = _choose_target(target, installed)
    meter = Meter(installed.name, progress)
    record = {
        "version": SIDECAR_VERSION,
        "name": installed.name,
        "source": entry.source,
        "size_bytes": entry.size_bytes,
        "blake3": entry.blake3,
        "licence": entry.licence,
        "exported_unix_s": int(time.time()),
    }

    def finish(part: Path, digests: Digests) -> None:
        _check(digests, entry.blake3, None, f"the file of {installed.name!r}")
        write_atomically(
            sidecar, (json.dumps({**record, "sha256": digests.sha256}, indent=1) + "\n").encode()
        )
        try:
            os.replace(part, path)
        except OSError:
            remove(sidecar)
            raise
        sync_directory(path.parent)

    digests = await _copy(installed.path, path.with_name(f".{path.name}.part"), meter, finish, str(path))
    meter.start("done", total_bytes=entry.size_bytes, resumed_bytes=entry.size_bytes)
    return Exported(
        path=path,
        sidecar=sidecar,
        size_bytes=digests.size_bytes,
        blake3=digests.blake3,
        sha256=digests.sha256,
    )


async def copy_in(store: ModelStore, file: Path, *, name: str | None, progress: Report) -> InstalledModel:
    """Copy `file` into the store, so that it stays when its disk is unplugged.

    Digests and, without `name`, the name are taken from its sidecar if there is one. Raises: Refused:
    model_not_found, digest_mismatch, disk_full, invalid_request if it is no model or the name is taken.
    """
    path = await trio.to_thread.run_sync(lambda: Path(file).expanduser().resolve())
    sidecar = await trio.to_thread.run_sync(_read_sidecar, path)
    name = name or (sidecar.name if sidecar else path.name.removesuffix(".gguf"))
    installed: list[InstalledModel] = []
    await trio.to_thread.run_sync(store.check_name, name, str(path))
    meter = Meter(name, progress)

    def finish(part: Path, digests: Digests) -> None:
        if sidecar is not None:
            _check(digests, sidecar.blake3, sidecar.sha256, str(path))
        installed.append(store.install(part, name=name, source=str(path), digests=digests))

    part = store.partial_dir / f"copy-{os.getpid()}-{os.urandom(4).hex()}.part"
    digests = await _copy(path, part, meter, finish, name)
    meter.start("done", total_bytes=digests.size_bytes, resumed_bytes=digests.size_bytes)
    return installed[0]


def _choose_target(target: Path, installed: InstalledModel) -> tuple[Path, Path]:
    path = Path(target).expanduser()
    if path.is_dir():
        stem = _UNSAFE.sub("-", installed.name).strip("-.") or installed.entry.blake3[:16]
        path /= f"{stem}.gguf"
    sidecar = path.with_name(f"{path.name}.json")
    for taken in (path, sidecar):
        if taken.exists():
            raise Refused("invalid_request", f"{taken} is there already: remove it, or give another name.")
    if not path.parent.is_dir():
        raise Refused("invalid_request", f"{path.parent} is no folder: create it first.")
    return path, sidecar


def is_elsewhere(store: ModelStore, path: Path) -> bool:
    """Whether `path` is on another disk than the store, and may be unplugged. Raises: OSError."""
    root = store.root
    while not root.exists():
        root = root.parent
    return os.stat(Path(path).expanduser()).st_dev != os.stat(root).st_dev


async def _copy(
    source: Path, part: Path, meter: Meter, finish: Callable[[Path, Digests], None], what: str
) -> Digests:
    """Copy to `part`, hashing, then `finish` with it in a thread. Whatever fails, `part` is gone after."""
    size_bytes = 0
    try:
        with open(source, "rb") as reading:  # noqa: ASYNC230
            size_bytes = os.fstat(reading.fileno()).st_size
            check_disk(part.parent, size_bytes, what)
            meter.start("copying", total_bytes=size_bytes, source=str(source))
            hasher = Hasher()
            with open(part, "wb", buffering=0) as writing:  # noqa: ASYNC230

                def step() -> int:
                    data = reading.read(HASH_STEP_BYTES)
                    hasher.update(data)
                    view = memoryview(data)
                    while view:
                        view = view[writing.write(view) or 0 :]
                    return len(data)

                await run_steps(step, meter)
                await trio.to_thread.run_sync(sync_data, writing.fileno())
        digests = hasher.digests()
        await trio.to_thread.run_sync(finish, part, digests)
        return digests
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            free_bytes = os.statvfs(part.parent).f_bavail * os.statvfs(part.parent).f_frsize
            raise disk_full(part.parent, size_bytes, free_bytes, what) from error
        raise Refused(
            "model_not_found" if isinstance(error, FileNotFoundError) else "invalid_request",
            f"{error.filename or source} cannot be copied ({error.strerror}): check the disk and its owner.",
        ) from error
    finally:
        remove(part)


def _check(digests: Digests, blake3: str, sha256: str | None, what: str) -> None:
    for kind, wanted, found in (("BLAKE3", blake3, digests.blake3), ("SHA-256", sha256, digests.sha256)):
        if wanted not in (None, found):
            raise Refused(
                "digest_mismatch",
                f"{what} has {kind} {found}, must be {wanted}: the copy was thrown away; the file is "
                "damaged, get it anew.",
                details={"kind": kind, "expected": wanted, "found": found},
            )


def _read_sidecar(path: Path) -> _Sidecar | None:
    """What is beside a file, if it is a sidecar of ours."""
    try:
        with open(path.with_name(f"{path.name}.json"), "rb") as file:
            record = json.loads(file.read(SIDECAR_BYTES_MAX))
        name, blake3, sha256 = record["name"], record["blake3"], record["sha256"]
        if record["version"] == SIDECAR_VERSION and _HEX.fullmatch(blake3) and _HEX.fullmatch(sha256):
            return _Sidecar(name=str(name), blake3=blake3, sha256=sha256)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None
