"""The page's machines: who is there, pairing and unpairing, and answers that come from elsewhere."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.browser.conftest import TIMEOUT_MS, Visitor
from tests.fake_peers import ADDRESS_CODE, CODE, DESKTOP, FACTS, LAPTOP, OTHER
from tests.fakes import ELSEWHERE, FakeNode, served_in_thread

pytestmark = pytest.mark.slow
expect.set_options(timeout=TIMEOUT_MS)

JOINED = {"state": "confirm", "other_peer": OTHER, "other_name": "attic"}
QR_WIDTH = 4 * (33 + 2 * 3)
"""A picture that has arrived: four pixels for each of 33 modules and of the quiet zone around them."""

OTHER_SHOWN = f"attic (…{OTHER[-6:]})"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def url(node: FakeNode) -> Iterator[str]:
    with served_in_thread(node) as address:
        yield address.url


def test_machines_are_shown_with_the_reason_why_not(url: str, visit: Visitor, node: FakeNode) -> None:
    with visit(url) as seen:
        rows = seen.page.locator("#peers li")
        expect(rows).to_have_count(3)
        expect(rows.nth(0)).to_contain_text(f"desktop …{DESKTOP.peer[-6:]}")
        expect(rows.nth(0)).to_contain_text("reachable (lan, 1.2 ms)")
        expect(rows.nth(0)).to_contain_text("has llama3.1:8b")
        expect(rows.nth(1)).to_contain_text(f"not reachable: {LAPTOP.why_not}")
        expect(rows.nth(2).get_by_role("button")).to_have_count(0)
        # Without asking again: the node tells.
        node.statuses = [DESKTOP]
        node.bump()
        expect(rows).to_have_count(1)
        assert sum(one.url.endswith("/api/events") for one in seen.requests) == 1
        assert seen.problems == []


def test_what_happened_meanwhile_is_said_below_the_machines(url: str, visit: Visitor, node: FakeNode) -> None:
    node.own_place |= {"accepting": False, "why_not": "draining", "notices": ["attic ended the pairing"]}
    with visit(url) as seen:
        notes = seen.page.locator("#peers-notes li")
        expect(notes).to_have_text(
            ["This machine takes nothing from others now: draining", "attic ended the pairing"]
        )
        assert seen.problems == []


def test_a_model_of_another_machine_is_offered_unless_only_this_one_may_answer(
    url: str, visit: Visitor
) -> None:
    with visit(url) as seen:
        page = seen.page
        option = page.locator("#model option", has_text=f"{FACTS.name} (on desktop)")
        expect(option).to_have_count(1)
        expect(page.get_by_text("or one that you paired with it")).to_be_visible()
        page.get_by_label("Who may answer").select_option("local")
        expect(option).to_have_count(0)
        expect(page.get_by_text("Who can read this prompt: this machine only")).to_be_visible()
        assert seen.problems == []


def test_an_answer_says_who_gave_it_why_and_who_went_on(url: str, visit: Visitor, node: FakeNode) -> None:
    with visit(url) as seen:
        page = seen.page
        page.get_by_role("combobox", name="Model").select_option(ELSEWHERE)
        page.get_by_label("Your message").fill("Hi")
        page.keyboard.press("Enter")
        source = page.locator("#turns .source").last
        expect(source).to_have_text(
            re.compile(
                r"^trusted ring · served by desktop: desktop is expected to be done in 2\.1 s"
                r" · went on at attic · 9 tokens"
            )
        )
        expect(source).to_have_attribute("title", re.compile("laptop: no answer for 2 h"))
        assert seen.chats()[0]["unhosted"] == {"radius": "trusted"}
        assert seen.problems == []


def test_a_code_is_shown_and_the_other_machine_confirmed_by_name(
    url: str, visit: Visitor, node: FakeNode
) -> None:
    with visit(url) as seen:
        page = seen.page
        page.get_by_role("button", name="Pair a machine").click()
        page.get_by_role("button", name="Show a code here").click()
        dialog = page.get_by_role("dialog", name="Pair a machine")
        expect(dialog.locator("#shown-code")).to_have_text(CODE)
        expect(dialog.locator("#address-code")).to_have_text(ADDRESS_CODE)
        expect(dialog.get_by_text(re.compile(r"^(10:00|9:5\d) left$"))).to_be_visible()
        picture = dialog.get_by_role("img")
        expect(picture).to_be_visible()
        expect(picture).to_have_js_property("naturalWidth", QR_WIDTH)
        node.advance("pairing0", **JOINED)
        expect(dialog.get_by_text(f"Pair with {OTHER_SHOWN}?")).to_be_visible()
        expect(dialog.locator("#shown-code")).to_be_hidden()
        # Whoever presses Enter without reading has not said yes.
        expect(dialog.get_by_role("button", name="No")).to_be_focused()
        dialog.get_by_role("button", name="Yes, pair").click()
        expect(dialog.get_by_text(f"Paired with {OTHER_SHOWN}.")).to_be_visible()
        assert node.answers == [True]
        dialog.get_by_role("button", name="Close").click()
        expect(page.get_by_role("button", name="Pair a machine")).to_be_focused()
        changes = [one for one in seen.requests if one.method != "GET"]
        assert all(one.headers["x-unhosted-page-token"] for one in changes)
        assert seen.problems == []


def enter_code(page: Page, code: str) -> None:
    page.get_by_label("Or the code that the other machine shows").fill(code)
    page.keyboard.press("Enter")


def test_a_wrong_code_is_told_and_another_one_can_be_entered(
    url: str, visit: Visitor, node: FakeNode
) -> None:
    with visit(url) as seen:
        page = seen.page
        page.get_by_role("button", name="Pair a machine").click()
        dialog = page.get_by_role("dialog", name="Pair a machine")
        enter_code(page, "K7P-4QX-9TM3")
        expect(dialog.get_by_role("alert")).to_contain_text("is no code")
        enter_code(page, CODE.lower())
        expect(dialog.get_by_text(f"Pair with {OTHER_SHOWN}?")).to_be_visible()
        dialog.get_by_role("button", name="No").click()
        expect(dialog.get_by_role("alert")).to_contain_text("Not paired: declined here")
        assert node.answers == [False]
        # The dialog is ready for the next try.
        enter_code(page, CODE)
        dialog.get_by_role("button", name="Yes, pair").click()
        expect(dialog.get_by_text(f"Paired with {OTHER_SHOWN}.")).to_be_visible()
        assert [one for one in seen.problems if "status of 409" not in one] == []


def test_closing_the_dialog_cancels_the_pairing(url: str, visit: Visitor, node: FakeNode) -> None:
    with visit(url) as seen:
        page = seen.page
        page.get_by_role("button", name="Pair a machine").click()
        page.get_by_role("button", name="Show a code here").click()
        expect(page.locator("#shown-code")).to_have_text(CODE)
        with page.expect_response(lambda one: one.request.method == "DELETE"):
            page.keyboard.press("Escape")
        assert node.pairings == {}
        assert seen.problems == []


def test_unpairing_asks_first_and_takes_the_row_away(url: str, visit: Visitor, node: FakeNode) -> None:
    with visit(url) as seen:
        page = seen.page
        questions: list[str] = []

        def answer(dialog: Dialog) -> None:
            questions.append(dialog.message)
            if len(questions) == 1:
                dialog.dismiss()
            else:
                dialog.accept()

        page.on("dialog", answer)
        button = page.get_by_role("button", name="Unpair desktop")
        button.click()
        assert f"desktop (…{DESKTOP.peer[-6:]})" in questions[0]
        assert DESKTOP in node.statuses
        button.click()
        expect(button).to_have_count(0)
        assert DESKTOP not in node.statuses
        expect(page.get_by_role("button", name="Pair a machine")).to_be_focused()
        assert seen.problems == []


def test_a_name_of_another_machine_is_text_and_nothing_else(url: str, visit: Visitor, node: FakeNode) -> None:
    node.statuses = [replace(DESKTOP, name="<img src=x>", why_not="<b>", reachable=False)]
    with visit(url) as seen:
        expect(seen.page.locator("#peers .name")).to_contain_text("<img src=x>")
        assert seen.page.locator("#peers img, #peers b").count() == 0
        assert seen.problems == []


def test_without_the_trusted_ring_nothing_of_it_is_shown(
    url: str, visit: Visitor, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = dict(node.status()) | {"rings": {"local": "on", "trusted": "off: the node is offline"}}
    monkeypatch.setattr(node, "status", lambda: off)
    with visit(url) as seen:
        expect(seen.page.get_by_text("Offline: the node refuses")).to_be_visible()
        expect(seen.page.get_by_role("button", name="Pair a machine")).to_be_hidden()
        assert not any(one.url.endswith("/api/events") for one in seen.requests)
        assert seen.problems == []


def test_the_dialog_fits_a_small_phone(url: str, visit: Visitor) -> None:
    with visit(url, width=320, height=560) as seen:
        page = seen.page
        page.get_by_role("link", name="Machines").click()
        page.get_by_role("button", name="Pair a machine").click()
        page.get_by_role("button", name="Show a code here").click()
        expect(page.locator("#qr")).to_have_js_property("naturalWidth", QR_WIDTH)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        dialog = "document.getElementById('pairing')"
        assert page.evaluate(f"{dialog}.scrollWidth - {dialog}.clientWidth") <= 0
        page.get_by_role("button", name="Cancel").click()
        assert seen.problems == []
