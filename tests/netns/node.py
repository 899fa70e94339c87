"""A whole node in a laboratory's host: `unhosted serve` with a home of its own, and HTTP calls into it."""

import http.client
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.netns.lab import Host
from tests.netns.talk import Talk

PORT = 8642
STARTING_SECONDS = 60
ANSWER_SECONDS = 60


class Node:
    """`start` it, speak to it, `stop` or `kill` it, and `start` it again over the same home."""

    def __init__(
        self,
        host: Host,
        home: Path,
        *,
        options: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        """options: of `unhosted serve`. home: made if it is not there."""
        self.host, self.home, self.options = host, home, tuple(options)
        self.env = dict(env or {}) | {"UNHOSTED_HOME": str(home)}
        home.mkdir(parents=True, exist_ok=True)

    def start(self) -> "Node":
        """Returns when it serves; it has printed where. Raises: AssertionError with what it printed."""
        command = [sys.executable, "-m", "unhosted.node", "serve", "--port", str(PORT), *self.options]
        self.talk = Talk(self.host.popen_piped(command, env=self.env), name=self.host.name)
        while not self.talk.line(timeout_s=STARTING_SECONDS).startswith("OPENAI_BASE_URL="):
            pass
        return self

    def cli(self, *words: str, check: bool = True, input_text: str | None = None) -> Any:
        """Run `unhosted WORDS --json` on the same home and host; its JSON, or its text if it is none."""
        command = [sys.executable, "-m", "unhosted.node", *words, "--json"]
        printed = self.host.run(
            command, env=self.env, check=check, timeout_s=ANSWER_SECONDS, input_text=input_text
        ).stdout
        try:
            return json.loads(printed)
        except ValueError:
            return printed

    def stop(self) -> int:
        return self.talk.stop()

    def kill(self) -> None:
        """As the power goes: SIGKILL, no goodbye."""
        self.talk.kill()

    def story(self) -> str:
        """What it printed and logged."""
        return self.talk.story()

    def get(self, path: str) -> Any:
        return self.call("GET", path)

    def post(self, path: str, body: object) -> Any:
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: object = None, *, status: int | None = 200) -> Any:
        """The JSON of the answer. status: the one that is due, None for any."""
        answer = self.open(method, path, body)
        said = answer.read()
        assert status is None or answer.status == status, f"{method} {path}: {answer.status} {said!r}"
        return json.loads(said)

    def stream(self, path: str, body: object) -> Iterator[Any]:
        """The events of a stream as they come, as JSON, without the [DONE] at its end."""
        answer = self.open("POST", path, body)
        assert answer.status == 200, f"POST {path}: {answer.status} {answer.read()!r}"
        for line in answer:
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                yield json.loads(line[6:])

    def open(self, method: str, path: str, body: object = None) -> http.client.HTTPResponse:
        """The answer with its headers read and its body still to come. Closing it hangs up."""
        connection = http.client.HTTPConnection("127.0.0.1", PORT)
        connection.sock = self.host.socket(timeout_s=ANSWER_SECONDS)
        connection.sock.connect(("127.0.0.1", PORT))
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json", "connection": "close"})
        return connection.getresponse()
