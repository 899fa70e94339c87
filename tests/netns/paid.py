"""A buyer, a seller and a chain on machines of their own."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.netns.lab import Host, Lab
from tests.netns.talk import Talk
from tests.node.chain.chain_program import PORT as CHAIN_PORT
from tests.node.money.paid_life import Setting
from tests.node.money.paid_programs import words

SELLER_PORT = 8643
STARTING_SECONDS = 60
PATIENCE_SECONDS = 40
LOOK_S = 0.02


@dataclass(slots=True)
class End:
    """A machine with one end of a channel on it."""

    host: Host
    setting: Setting
    talk: Talk

    def __call__(self, word: str, *arguments: object, timeout_s: float = PATIENCE_SECONDS) -> Any:
        (answer,) = self.talk.ask([word, *arguments], timeout_s=timeout_s)
        return answer

    def again(self) -> None:
        """The next life of one that was killed."""
        self.talk = _start(self.host, self.setting)


@dataclass(slots=True)
class Trade:
    """Both ends, agreed on a channel."""

    lab: Lab
    chain: Host
    buyer: End
    seller: End
    channel: str = ""

    def meet(self) -> str:
        """Connect, open a channel if there is none, and agree; why not, if they do not."""
        said = self.buyer("meet", *self.seller("address"))
        if said:
            return str(said)
        self.channel = self.channel or self.buyer("open")
        return str(self.buyer("join", self.channel))

    def wait_tokens(self, least: int) -> int:
        """Until the newest request has so many tokens."""
        while True:
            came, end, _, _, said = self.buyer("progress")[-1]
            if came >= least:
                return int(came)
            assert not said and end is None, f"{came} tokens, {end}, {said}\n{self.buyer.talk.story()}"
            time.sleep(LOOK_S)


def _start(host: Host, setting: Setting) -> Talk:
    talk = host.python("tests.node.money.paid_programs", words(setting))
    talk.hear(timeout_s=STARTING_SECONDS)
    return talk


@contextmanager
def trade(folder: Path, *, length: int, pause_s: float, dearness: int = 1) -> Iterator[Trade]:
    """On one switch. length, pause_s, dearness: of the seller's answers."""
    with Lab() as lab:
        buyer, seller, server = lab.host("buyer"), lab.host("seller"), lab.host("chain")
        chain = server.python("tests.node.money.funded_chain")
        chain.hear(timeout_s=STARTING_SECONDS)
        setting = Setting(
            role="buyer",
            folder=str(folder / "buyer"),
            url=f"http://{server.address}:{CHAIN_PORT}",
            host="0.0.0.0",
            length=length,
            pause_s=pause_s,
            dearness=dearness,
        )
        sold = replace(setting, role="seller", folder=str(folder / "seller"), port=SELLER_PORT)
        made = Trade(
            lab,
            server,
            End(buyer, setting, _start(buyer, setting)),
            End(seller, sold, _start(seller, sold)),
        )
        assert made.meet() == "", made.buyer.talk.story() + made.seller.talk.story()
        yield made
