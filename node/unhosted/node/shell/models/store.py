"""The models of this machine: files named by their BLAKE3, and names that point to them.

    blobs/HASH.gguf     whole, verified, read-only; shared by every name that means the same bytes
    chunks/HASH.b3      the hashes of its chunks (`chunk_lists.py`), for peers that fetch it
    names/NAME.json     what a name stands for (`manifest.py`)
    partial/            pulls under way; nothing in here is ever served
    lock                held while names or blobs change, by any process

A name appears in one rename, after its file passed size, digests and a reading of its header. A file that
changed since is hashed again before it is served. Not noticed without `verify`: bits that rot under an
unchanged modification time.
"""

import difflib
import logging
import os
import time
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from unhosted.node.core.errors import Refused
from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.core.model_ref import AliasRef, HashRef, PathRef, parse_ref
from unhosted.node.core.service import ModelEntry
from unhosted.node.shell.models import chunk_lists
from unhosted.node.shell.models.catalogue import Catalogue, load_catalogue
from unhosted.node.shell.models.files import (
    allocated_bytes,
    hash_file,
    hold_lock,
    release_lock,
    sync_directory,
    sync_file,
    try_lock,
    write_atomically,
)
from unhosted.node.shell.models.foreign import ForeignModel, find_foreign
from unhosted.node.shell.models.gguf import GgufError, read_header
from unhosted.node.shell.models.manifest import Digests, Manifest, decode, encode, file_name, make_manifest

log = logging.getLogger(__name__)

HEADERS_KEPT_MAX = 32
"""Headers in memory: more models than a machine serves at once, a few kilobytes each."""

SUGGESTIONS_MAX = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledModel:
    """A model that can be loaded now. path: the file; its content is what `entry.blake3` says."""

    name: str
    path: Path
    entry: ModelEntry
    header: GgufHeader


