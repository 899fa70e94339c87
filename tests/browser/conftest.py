"""A headless Chromium, and the nodes it visits: the real one, offline, and fakes that fail on cue."""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, sync_playwright

from tests.interop.conftest import serving
from tests.tiny import write_tiny

TIMEOUT_MS = 20_000
CONTEXT_TOKENS = 16_384
"""Far more than the tiny model says before a test has pressed Stop."""

FLAGS = (
    "--disable-gpu",
    # The browser's own traffic would hide, or be mistaken for, the page's.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One page and all that it did. problems: console errors and warnings, and uncaught exceptions."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def chats(self) -> list[Any]:
        """The bodies of the chat requests, oldest first."""
        return [one.post_data_json for one in self.requests if one.url.endswith("/v1/chat/completions")]


class Visitor(Protocol):
    def __call__(
        self, url: str, *, width: int = 1200, height: int = 800
    ) -> AbstractContextManager[Visit]: ...


@pytest.fixture(scope="module")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("browser")
    tiny = write_tiny(folder / "tiny.gguf", context=CONTEXT_TOKENS)
    with serving(folder / "home", tiny) as (url, _):
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Of one module: while playwright is open, it keeps an event loop that others would trip over."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next((found for name in names if (found := shutil.which(name))), "/usr/bin/chromium")
    if not Path(path).exists():
        pytest.fail("no Chromium on this machine; next: apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Visitor:
    """Opens a page; at its end, whatever it did, no request may have gone anywhere but to the node."""

    @contextmanager
    def open_page(url: str, *, width: int = 1200, height: int = 800) -> Iterator[Visit]:
        with browser.new_context(viewport={"width": width, "height": height}) as context:
            context.set_default_timeout(TIMEOUT_MS)
            page = context.new_page()
            seen = Visit(page=page)

            def note_request(request: Request) -> None:
                seen.requests.append(request)

            def note_message(message: ConsoleMessage) -> None:
                if message.type in ("error", "warning"):
                    seen.problems.append(message.text)

            def note_error(error: Error) -> None:
                seen.problems.append(str(error))

            context.on("request", note_request)
            page.on("console", note_message)
            page.on("pageerror", note_error)
            page.goto(url)
            yield seen
            origins = {"/".join(request.url.split("/")[:3]) for request in seen.requests}
            assert origins == {url.rstrip("/")}

    return open_page
