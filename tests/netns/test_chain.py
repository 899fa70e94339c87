"""The chain on another machine, and the cable between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.netns.lab import Host, Lab
from tests.netns.talk import Talk
from tests.node.chain.chain_program import PORT

pytestmark = pytest.mark.slow

STARTING_SECONDS = 60


@dataclass(slots=True)
class Machines:
    lab: Lab
    node: Host
    program: Talk
    address: str


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """A node, and a machine with a chain; the node has opened it."""
    with Lab() as lab:
        node, server = lab.host("node"), lab.host("chain")
        chain = server.python("tests.node.chain.chain_program")
        contracts = chain.hear(timeout_s=STARTING_SECONDS)
        chain.hear()
        program = node.python("tests.node.chain.rpc_program")
        opened = program.ask(
            {"url": f"http://{server.address}:{PORT}", "folder": str(tmp_path), **contracts},
            timeout_s=STARTING_SECONDS,
        )
        assert opened == {"ready": True}
        yield Machines(lab, node, program, f"{server.address}:{PORT}")


def test_a_pulled_cable_is_an_outage_and_not_an_empty_account(machines: Machines) -> None:
    program = machines.program
    assert "block" in program.ask({"ask": "send", "key": "first"})
    assert program.ask({"ask": "account"}) == {"limit": 5}
    machines.lab.link_down(machines.node)
    for word in ({"ask": "account"}, {"ask": "send", "key": "second"}):
        said = program.ask(word)["unavailable"]
        assert machines.address in said
        assert "it gave no answer within 1 s" in said or "it cannot be reached" in said
        assert "says nothing about funds" in said
    machines.lab.link_up(machines.node)
    assert program.ask({"ask": "account"}) == {"limit": 5}
    first = program.ask({"ask": "send", "key": "second"})
    assert program.ask({"ask": "send", "key": "second"}) == first


def test_a_cable_pulled_while_a_transaction_is_on_its_way_sends_it_once(machines: Machines) -> None:
    program = machines.program
    machines.lab.netem(machines.node, delay_ms=60)
    program.say({"ask": "send", "key": "slow"})
    machines.lab.link_down(machines.node)
    assert "unavailable" in program.hear()
    machines.lab.link_up(machines.node)
    block = program.ask({"ask": "send", "key": "slow"})
    assert "block" in block, program.story()
    assert program.ask({"ask": "send", "key": "slow"}) == block
