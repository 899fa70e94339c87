"""Pairing between machines that do not find each other: two networks, a router, the address in the code."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.netns.lab import PUBLIC, Host, Lab
from tests.netns.talk import Talk
from tests.node.pairing.kills import NEITHER, PAIRED, PATIENCE_S, TICK_S


def node(host: Host, directory: Path) -> Talk:
    directory.mkdir()
    return host.python("tests.node.pairing.kills", str(directory), "0.0.0.0")


def until(one: Talk, other: Talk, ends: list[list[Any]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while (reports := [talk.ask(["report"])[0] for talk in (one, other)]) != ends:
        assert time.monotonic() < deadline, (reports, one.story(), other.story())
        time.sleep(TICK_S)


@pytest.mark.slow
def test_an_address_code_pairs_across_networks_and_unpairing_reaches_the_other(tmp_path: Path) -> None:
    with Lab() as lab:
        away = lab.host("caway", segment=PUBLIC)
        home = lab.host("chome", default_route=True)
        lab.nat("cnat", behind=[home], kind="random", unsolicited="drop")
        offerer, joiner = node(away, tmp_path / "away"), node(home, tmp_path / "home")
        [code] = offerer.ask(["offer"])
        assert f"@{away.address}:" in code
        assert joiner.ask(["join", code]) == ["waiting"]
        until(offerer, joiner, PAIRED)
        [[peer, _]] = joiner.ask(["address"])
        assert offerer.ask(["unpair", peer]) == ["unpaired"]
        until(offerer, joiner, NEITHER)
