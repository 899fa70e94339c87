"""Paid streams between machines: pulled cables, stopped programs, the chain out of reach, low deposits."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.paid import Trade, trade
from tests.node.money.paid_life import PRICE, PROMPT_TOKENS
from unhosted.market.credit import loss_max, window_tokens
from unhosted.market.money import cost_micros

pytestmark = pytest.mark.slow

LOSS = loss_max(PRICE, tokens_in=PROMPT_TOKENS, window=window_tokens(PRICE))
LONG = 2_000
SHORT = 20
LOOK_S = 0.3


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trade]:
    with trade(tmp_path_factory.mktemp("trade"), length=LONG, pause_s=0.01) as made:
        yield made


@pytest.fixture
def made(met: Trade) -> Trade:
    """Both agreed, and an answer of the seller's under way that has a hundred tokens."""
    assert met.meet() == "", met.buyer.talk.story() + met.seller.talk.story()
    met.buyer("begin", LONG)
    met.wait_tokens(100)
    return met


def end_short(made: Trade) -> None:
    """Meet again, and buy one whole answer; then both accounts say the same."""
    deadline_s = time.monotonic() + 30
    while (said := made.meet()) and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
    assert said == "", made.buyer.talk.story() + made.seller.talk.story()
    ((tokens, end, _, has_receipt, said),) = made.buyer("work", SHORT, 1)
    assert (tokens, end, has_receipt, said) == (SHORT, "finished", True, "")
    (_, least, most), (_, settled, _) = account(made)
    assert least == most == settled


def account(made: Trade) -> tuple[list[int], list[int]]:
    """Of the channel: authorised and due at the buyer; best, settled and live at the seller."""
    return made.buyer("report")[0][made.channel], made.seller("report")[made.channel]


def wait_broken(made: Trade) -> None:
    """The answer breaks off with a sentence, and what came of it is owed, exactly; nothing more than a
    prompt and a window was authorised beyond it."""
    ((tokens, _, due, _, said),) = made.buyer("wait", timeout_s=60)
    assert said
    assert tokens >= 100
    assert due == cost_micros(PRICE, tokens_in=PROMPT_TOKENS, tokens_out=tokens)
    authorised, least, _ = made.buyer("report")[0][made.channel]
    assert authorised - least <= LOSS.buyer_first_micros


def test_a_cable_pulled_in_mid_answer_costs_nobody_more_than_a_window(made: Trade) -> None:
    made.lab.link_down(made.seller.host)
    wait_broken(made)
    made.lab.link_up(made.seller.host)
    before = account(made)[0][1]
    end_short(made)
    short = cost_micros(PRICE, tokens_in=PROMPT_TOKENS, tokens_out=SHORT)
    assert account(made)[0][1] - before - short <= LOSS.buyer_micros


def test_a_killed_seller_comes_back_with_every_voucher(made: Trade) -> None:
    made.seller.talk.kill()
    wait_broken(made)
    authorised, least, _ = made.buyer("report")[0][made.channel]
    made.seller.again()
    best, _, _ = made.seller("report")[made.channel]
    assert best + LOSS.seller_micros >= least
    assert best <= authorised
    end_short(made)


def test_a_killed_buyer_comes_back_with_all_that_it_signed(made: Trade) -> None:
    made.buyer.talk.kill()
    made.buyer.again()
    (authorised, _, most), (best, _, _) = account(made)
    assert best <= authorised
    assert most <= authorised + LOSS.buyer_micros
    end_short(made)


def test_without_the_chain_tokens_go_on_and_a_top_up_waits(made: Trade) -> None:
    before = made.wait_tokens(100)
    made.lab.link_down(made.chain)
    assert made.wait_tokens(before + 200) >= before + 200
    # More than the deposit holds: a top-up is asked for, and cannot be had.
    (refused,) = made.buyer("work", 90_000, 1)
    assert "no room for 0.27" in refused[-1]
    assert "top it up" in refused[-1]
    assert made.wait_tokens(before + 300) >= before + 300
    made.lab.link_up(made.chain)
    deadline_s = time.monotonic() + 30
    while "no room for" in (said := made.buyer("work", 90_000, 1)[0][-1]):
        assert time.monotonic() < deadline_s, made.buyer.talk.story()
        time.sleep(LOOK_S)
    assert said == ""
    made.buyer("wait", timeout_s=120)
    end_short(made)


def test_a_stopped_buyer_gets_a_window_and_no_more(made: Trade) -> None:
    os.kill(made.buyer.talk.pid, signal.SIGSTOP)
    try:
        first, before = made.seller("made"), -1
        while (now := made.seller("made")) != before:
            before = now
            time.sleep(LOOK_S)  # the engine goes on while it is paid, and a little beyond
        best, settled, live = made.seller("report")[made.channel]
        assert now - first < LONG // 2
        assert settled + live <= best + LOSS.seller_micros
    finally:
        os.kill(made.buyer.talk.pid, signal.SIGCONT)
    made.wait_tokens(300)
    made.buyer("wait")
    end_short(made)


def test_a_stopped_seller_is_left_and_paid_for_what_came(made: Trade) -> None:
    os.kill(made.seller.talk.pid, signal.SIGSTOP)
    try:
        wait_broken(made)
    finally:
        os.kill(made.seller.talk.pid, signal.SIGCONT)
    end_short(made)


def test_a_deposit_that_runs_low_is_topped_up_in_mid_answer(tmp_path: Path) -> None:
    """An answer that uses most of the least deposit, at 300 micro-USDC a token; the next needs more."""
    most = 700
    with trade(tmp_path, length=most, pause_s=0.01, dearness=100) as made:
        first = made.buyer("deposit")
        made.buyer("begin", most)
        while made.buyer("deposit") == first:
            (tokens, end, _, _, said) = made.buyer("progress")[-1]
            assert end is None, f"{tokens} tokens, {said}\n{made.buyer.talk.story()}"
            time.sleep(LOOK_S)
        ((tokens, end, due, _, said),) = made.buyer("wait")
        assert (tokens, end, said) == (most, "finished", "")
        ((tokens, _, more, _, said),) = made.buyer("work", most, 1)
        assert (tokens, said) == (most, "")
        assert made.buyer("close") == due + more
