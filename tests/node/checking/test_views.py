"""What the desk says of itself, and of sellers and receipts, to people and programs."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.checking.checks_world import PAIR, World, came, cheated, clean
from unhosted.node import config
from unhosted.node.app_checks import CheckDesk
from unhosted.node.app_checks_views import counters, seller_of, sellers
from unhosted.node.core.checks_words import PairKey
from unhosted.node.core.errors import Refused
from unhosted.node.shell.checking.book import BookView
from unhosted.node.shell.metrics import CHECK_GAUGES, Metrics
from unhosted.verify.verdicts import Stage

OTHER = "12D3KooWBVG8eZjZqHSd8v2W3gCmXkfW5kyKWJgzBQPWAFYZxzWm"


def view_of(world: World) -> BookView:
    return BookView(pairs=dict(world.state.pairs), lines=(), counts={})


def test_metrics_say_what_checking_found(home: Path) -> None:
    desk = CheckDesk(config.load({}))
    assert set(desk.counters()) == set(CHECK_GAUGES)
    world = World()
    world.happens(came(0))
    world.done(cheated(50, wrong=10))
    counted = counters(world.state)
    assert (counted["answers"], counted["tokens"], counted["mismatches"]) == (1, 50, 10)
    metrics = Metrics(loaded=tuple, counters=dict, refused_connections=int, checks=lambda: counted)
    assert "unhosted_checks_mismatches 10.0" in metrics.render()
    assert desk.stage_of(*_key(PAIR)) is Stage.CLEAR, "nothing runs, and nothing is known"


def _key(pair: PairKey) -> tuple[str, bytes]:
    return pair.seller, pair.model


def test_suspected_sellers_come_first_with_the_command_that_helps() -> None:
    world = World()
    other = replace(PAIR, seller=OTHER)
    for number in range(3):
        world.happens(came(number, pair=other))
        world.done(clean())
    world.happens(came(9))
    world.done(cheated(50, wrong=12))
    shown = sellers(view_of(world), {PAIR.model.hex(): "tiny"})
    assert [one["seller"] for one in shown] == [PAIR.seller, OTHER]
    assert shown[0]["next"] == f"unhosted check {PAIR.seller[-8:]}"
    assert shown[1]["next"] == ""
    assert shown[1]["model_name"] == "tiny"
    assert "no more than rounding explains" in shown[1]["meaning"]


def test_a_seller_is_named_by_enough_of_its_id() -> None:
    world = World()
    world.happens(came(0))
    view = view_of(world)
    for text in (PAIR.seller, PAIR.seller[:14], PAIR.seller[-8:]):
        assert seller_of(text, view, ()).seller == PAIR.seller
    for text in ("6nXTN", "nobody", "12D3KooWBVG8"):
        with pytest.raises(Refused, match="6 characters"):
            seller_of(text, view, ())
    world.happens(came(1, pair=replace(PAIR, seller=OTHER)))
    with pytest.raises(Refused, match="2 sellers"):
        seller_of("12D3KooW", view_of(world), ())
