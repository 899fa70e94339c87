"""A calibration from beginning to end: answers, readings, tables, and a trial of each table.

Settings whose engines fall into one class are measured together, in turns of a dozen requests. Each answer is
read in every way that this node would check it: in the shape of the exact class where both engines share
one, and in the usual shape always. A table whose held-out prompts would gain, honest as they are, is refused
with the reason; and each table is tried on cheats, so that one that catches nothing is seen.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import trio

from unhosted.node.core.calibrations import Row
from unhosted.node.core.engine_facts import EngineFacts, Replay, engine_class, exact_class, replay_for
from unhosted.node.core.errors import Refused
from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.shell.calibrating.answers import BLOCK_ASKS, Answer, Ask, asks, make_answers
from unhosted.node.shell.calibrating.fits import RefusedRow, fit_row, tried
from unhosted.node.shell.calibrating.kept import Kept, kept_name
from unhosted.node.shell.calibrating.measuring import (
    CONTROLS,
    Claim,
    LazyChecker,
    facts_of,
    honest,
    score_with,
)
from unhosted.node.shell.calibrating.settings import CHEAT_CACHE_NAME, Setting, poor_cache
from unhosted.verify.noise import Rule
from unhosted.verify.observations import Observations

TURN_ASKS = BLOCK_ASKS
"""Requests that one setting answers before the next one of its class; every other turn has a long context."""

TURNS_MAX = 400
"""Of one class: a model that ends every answer at once must not be asked for ever."""

TOKENS_PER_TURN = 1_500
"""About what a turn brings; for the estimate alone."""

CONTROL_ASKS = 16
NOTHING = Observations(gap_mlogit=(), margin_mlogit=(), is_match=(), logprob_mnat=(), rank=())
DRAW = 1
"""The one draw of prompts and seeds: two machines calibrate on the same requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to calibrate. model: BLAKE3 of the file. checker: how this node runs it. tokens: for each class of
    seller engines at least."""

    path: Path
    header: GgufHeader
    model: bytes
    checker: Setting
    sellers: tuple[Setting, ...]
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """done_tokens: written and read. total_tokens: what it will come to, about; 0 while unknown."""

    stage: str
    done_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """checker: facts of the engine that read. rows: usable tables. skipped: settings that this model or
    machine cannot be run with, and the engine's word on it."""

    checker: EngineFacts
    rows: tuple[Row, ...]
    refused: tuple[RefusedRow, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to read answers, and how it is judged."""

    name: str
    rule: Rule
    replay: Replay


@dataclass(frozen=True, slots=True, kw_only=True)
class SellerClass:
    """Settings with one class of engines. exact: by setting's name, its exact class and reading, if any."""

    name: str
    settings: tuple[Setting, ...]
    exact: dict[str, tuple[str, Way]]


class CalibrationRun:
    """`run` may be called once. Stopped and started again, it goes on where it was."""

    def __init__(self, wanted: Wanted, directory: Path, report: Callable[[Progress], None]) -> None:
        """directory: for what an interruption leaves, in a folder of its own that `forget` removes."""
        self._wanted = wanted
        self._directory = directory
        self._report = report
        self._kept: Kept | None = None
        self._skipped: list[tuple[str, str]] = []
        self._cheat_answers: dict[str, list[Answer]] = {}
        self._controls: dict[str, dict[str, list[Observations]]] = {}
        self._stage = ""
        self._done_tokens = self._total_tokens = 0
        self._asks = tuple(
            islice(asks(DRAW, context_tokens=wanted.header.context_tokens), TURN_ASKS * TURNS_MAX)
        )

    async def run(self) -> Outcome:
        """Raises: Refused."""
        wanted = self._wanted
        self._begin("asking each engine what it is")
        own = await facts_of(wanted.path, wanted.checker)
        usual = Way(name="usual", rule="statistical", replay=Replay(flash_attention=own.flash_attention))
        classes = await self._classes(own)
        folder = self._directory / kept_name(wanted.model, own, wanted.sellers, DRAW)
        kept = self._kept = await trio.to_thread.run_sync(Kept, folder, self._asks)
        self._total_tokens = self._estimate(classes)
        await self._cheats(kept)
        made: list[Row | RefusedRow] = []
        for one in classes:
            made += await self._class_rows(one, own, usual, kept)
        return Outcome(
            checker=own,
            rows=tuple(row for row in made if isinstance(row, Row)),
            refused=tuple(row for row in made if isinstance(row, RefusedRow)),
            skipped=tuple(self._skipped),
        )

    async def _class_rows(
        self, one: SellerClass, own: EngineFacts, usual: Way, kept: Kept
    ) -> list[Row | RefusedRow]:
        """The rows of one class of sellers: the usual one, and one for each exact class in it."""
        answers = await self._write(one, kept)
        pairs = [((one.name, engine_class(own)), usual, answers)]
        for name, way in dict(one.exact.values()).items():
            alike = [answer for answer in answers if one.exact.get(answer.setting) == (name, way)]
            pairs.append(((name, name), way, alike))
        made: list[Row | RefusedRow] = []
        async with AsyncExitStack() as stack:
            checker = LazyChecker(self._wanted.path, self._wanted.checker, stack)
            for classes, way, judged in pairs:
                await self._read(checker, judged, way, "honest", kept)
                if way.name not in self._controls:
                    self._controls[way.name] = await self._read_cheats(checker, way, kept)
                self._begin("fitting tables")
                row = await trio.to_thread.run_sync(
                    partial(
                        fit_row,
                        model=self._wanted.model,
                        classes=classes,
                        library=own.library,
                        rule=way.rule,
                        answers=[(answer, kept.seen[_key(answer, way, "honest")]) for answer in judged],
                    )
                )
                if isinstance(row, Row):
                    row = await trio.to_thread.run_sync(tried, row, self._controls[way.name])
                made.append(row)
        return made

    def forget(self) -> None:
        """The result is safe: what was kept for going on may go."""
        if self._kept is not None:
            self._kept.remove()

    async def _classes(self, own: EngineFacts) -> tuple[SellerClass, ...]:
        """The settings by class, in the order of their first ones."""
        found: dict[str, list[Setting]] = {}
        exact: dict[str, tuple[str, Way]] = {}
        for setting in self._wanted.sellers:
            try:
                is_own = setting == self._wanted.checker
                facts = own if is_own else await facts_of(self._wanted.path, setting)
            except Refused as refusal:
                self._skipped.append((setting.name, refusal.message))
                continue
            found.setdefault(engine_class(facts), []).append(setting)
            check, replay = replay_for(facts, own)
            name = exact_class(facts)
            if check == "exact" and name is not None:
                exact[setting.name] = (name, Way(name=f"exact {replay.kv_type}", rule="exact", replay=replay))
        return tuple(
            SellerClass(
                name=name,
                settings=tuple(settings),
                exact={one.name: exact[one.name] for one in settings if one.name in exact},
            )
            for name, settings in found.items()
        )

    def _estimate(self, classes: Sequence[SellerClass]) -> int:
        """Tokens to write and to read: reading counts as much as writing, for its prompts are read too."""
        total = 6 * TOKENS_PER_TURN
        for one in classes:
            for settings in _groups(one):
                each = max(self._wanted.tokens, len(settings) * TOKENS_PER_TURN)
                total += each * (3 if settings[0].name in one.exact else 2)
        return total

    async def _write(self, one: SellerClass, kept: Kept) -> list[Answer]:
        """Answers of the class's settings in turns, until there are enough tokens: also of the exact ones
        among them, for they get a table of their own beside."""
        answers: list[Answer] = []
        for settings in _groups(one):
            self._begin(f"answering as: {', '.join(setting.name for setting in settings)}")
            tokens = 0
            for turn in range(TURNS_MAX):
                if tokens >= self._wanted.tokens and turn >= len(settings):
                    break
                turn_asks = self._asks[turn * TURN_ASKS : (turn + 1) * TURN_ASKS]
                # Shifted at each round, so that long contexts do not always meet the same settings.
                setting = settings[(turn + turn // len(settings)) % len(settings)]
                made = await self._answer(setting, turn_asks, kept)
                answers += made
                tokens += sum(len(answer.output_ids) for answer in made)
        return answers

    async def _answer(self, setting: Setting, wanted: Sequence[Ask], kept: Kept) -> list[Answer]:
        missing = [ask for ask in wanted if (setting.name, ask.number) not in kept.answers]

        def made(answer: Answer) -> None:
            kept.add_answer(answer)
            self._count(len(answer.output_ids))

        self._count(
            sum(
                len(kept.answers[setting.name, ask.number].output_ids) for ask in wanted if ask not in missing
            )
        )
        if missing:
            await make_answers(self._wanted.path, self._wanted.header, setting, missing, made)
        return [kept.answers[setting.name, ask.number] for ask in wanted]

    async def _read(
        self,
        checker: LazyChecker,
        answers: Sequence[Answer],
        way: Way,
        what: str,
        kept: Kept,
        claim: Claim = honest,
    ) -> None:
        """See to it that each of these answers was read so."""
        missing = [answer for answer in answers if _key(answer, way, what) not in kept.seen]
        missing_tokens = sum(len(answer.output_ids) for answer in missing)
        self._count(sum(len(answer.output_ids) for answer in answers) - missing_tokens)
        if not missing:
            return
        self._begin(f"reading again: {way.name}" if what == "honest" else f"trying a cheat: {what}")

        def scored(answer: Answer, seen: Observations) -> None:
            kept.add_seen(_key(answer, way, what), seen)
            self._count(seen.tokens)

        await score_with(await checker.host(), way.replay, missing, scored, claim=claim)
        for answer in missing:  # those that the claim does not suit, or that are empty
            kept.seen.setdefault(_key(answer, way, what), NOTHING)

    async def _cheats(self, kept: Kept) -> None:
        """Make the answers that the controls are read from: an honest engine's, and a poor cache's."""
        wanted = [ask for ask in self._asks[: 2 * CONTROL_ASKS] if not ask.is_long][:CONTROL_ASKS]
        self._begin("answering for the trials")
        plain = await self._answer(self._wanted.checker, wanted, kept)
        poor: list[Answer] = []
        try:
            poor = await self._answer(poor_cache(self._wanted.checker), wanted, kept)
        except Refused as refusal:
            self._skipped.append((CHEAT_CACHE_NAME, refusal.message))
        self._cheat_answers = {name: poor if name == CHEAT_CACHE_NAME else plain for name in CONTROLS}

    async def _read_cheats(self, checker: LazyChecker, way: Way, kept: Kept) -> dict[str, list[Observations]]:
        read: dict[str, list[Observations]] = {}
        for name, answers in self._cheat_answers.items():
            await self._read(checker, answers, way, name, kept, CONTROLS[name])
            seen = [kept.seen[_key(answer, way, name)] for answer in answers]
            read[name] = [one for one in seen if one.tokens]
        return read

    def _begin(self, stage: str) -> None:
        self._stage = stage
        self._count(0)

    def _count(self, tokens: int) -> None:
        self._done_tokens += tokens
        total = max(self._total_tokens, self._done_tokens) if self._total_tokens else 0
        self._report(Progress(stage=self._stage, done_tokens=self._done_tokens, total_tokens=total))


def _groups(one: SellerClass) -> list[list[Setting]]:
    """The exact ones of a class, and the others."""
    exact = [setting for setting in one.settings if setting.name in one.exact]
    others = [setting for setting in one.settings if setting.name not in one.exact]
    return [group for group in (others, exact) if group]


def _key(answer: Answer, way: Way, what: str) -> tuple[str, int, str]:
    return answer.setting, answer.number, f"{way.name}/{what}"
