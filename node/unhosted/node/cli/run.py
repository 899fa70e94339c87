"""`unhosted run`: one prompt, one answer."""

import contextlib
import dataclasses
import json
import re
import select
import sys
from pathlib import Path

import click

from unhosted.node.cli.backend import Question, open_backend
from unhosted.node.cli.common import complete_models, json_option, load_config, offline_option
from unhosted.node.cli.output import note, write_json
from unhosted.node.core.service import Message

STDIN_CHARS_MAX = 16 << 20
"""Far above any context; a pipe without an end must not fill the memory."""

SILENT_STDIN_S = 3.0
"""Programs that write into a pipe mostly begin within this; the note only explains, reading goes on."""

SCHEMA_BYTES_MAX = 1 << 20
_LOOKS_LIKE_MODEL = re.compile(r"[\w.-]+:[\w.-]+(@\w+)?|(hf\.co/|https?://|pypi:|b3:)\S+|\S+\.gguf")


@click.command()
@click.argument("words", nargs=-1, metavar="[MODEL] PROMPT", shell_complete=complete_models)
@click.option("--system", help="Instructions that come before the prompt.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Stop after so many tokens.")
@click.option("--temperature", type=click.FloatRange(0, 5), help="0 always takes the likeliest token.")
@click.option("--seed", type=click.IntRange(min=0), help="The same seed repeats the same answer.")
@click.option(
    "--schema",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with a JSON schema that the answer must follow.",
)
@json_option
@offline_option
def run(
    words: tuple[str, ...],
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    seed: int | None,
    schema: Path | None,
    as_json: bool,
    offline: bool | None,
) -> None:
    """Answer PROMPT; the answer goes to stdout as it is made.

    What is piped in is added to the prompt: `unhosted run "Summarise this:" < notes.txt`. Without MODEL the
    default model answers, and is pulled first if it is not here. A running `unhosted serve` is used.
    """
    config = load_config(offline=offline)
    model, prompt = read_words(words, _read_stdin())
    messages = [Message(role="system", content=system)] if system else []
    question = Question(
        model=model or config.default_model,
        messages=(*messages, Message(role="user", content=prompt)),
        max_tokens=max_tokens,
        temperature=temperature,
        seed=seed,
        schema=None if schema is None else _read_schema(schema),
        radius="local" if config.offline else None,
    )
    from unhosted.node.cli.asking import ask, note_source, show

    with open_backend(config, question.model) as backend:
        try:
            outcome = show(ask(backend, question, config), is_quiet=as_json)
        except KeyboardInterrupt:
            if sys.stdout.isatty():
                click.echo()  # the shell's prompt begins on a line of its own
            raise
    if as_json:
        write_json(
            {
                "model": outcome.model,
                "text": outcome.text,
                "finish_reason": outcome.finish,
                "usage": None if outcome.usage is None else dataclasses.asdict(outcome.usage),
                "unhosted": dataclasses.asdict(outcome.provenance),
            }
        )
        return
    if not outcome.text.endswith("\n"):
        click.echo()
    note_source(outcome.provenance)
    if outcome.finish == "length" and sys.stderr.isatty():
        note("stopped at the length limit")


def read_words(words: tuple[str, ...], piped: str | None) -> tuple[str | None, str]:
    """The model, if one is named, and the prompt. Raises: click.UsageError."""
    if len(words) > 2:
        raise click.UsageError("more than a model and a prompt; put the prompt in quotes")
    if len(words) == 2:
        model, prompt = words
        if any(char.isspace() for char in model):
            raise click.UsageError("the first of two arguments is the model; put the prompt in quotes")
        return model, f"{prompt}\n\n{piped}" if piped else prompt
    if len(words) == 1 and _LOOKS_LIKE_MODEL.fullmatch(words[0]):
        if not piped:
            raise click.UsageError(f"no prompt for {words[0]}; to talk with it: unhosted chat {words[0]}")
        return words[0], piped
    prompt = "\n\n".join(part for part in (*words, piped) if part)
    if not prompt.strip():
        raise click.UsageError('no prompt; try: unhosted run "Why is the sky blue?"')
    return None, prompt


def _read_stdin() -> str | None:
    if sys.stdin is None or sys.stdin.isatty():
        return None
    _say_if_silent()
    text = sys.stdin.read(STDIN_CHARS_MAX + 1)
    if len(text) > STDIN_CHARS_MAX:
        raise click.UsageError(f"more than {STDIN_CHARS_MAX} characters on stdin")
    return text.strip() or None


def _say_if_silent() -> None:
    """An open pipe that nobody writes to, as `ssh HOST unhosted run` has, looks like a program that hangs."""
    with contextlib.suppress(OSError, ValueError):  # not a file the system knows
        ready, _, _ = select.select([sys.stdin], [], [], SILENT_STDIN_S)
        if not ready:
            note("waiting for the end of stdin, which is added to the prompt; </dev/null if there is none")


def _read_schema(path: Path) -> str:
    with path.open("rb") as file:
        raw = file.read(SCHEMA_BYTES_MAX + 1)
    if len(raw) > SCHEMA_BYTES_MAX:
        raise click.UsageError(f"--schema {path}: more than {SCHEMA_BYTES_MAX} bytes")
    try:
        return json.dumps(json.loads(raw))
    except ValueError as error:
        raise click.UsageError(f"--schema {path} is not JSON: {error}") from None
