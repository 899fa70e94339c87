"""Answers of honest sellers, made by the product's own engine and kept: an interrupted measurement goes on.

Prompts, temperatures and seeds are those of `unhosted calibrate`; 30 % of the prompts share no subject with
the others and are never used to fit a table.
"""

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import trio

from bench.common import MODELS_DIR
from bench.verify.models import SOLD, model_path
from unhosted.node.shell.calibrating.answers import Answer, Ask, asks, make_answers
from unhosted.node.shell.calibrating.settings import Setting, seller_settings
from unhosted.node.shell.models.gguf import read_header
from unhosted.verify.params import SamplingParams

KEPT_DIR = MODELS_DIR.parent / "verify"
CONTEXT_TOKENS = 4096
"""Long documents are cut to fit: about 1,900 tokens of them, for reading is most of what this costs."""

TOKENS_PER_ASK = 165
"""What an ask gives at least, on average: some answers end early."""

ROUNDS_MAX = 4
"""How often more is asked when too many answers ended early."""


USUAL = Setting(name="usual", slots=8, threads=1, ubatch_tokens=512, kv_type="f16")
"""Named in full: the product's own defaults may become others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Answers that one seller gives: honest ones here, the others in `cheats`.

    name: of the file they are kept in. sold: the model that the buyer checks with.
    """

    name: str
    setting: Setting
    sold: str = SOLD
    answers: tuple[Answer, ...] = field(default=(), repr=False)

    @property
    def tokens(self) -> int:
        return sum(len(answer.output_ids) for answer in self.answers)


def honest_settings(other_libraries: Sequence[Path]) -> tuple[Setting, ...]:
    """Sellers as they are; eight slots where nothing else is said, for the sake of time."""
    wide = tuple(
        replace(setting, slots=8) if setting.slots not in (1, 8) else setting
        for setting in seller_settings(other_libraries, usual=USUAL)
    )
    distinct: dict[Setting, Setting] = {}
    for setting in (*wide, replace(USUAL, name="exact cache", kv_type="f16/bf16")):
        distinct.setdefault(replace(setting, name=""), setting)
    return tuple(distinct.values())


def honest_answers(setting: Setting, draw: int, tokens: int) -> Served:
    """At least `tokens` of them under the setting; those that are kept are not made again."""
    kept = Kept(f"honest-{setting.name.replace(' ', '-')}")
    header = read_header(model_path(SOLD))

    async def make(wanted: Sequence[Ask]) -> None:
        await make_answers(model_path(SOLD), header, setting, wanted, kept.add)

    kept.fill(lambda: asks(draw, context_tokens=CONTEXT_TOKENS), make, tokens)
    return Served(name=kept.name, setting=setting, answers=kept.answers())


class Kept:
    """A file of answers, one a line, to which each is added as it ends."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = KEPT_DIR / "answers" / f"{name}.jsonl"
        self._by_number: dict[int, Answer] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                answer = _unpacked(json.loads(line))
                self._by_number[answer.number] = answer

    def add(self, answer: Answer) -> None:
        self._by_number[answer.number] = answer
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(_packed(answer)) + "\n")

    def answers(self) -> tuple[Answer, ...]:
        return tuple(self._by_number[number] for number in sorted(self._by_number))

    @property
    def tokens(self) -> int:
        return sum(len(answer.output_ids) for answer in self._by_number.values())

    def fill(
        self,
        all_asks: Callable[[], Iterator[Ask]],
        make: Callable[[Sequence[Ask]], Awaitable[None]],
        tokens: int,
    ) -> None:
        """Ask in order until there are `tokens`, at most `ROUNDS_MAX` times."""
        for _ in range(ROUNDS_MAX):
            missing = tokens - self.tokens
            if missing <= 0:
                return
            more = len(self._by_number) + -(-missing // TOKENS_PER_ASK)
            wanted = [ask for ask in islice(all_asks(), more) if ask.number not in self._by_number]
            trio.run(make, wanted)


def _packed(answer: Answer) -> dict[str, object]:
    sampling = {**asdict(answer.sampling), "seed": answer.sampling.seed.hex()}
    return {**asdict(answer), "sampling": sampling}


def _unpacked(fields: dict[str, object]) -> Answer:
    sampling = dict(fields["sampling"])  # type: ignore[call-overload]
    sampling["seed"] = bytes.fromhex(sampling["seed"])
    sampling["logit_bias"] = tuple((token, bias) for token, bias in sampling["logit_bias"])
    ids = {name: tuple(fields[name]) for name in ("prompt_ids", "output_ids")}  # type: ignore[arg-type, var-annotated]
    return Answer(**{**fields, **ids, "sampling": SamplingParams(**sampling)})  # type: ignore[arg-type]
