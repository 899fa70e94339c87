"""What `run` and `chat` share: getting the default model once, and showing an answer while it is made."""

import contextlib
import sys
from collections.abc import Generator
from dataclasses import dataclass

from unhosted.node.cli.backend import Backend, Ended, Piece, Question, Started
from unhosted.node.cli.output import is_error_terminal, note, printable, printable_answer
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import Provenance


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A whole answer. finish: None when it was stopped before its end."""

    model: str
    text: str
    provenance: Provenance
    finish: str | None
    usage: Usage | None


def ask(backend: Backend, question: Question, config: Config) -> Generator[Piece, None, None]:
    """As `Backend.ask`; the default model is pulled first, with progress on stderr, if it is missing.

    Only that one: a download of gigabytes must be asked for, with `unhosted pull`.
    """
    try:
        yield from backend.ask(question)
        return
    except Refused as refused:
        if refused.code != "model_not_found" or question.model != config.default_model:
            raise
        if config.offline:
            message = f"{question.model} is not on this machine and --offline forbids getting it;"
            raise Refused("offline", f"{message} run `unhosted pull {question.model}` while online") from None
    from unhosted.node.cli.pull import pull_with_progress

    note(f"{question.model} is not on this machine yet: getting it once")
    pull_with_progress(config, question.model)
    yield from backend.ask(question)


def show(pieces: Generator[Piece, None, None], *, is_quiet: bool = False) -> Outcome:
    """Write the text as it comes and give it whole. A KeyboardInterrupt leaves what came so far shown."""
    started: Started | None = None
    texts: list[str] = []
    finish: str | None = None
    usage: Usage | None = None
    provenance: Provenance | None = None
    is_terminal = sys.stdout.isatty()
    # Closed here and not by the collector: the request is cancelled before its node is stopped.
    with contextlib.closing(pieces):
        for piece in pieces:
            if isinstance(piece, Started):
                started = piece
                continue
            if isinstance(piece, Ended):
                provenance = piece.provenance
                continue
            if piece.text:
                texts.append(piece.text)
                if not is_quiet:
                    sys.stdout.write(printable_answer(piece.text) if is_terminal else piece.text)
                    sys.stdout.flush()
            finish = piece.finish or finish
            usage = piece.usage or usage
    assert started is not None
    return Outcome(
        model=started.model,
        text="".join(texts),
        provenance=provenance or started.provenance,
        finish=finish,
        usage=usage,
    )


def note_source(provenance: Provenance) -> None:
    """Tell people at a terminal who answered, unless it is what they expect: this machine, to the end."""
    if is_error_terminal() and (provenance.ring != "local" or provenance.resumed_on):
        note(source_line(provenance))


def source_line(provenance: Provenance) -> str:
    """Who answered, in which ring and why, and who went on after a failure."""
    who = f"answered by {provenance.served_by} ({provenance.ring})"
    reason = f": {provenance.reason}" if provenance.reason else ""
    resumed = (
        f"; then {', then '.join(provenance.resumed_on)} went on with it" if provenance.resumed_on else ""
    )
    return printable(f"[{who}{reason}{resumed}]")
