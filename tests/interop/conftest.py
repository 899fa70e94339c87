"""The endpoints that published clients are run against: the fake node, and the real one, offline."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import MODEL, SMALL, FakeNode, served_in_thread

ROOT = Path(__file__).resolve().parent.parent.parent
STOP_TIMEOUT_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """kind: fake or real. small_model: one whose context a prompt of 5,000 words does not fit."""

    kind: str
    url: str
    model: str
    small_model: str


@pytest.fixture(scope="session", params=["fake", "real"])
def endpoint(request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    if request.param == "real":
        yield request.getfixturevalue("real_node")
        return
    with served_in_thread(FakeNode()) as address:
        yield Endpoint(kind="fake", url=address.url, model=MODEL, small_model=SMALL)


@pytest.fixture(scope="session")
def real_node(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """`unhosted serve --offline` with a tiny random model."""
    with serving(tmp_path_factory.mktemp("home"), tiny_model) as (url, model):
        yield Endpoint(kind="real", url=url, model=model, small_model=model)


@contextmanager
def serving(home: Path, gguf: Path) -> Iterator[tuple[str, str]]:
    """The program itself in a process of its own: its URL and the model's name."""
    sources = os.pathsep.join(str(ROOT / name) for name in ("node", "market", "verify", "contracts"))
    environment = os.environ | {"PYTHONPATH": sources, "UNHOSTED_HOME": str(home)}
    command = [sys.executable, "-m", "unhosted.node"]
    subprocess.run(
        [*command, "pull", str(gguf)], env=environment, check=True, capture_output=True, timeout=60
    )
    log = (home / "serve.log").open("wb")
    process = subprocess.Popen(
        [*command, "serve", "--offline", "--port", "0", "--json"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=log,
    )
    try:
        assert process.stdout is not None
        text = ""
        decoder = json.JSONDecoder()
        while True:
            line = process.stdout.readline().decode()
            assert line, (home / "serve.log").read_text()
            text += line
            try:
                info, _ = decoder.raw_decode(text)
            except ValueError:
                continue
            yield info["url"], info["models"][0]
            return
    finally:
        process.terminate()
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)
        finally:
            process.kill()
            log.close()
