"""Paired machines that run the whole program: paired as users pair them, asked over HTTP, and broken."""

import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tests.netns.lab import Host, Lab
from tests.netns.node import Node
from tests.netns.talk import Talk
from tests.tiny import write_tiny

PATIENCE_S = 60
TICK_S = 0.05

CONTEXT_TOKENS = 2048
TWO_SLOTS = {"UNHOSTED_SLOTS": "2", "UNHOSTED_CONTEXT_TOKENS": str(CONTEXT_TOKENS)}

T = TypeVar("T")


@dataclass(slots=True)
class Said:
    """One streamed answer, as far as the client has it. times_s: when each piece of text came.

    error: what ended it in mid-stream; empty if it ended well. broken_at: characters that were there when a
    test last broke something.
    """

    pieces: list[str] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    finish: str = ""
    usage: Mapping[str, Any] = field(default_factory=dict)
    unhosted: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] = field(default_factory=dict)
    broken_at: int = 0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def served_by(self) -> str:
        """Who began it, as the answer's headers say."""
        return self.headers["x-unhosted-served-by"]


def wait(what: str, look: Callable[[], T], *, patience_s: float = PATIENCE_S) -> T:
    """The first true value that `look` gives. Raises: AssertionError that says what was waited for."""
    deadline_s = time.monotonic() + patience_s
    while not (found := look()):
        assert time.monotonic() < deadline_s, f"waited {patience_s} s for {what}"
        time.sleep(TICK_S)
    return found


def slow_model(path: Path) -> Path:
    """Random weights, so many that 300 tokens take more than a second, and of 32 bits: in fewer, what a cache
    or another batch changes in the last bits turns one token in a thousand."""
    return write_tiny(
        path,
        context=CONTEXT_TOKENS,
        layers=8,
        embedding=256,
        heads=4,
        heads_kv=2,
        feed_forward=512,
        half=False,
    )


class Ring:
    """Machines on one bridge without a default route; `nodes` are those that serve, by name."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.hosts: dict[str, Host] = {}
        self.nodes: dict[str, Node] = {}
        self.peers: dict[str, str] = {}

    def add(
        self, name: str, *, env: Mapping[str, str] | None = None, models: Mapping[str, Path] | None = None
    ) -> Node:
        """A machine with these models in its store; not started yet."""
        own = {**TWO_SLOTS, "UNHOSTED_PEERS_NAME": name, **(env or {})}
        if name not in self.hosts:
            self.hosts[name] = self.lab.host(name)
        node = self.nodes[name] = Node(self.hosts[name], self.folder / name, env=own)
        for label, model in (models or {}).items():
            node.cli("pull", str(model), "--name", label)
        return node

    def start(self, *names: str) -> None:
        for name in names:
            self.nodes[name].start()
            self.peers[name] = str(self.nodes[name].get("/api/status")["peers"]["peer"])

    def line(self, at: str, of: str) -> Mapping[str, Any]:
        """What `at` knows of `of`; nothing, if it has not heard of it."""
        lines = self.nodes[at].get("/api/peers")["peers"]
        return next((one for one in lines if one["peer"] == self.peers[of]), {})

    def wait_seen(self, at: str, of: str) -> None:
        """Until the local network has told `at` of it."""
        wait(f"{at} to see {of}", partial(self.line, at, of))

    def knows(self, at: str, of: str) -> bool:
        """Whether `of` is reached from `at` and has said what it has."""
        line = self.line(at, of)
        return bool(line and line["reachable"] and line["facts"])

    def wait_known(self, at: str, *others: str, patience_s: float = PATIENCE_S) -> None:
        for of in others:
            wait(f"{at} to reach {of}", partial(self.knows, at, of), patience_s=patience_s)

    def pair(self, offerer: str, joiner: str) -> None:
        """As two users do it in two terminals, with the short code."""
        offering = self.command(offerer, "pair", "--yes", "--json")
        joining = self.command(joiner, "pair", offering.hear()["code"], "--yes", "--json")
        for talk in (offering, joining):
            while (view := talk.hear())["state"] != "paired":
                assert view["state"] != "failed", view
            assert talk.process.wait(PATIENCE_S) == 0, talk.story()

    def command(self, name: str, *words: str) -> Talk:
        """`unhosted WORDS` on the machine, in the background."""
        node = self.nodes[name]
        program = [sys.executable, "-m", "unhosted.node", *words]
        return Talk(node.host.popen_piped(program, env=node.env), name=name)

    def is_idle(self, name: str) -> bool:
        """A request that shares its batches with another one is computed in another order."""
        models = self.nodes[name].get("/api/status")["models"]
        return not any(one["slots_busy"] or one["queued"] for one in models)

    def kill_engine(self, name: str) -> None:
        """SIGKILL to the processes that generate."""
        for one in self.nodes[name].get("/api/status")["models"]:
            os.kill(int(one["pid"]), signal.SIGKILL)

    def stream(self, at: str, body: Mapping[str, Any]) -> Generator[Said]:
        """Ask for a streamed completion; the same object after each piece of text, and at its end."""
        whole = {"stream": True, "stream_options": {"include_usage": True}, **body}
        with self.nodes[at].open("POST", "/v1/completions", whole) as answer:
            assert answer.status == 200, answer.read()
            yield from _read(answer)

    def answer(self, at: str, body: Mapping[str, Any], *breaks: tuple[int, Callable[[str], None]]) -> Said:
        """The whole answer; once so many pieces of text are there, a break is told who began it, and done."""
        said, left = Said(), list(breaks)
        for said in self.stream(at, body):
            if left and len(said.pieces) >= left[0][0]:
                said.broken_at = len(said.text)
                left.pop(0)[1](said.served_by)
        assert not left, f"the answer ended after {len(said.pieces)} pieces: {said.error or said.finish}"
        return said


def _read(answer: http.client.HTTPResponse) -> Iterator[Said]:
    said = Said(headers=dict(answer.getheaders()))
    for line in answer:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        event = json.loads(line[6:])
        said.error = event.get("error", said.error)
        said.usage = event.get("usage") or said.usage
        said.unhosted = event.get("unhosted", said.unhosted)
        for choice in event.get("choices", ()):
            said.finish = choice["finish_reason"] or said.finish
            if choice["text"]:
                said.pieces.append(choice["text"])
                said.times_s.append(time.monotonic())
                yield said
    yield said


def long_answer(*, seed: int = 5, tokens: int = 600, model: str = "slow", **more: Any) -> dict[str, Any]:
    """A request whose output is random and yet always the same. The default seed is one with which, in 300
    tokens of `slow_model`, none comes near to being another one."""
    return {
        "model": model,
        "prompt": "in the other one, there and then",
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": seed,
        "ignore_eos": True,
        **more,
    }
