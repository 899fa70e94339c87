"""The page at /, used as a person uses it."""

import re
import time
from contextlib import ExitStack

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import CONTEXT_TOKENS, TIMEOUT_MS, Visitor
from tests.fakes import DYING, FakeNode, served_in_thread
from unhosted.node.core.peering import PeerStatus
from unhosted.node.core.service import ModelEntry

pytestmark = pytest.mark.slow
expect.set_options(timeout=TIMEOUT_MS)

SOURCE = re.compile(r"^local ring · served by .+ · (\d+) tokens, [\d.]+ tokens/s, first after [\d.]+ s")


class EmptyNode(FakeNode):
    def models(self) -> tuple[ModelEntry, ...]:
        return ()

    def peers(self) -> tuple[PeerStatus, ...]:
        return ()


def write(page: Page, text: str) -> None:
    expect(page.get_by_role("combobox", name="Model")).not_to_have_value("")
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def speak_for(page: Page, tokens: int | None) -> None:
    """A random model may end at once: this one goes on for so many tokens, or until it is stopped."""

    def add(route: Route) -> None:
        limit = {} if tokens is None else {"max_tokens": tokens}
        route.continue_(post_data={**(route.request.post_data_json or {}), **limit, "ignore_eos": True})

    page.route("**/v1/chat/completions", add)


def cancelled(url: str) -> str:
    """The node's own count of answers that their readers left."""
    return "".join(re.findall('unhosted_requests_total{.*"cancelled".*', httpx.get(f"{url}/metrics").text))


def test_a_conversation_is_streamed_and_says_who_served_it(real_url: str, visit: Visitor) -> None:
    with visit(real_url) as seen:
        page = seen.page
        speak_for(page, 30)
        box = page.get_by_label("Your message")
        expect(box).to_be_focused()
        expect(page.get_by_text("Who can read this prompt: this machine only")).to_be_visible()
        expect(page.get_by_role("combobox", name="Model")).not_to_have_value("")
        page.keyboard.type("<img src=x>")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("second line")
        page.keyboard.press("Enter")
        source = page.locator("#turns .assistant .source")
        expect(source.first).to_have_text(SOURCE)
        write(page, "and then?")
        expect(source.nth(1)).to_have_text(SOURCE)

        assert page.locator("#turns .user .text").first.text_content() == "<img src=x>\nsecond line"
        assert page.locator("#turns img").count() == 0
        expect(box).to_have_value("")
        first, second = seen.chats()
        answer = page.locator("#turns .assistant .text").first.text_content()
        asked = {"role": "user", "content": "<img src=x>\nsecond line"}
        assert first["messages"] == [asked]
        assert first["unhosted"] == {"radius": "local"}
        assert second["messages"] == [
            asked,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": "and then?"},
        ]
        assert seen.problems == []


@pytest.mark.parametrize("way", ["key", "button"])
def test_stop_ends_the_answer_on_the_page_and_on_the_node(real_url: str, visit: Visitor, way: str) -> None:
    with visit(real_url) as seen:
        page = seen.page
        speak_for(page, None)
        before = cancelled(real_url)
        write(page, "go on for ever")
        stop = page.get_by_role("button", name="Stop")
        # Text while the answer still runs: it is streamed.
        expect(page.locator("#turns .assistant .text")).to_have_text(re.compile(r"\S"))
        expect(stop).to_be_visible()
        if way == "key":
            page.keyboard.press("Escape")
        else:
            stop.click()
        expect(page.locator("#turns .source").last).to_have_text(re.compile(r"^local ring .* stopped$"))
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        expect(page.get_by_label("Your message")).to_be_focused()
        deadline_s = time.monotonic() + TIMEOUT_MS / 1000
        while cancelled(real_url) == before:
            assert time.monotonic() < deadline_s, "the node goes on"
        page.get_by_role("button", name="New chat").click()
        expect(page.locator("#turns li")).to_have_count(0)
        assert seen.problems == []


def test_a_refused_prompt_says_why_and_what_to_do_and_is_given_back(real_url: str, visit: Visitor) -> None:
    with visit(real_url) as seen:
        page = seen.page
        too_long = "x y " * CONTEXT_TOKENS
        write(page, too_long)
        alert = page.locator("#turns").get_by_role("alert")
        expect(alert).to_contain_text(f"the context holds {CONTEXT_TOKENS}")
        expect(alert).to_contain_text("Start a new chat, or send a shorter message.")
        expect(page.get_by_label("Your message")).to_have_value(too_long.strip())
        # The browser's own note of the status; nothing else.
        assert [one for one in seen.problems if "status of 400" not in one] == []


def test_an_answer_that_broke_off_is_no_part_of_the_next_prompt(visit: Visitor) -> None:
    with served_in_thread(FakeNode()) as address, visit(address.url) as seen:
        page = seen.page
        page.get_by_role("combobox", name="Model").select_option(DYING)
        write(page, "first")
        expect(page.locator("#turns").get_by_role("alert")).to_contain_text("The engine died twice")
        expect(page.locator("#turns .assistant .text")).to_have_text("Hello from")
        expect(page.get_by_label("Your message")).to_have_value("first")
        page.get_by_role("combobox", name="Model").select_option("fake:1b")
        write(page, "second")
        expect(page.locator("#turns .source").last).to_have_text(re.compile("served by fake"))
        assert seen.chats()[1]["messages"] == [{"role": "user", "content": "second"}]
        assert seen.problems == []


def test_a_node_that_is_gone_is_named_as_such(visit: Visitor) -> None:
    with ExitStack() as node:
        address = node.enter_context(served_in_thread(FakeNode()))
        with visit(address.url) as seen:
            expect(seen.page.get_by_label("Your message")).to_be_enabled()
            node.close()
            write(seen.page, "still there?")
            alert = seen.page.locator("#turns").get_by_role("alert")
            expect(alert).to_contain_text(
                "The node does not answer. Look whether `unhosted serve` still runs"
            )


def test_models_are_loaded_and_unloaded_with_the_pages_token(real_url: str, visit: Visitor) -> None:
    with visit(real_url) as seen:
        page = seen.page
        expect(page.locator("#models li")).to_have_count(1)
        button = page.locator("#models button")
        for action in ("Unload", "Load") if button.text_content() == "Unload" else ("Load", "Unload"):
            expect(button).to_have_text(action)
            button.focus()
            page.keyboard.press("Enter")
            expect(button).to_have_text("Load" if action == "Unload" else "Unload")
            expect(button).to_be_focused()
        changes = [one for one in seen.requests if re.search("/api/models/(un)?load$", one.url)]
        assert [one.headers["x-unhosted-page-token"] != "" for one in changes] == [True, True]
        assert seen.problems == []


def test_without_a_model_the_page_names_the_command(visit: Visitor) -> None:
    with served_in_thread(EmptyNode()) as address, visit(address.url) as seen:
        expect(seen.page.get_by_text("unhosted pull smollm2:135m")).to_be_visible()
        expect(seen.page.get_by_label("Your message")).to_be_disabled()
        expect(seen.page.get_by_role("button", name="Send")).to_be_disabled()
        assert seen.problems == []


def test_a_small_phone_needs_no_sideways_scrolling(real_url: str, visit: Visitor) -> None:
    with visit(real_url, width=320, height=560) as seen:
        page = seen.page
        speak_for(page, 200)
        write(page, "wide" * 100)
        expect(page.locator("#turns .source").last).to_have_text(SOURCE)
        expect(page.get_by_role("button", name="Send")).to_be_in_viewport()
        expect(page.locator("#turns .source").last).to_be_in_viewport()
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert seen.problems == []
