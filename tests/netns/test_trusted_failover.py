"""What breaks between machines while they answer: processes, engines, cables, packets, networks."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.netns.lab import Lab
from tests.netns.ring import Ring, Said, long_answer, slow_model, wait

pytestmark = pytest.mark.slow

SERVERS = ("desktop", "server")
TOKENS = 300
BREAK_AT = 40
"""Pieces of text, of about 150."""

SHOWN_CHARS = 60
"""More than can be under way while something breaks, and twenty tokens beyond."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_model(tmp_path_factory.mktemp("model") / "slow.gguf")


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Ring]:
    """A laptop without models, and two machines that have the slow one."""
    with Lab() as lab:
        made = Ring(lab, tmp_path_factory.mktemp("failover"))
        made.add("laptop")
        for name in SERVERS:
            made.add(name, models={"slow": model})
        made.start("laptop", *SERVERS)
        for name in SERVERS:
            made.wait_seen("laptop", name)
            made.pair(name, "laptop")
        yield made


@pytest.fixture
def ring(paired: Ring) -> Ring:
    """With all machines there and idle."""
    paired.wait_known("laptop", *SERVERS)
    for name in SERVERS:
        wait(f"{name} to be idle", partial(paired.is_idle, name))
    return paired


@pytest.fixture(scope="module")
def whole(paired: Ring) -> Said:
    """The answer that nobody disturbs, from a machine's own API."""
    *_, said = paired.stream("desktop", long_answer(tokens=TOKENS))
    assert said.finish == "length"
    return said


def other(name: str) -> str:
    return SERVERS[1 - SERVERS.index(name)]


def common_start(one: str, other: str) -> int:
    """Characters that both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (left, right) in pairs if left != right), min(len(one), len(other)))


def check_whole(said: Said, whole: Said) -> None:
    """Nothing lost, nothing twice, and counted right.

    A machine that reads at once what another one wrote word by word computes it in another order, and may
    differ in the last bits. That turns a token in some thousands, and all that follows: allowed, if enough
    came after the break to show that it went on at the right place, with the right random numbers.
    """
    assert not said.error
    assert said.finish == whole.finish
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert said.usage[count] == whole.usage[count]
    assert said.usage["prompt_tokens_details"]["cached_tokens"] <= said.usage["prompt_tokens"]
    if said.text != whole.text:
        same = common_start(said.text, whole.text)
        assert same >= said.broken_at + SHOWN_CHARS, f"differs at {same}, broken at {said.broken_at}"


@contextlib.contextmanager
def killed(ring: Ring) -> Iterator[Callable[[str], None]]:
    """To end a node as the power does; it is started again."""
    gone: list[str] = []

    def kill(name: str) -> None:
        ring.nodes[name].kill()
        gone.append(name)

    yield kill
    ring.start(*gone)


@contextlib.contextmanager
def unplugged(ring: Ring) -> Iterator[Callable[[str], None]]:
    """To pull a machine's cable; it is plugged in again."""
    gone: list[str] = []

    def pull(name: str) -> None:
        ring.lab.link_down(ring.hosts[name])
        gone.append(name)

    yield pull
    for name in gone:
        ring.lab.link_up(ring.hosts[name])


def test_an_answer_goes_on_elsewhere_when_its_node_is_killed(ring: Ring, whole: Said) -> None:
    with killed(ring) as kill:
        said = ring.answer("laptop", long_answer(tokens=TOKENS), (BREAK_AT, kill))
    check_whole(said, whole)
    assert said.unhosted["resumed_on"] == [other(said.served_by)]


def test_an_answer_goes_on_elsewhere_when_its_cable_is_pulled(ring: Ring, whole: Said) -> None:
    with unplugged(ring) as pull:
        said = ring.answer("laptop", long_answer(tokens=TOKENS), (BREAK_AT, pull))
        line = ring.line("laptop", said.served_by)
        assert line["why_not"] and not line["reachable"]
    check_whole(said, whole)
    assert said.unhosted["resumed_on"] == [other(said.served_by)]


