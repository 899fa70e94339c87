"""Who answers `run` and `chat`: the node that already runs on this machine, else one in this process.

Both are asked the same `Question` and give the same pieces, so that the commands do not know which it is.
"""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from unhosted.node.config import Config
from unhosted.node.core.service import AnswerDelta, Message, Provenance, Radius


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A chat request as the command line spells it. schema: JSON text that the answer must follow.

    radius: None leaves it to the settings of who answers. seed: None draws afresh.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    schema: str | None = None
    radius: Radius | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first piece: the request is accepted, and by whom."""

    model: str
    provenance: Provenance


Piece = Started | AnswerDelta


class Backend(Protocol):
    @property
    def where(self) -> str:
        """For people: which node answers."""
        ...

    def ask(self, question: Question) -> Generator[Piece, None, None]:
        """`Started`, then deltas. Closing the iterator, or an interrupt inside it, cancels the request.

        Raises: Refused.
        """
        ...


@contextlib.contextmanager
def open_backend(config: Config) -> Iterator[Backend]:
    """The running node of these settings if there is one, else a node in this process until the exit."""
    from unhosted.node.cli.remote import RemoteBackend, find_server

    server = find_server(config)
    if server is not None:
        yield RemoteBackend(server)
        return
    from unhosted.node.cli.local import LocalBackend

    with LocalBackend(config) as backend:
        yield backend
