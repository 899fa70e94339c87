"""HTTP as downloads need it: redirects followed by our rules, failures sorted into passing and final ones.

Rules: at most `REDIRECTS_MAX` redirects; never from https to http; plain http to this machine alone;
credentials go to the host they were meant for and to no other; answers are not compressed, so ranges count
bytes of the file.
"""

import json
import os
import random
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

import trio

from unhosted.node.core.errors import Code, Refused
from unhosted.node.core.model_ref import is_loopback
from unhosted.node.shell.models.settings import PullSettings

if TYPE_CHECKING:
    import httpx

REDIRECTS_MAX = 8
"""Real chains are one to three long; a loop ends soon."""

DOCUMENT_BYTES_MAX = 32 << 20
"""Index pages: the largest packages on PyPI list tens of thousands of files, a few megabytes."""

BACKOFF_S_MAX = 15.0
RETRY_AFTER_S_MAX = 60.0
"""A server that asks for more is down for our purposes: the user is told instead."""

PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class Passing(Exception):
    """This attempt failed and another may not. retry_after_s: what the server asked for, if it did."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LinkExpired(Passing):
    """A redirect's target no longer answers; the original address gives a new one."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A response whose body is still to be read, and the address it came from in the end."""

    response: "httpx.Response"
    url: str


