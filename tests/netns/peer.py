"""Machines with `peer_program` on them, and the three that relaying is about."""

import json
import socket
from pathlib import Path
from typing import Any

from tests.netns.lab import PUBLIC, Host, Lab
from tests.netns.talk import Talk

STARTING_SECONDS = 60


class Peer:
    """A machine with `peer_program` running on it: call it with a word and its arguments."""

    def __init__(self, host: Host, folder: Path, *words: str, **limits: Any) -> None:
        self.host, self._folder, self._words, self._limits = host, folder, words, limits
        self.start()

    def start(self) -> None:
        """Also again, after it was killed: the same peer then, which has forgotten whom it paired with."""
        self.talk: Talk = self.host.python(
            "tests.netns.peer_program",
            str(self._folder / f"{self.host.name}.key"),
            json.dumps(self._limits),
            *self._words,
        )
        hello = self.talk.hear(timeout_s=STARTING_SECONDS)
        self.peer, self.addresses = hello["peer"], hello["addresses"]

    def __call__(self, word: str, *arguments: object) -> Any:
        answer = self.talk.ask([word, *arguments])
        assert "error" not in answer, f"{self.host.name} {word}: {answer}\n{self.talk.story()}"
        return answer

    def fails(self, word: str, *arguments: object) -> str:
        """The error that it gives."""
        answer = self.talk.ask([word, *arguments])
        assert "error" in answer, f"{self.host.name} {word}: {answer}"
        return str(answer["error"])

    def join(self, other: "Peer") -> None:
        """Pair both, and connect to the other at its interface's address."""
        self("pair", other.peer)
        other("pair", self.peer)
        self("connect", other.peer, [f"/ip4/{other.host.address}/tcp/8643"])


class Triangle:
    """laptop and desktop behind a router each, and a relay that both are connected to.

    kinds: of the routers, see `Lab.nat`. limits: of the relay. words: for the program of the two ends.
    """

    def __init__(
        self,
        lab: Lab,
        folder: Path,
        *words: str,
        kinds: tuple[str, str] = ("port_preserving", "random"),
        **limits: Any,
    ) -> None:
        laptop, desktop = lab.host("laptop"), lab.host("desktop")
        server = lab.host("server", segment=PUBLIC)
        self.home = lab.nat("home", behind=[laptop], kind=kinds[0])
        self.work = lab.nat("work", behind=[desktop], kind=kinds[1])
        self.relay = Peer(server, folder, **limits)
        self.laptop, self.desktop = Peer(laptop, folder, *words), Peer(desktop, folder, *words)
        self.gather()

    def gather(self) -> None:
        """Both connected to the relay, reserved there, and knowing nothing of each other."""
        self.part()
        for one in (self.laptop, self.desktop):
            one.join(self.relay)
            self.relay("reserved", one.peer)

    def meet(self) -> Any:
        """Pair both, and let the laptop reach the desktop: nobody tells it where."""
        self.laptop("pair", self.desktop.peer)
        self.desktop("pair", self.laptop.peer)
        return self.laptop("connect", self.desktop.peer, [])

    def part(self) -> None:
        self.laptop("unpair", self.desktop.peer)
        self.desktop("unpair", self.laptop.peer)


def send_plain(source: Host, target: Host, data: bytes) -> None:
    """Through a TCP connection as it is, for all to read."""
    with target.socket() as server, source.socket() as client:
        server.bind(("0.0.0.0", 7000))
        server.listen()
        client.connect((target.address, 7000))
        client.sendall(data)
        with server.accept()[0] as peer:
            assert peer.recv(len(data), socket.MSG_WAITALL) == data
