import io
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.node.cli.fakes import FakeNode, FakeServer
from unhosted.node import app
from unhosted.node.cli import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Unhosted = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and a port that nothing listens on."""
    monkeypatch.setenv("UNHOSTED_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as unused:
        monkeypatch.setenv("UNHOSTED_PORT", str(unused.getsockname()[1]))
    return tmp_path / "home"


@pytest.fixture
def unhosted(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Unhosted:
    """The command line in this process: `unhosted("list", "--json", stdin="")`.

    Without the offline guard, which would hold for every test after this one.
    """
    monkeypatch.setattr("unhosted.node.app_offline.install", lambda on: None)
    monkeypatch.setattr("unhosted.node.shell.offline.install", lambda on: None)

    def call(*args: str, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        code = main.run_command(list(args))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> FakeNode:
    """A fake node where commands would open a real one."""
    fake = FakeNode()
    monkeypatch.setattr(app, "open_node", fake.open_node)
    return fake


@pytest.fixture
def server(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    """A fake running node on the configured port."""
    with FakeServer().run() as fake:
        monkeypatch.setenv("UNHOSTED_PORT", str(fake.port))
        yield fake
