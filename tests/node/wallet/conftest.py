"""The command line in this process, with a home of its own, on a local chain that a module's tests share."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.devchain import DevChain, dev_chain
from unhosted.market.ids import address_text
from unhosted.node.cli import main
from unhosted.node.shell.keys import keystore

PASSWORD = "a long password"


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Unhosted = Callable[..., Result]


@pytest.fixture(scope="module")
def dev() -> Iterator[DevChain]:
    with dev_chain() as chain:
        yield chain


@pytest.fixture
def chain(dev: DevChain) -> Iterator[DevChain]:
    """The shared chain, as new for each test."""
    snapshot = dev.snapshot()
    yield dev
    dev.revert(snapshot)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is also where commands write files; nothing is set but a cap."""
    monkeypatch.setenv("UNHOSTED_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNHOSTED_PUBLIC_MAX_USD_PER_MONTH", "5")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def unhosted(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Unhosted:
    monkeypatch.setattr("unhosted.node.app_wallet.hide_keys", lambda: None)  # it is for the whole process

    def call(*args: str) -> Result:
        monkeypatch.setattr(sys, "stdin", io.StringIO(""))
        code = main.run_command(list(args))
        out, err = capsys.readouterr()
        return Result(code, out, err)

    return call


@pytest.fixture
def key_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node with a key; its address."""
    path, password = home / "key.json", home / "password"
    password.touch(0o600)
    password.write_text(PASSWORD)
    monkeypatch.setenv("UNHOSTED_KEYSTORE", str(path))
    monkeypatch.setenv("UNHOSTED_PASSWORD_FILE", str(password))
    return address_text(keystore.create(path, PASSWORD, work=2))


@pytest.fixture
def on_chain(chain: DevChain, monkeypatch: pytest.MonkeyPatch) -> DevChain:
    """The node's settings name the local chain."""
    monkeypatch.setenv("UNHOSTED_CHAIN_NAME", "local")
    monkeypatch.setenv("UNHOSTED_CHAIN_RPC_URLS", chain.url)
    return chain
