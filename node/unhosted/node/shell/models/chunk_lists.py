"""The BLAKE3 of each chunk of a model's file, kept beside the blobs: what a peer checks chunks against.

    chunks/HASH.b3      32 bytes for each chunk of `core.chunks.CHUNK_BYTES`, in order

A list is made in the same pass that takes the digests of a file that comes in. For files that came before
there were lists, `make` takes that pass once.
"""

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.node.core.chunks import HASH_BYTES, MODEL_BYTES_MAX, chunk_count
from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.files import hash_file, write_atomically
from unhosted.node.shell.models.manifest import Digests

if TYPE_CHECKING:
    from unhosted.node.shell.models.store import ModelStore


def save(root: Path, digests: Digests) -> None:
    """Keep the list of a file; one that is too large to be given to peers has none. Raises: OSError."""
    if digests.size_bytes <= MODEL_BYTES_MAX:
        path = _path(root, digests.blake3)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, digests.chunk_list)


def load(root: Path, blake3: str, size_bytes: int) -> bytes | None:
    """The list of a file, None if there is none of the right length."""
    try:
        found = _path(root, blake3).read_bytes()
    except OSError:
        return None
    return found if len(found) == HASH_BYTES * chunk_count(size_bytes) else None


def remove(root: Path, blake3: str) -> None:
    with suppress(FileNotFoundError):
        _path(root, blake3).unlink()


def prune(root: Path, kept: Collection[str]) -> int:
    """Remove the lists of files that are not `kept`, by BLAKE3; returns the bytes freed."""
    freed_bytes = 0
    for path in (root / "chunks").glob("*.b3"):
        if path.stem not in kept:
            freed_bytes += path.stat().st_size
            path.unlink()
    return freed_bytes


def make(store: "ModelStore", name: str) -> bytes:
    """Read the whole file of model `name` once and keep its list; a second for each gigabyte.

    Raises: Refused if the model is gone, or its file is no longer what it was.
    """
    model = store.resolve(name)
    digests = hash_file(model.path)
    if digests.blake3 != model.entry.blake3:
        raise Refused(
            "digest_mismatch",
            f"the file of {name!r} has BLAKE3 {digests.blake3}, must be {model.entry.blake3}: "
            f"`unhosted rm {name}`, then pull it again.",
        )
    save(store.root, digests)
    return digests.chunk_list


def _path(root: Path, blake3: str) -> Path:
    return root / "chunks" / f"{blake3}.b3"
