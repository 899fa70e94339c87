"""GGUF files that other programs already keep on this machine: they can be adopted without a copy."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unhosted.node.shell.models.settings import hub_home

FILES_VISITED_MAX = 50_000
"""A folder somebody pointed at the root of a disk must not hang `list`."""

MANIFEST_BYTES_MAX = 1 << 20
OLLAMA_MODEL_LAYER = "application/vnd.ollama.image.model"
OLLAMA_SYSTEM_DIR = Path("/usr/share/ollama/.ollama/models")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignModel:
    """name: as its own program calls it. path: the file itself, links followed."""

    origin: Literal["ollama", "lmstudio", "huggingface"]
    name: str
    path: Path
    size_bytes: int


def find_foreign(home: Path, environ: Mapping[str, str] = os.environ) -> tuple[ForeignModel, ...]:
    """What Ollama, LM Studio and the Hugging Face cache hold, by origin and name. Never raises for a file it
    may not read: that file is not usable here.
    """
    found: dict[Path, ForeignModel] = {}
    for model in (*_ollama(home, environ), *_lmstudio(home), *_hub_cache(home, environ)):
        found.setdefault(model.path, model)
    return tuple(sorted(found.values(), key=lambda model: (model.origin, model.name)))


def find_by_sha256(
    sha256: str, size_bytes: int | None, home: Path, environ: Mapping[str, str] = os.environ
) -> Path | None:
    """A file that its owner names by this digest. The caller hashes it before it believes it."""
    candidates = [root / "blobs" / f"sha256-{sha256}" for root in _ollama_roots(home, environ)]
    candidates += _hub_dir(home, environ).glob(f"models--*/blobs/{sha256}")
    for path in candidates:
        size = _gguf_size(path)
        if size is not None and size_bytes in (None, size):
            return path.resolve()
    return None


def _ollama_roots(home: Path, environ: Mapping[str, str]) -> list[Path]:
    named = environ.get("OLLAMA_MODELS")
    return [Path(named)] if named else [home / ".ollama/models", OLLAMA_SYSTEM_DIR]


def _ollama(home: Path, environ: Mapping[str, str]) -> Iterator[ForeignModel]:
    for root in _ollama_roots(home, environ):
        for path in _walk(root / "manifests"):
            parts = path.relative_to(root / "manifests").parts[-4:]
            digest = _ollama_digest(path)
            if digest is None or len(parts) < 3:
                continue  # a desktop's own litter, or a layout not known here
            registry, *middle, model, tag = parts
            blob = root / "blobs" / digest.replace(":", "-")
            size = _gguf_size(blob)
            if size is not None:
                prefix = "" if middle == ["library"] else "/".join([registry, *middle]) + "/"
                yield ForeignModel(
                    origin="ollama", name=f"{prefix}{model}:{tag}", path=blob.resolve(), size_bytes=size
                )


def _ollama_digest(manifest: Path) -> str | None:
    """The digest of the layer that holds the weights."""
    try:
        with open(manifest, "rb") as file:
            layers = json.loads(file.read(MANIFEST_BYTES_MAX))["layers"]
        for layer in layers:
            digest = layer["digest"]
            if layer["mediaType"] == OLLAMA_MODEL_LAYER and digest.startswith("sha256:"):
                return digest if digest.removeprefix("sha256:").isalnum() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not a manifest of a format known here
    return None


def _lmstudio(home: Path) -> Iterator[ForeignModel]:
    for root in (home / ".lmstudio/models", home / ".cache/lm-studio/models"):
        for path in _walk(root):
            if (size := _model_size(path)) is not None:
                name = path.relative_to(root).as_posix()
                yield ForeignModel(origin="lmstudio", name=name, path=path.resolve(), size_bytes=size)


def _hub_dir(home: Path, environ: Mapping[str, str]) -> Path:
    named = environ.get("HF_HUB_CACHE")
    return Path(named).expanduser() if named else hub_home(environ, home) / "hub"


def _hub_cache(home: Path, environ: Mapping[str, str]) -> Iterator[ForeignModel]:
    for repository in _children(_hub_dir(home, environ)):
        if not repository.name.startswith("models--"):
            continue
        repo = repository.name.removeprefix("models--").replace("--", "/")
        for snapshot in _children(repository / "snapshots"):
            for path in _walk(snapshot):
                if (size := _model_size(path)) is not None:
                    name = f"hf.co/{repo}/{path.relative_to(snapshot).as_posix()}"
                    yield ForeignModel(origin="huggingface", name=name, path=path.resolve(), size_bytes=size)


def _model_size(path: Path) -> int | None:
    """The size of a GGUF file with a language model in it, judged by name and first bytes; else None."""
    name = path.name.lower()
    if not name.endswith(".gguf") or "mmproj" in name:
        return None
    return _gguf_size(path)


def _gguf_size(path: Path) -> int | None:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size if file.read(4) == b"GGUF" else None
    except OSError:
        return None  # absent, a dangling link, or another user's


def _children(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())[:FILES_VISITED_MAX]
    except OSError:
        return []


def _walk(root: Path) -> Iterator[Path]:
    """Files under `root`, links to files included, links to folders not followed."""
    visited = 0
    for directory, _, names in os.walk(root):
        for name in sorted(names):
            visited += 1
            if visited > FILES_VISITED_MAX:
                return
            yield Path(directory, name)