class ModelStore:
    """All methods are blocking and safe between threads and processes; hashing may take seconds per GB."""

    def __init__(self, root: Path, *, catalogue: Catalogue | None = None) -> None:
        self.root = root
        self.catalogue = catalogue if catalogue is not None else load_catalogue()
        self._headers: dict[tuple[str, int, int], GgufHeader] = {}

    @property
    def partial_dir(self) -> Path:
        directory = self.root / "partial"
        directory.mkdir(parents=True, exist_ok=True)
        return directory

    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model, by name."""
        return tuple(self._entry(manifest) for manifest in self.manifests())

    def manifests(self) -> tuple[Manifest, ...]:
        found = []
        for path in sorted((self.root / "names").glob("*.json")):
            try:
                found.append(decode(path.read_bytes()))
            except FileNotFoundError:
                continue  # removed since the listing
            except (OSError, ValueError) as error:
                log.warning("manifest_unreadable file=%s error=%s", path.name, type(error).__name__)
        return tuple(found)

    def find(self, name: str) -> Manifest | None:
        """The model that a name, an alias, a REF, `b3:` and the start of a hash, or a path means."""
        manifests = self.manifests()
        by_name = {manifest.name: manifest for manifest in manifests}
        if name in by_name:
            return by_name[name]
        if (build := self.catalogue.find(name)) and build.name in by_name:
            return by_name[build.name]
        try:
            ref = parse_ref(name)
        except Refused:
            ref = AliasRef(name=name)
        if isinstance(ref, HashRef):
            same = {found.blake3: found for found in manifests if found.blake3.startswith(ref.blake3)}
            return next(iter(same.values())) if len(same) == 1 else None
        if isinstance(ref, PathRef):
            path = str(Path(ref.path).expanduser().resolve())
            return next((found for found in manifests if found.adopted_path == path), None)
        folded = name.lower()
        close = (found for found in manifests if found.source == str(ref) or found.name.lower() == folded)
        return next(close, None)

    def resolve(self, name: str) -> InstalledModel:
        """The model to load for `name`, its file checked to be the one that was verified.

        Raises: Refused: model_not_found with what to do; digest_mismatch if the file is another one now.
        """
        manifest = self.find(name)
        if manifest is None:
            raise self._not_found(name)
        return self._open(manifest)

    def verify(self, name: str) -> InstalledModel:
        """`resolve`, with the whole file hashed again whatever its modification time."""
        manifest = self.find(name)
        if manifest is None:
            raise self._not_found(name)
        return self._open(replace(manifest, mtime_ns=-1))

    def remove(self, name: str) -> int:
        """Forget `name`; returns the bytes freed: 0 if the file is adopted or another name still uses it.

        A process that has the file open keeps it until it closes it. Raises: Refused (model_not_found).
        """
        with self._locked():
            manifest = self.find(name)
            if manifest is None:
                raise self._not_found(name)
            self._name_path(manifest.name).unlink(missing_ok=True)
            sync_directory(self.root / "names")
            return self._collect(manifest)

    def adopt(
        self, path: Path, name: str | None = None, *, source: str | None = None, sha256: str | None = None
    ) -> InstalledModel:
        """Serve an existing file from where it is, without a copy; it is read once to take its digests.

        sha256: what it must be, where that is known. Raises: Refused if it is no model, is not what it must
        be, changes while it is read, or `name` means another file already.
        """
        path = Path(path).expanduser().resolve()
        header = self._read_model(path, f"{path}")
        before = path.stat()
        digests = hash_file(path)
        after = path.stat()
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise Refused(
                "download_failed", f"{path} changed while it was read: adopt it once it is complete."
            )
        if sha256 not in (None, digests.sha256):
            raise Refused("digest_mismatch", f"{path} has SHA-256 {digests.sha256}, must be {sha256}.")
        manifest = make_manifest(
            name=name or path.stem,
            source=source or str(path),
            digests=digests,
            header=header,
            mtime_ns=after.st_mtime_ns,
            adopted_path=str(path),
            created_unix_s=int(time.time()),
        )
        with self._locked():
            chunk_lists.save(self.root, digests)
            self._put(manifest)
        return self._installed(manifest, path, header)

    def install(self, file: Path, *, name: str, source: str, digests: Digests) -> InstalledModel:
        """Move a complete file, whose digests the caller took, into the store under `name`.

        Raises: Refused if it is no model; then the file is left where it was.
        """
        header = self._read_model(file, name)
        if header.size_bytes != digests.size_bytes:
            raise Refused("digest_mismatch", f"{file} changed after it was hashed: pull it again.")
        sync_file(file)
        with self._locked():
            blob = self._blob_path(digests.blake3)
            blob.parent.mkdir(parents=True, exist_ok=True)
            file.chmod(0o444)
            # A blob of this hash may be there for another name; one content, one file: the newer wins.
            os.replace(file, blob)
            sync_directory(blob.parent)
            chunk_lists.save(self.root, digests)
            manifest = make_manifest(
                name=name,
                source=source,
                digests=digests,
                header=header,
                mtime_ns=blob.stat().st_mtime_ns,
                adopted_path=None,
                created_unix_s=int(time.time()),
            )
            self._put(manifest)
        return self._installed(manifest, blob, header)

    def link(self, manifest: Manifest, *, name: str, source: str) -> InstalledModel:
        """Give a model that is here one more name."""
        with self._locked():
            self._put(replace(manifest, name=name, source=source, created_unix_s=int(time.time())))
        return self.resolve(name)

    def check_name(self, name: str, source: str) -> None:
        """Raises: Refused (invalid_request) if `name` cannot be used, or stands for another source."""
        try:
            path = self._name_path(name)
        except ValueError as error:
            raise Refused("invalid_request", f"the model name {name!r}: {error}.", field="name") from error
        with suppress(FileNotFoundError, ValueError):
            held = decode(path.read_bytes()).source
            if held != source:
                raise Refused(
                    "invalid_request",
                    f"the name {name!r} already stands for {held}: remove that (`unhosted rm {name}`) or "
                    "give this one another name.",
                    field="name",
                )

    def find_foreign(self, home: Path) -> tuple[ForeignModel, ...]:
        """What other programs keep on this machine, less what is adopted already."""
        adopted = {manifest.adopted_path for manifest in self.manifests()}
        return tuple(model for model in find_foreign(home) if str(model.path) not in adopted)

    def prune(self) -> int:
        """Remove what killed processes left behind, pulls under way excepted; returns the bytes freed."""
        freed_bytes = 0
        with self._locked():
            manifests = self.manifests()
            freed_bytes += chunk_lists.prune(self.root, {manifest.blake3 for manifest in manifests})
            named = {manifest.blake3 for manifest in manifests if not manifest.adopted_path}
            for path in (self.root / "blobs").glob("*.gguf"):
                # Killed between the blob's rename and its name's: nothing points here, nothing ever will.
                if path.stem not in named:
                    freed_bytes += allocated_bytes(path)
                    path.unlink()
        for key in {path.name.split(".")[0] for path in self.partial_dir.iterdir()}:
            lock_path = self.partial_dir / f"{key}.lock"
            lock = try_lock(lock_path)
            if lock is None:
                continue
            for path in self.partial_dir.glob(f"{key}.*"):
                if path != lock_path:
                    freed_bytes += allocated_bytes(path)
                    path.unlink()
            release_lock(lock_path, lock)
        return freed_bytes

    def _locked(self) -> AbstractContextManager[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        return hold_lock(self.root / "lock")

    def _name_path(self, name: str) -> Path:
        return self.root / "names" / file_name(name)

    def _blob_path(self, blake3: str) -> Path:
        return self.root / "blobs" / f"{blake3}.gguf"

    def _path(self, manifest: Manifest) -> Path:
        return Path(manifest.adopted_path) if manifest.adopted_path else self._blob_path(manifest.blake3)

    def _put(self, manifest: Manifest) -> None:
        """Write a name, the lock held; the blob it stood for before goes if nobody else needs it."""
        self.check_name(manifest.name, manifest.source)
        path = self._name_path(manifest.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = next((found for found in self.manifests() if found.name == manifest.name), None)
        write_atomically(path, encode(manifest))
        # Names of the same bytes share one file, and so its modification time.
        for other in self.manifests():
            same = other.blake3 == manifest.blake3 and other.adopted_path == manifest.adopted_path
            if same and other.mtime_ns != manifest.mtime_ns:
                write_atomically(
                    self._name_path(other.name), encode(replace(other, mtime_ns=manifest.mtime_ns))
                )
        if before is not None:
            self._collect(before)

    def _collect(self, gone: Manifest) -> int:
        """Remove a blob that no name uses any more, the lock held; returns the bytes freed."""
        same = [other for other in self.manifests() if other.blake3 == gone.blake3]
        if not same:
            chunk_lists.remove(self.root, gone.blake3)
        if gone.adopted_path or any(not other.adopted_path for other in same):
            return 0
        blob = self._blob_path(gone.blake3)
        try:
            freed_bytes = blob.stat().st_size
            blob.unlink()
        except FileNotFoundError:
            return 0
        sync_directory(blob.parent)
        (self.root / "speed" / f"{gone.blake3}.json").unlink(missing_ok=True)
        return freed_bytes

    def _open(self, manifest: Manifest) -> InstalledModel:
        path = self._path(manifest)
        try:
            stat = path.stat()
        except OSError as error:
            whose = (
                "the program that kept it may have removed it" if manifest.adopted_path else "it was removed"
            )
            raise Refused(
                "model_not_found",
                f"the file of {manifest.name!r} is gone ({path}: {error.strerror}); {whose}: "
                f"`unhosted rm {manifest.name}`, then `unhosted pull {manifest.source}`.",
            ) from error
        if (stat.st_size, stat.st_mtime_ns) != (manifest.size_bytes, manifest.mtime_ns):
            self._check_changed(manifest, path, stat.st_size)
            manifest = replace(manifest, mtime_ns=stat.st_mtime_ns)
            with self._locked():
                if self._name_path(manifest.name).exists():
                    write_atomically(self._name_path(manifest.name), encode(manifest))
        key = (manifest.blake3, stat.st_size, stat.st_mtime_ns)
        header = self._headers.get(key)
        if header is None:
            header = self._read_model(path, manifest.name)
            if len(self._headers) >= HEADERS_KEPT_MAX:
                self._headers.clear()
            self._headers[key] = header
        return self._installed(manifest, path, header)

    def _check_changed(self, manifest: Manifest, path: Path, size_bytes: int) -> None:
        """A file with a new modification time is served only if its content is still the same."""
        found = f"{size_bytes} bytes, must be {manifest.size_bytes}"
        if size_bytes == manifest.size_bytes:
            digest = hash_file(path).blake3
            if digest == manifest.blake3:
                return
            found = f"BLAKE3 {digest}, must be {manifest.blake3}"
        log.warning("model_file_changed name=%s", manifest.name)
        raise Refused(
            "digest_mismatch",
            f"the file of {manifest.name!r} is not the one that was verified ({path}: {found}): "
            f"`unhosted rm {manifest.name}`, then `unhosted pull {manifest.source}`.",
        )

    def _read_model(self, path: Path, what: str) -> GgufHeader:
        try:
            header = read_header(path)
        except GgufError as error:
            raise Refused("invalid_request", f"{what} is no model that can be read: {error}.") from error
        except OSError as error:
            raise Refused("model_not_found", f"{path} cannot be read: {error.strerror}.") from error
        if header.shards > 1:
            raise Refused(
                "not_supported",
                f"{what} is one of {header.shards} parts of a model: join them with llama.cpp's "
                "`llama-gguf-split --merge`, or choose a quantization that is one file.",
            )
        return header

    def _installed(self, manifest: Manifest, path: Path, header: GgufHeader) -> InstalledModel:
        return InstalledModel(name=manifest.name, path=path, entry=self._entry(manifest), header=header)

    def _entry(self, manifest: Manifest) -> ModelEntry:
        return ModelEntry(
            name=manifest.name,
            aliases=self.catalogue.aliases(manifest.name),
            size_bytes=manifest.size_bytes,
            blake3=manifest.blake3,
            architecture=manifest.architecture,
            parameters=manifest.parameters,
            quantization=manifest.quantization,
            context_tokens=manifest.context_tokens,
            licence=manifest.licence,
            source=manifest.source,
            created_unix_s=manifest.created_unix_s,
        )

    def _not_found(self, name: str) -> Refused:
        build = self.catalogue.find(name)
        if build is not None:
            megabytes = build.size_bytes / 1e6
            advice = f"it is not downloaded yet: `unhosted pull {build.name}` ({megabytes:,.0f} MB)"
            return Refused("model_not_found", f"model {name!r} is not here; {advice}.", field="model")
        here = [manifest.name for manifest in self.manifests()]
        known = [*here, *self.catalogue.build_by_name]
        close = difflib.get_close_matches(name.lower(), known, n=SUGGESTIONS_MAX, cutoff=0.6)
        if close:
            advice = f"did you mean {' or '.join(close)}? `unhosted pull {close[0]}` gets it"
            if close[0] in here:
                advice = f"did you mean {' or '.join(close)}?"
        else:
            advice = f"here are: {', '.join(here[:10]) or 'none'}; `unhosted pull REF` gets another"
        return Refused("model_not_found", f"model {name!r} is not here; {advice}.", field="model")
