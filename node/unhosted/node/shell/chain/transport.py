"""One JSON-RPC endpoint over web3's HTTPProvider, in threads: its asynchronous provider does not run in trio.

An answer is bounded in bytes and in time, since an endpoint is a stranger. The endpoint's address can hold a
key, so nothing here ever shows more of it than the host; the libraries below, which log whole addresses when
they are asked to debug, are kept quiet for the same reason.
"""

import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.answers import EndpointFault, result_of, shown
from unhosted.node.shell.recursion import keep_recursion_limit

if TYPE_CHECKING:
    import requests
    from web3 import HTTPProvider

ANSWER_BYTES_MAX = 16 << 20
"""Ten thousand logs of ours are 8 MB; a longer answer is not one."""
THREADS_MAX = 4
"""Requests at one endpoint at once: public ones limit more than that."""
GRACE_S = 2
"""The thread bounds its own time; should it not, nobody waits for it longer than this."""
READ_BYTES = 1 << 16
SPOKEN_LOGGERS = ("web3", "urllib3", "requests")


def host_of(url: str) -> str:
    """What of an endpoint's address may be shown: host and port.

    Raises: Refused(invalid_request) for what is no http(s) address.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = None, None, urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise Refused(
            "invalid_request",
            "an entry of chain.rpc-urls is not an address that starts with http:// or https://",
            field="chain.rpc-urls",
        )
    shown_host = f"[{host}]" if ":" in host else host
    return shown_host if port is None else f"{shown_host}:{port}"


class Transport:
    """Requests to one endpoint. Cancelling a request leaves its thread to end by itself, in bounded time."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.host = host_of(url)
        self._url = url
        self._timeout_s = timeout_s
        self._limiter = trio.CapacityLimiter(THREADS_MAX)
        self._provider: HTTPProvider | None = None

    def __repr__(self) -> str:
        return f"Transport({self.host})"

    async def request(self, method: str, params: Sequence[object]) -> Any:
        """The result as JSON gives it. Raises: RpcError; EndpointFault."""
        with trio.move_on_after(self._timeout_s + GRACE_S):
            answer = await trio.to_thread.run_sync(
                self._request, method, list(params), abandon_on_cancel=True, limiter=self._limiter
            )
            return result_of(answer)
        raise EndpointFault("dead", f"it gave no answer within {self._timeout_s:g} s")

    def close(self) -> None:
        if self._provider is not None:
            session = self._provider._request_session_manager._explicit_session
            if session is not None:
                session.close()

    def _request(self, method: str, params: list[object]) -> object:
        import requests

        if self._provider is None:
            self._provider = _provider(self._url, self._timeout_s)
        try:
            return self._provider.make_request(method, params)
        except requests.HTTPError as error:
            return _http_fault(error.response)
        except requests.Timeout:
            raise EndpointFault("dead", f"it gave no answer within {self._timeout_s:g} s") from None
        except requests.TooManyRedirects:
            raise EndpointFault("broken", "it sends requests to another address") from None
        except requests.RequestException as error:
            raise EndpointFault("dead", f"it cannot be reached ({_reason(error)})") from None
        except (ValueError, RecursionError):  # no JSON, or no text
            raise EndpointFault("broken", "its answer is not JSON") from None


def _provider(url: str, timeout_s: float) -> "HTTPProvider":
    import requests
    from web3 import HTTPProvider

    for name in SPOKEN_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    session = requests.Session()
    session.max_redirects = 0
    adapter = _bounded_adapter(timeout_s)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return HTTPProvider(
        url,
        request_kwargs={"timeout": timeout_s},
        session=session,
        exception_retry_configuration=None,  # the pool retries, elsewhere first
    )


def _bounded_adapter(timeout_s: float) -> "requests.adapters.HTTPAdapter":
    from requests.adapters import HTTPAdapter

    class BoundedAdapter(HTTPAdapter):
        """Reads the body itself: a slow or endless one ends here, with a fault."""

        def send(self, request: Any, *arguments: Any, **options: Any) -> "requests.Response":
            deadline_s = time.monotonic() + timeout_s
            response = super().send(request, **{**options, "stream": True})
            try:
                response._content = _body(response, deadline_s)
            finally:
                response.raw.release_conn()
            keep_recursion_limit()  # the libraries of this very module have raised it
            response._content_consumed = True  # type: ignore[attr-defined]
            return response

    return BoundedAdapter(pool_maxsize=THREADS_MAX)


def _body(response: "requests.Response", deadline_s: float) -> bytes:
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    body = bytearray()
    try:
        while piece := response.raw.read1(READ_BYTES, decode_content=True):
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                response.raw.close()
                raise EndpointFault("broken", f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
            if time.monotonic() > deadline_s:
                response.raw.close()
                raise requests.Timeout
    except (ReadTimeoutError, requests.Timeout):
        raise requests.Timeout from None
    except (HTTPError, OSError) as error:
        raise EndpointFault("broken", f"its answer ended too early ({_reason(error)})") from None
    return bytes(body)


def _http_fault(response: "requests.Response") -> object:
    """An answer with an HTTP error status: some carry a JSON-RPC error. Raises: EndpointFault."""
    status = response.status_code
    if status == 429:
        wait = response.headers.get("retry-after", "")
        wait_s = float(wait) if wait.isdecimal() and len(wait) < 6 else None
        raise EndpointFault("limited", "it limits requests (HTTP 429)", retry_after_s=wait_s)
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return answer
    if status in (401, 402, 403):
        raise EndpointFault(
            "denied", f"it does not let us in (HTTP {status}): its key may be wrong or used up"
        )
    raise EndpointFault("dead" if status >= 500 else "broken", f"it answers with HTTP {status}")


def _reason(error: BaseException) -> str:
    """The innermost cause in few words, without the address that libraries put into their messages."""
    cause: BaseException = error
    for _ in range(8):
        inner = getattr(cause, "reason", None) or cause.__cause__ or cause.__context__
        if inner is None and cause.args and isinstance(cause.args[0], BaseException):
            inner = cause.args[0]
        if not isinstance(inner, BaseException):
            break
        cause = inner
    words = getattr(cause, "strerror", None) or type(cause).__name__
    return shown(words)
