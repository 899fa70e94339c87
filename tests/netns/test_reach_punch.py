"""From the relay to a direct connection: between routers that let it, and not between those that do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import Lab
from tests.netns.peer import Triangle

pytestmark = pytest.mark.slow

TIMES, GOAL = 3, 2
"""Measured by itself it worked 10 times of 10; this machine may be busy (docs/decisions/hole-punching.md)."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_routers_that_keep_ports_let_us_through(lab: Lab, tmp_path: Path) -> None:
    there = Triangle(lab, tmp_path, "punch", kinds=("port_preserving", "port_preserving"))
    lab.netem(there.laptop.host, delay_ms=40)
    worked = 0
    for _ in range(TIMES):
        there.meet()
        answer = there.laptop.talk.ask(["path", there.desktop.peer, "direct"])
        worked += "error" not in answer
        assert there.laptop("echo", there.desktop.peer, "hello") == {"came": 5}
        there.laptop("disconnect", there.desktop.peer)
        there.desktop("gone", there.laptop.peer)
    assert worked >= GOAL


def test_a_router_that_changes_ports_leaves_the_relay(lab: Lab, tmp_path: Path) -> None:
    there = Triangle(lab, tmp_path, "punch")
    there.meet()
    there.laptop("tried", there.desktop.peer)
    assert there.laptop("connections")[there.desktop.peer].startswith("relay via")
    assert there.laptop("echo", there.desktop.peer, "hello") == {"came": 5}
