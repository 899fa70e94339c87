"""Who answers `run` and `chat`: the node that already runs on this machine, else one in this process.

Both are asked the same `Question` and give the same pieces, so that the commands do not know which it is.
"""

import contextlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.model_ref import split_radius
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The last piece: who served it, as it is known at the end."""

    provenance: Provenance


Piece = Started | AnswerDelta | Ended


class Backend(Protocol):
    @property
    def where(self) -> str:
        """For people: which node answers."""
        ...

    def ask(self, question: Question) -> Generator[Piece, None, None]:
        """`Started`, deltas, `Ended`. Closing the iterator, or an interrupt inside it, cancels the request.

        Raises: Refused.
        """
        ...


@contextlib.contextmanager
def open_backend(config: Config, model: str) -> Iterator[Backend]:
    """The running node of these settings if there is one, else a node in this process until the exit.

    model: of the first question; the node in this process reaches paired machines if they may be needed.
    """
    from unhosted.node.cli.remote import RemoteBackend, find_server

    server = find_server(config)
    if server is not None:
        yield RemoteBackend(server)
        return
    from unhosted.node.cli.local import LocalBackend

    with LocalBackend(config, with_peers=_needs_peers(config, model)) as backend:
        yield backend


def _needs_peers(config: Config, model: str) -> bool:
    """Whether a machine was ever paired, and the model is asked of others or is not here."""
    if not config.has_peers or not config.paths.peers_file.exists():
        return False
    name, radius = split_radius(model)
    if radius is not None:
        return radius != "local"
    from unhosted.node import app

    try:
        app.model_store(config).resolve(name)
    except Refused:
        return True
    return False
