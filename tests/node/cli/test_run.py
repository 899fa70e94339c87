"""`run`: what is asked, who answers, what is shown; over a node in this process and a running one."""

import json
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from tests.node.cli.fakes import FakeNode, FakeServer
from unhosted.node import app
from unhosted.node.cli.run import read_words
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Constraint


def missing() -> Refused:
    return Refused("model_not_found", "smollm2:135m is not here; unhosted pull smollm2:135m")


def test_the_answer_goes_to_stdout_with_one_line_end(unhosted: Unhosted, node: FakeNode) -> None:
    result = unhosted("run", "Hi")
    assert (result.code, result.out, result.err) == (0, "Hello there\n", "")
    assert node.opened == node.closed == 1
    assert node.requests[0].model == "smollm2:135m"
    assert [(m.role, m.content) for m in node.requests[0].messages] == [("user", "Hi")]


def test_options_reach_the_request(unhosted: Unhosted, node: FakeNode, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    flags = ["--max-tokens", "7", "--temperature", "0", "--seed", "5", "--schema", str(schema)]
    assert unhosted("run", "m:1b", "Hi", "--system", "Be brief", *flags, stdin="text\n").code == 0
    request = node.requests[0]
    assert request.model == "m:1b"
    assert [(m.role, m.content) for m in request.messages] == [("system", "Be brief"), ("user", "Hi\n\ntext")]
    assert request.options.max_tokens == 7
    assert request.options.sampling.temperature == 0
    assert request.options.constraint == Constraint(kind="json_schema", source='{"type": "object"}')


def test_the_same_seed_asks_the_same_draw_and_no_seed_another(unhosted: Unhosted, node: FakeNode) -> None:
    for args in (["--seed", "5"], ["--seed", "5"], [], []):
        assert unhosted("run", "Hi", *args).code == 0
    first, second, third, fourth = (request.options.sampling.seed for request in node.requests)
    assert first == second
    assert len({first, third, fourth}) == 3


def test_json_holds_text_finish_usage_and_who_answered(unhosted: Unhosted, node: FakeNode) -> None:
    shown = json.loads(unhosted("run", "Hi", "--json").out)
    assert shown["text"] == "Hello there"
    assert shown["finish_reason"] == "stop"
    assert shown["usage"] == {"prompt_tokens": 3, "cached_tokens": 0, "completion_tokens": 2}
    assert shown["unhosted"]["ring"] == "local"


def test_a_running_node_is_used(unhosted: Unhosted, node: FakeNode, server: FakeServer) -> None:
    result = unhosted("run", "Hi", "--seed", "5", "--max-tokens", "9")
    assert (result.code, result.out) == (0, "Hello there\n")
    assert node.opened == 0
    body = server.bodies[0]
    assert (body["seed"], body["max_tokens"], body["stream"]) == (5, 9, True)
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert "unhosted" not in body


def test_a_running_node_sends_a_schema_and_gives_json(
    unhosted: Unhosted, server: FakeServer, tmp_path: Path
) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    shown = json.loads(unhosted("run", "Hi", "--json", "--schema", str(schema)).out)
    assert shown["usage"]["completion_tokens"] == 2
    assert server.bodies[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


def test_another_program_on_the_port_is_not_asked(
    unhosted: Unhosted, node: FakeNode, server: FakeServer
) -> None:
    server.status = {"hello": "I am somebody else"}
    assert unhosted("run", "Hi").code == 0
    assert server.bodies == [] and node.opened == 1


def test_an_error_of_the_running_node_is_one_line(unhosted: Unhosted, server: FakeServer) -> None:
    server.error = (
        400,
        {"error": {"message": "prompt 9 above\ncontext 8", "code": "context_length_exceeded"}},
    )
    result = unhosted("run", "Hi")
    assert (result.code, result.out, result.err) == (1, "", "error: prompt 9 above context 8\n")


def test_an_error_in_mid_stream_is_shown_after_what_came(unhosted: Unhosted, server: FakeServer) -> None:
    server.events[1:] = [{"error": {"message": "the engine died twice", "code": "engine_failed"}}]
    result = unhosted("run", "Hi")
    assert result.code == 1
    assert result.out == "Hello"
    assert result.err == "error: the engine died twice\n"


def test_a_stream_that_breaks_off_is_an_error(unhosted: Unhosted, server: FakeServer) -> None:
    del server.events[1:]
    result = unhosted("run", "Hi")
    assert result.code == 1 and "broke off" in result.err


def test_a_refusal_is_one_line_and_exit_1(unhosted: Unhosted, node: FakeNode) -> None:
    node.refusals = [Refused("overloaded", "the queue holds 4 of 4 requests; try again in 2 s")]
    result = unhosted("run", "Hi")
    assert (result.code, result.err) == (1, "error: the queue holds 4 of 4 requests; try again in 2 s\n")
    assert node.closed == 1


def test_the_default_model_is_pulled_once(
    unhosted: Unhosted, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulled: list[str] = []

    async def pull(config: Config, ref: str, progress: object, name: str | None) -> object:
        pulled.append(ref)
        return type("Installed", (), {"entry": None})()

    monkeypatch.setattr(app, "pull", pull, raising=False)
    node.refusals = [missing()]
    result = unhosted("run", "Hi")
    assert (result.code, result.out) == (0, "Hello there\n")
    assert pulled == ["smollm2:135m"]
    assert "getting it once" in result.err


def test_another_missing_model_is_not_pulled_unasked(unhosted: Unhosted, node: FakeNode) -> None:
    node.refusals = [Refused("model_not_found", "big:70b is not here; unhosted pull big:70b")]
    result = unhosted("run", "big:70b", "Hi")
    assert (result.code, result.err) == (1, "error: big:70b is not here; unhosted pull big:70b\n")


def test_offline_the_request_stays_local(unhosted: Unhosted, server: FakeServer) -> None:
    # As a setting of the environment and not a flag: the guard must not be installed in this process.
    from unhosted.node.cli.backend import Question
    from unhosted.node.cli.remote import RemoteBackend, Server
    from unhosted.node.core.service import Message

    question = Question(model="m", messages=(Message(role="user", content="Hi"),), radius="local")
    list(RemoteBackend(Server(host="127.0.0.1", port=server.port)).ask(question))
    assert server.bodies[0]["unhosted"] == {"radius": "local"}


@pytest.mark.parametrize(
    ("words", "piped", "expected"),
    [
        (("Hi",), None, (None, "Hi")),
        (("m:1b", "Hi"), None, ("m:1b", "Hi")),
        (("mine", "Hi"), None, ("mine", "Hi")),
        ((), "text", (None, "text")),
        (("Sum up:",), "text", (None, "Sum up:\n\ntext")),
        (("m:1b",), "text", ("m:1b", "text")),
        (("hf.co/a/b:Q4_0",), "text", ("hf.co/a/b:Q4_0", "text")),
        (("ratio 1:2?",), None, (None, "ratio 1:2?")),
    ],
)
def test_words_are_model_and_prompt(
    words: tuple[str, ...], piped: str | None, expected: tuple[str | None, str]
) -> None:
    assert read_words(words, piped) == expected


@pytest.mark.parametrize("words", [(), ("m:1b",), ("why", "is", "it"), ("why is", "it")])
def test_words_that_could_mean_anything_are_wrong_usage(unhosted: Unhosted, words: tuple[str, ...]) -> None:
    result = unhosted("run", *words)
    assert result.code == 2
    assert result.err.startswith("error: ") and "hint: see `unhosted run --help`" in result.err


def test_a_schema_that_is_not_json_is_wrong_usage(unhosted: Unhosted, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text("{")
    result = unhosted("run", "Hi", "--schema", str(schema))
    assert result.code == 2 and "not JSON" in result.err
