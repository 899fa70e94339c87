"""`unhosted chat`: several turns in the terminal. What is said stays in memory and ends with the program."""

import contextlib
import sys
from dataclasses import dataclass, replace

import click

from unhosted.node.cli.asking import ask, note_source
from unhosted.node.cli.backend import Backend, Ended, Question, Started, open_backend
from unhosted.node.cli.common import load_config, model_argument, offline_option
from unhosted.node.cli.output import note, printable_answer
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Message

HELP = """\
/clear          forget the conversation
/system TEXT    set the instructions (without TEXT: none) and forget the conversation
/model NAME     go on with another model
/exit           leave; so does Ctrl-D
\"\"\"             begin and end a message of several lines
Ctrl-C stops an answer"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    model: str
    system: str = ""
    turns: tuple[Message, ...] = ()

    @property
    def messages(self) -> tuple[Message, ...]:
        head = (Message(role="system", content=self.system),) if self.system else ()
        return head + self.turns


@click.command()
@model_argument(required=False)
@click.option("--system", default="", help="Instructions that come before the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0 always takes the likeliest token.")
@offline_option
def chat(model: str | None, system: str, temperature: float | None, offline: bool | None) -> int:
    """Talk with MODEL, or with the default model. /help shows what else can be typed.

    Lines may be piped in; the exit code is then 1 if one of them was refused.
    """
    config = load_config(offline=offline)
    conversation = Conversation(model=model or config.default_model, system=system)
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - input() then has editing and history, in memory only
    with open_backend(config, conversation.model) as backend:
        if sys.stdin.isatty():
            note(f"{conversation.model} on {backend.where}; /help for help")
        refused_count = _converse(backend, config, conversation, temperature)
    return 1 if refused_count and not sys.stdin.isatty() else 0


def _converse(backend: Backend, config: Config, conversation: Conversation, temperature: float | None) -> int:
    """Turn after turn until the input ends or /exit; gives how many were refused."""
    refused_count = 0
    while (line := _read_message()) is not None:
        if not line.strip():
            continue
        if line.startswith("/"):
            changed = _obey(line, conversation)
            if changed is None:
                return refused_count
            conversation = changed
            continue
        asked = replace(conversation, turns=(*conversation.turns, Message(role="user", content=line)))
        question = Question(
            model=asked.model,
            messages=asked.messages,
            temperature=temperature,
            radius="local" if config.offline else None,
        )
        try:
            text = _answer(backend, question, config)
        except Refused as refused:
            hint = "; /clear forgets the conversation" if refused.code == "context_length_exceeded" else ""
            note(f"error: {refused.message}{hint}")
            refused_count += 1
            continue
        conversation = replace(asked, turns=(*asked.turns, Message(role="assistant", content=text)))
    return refused_count


def _answer(backend: Backend, question: Question, config: Config) -> str:
    """Show the answer and give what came of it; Ctrl-C keeps what there is."""
    texts: list[str] = []
    ended: Ended | None = None
    is_terminal = sys.stdout.isatty()
    pieces = ask(backend, question, config)
    try:
        for piece in pieces:
            if isinstance(piece, Ended):
                ended = piece
            elif not isinstance(piece, Started) and piece.text:
                texts.append(piece.text)
                sys.stdout.write(printable_answer(piece.text) if is_terminal else piece.text)
                sys.stdout.flush()
    except KeyboardInterrupt:
        if not sys.stdin.isatty():
            raise
        note("\n(stopped)")
    finally:
        pieces.close()
    sys.stdout.write("\n")
    sys.stdout.flush()
    if ended is not None:
        note_source(ended.provenance)
    return "".join(texts)


def _obey(line: str, conversation: Conversation) -> Conversation | None:
    """The conversation after a command, or None to leave."""
    name, _, rest = line.strip().partition(" ")
    match name:
        case "/exit" | "/quit" | "/bye":
            return None
        case "/clear":
            return replace(conversation, turns=())
        case "/system":
            return replace(conversation, system=rest.strip(), turns=())
        case "/model" if rest.strip():
            return replace(conversation, model=rest.strip())
        case "/model":
            note(conversation.model)
        case "/help":
            note(HELP)
        case _:
            note(f"no command {name}; /help shows them")
    return conversation


def _read_message() -> str | None:
    """A line, or the lines between two marks of three quotes; None at the end of input."""
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    lines: list[str] = []
    is_open = False
    while True:
        try:
            line = input(("... " if is_open else ">>> ") if is_terminal else "")
        except EOFError:
            if is_terminal:
                note("")
            return "\n".join(lines) if lines else None
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            note("\n(Ctrl-D or /exit leaves)")
            lines, is_open = [], False
            continue
        if line.strip().startswith('"""') and not is_open:
            line, is_open = line.strip()[3:], True
        if is_open and line.rstrip().endswith('"""'):
            return "\n".join((*lines, line.rstrip()[:-3])).strip("\n")
        if not is_open:
            return line
        lines.append(line)