def test_an_answer_survives_its_engine(ring: Ring, whole: Said) -> None:
    said = ring.answer("laptop", long_answer(tokens=TOKENS), (BREAK_AT, ring.kill_engine))
    check_whole(said, whole)
    assert said.unhosted["resumed_on"] == [], "the node starts another engine and goes on by itself"


def test_an_answer_goes_on_twice(ring: Ring, model: Path, whole: Said) -> None:
    """The first machine is killed, the second one loses its cable, and the owner's own one ends it."""
    laptop = ring.nodes["laptop"]
    laptop.cli("pull", str(model), "--name", "slow")
    body = long_answer(tokens=TOKENS, unhosted={"provider": {"order": [*SERVERS, "local"]}})
    try:
        with killed(ring) as kill, unplugged(ring) as pull:
            said = ring.answer("laptop", body, (30, kill), (60, lambda began: pull(other(began))))
    finally:
        laptop.cli("rm", "slow")
    check_whole(said, whole)
    assert said.served_by == SERVERS[0]
    assert said.unhosted["resumed_on"] == [SERVERS[1], "laptop"]


def test_with_nobody_left_the_answer_ends_with_a_reason(ring: Ring) -> None:
    with killed(ring) as kill:

        def kill_both(_: str) -> None:
            for name in SERVERS:
                kill(name)

        said = ring.answer("laptop", long_answer(tokens=TOKENS), (BREAK_AT, kill_both))
    assert said.error["code"] == "no_provider"
    assert "broke off after" in said.error["message"]
    assert all(f"{name}: " in said.error["message"] for name in SERVERS)
    assert "next:" in said.error["message"]


def test_answers_over_a_bad_line_are_whole_and_stay_where_they_are(ring: Ring, whole: Said) -> None:
    for name in SERVERS:
        ring.lab.netem(ring.hosts[name], loss_percent=5, delay_ms=100)
    try:
        ring.wait_known("laptop", *SERVERS)
        for _ in range(3):
            *_, said = ring.stream("laptop", long_answer(tokens=TOKENS))
            check_whole(said, whole)
            assert said.unhosted["resumed_on"] == []
    finally:
        for name in SERVERS:
            ring.lab.netem(ring.hosts[name])


def test_machines_that_were_apart_come_together_by_themselves(ring: Ring) -> None:
    ring.lab.partition([ring.hosts["laptop"]], [ring.hosts[name] for name in SERVERS])
    try:
        for name in SERVERS:
            line = wait("the partition to be noticed", partial(unreachable, ring, name))
            assert line["why_not"]
        refused = ring.nodes["laptop"].call("POST", "/v1/completions", long_answer(tokens=4), status=503)
        assert all(f"{name}: " in refused["error"]["message"] for name in SERVERS), refused
    finally:
        ring.lab.heal()
    ring.wait_known("laptop", *SERVERS)
    *_, said = ring.stream("laptop", long_answer(tokens=4))
    assert said.finish == "length"


def test_a_machine_with_another_address_is_found_by_its_id(ring: Ring) -> None:
    host = ring.hosts["server"]
    ring.lab.move(host, host.segment, host.number + 40)
    # What is asked before anybody has noticed is refused within two seconds, for the client to ask again.
    wait("an answer from there", lambda: answers(ring, "server"))
    assert host.address in str(ring.line("laptop", "server")["addresses"])


def answers(ring: Ring, name: str) -> bool:
    body = long_answer(tokens=4, unhosted={"provider": {"allow": [name]}})
    answer = ring.nodes["laptop"].call("POST", "/v1/completions", body, status=None)
    return bool(answer.get("unhosted", {}).get("served_by") == name)


def unreachable(ring: Ring, name: str) -> dict[str, object]:
    line = ring.line("laptop", name)
    return {} if line["reachable"] else dict(line)
