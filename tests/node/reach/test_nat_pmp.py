"""The client against a router that answers wrongly; the right answers come from a real one in tests/netns."""

import socket
import struct
from collections.abc import Awaitable, Callable

import pytest
import trio

from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.reach import nat_pmp
from unhosted.node.shell.reach.nat_pmp import Mapped, NoMapping, external_address, map_port

HERE = "127.0.0.1"
Answers = Callable[[bytes], list[bytes]]


async def with_router(
    monkeypatch: pytest.MonkeyPatch, answers: Answers, ask: Callable[[], Awaitable[object]]
) -> tuple[object, list[bytes]]:
    """What `ask` gives, with a router here that answers each request with `answers`, and the requests."""
    asked: list[bytes] = []
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as router:
        await router.bind((HERE, 0))
        monkeypatch.setattr(nat_pmp, "PORT", router.getsockname()[1])
        monkeypatch.setattr(nat_pmp, "FIRST_WAIT_S", 0.01)

        async def serve() -> None:
            while True:
                request, sender = await router.recvfrom(100)
                asked.append(request)
                for answer in answers(request):
                    await router.sendto(answer, sender)

        async with plain_nursery() as nursery:
            nursery.start_soon(serve)
            return await ask(), asked


def mapped(request: bytes, *, outside: int = 9000, result: int = 0, lifetime_s: int = 600) -> bytes:
    (inside,) = struct.unpack_from("!H", request, 4)
    return struct.pack("!BBHIHHI", 0, 130, result, 1, inside, outside, lifetime_s)


def run(
    monkeypatch: pytest.MonkeyPatch, answers: Answers, ask: Callable[[], Awaitable[object]]
) -> tuple[object, list[bytes]]:
    async def main() -> tuple[object, list[bytes]]:
        with trio.fail_after(5):
            return await with_router(monkeypatch, answers, ask)

    return trio.run(main)


def ask_port() -> Awaitable[object]:
    return map_port(HERE, 8643, port_outside=8643, lifetime_s=7200)


def test_the_router_may_give_another_port_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    result, asked = run(monkeypatch, lambda request: [mapped(request)], ask_port)
    assert result == Mapped(port_inside=8643, port_outside=9000, lifetime_s=600)
    assert asked == [struct.pack("!BBHHHI", 0, 2, 0, 8643, 8643, 7200)]


def test_lost_answers_are_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def third(request: bytes) -> list[bytes]:
        seen.append(request)
        return [mapped(request)] if len(seen) == 3 else []

    assert run(monkeypatch, third, ask_port)[0]
    assert len(seen) == 3


def test_answers_to_something_else_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    address = struct.pack("!BBHI4B", 0, 128, 0, 1, 45, 0, 0, 9)
    result, _ = run(monkeypatch, lambda request: [b"", b"\0\0", address, mapped(request)], ask_port)
    assert result is not None
    assert run(monkeypatch, lambda _: [address], lambda: external_address(HERE))[0] == "45.0.0.9"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda request: mapped(request, result=2), "switched off"),
        (lambda request: mapped(request, result=77), "error 77"),
        (lambda request: mapped(request)[:12], "12 bytes instead of 16"),
        (lambda request: mapped(request, outside=0), "its answer is about port 8643"),
        (lambda request: mapped(b"\0" * 12), "its answer is about port 0"),
        (lambda request: b"\2\x82\0\0", "12 bytes|error"),
    ],
)
def test_a_wrong_answer_is_a_reason(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[bytes], bytes], why: str
) -> None:
    with pytest.raises(NoMapping, match=why):
        run(monkeypatch, lambda request: [answer(request)], ask_port)


def test_a_silent_router_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoMapping, match="does not answer"):
        run(monkeypatch, lambda request: [], ask_port)


def test_a_machine_without_nat_pmp_refuses_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind((HERE, 0))
        monkeypatch.setattr(nat_pmp, "PORT", unused.getsockname()[1])
    with pytest.raises(NoMapping, match="refuses NAT-PMP"):
        trio.run(external_address, HERE)
