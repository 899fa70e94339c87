"""Both sides end paired or neither does, whatever dies or is lost in between."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.node.pairing.rules_world import RulesWorld
from unhosted.node.core import pairing_words as words

HAPPENINGS = st.lists(st.integers(0, 2047), max_size=80)
BOTH = ("offerer", "joiner")


def yes(world: RulesWorld, name: str) -> None:
    pairing_id = "offer" if name == "offerer" else "join"
    world.sides[name].said_yes = True
    world.apply(world.sides[name], words.UserAnswered(pairing_id=pairing_id, accept=True))


def asked_world(*, sends_first: bool = False) -> RulesWorld:
    """Both users are asked."""
    world = RulesWorld(sends_first=sends_first)
    world.begin()
    world.run_dry()
    return world


def faults(
    choices: list[int], *, from_question: bool = True, with_quarrels: bool = True, sends_first: bool = False
) -> list[str]:
    """What was wrong in a world with these happenings and a contact at their end."""
    found = []
    if from_question:
        world = asked_world(sends_first=sends_first)
    else:
        world = RulesWorld(sends_first=sends_first)
        world.begin()
    was_paired = False
    for _ in world.suffer(choices, with_quarrels=with_quarrels):
        is_paired = "paired" in {world.standing(name) for name in BOTH}
        if is_paired and not all(side.said_yes for side in world.sides.values()):
            found.append("a side trusts the other before both users said yes")
        was_paired = was_paired or is_paired
    world.agree()
    return found + ends(world, was_paired=was_paired and not with_quarrels)


def ends(world: RulesWorld, *, was_paired: bool) -> list[str]:
    """was_paired: one side had the pairing in its book, and nobody ended it."""
    standings = {world.standing(name) for name in BOTH}
    if standings not in ({"none"}, {"paired"}):
        return [f"the ends differ: {sorted(standings)}"]
    return ["a pairing was lost"] if was_paired and standings != {"paired"} else []


@pytest.mark.parametrize("with_quarrels", [False, True])
@pytest.mark.parametrize("from_question", [False, True])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(choices=HAPPENINGS)
def test_both_end_paired_or_neither_does(
    choices: list[int], from_question: bool, with_quarrels: bool
) -> None:
    assert not faults(choices, from_question=from_question, with_quarrels=with_quarrels)


@pytest.mark.parametrize("first", BOTH)
def test_two_yeses_and_no_trouble_pair(first: str) -> None:
    world = asked_world()
    second = "joiner" if first == "offerer" else "offerer"
    yes(world, first)
    world.run_dry()
    assert "paired" not in {world.standing(name) for name in BOTH}, "one yes must not be enough"
    yes(world, second)
    world.run_dry()
    assert [world.standing(name) for name in BOTH] == ["paired", "paired"]


KILLS = [(victim, first, effects) for victim in BOTH for first in BOTH for effects in range(4)]
"""Who dies, who says yes first, and how many effects the victim lives to see after the question."""


def kill_faults(victim: str, first: str, effects: int, *, sends_first: bool = False) -> list[str]:
    world = asked_world(sends_first=sends_first)
    world.sides[victim].effects_left = effects
    was_paired = False
    for name in (first, *(name for name in BOTH if name != first)):
        yes(world, name)
        world.run_dry()
        was_paired = was_paired or "paired" in {world.standing(name) for name in BOTH}
    world.agree()
    return ends(world, was_paired=was_paired)


@pytest.mark.parametrize(("victim", "first", "effects"), KILLS)
def test_a_kill_at_every_point_after_the_question_leaves_them_agreed(
    victim: str, first: str, effects: int
) -> None:
    assert not kill_faults(victim, first, effects)


def test_writing_after_sending_is_noticed_by_these_tests() -> None:
    """The negative control: with the order turned round, some death loses what one side was told it has."""
    assert any(kill_faults(*kill, sends_first=True) for kill in KILLS)


def test_an_offerer_that_was_asked_never_commits_afterwards() -> None:
    world = asked_world()
    yes(world, "joiner")
    joiner, offerer = world.sides["joiner"], world.sides["offerer"]
    accept_link = next(link for link in world.links.values() if link.waiting["offerer"])
    record = world.record(joiner)
    assert record is not None
    asking = words.Arrived(
        channel=99, peer=joiner.state.own, message=words.Resolve(standing="pending"), record=None
    )
    world.apply(offerer, asking)
    yes(world, "offerer")
    world.deliver(accept_link, offerer)  # the yes that was on its way all the time
    assert world.standing("offerer") == "none"