@asynccontextmanager
async def open_client(settings: PullSettings) -> AsyncIterator["httpx.AsyncClient"]:
    import httpx

    try:
        client = httpx.AsyncClient(
            verify=_ssl_context(settings),
            timeout=httpx.Timeout(settings.timeout_s, pool=None),
            limits=httpx.Limits(max_connections=settings.connections + 1),
            headers={"user-agent": settings.user_agent, "accept-encoding": "identity"},
            # A proxy cannot reach this machine's own loopback, whatever the environment says.
            mounts={f"all://{host}": None for host in ("localhost", "127.0.0.1", "[::1]")},
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise Refused(
            "download_failed", f"the proxy settings of the environment cannot be used: {error}."
        ) from error
    async with client:
        yield client


@asynccontextmanager
async def open_url(
    client: "httpx.AsyncClient", url: str, headers: Mapping[str, str], *, is_link: bool = False
) -> AsyncIterator[Opened]:
    """GET `url`, redirects followed. is_link: the address is one that a redirect gave earlier.

    Raises: Passing; LinkExpired where a new redirect may help; Refused for an answer that will not change.
    """
    import httpx

    try:
        opened = await _follow(client, url, headers)
    except httpx.TransportError as error:
        raise Passing(f"{public(url)}: {_transport(error)}") from error
    except (httpx.InvalidURL, ValueError) as error:  # ValueError: a redirect to what is no URL
        raise Refused(
            "download_failed", f"{public(url)} leads to no address that can be asked: {error}."
        ) from error
    try:
        _check_status(opened, is_link=is_link or opened.url != url)
        yield opened
    except httpx.TransportError as error:
        raise Passing(f"{public(opened.url)}: {_transport(error)}") from error
    finally:
        with trio.CancelScope(shield=True):
            await opened.response.aclose()


async def read_body(opened: Opened) -> AsyncGenerator[bytes, None]:
    """The body as it arrives, in pieces of at most 64 KiB; close the iterator when leaving early."""
    # httpx declares an iterator and gives a generator, which has to be closed to free the connection.
    raw = cast("AsyncGenerator[bytes, None]", opened.response.aiter_raw())
    async with aclosing(raw) as pieces:
        async for piece in pieces:
            yield piece


async def fetch_document(
    client: "httpx.AsyncClient", url: str, headers: Mapping[str, str], settings: PullSettings
) -> tuple[bytes, str, Mapping[str, str]]:
    """A whole small document: its bytes, its final address and its headers, retried as the settings say."""
    backoff = Backoff(settings)
    while True:
        try:
            async with open_url(client, url, headers) as opened, aclosing(read_body(opened)) as pieces:
                body = bytearray()
                async for piece in pieces:
                    body += piece
                    if len(body) > DOCUMENT_BYTES_MAX:
                        raise Refused(
                            "download_failed",
                            f"{public(url)} answers with more than {DOCUMENT_BYTES_MAX} bytes.",
                        )
                return bytes(body), opened.url, dict(opened.response.headers)
        except Passing as failure:
            await backoff.wait(failure)


async def fetch_json(
    client: "httpx.AsyncClient", url: str, headers: Mapping[str, str], settings: PullSettings
) -> tuple[Any, Mapping[str, str]]:
    body, final_url, response_headers = await fetch_document(client, url, headers, settings)
    try:
        return json.loads(body), response_headers
    except (ValueError, RecursionError) as error:
        raise Refused("download_failed", f"{public(final_url)} did not answer with JSON.") from error


class Backoff:
    """Pauses between attempts: doubling, with jitter so that many nodes do not come back at once."""

    __slots__ = ("_failures", "_settings")

    def __init__(self, settings: PullSettings) -> None:
        self._settings = settings
        self._failures = 0

    def progressed(self) -> None:
        self._failures = 0

    async def wait(self, failure: Passing) -> None:
        """Sleep before the next attempt. Raises: Refused (download_failed) after the last one."""
        self._failures += 1
        asked_s = failure.retry_after_s or 0.0
        if self._failures >= self._settings.attempts or asked_s > RETRY_AFTER_S_MAX:
            raise Refused(
                "download_failed",
                f"{failure} ({self._failures} attempts without progress): check the network and pull again; "
                "what has arrived is kept.",
            ) from failure
        pause_s = min(BACKOFF_S_MAX, self._settings.backoff_s * 2 ** (self._failures - 1))
        await trio.sleep(max(asked_s, pause_s * random.uniform(0.5, 1.0)))


def public(url: str) -> str:
    """A URL for messages: no user, no password, no query (signed links carry credentials there)."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{host}{port}{parts.path}"


def _ssl_context(settings: PullSettings) -> ssl.SSLContext | bool:
    if not settings.ca_file:
        return True
    path = settings.ca_file
    try:
        if os.path.isdir(path):
            return ssl.create_default_context(capath=path)
        return ssl.create_default_context(cafile=path)
    except OSError as error:
        raise Refused("download_failed", f"the certificates in {path} cannot be read: {error}.") from error


async def _follow(client: "httpx.AsyncClient", url: str, headers: Mapping[str, str]) -> Opened:
    headers = dict(headers)
    for _ in range(REDIRECTS_MAX + 1):
        _check_scheme(url)
        response = await client.send(client.build_request("GET", url, headers=headers), stream=True)
        location = response.headers.get("location")
        if not 300 <= response.status_code < 400 or location is None:
            return Opened(response, url)
        await response.aclose()
        target = urljoin(url, location)
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            raise Refused(
                "download_failed", f"{public(url)} redirects to {public(target)}, which is not https."
            )
        if urlsplit(target).netloc != urlsplit(url).netloc:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        url = target
    raise Refused("download_failed", f"{public(url)}: more than {REDIRECTS_MAX} redirects.")


def _check_scheme(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and is_loopback(parts.hostname or "")):
        raise Refused("download_failed", f"{public(url)} is not https: nothing is fetched in the clear.")


def _check_status(opened: Opened, *, is_link: bool) -> None:
    status = opened.response.status_code
    if status in (200, 206):
        return
    message = f"{public(opened.url)} answers {status} {opened.response.reason_phrase}"
    if status in (401, 403, 404, 410) and is_link:
        raise LinkExpired(message)
    if status in PASSING_STATUSES:
        raise Passing(message, retry_after_s=_retry_after_s(opened.response.headers.get("retry-after")))
    if status in (401, 403):
        raise Refused(
            "download_failed",
            f"{message}: the file needs an account; on Hugging Face accept its terms and set HF_TOKEN.",
            details={"status": status},
        )
    code: Code = "model_not_found" if status in (404, 410) else "download_failed"
    raise Refused(code, f"{message}: check the name.", details={"status": status})


def _retry_after_s(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        if text.strip().isdecimal():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _transport(error: Exception) -> str:
    return str(error) or type(error).__name__
