"""What an interrupted calibration leaves: answers and readings, one a line, to go on from.

The folder is named by all that they depend on, so that another build of the library, other settings or
other prompts never meet them. A line cut short by a crash is the last one, and is made again.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unhosted.node.core.engine_facts import EngineFacts
from unhosted.node.shell.calibrating.answers import Answer, Ask
from unhosted.node.shell.calibrating.prompts import PROMPTS_REVISION
from unhosted.node.shell.calibrating.settings import Setting
from unhosted.verify.observations import Observations

FIELDS = ("gap_mlogit", "margin_mlogit", "is_match", "logprob_mnat", "rank")

Reading = tuple[str, int, str]
"""Setting and number of the answer, and how it was read."""


class Kept:
    """Open it once per calibration; every method is blocking and short."""

    def __init__(self, directory: Path, asks: Sequence[Ask]) -> None:
        """asks: all that may be asked; their prompts are not kept, only their numbers."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.directory = directory
        self._asks = {ask.number: ask for ask in asks}
        self.answers: dict[tuple[str, int], Answer] = {}
        self.seen: dict[Reading, Observations] = {}
        for words in _lines(self._answers_file):
            answer = self._answer(words)
            if answer is not None:
                self.answers[answer.setting, answer.number] = answer
        for words in _lines(self._seen_file):
            setting, number, how, *values = words
            seen = dict(zip(FIELDS, map(tuple, values), strict=True))
            self.seen[setting, number, how] = Observations(**seen)

    @property
    def _answers_file(self) -> Path:
        return self.directory / "answers.jsonl"

    @property
    def _seen_file(self) -> Path:
        return self.directory / "seen.jsonl"

    def add_answer(self, answer: Answer) -> None:
        self.answers[answer.setting, answer.number] = answer
        _append(
            self._answers_file,
            [answer.setting, answer.number, answer.prompt_ids, answer.output_ids, answer.finish],
        )

    def add_seen(self, reading: Reading, seen: Observations) -> None:
        self.seen[reading] = seen
        _append(self._seen_file, [*reading, *(getattr(seen, name) for name in FIELDS)])

    def remove(self) -> None:
        """The calibration is done, or is to begin anew."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answer(self, words: list[Any]) -> Answer | None:
        setting, number, prompt_ids, output_ids, finish = words
        ask = self._asks.get(number)
        if ask is None:
            return None
        return Answer(
            number=number,
            setting=setting,
            kind=ask.prompt.kind,
            part=ask.prompt.part,
            prompt_name=ask.prompt.name,
            prompt_ids=tuple(prompt_ids),
            output_ids=tuple(output_ids),
            sampling=ask.sampling,
            finish=finish,
        )


def kept_name(model: bytes, checker: EngineFacts, sellers: Sequence[Setting], draw: int) -> str:
    """A folder's name that no other calibration has."""
    meant = [model.hex(), asdict(checker), [asdict(one) for one in sellers], draw, PROMPTS_REVISION]
    return hashlib.blake2b(json.dumps(meant, sort_keys=True).encode(), digest_size=16).hexdigest()


def _lines(path: Path) -> Iterator[list[Any]]:
    """The whole ones; a part at the end goes, so that what follows begins a line of its own."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    for line in whole.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue  # a disk's fault: what it held is made again


def _append(path: Path, words: list[Any]) -> None:
    line = json.dumps(words, separators=(",", ":")).encode() + b"\n"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(line)
