"""The real node, and js-libp2p nodes that tests drive: peer.mjs takes a command and gives its result."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import httpx

DIRECTORY = Path(__file__).parent
ROOT = DIRECTORY.parent.parent.parent
TIMEOUT_S = 30


class Faulty(Exception):
    """A command that failed in JavaScript: the error's name, and its message."""


class JsPeers:
    """The program peer.mjs, which holds js-libp2p nodes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin = process.stdin
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=_read_lines, args=(process.stdout, self._lines), daemon=True).start()

    def do(self, command: str, who: str, **arguments: object) -> Any:
        self._stdin.write(json.dumps({"command": command, "who": who, **arguments}).encode() + b"\n")
        self._stdin.flush()
        line = self._lines.get(timeout=TIMEOUT_S)
        assert line, "the program in JavaScript has ended"
        answer = json.loads(line)
        if "result" not in answer:
            raise Faulty(f"{answer.get('error')}: {answer.get('message')}")
        return answer["result"]


def _read_lines(stream: IO[bytes], lines: "queue.Queue[bytes]") -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(b"")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """The real node, and js nodes: `friend` and `server` are in its book, `stranger` is not.

    It knows where `server` listens; the other two call it.
    """

    url: str
    peer: str
    address: str
    js: JsPeers

    def do(self, command: str, who: str, **arguments: object) -> Any:
        return self.js.do(command, who, peer=self.peer, **arguments)

    def ask(self, *requests: dict[str, Any], apart: bool = False, ends_first: bool = False) -> list[Any]:
        """Of `friend`. apart: a channel for each. ends_first: it says that it is done before the answers."""
        results = self.do("ask", "friend", requests=list(requests), apart=apart, endsFirst=ends_first)
        assert isinstance(results, list)
        return results

    def complete(self, **fields: object) -> httpx.Response:
        body = {"max_tokens": 8, "temperature": 0, **fields}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=TIMEOUT_S)


@contextmanager
def started(
    command: list[str], directory: Path, log: Path, *, environment: dict[str, str] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process for as long as the context lasts. log: takes its stderr."""
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as process,
    ):
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(timeout=TIMEOUT_S)
            finally:
                process.kill()


@contextmanager
def serving(home: Path, gguf: Path) -> Iterator[dict[str, Any]]:
    """`unhosted serve` with peers on loopback alone; what it says of itself."""
    settings = {
        "PYTHONPATH": os.pathsep.join(str(ROOT / name) for name in ("node", "market", "verify", "contracts")),
        "UNHOSTED_HOME": str(home),
        "UNHOSTED_PEERS_HOST": "127.0.0.1",
        "UNHOSTED_PEERS_PORT": "0",
        "UNHOSTED_PEERS_BULK_PORT": "0",
        "UNHOSTED_PEERS_MDNS": "false",
    }
    program = [sys.executable, "-m", "unhosted.node"]
    environment = os.environ | settings
    subprocess.run(
        [*program, "pull", str(gguf)], env=environment, check=True, capture_output=True, timeout=60
    )
    with started(
        [*program, "serve", "--port", "0", "--json"], ROOT, home / "serve.log", environment=environment
    ) as process:
        assert process.stdout is not None
        text = ""
        while True:
            line = process.stdout.readline().decode()
            assert line, (home / "serve.log").read_text()
            text += line
            try:
                info = json.JSONDecoder().raw_decode(text)[0]
            except ValueError:
                continue
            yield info
            return
