"""The commands over the real store, engine and server, with a tiny random model."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from tests.tiny import write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny.gguf", context=512)


@pytest.fixture
def model(unhosted: Unhosted, tiny: Path) -> str:
    """The name of the tiny model, adopted into the store of this test."""
    result = unhosted("pull", str(tiny), "--json")
    assert result.code == 0, result.err
    return str(json.loads(result.out)["name"])


class Serving:
    """A real `unhosted serve` in a process group of its own."""

    def __init__(self, *args: str) -> None:
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "unhosted.node", "serve", "--json", *args],
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        else:
            raise AssertionError(self.process.stderr.read())
        self.info = json.loads("".join(lines))

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Signal the whole group, as a terminal does; give the exit code and what was said on stderr."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture
def serving(model: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Serving]:
    found = Serving("--port", "0", "--offline")
    monkeypatch.setenv("UNHOSTED_PORT", str(found.info["port"]))
    yield found
    found.end(signal.SIGKILL)


def test_pull_list_show_rm_of_a_file_that_stays_where_it_is(
    unhosted: Unhosted, model: str, tiny: Path
) -> None:
    entries = json.loads(unhosted("list", "--json").out)
    assert [entry["name"] for entry in entries] == [model]
    assert model in unhosted("list").out
    shown = json.loads(unhosted("show", model, "--json").out)
    assert shown["path"] == str(tiny.resolve()) and shown["outlook"]["fits_now"]
    assert "fits now      yes" in unhosted("show", model).out
    assert json.loads(unhosted("rm", model, "--json").out) == [{"name": model, "freed_bytes": 0}]
    assert tiny.exists() and json.loads(unhosted("list", "--json").out) == []


def test_show_verifies_the_whole_file_and_rm_clears_what_pulls_left(
    unhosted: Unhosted, tmp_path: Path
) -> None:
    path = write_tiny(tmp_path / "own.gguf", seed=7)
    name = json.loads(unhosted("pull", str(path), "--json").out)["name"]
    assert unhosted("show", name, "--verify").code == 0
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert unhosted("show", name).code == 0, "same size, same time: only reading it all can tell"
    damaged = unhosted("show", name, "--verify")
    assert damaged.code == 1 and "not the one that was verified" in damaged.err
    assert json.loads(unhosted("rm", "--unfinished", "--json").out)[0]["freed_bytes"] == 0
    assert unhosted("rm").code == 2


def test_an_empty_store_says_what_to_do(unhosted: Unhosted) -> None:
    result = unhosted("list")
    assert (result.code, result.out) == (0, "")
    assert "unhosted list --all" in result.err


def test_the_catalogue_is_listed_smallest_first(unhosted: Unhosted) -> None:
    offers = json.loads(unhosted("list", "--all", "--json").out)
    assert offers[0]["name"] == "smollm2:135m" and offers[0]["size_bytes"] == 98_362_432
    assert "smollm2:135m" in unhosted("list", "--all").out
    shown = json.loads(unhosted("show", "smollm2:135m", "--json").out)
    assert shown["is_here"] is False and shown["licence"] == "Apache-2.0"


@pytest.mark.parametrize("command", ["show", "rm"])
def test_an_unknown_model_is_refused_in_one_line(unhosted: Unhosted, command: str) -> None:
    result = unhosted(command, "nosuch:1b")
    assert result.code == 1
    assert result.err.startswith("error: ") and "nosuch:1b" in result.err and result.err.count("\n") == 1


def test_a_ref_that_means_nothing_is_refused(unhosted: Unhosted) -> None:
    result = unhosted("pull", "ftp://example.org/x")
    assert result.code == 1 and result.err.startswith("error: ")


@pytest.mark.slow
def test_names_complete_from_the_store(unhosted: Unhosted, model: str) -> None:
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "_UNHOSTED_COMPLETE": "bash_complete",
        "COMP_WORDS": f"unhosted show {model[:2]}",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "unhosted.node"], env=environ, capture_output=True, text=True, check=True
    )
    assert f"plain,{model}" in done.stdout.split()


@pytest.mark.slow
def test_run_in_this_process_repeats_with_its_seed(unhosted: Unhosted, model: str) -> None:
    args = ["run", model, "Hi", "--max-tokens", "8", "--seed", "3", "--json"]
    first, second = (json.loads(unhosted(*args).out) for _ in range(2))
    assert first["text"] == second["text"]
    assert first["usage"]["completion_tokens"] == 8 and first["finish_reason"] == "length"
    assert first["unhosted"]["ring"] == "local"


@pytest.mark.slow
def test_run_refuses_a_prompt_above_the_context(unhosted: Unhosted, model: str) -> None:
    result = unhosted("run", model, "word " * 4000)
    assert result.code == 1
    assert result.err.startswith("error: ") and "512" in result.err


@pytest.mark.slow
def test_the_running_node_answers_as_one_in_this_process_does(
    unhosted: Unhosted, model: str, serving: Serving
) -> None:
    args = ["run", model, "Hi", "--max-tokens", "8", "--seed", "3", "--json"]
    remote = json.loads(unhosted(*args).out)
    loaded = json.loads(unhosted("ps", "--json").out)
    assert [entry["model"] for entry in loaded] == [model]
    assert model in unhosted("ps").out
    serving.end()
    here = json.loads(unhosted(*args).out)
    assert (
        here["text"] == remote["text"] and here["usage"]["prompt_tokens"] == remote["usage"]["prompt_tokens"]
    )


def test_a_model_travels_on_a_stick_and_stays_without_it(
    unhosted: Unhosted, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    exported = unhosted("export", model, str(stick), "--json")
    assert exported.code == 0, exported.err
    told = json.loads(exported.out)
    assert set(told) == {"path", "sidecar", "size_bytes", "blake3", "sha256"}
    again = unhosted("export", model, str(stick))
    assert again.code == 1 and "is there already" in again.err
    monkeypatch.setenv("UNHOSTED_HOME", str(tmp_path / "other machine"))
    copied = unhosted("pull", told["path"], "--copy", "--json")
    assert copied.code == 0, copied.err
    Path(told["path"]).unlink()
    entry = json.loads(copied.out)
    assert (entry["name"], entry["blake3"]) == (model, told["blake3"])
    assert json.loads(unhosted("show", model, "--json").out)["name"] == model
    wrong = unhosted("pull", "smollm2:135m", "--copy")
    assert wrong.code == 2 and "leave out --copy" in wrong.err


def test_a_model_on_another_disk_is_said_to_go_with_it(
    unhosted: Unhosted, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unhosted.node.app_copying.is_elsewhere", lambda config, path: True)
    result = unhosted("pull", str(tiny))
    assert result.code == 0 and f"`unhosted pull {tiny} --copy` keeps a copy" in result.err


@pytest.mark.slow
def test_chat_goes_through_the_running_node(unhosted: Unhosted, model: str, serving: Serving) -> None:
    result = unhosted("chat", model, stdin="/help\n/exit\n")
    assert result.code == 0 and "/clear" in result.err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_serve_says_what_is_on_and_stops_cleanly(
    serving: Serving, model: str, number: signal.Signals
) -> None:
    assert serving.info["offline"] is True and serving.info["models"] == [model]
    assert serving.info["url"] == f"http://127.0.0.1:{serving.info['port']}"
    code, err = serving.end(number)
    assert code == 0
    assert "Traceback" not in err and "stopping" in err


@pytest.mark.slow
def test_the_log_holds_no_prompt(serving: Serving, model: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", serving.info["port"], timeout=60)
    messages = [{"role": "user", "content": "a secret phrase"}]
    body = json.dumps({"model": model, "messages": messages, "max_tokens": 4})
    connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
    assert connection.getresponse().status == 200
    connection.close()
    _, err = serving.end()
    assert "secret" not in err


@pytest.mark.slow
def test_a_port_in_use_is_named_with_the_way_out(unhosted: Unhosted, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
        done = subprocess.run(
            [sys.executable, "-m", "unhosted.node", "serve", "--port", str(port)],
            env=environ,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 1
    assert str(port) in done.stderr and "--port" in done.stderr and done.stderr.startswith("error: ")


@pytest.mark.slow
def test_bench_prints_a_row_per_count_and_show_knows_the_speed(unhosted: Unhosted, model: str) -> None:
    args = ["bench", model, "--streams", "1,2", "--rounds", "1", "--prompt-tokens", "16", "--tokens", "4"]
    result = unhosted(*args, "--json")
    assert result.code == 0, result.err
    rows = json.loads(result.out)["rows"]
    assert [(row["streams"], row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [
        (1, 16, 4),
        (2, 16, 4),
    ]
    assert json.loads(unhosted("show", model, "--json").out)["outlook"]["is_measured"] is True


@pytest.mark.slow
def test_doctor_finds_nothing_broken_here(unhosted: Unhosted, model: str) -> None:
    findings = {entry["check"]: entry for entry in json.loads(unhosted("doctor", "--json").out)}
    assert {"python", "library", "sandbox", "memory", "disk", "models", "port", "offline"} <= findings.keys()
    assert [name for name, entry in findings.items() if entry["status"] == "fail"] == []
    assert model in findings["models"]["text"]
