"""`chat`: turns, commands, and what stays of an answer that was stopped."""

import signal
import threading

import pytest

from tests.node.cli.conftest import Unhosted
from tests.node.cli.fakes import FakeNode
from unhosted.node.cli.backend import Ended, Question, Started
from unhosted.node.cli.local import LocalBackend
from unhosted.node.config import load
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import AnswerDelta, Message


def turns(node: FakeNode, index: int) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in node.requests[index].messages]


def test_each_turn_carries_the_ones_before(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("chat", stdin="one\ntwo\n")
    assert (result.code, result.out) == (0, "Hello there\nHello there\n")
    assert turns(node, 1) == [("user", "one"), ("assistant", "Hello there"), ("user", "two")]
    assert node.opened == node.closed == 1


def test_clear_system_and_model_change_what_is_asked(unhosted: Unhosted, node: FakeNode) -> None:
    lines = ["one", "/clear", "two", "/system Be brief", "three", "/model other:1b", "four", "/exit", "five"]
    assert unhosted("chat", stdin="\n".join(lines)).code == 0
    assert turns(node, 1) == [("user", "two")]
    assert turns(node, 2) == [("system", "Be brief"), ("user", "three")]
    assert node.requests[3].model == "other:1b"
    assert len(node.requests) == 4


def test_a_message_may_have_several_lines(unhosted: Unhosted, node: FakeNode) -> None:
    assert unhosted("chat", stdin='"""first\nsecond\n"""\n').code == 0
    assert turns(node, 0) == [("user", "first\nsecond")]


def test_a_refused_turn_is_forgotten_and_the_chat_goes_on(unhosted: Unhosted, node: FakeNode) -> None:
    node.refusals = [Refused("context_length_exceeded", "prompt 9 above context 8")]
    result = unhosted("chat", stdin="long\nshort\n")
    assert result.code == 1  # whoever piped the lines in is told that one of them failed
    assert "error: prompt 9 above context 8; /clear forgets the conversation" in result.err
    assert turns(node, 1) == [("user", "short")]


def test_an_unknown_command_is_not_sent(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("chat", stdin="/hlep\n")
    assert "no command /hlep" in result.err and node.requests == []


def test_closing_an_answer_cancels_its_request(home: object, node: FakeNode) -> None:
    node.is_endless = True
    question = Question(model="m", messages=(Message(role="user", content="Hi"),))
    with LocalBackend(load()) as backend:
        pieces = backend.ask(question)
        assert isinstance(next(pieces), Started)
        next(pieces)
        pieces.close()
        assert node.cancelled == 1
        node.is_endless = False
        assert [type(piece) for piece in backend.ask(question)] == [
            Started,
            AnswerDelta,
            AnswerDelta,
            AnswerDelta,
            Ended,
        ]


@pytest.mark.parametrize("words", [[], ["Hello"]], ids=["before the first word", "after some"])
def test_ctrl_c_in_an_answer_leaves_the_node_and_exits_130(
    unhosted: Unhosted, node: FakeNode, words: list[str]
) -> None:
    node.is_endless, node.words = True, words

    def interrupt() -> None:
        # The fake waits for ever after its words, so the main thread is certain to wait for the next one.
        while not node.requests:
            threading.Event().wait(0.001)
        signal.pthread_kill(main_thread, signal.SIGINT)

    main_thread = threading.get_ident()
    thread = threading.Thread(target=interrupt)
    thread.start()
    result = unhosted("run", "Hi")
    thread.join()
    assert result.code == 130
    assert node.cancelled == 1 and node.opened == 1


def test_a_node_that_cannot_start_says_why(unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import asynccontextmanager

    from unhosted.node import app

    @asynccontextmanager
    async def open_node(*args: object, **options: object):  # type: ignore[no-untyped-def]
        raise Refused("engine_failed", "no library; make engine")
        yield

    monkeypatch.setattr(app, "open_node", open_node)
    result = unhosted("run", "Hi")
    assert (result.code, result.err) == (1, "error: no library; make engine\n")
