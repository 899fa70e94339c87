"""The service between kept answers and the engine: each answer counts once, whatever breaks in between."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.node.checking.checks_world import cheated, clean
from tests.node.checking.kept_world import SELLER, MemoryAnswers, answer_of
from unhosted.market.ids import RequestId
from unhosted.node.core.checks_words import (
    PROMPT_BYTES,
    Findings,
    Forgiven,
    Limits,
    MakeEvidence,
    PairKey,
    Prompt,
    StageChanged,
    ToRead,
)
from unhosted.node.core.errors import Refused
from unhosted.node.shell.checking import rows
from unhosted.node.shell.checking.book import CheckBook, open_book, read_book
from unhosted.node.shell.checking.reading import NotRead
from unhosted.node.shell.checking.rows import CHECKS_KIND
from unhosted.node.shell.checking.service import CheckingService, Hooks
from unhosted.node.shell.money.database import open_database
from unhosted.node.shell.money.kept_words import KeptAnswer
from unhosted.verify.verdicts import Stage

NOW_NS = 1_700_000_000_000_000_000
LIMITS = Limits(tokens_per_hour=10**9)
PAIR = PairKey(seller=SELLER, model=bytes(range(32)))


@dataclass
class FakeReader:
    """results: what the next readings find, then clean ones. reads: what was asked for."""

    results: list[Findings | NotRead] = field(default_factory=list)
    reads: list[tuple[RequestId, ToRead]] = field(default_factory=list)
    always: Findings | NotRead | None = None

    async def read(
        self, model: bytes, answers: Sequence[tuple[KeptAnswer, ToRead]]
    ) -> list[Findings | NotRead]:
        assert len({answer.model for answer, _ in answers}) == 1
        self.reads += [(answer.request_id, read) for answer, read in answers]
        return [self.results.pop(0) if self.results else self.always or clean(4) for _ in answers]


@dataclass
class Told:
    stages: list[StageChanged] = field(default_factory=list)
    evidence: list[MakeEvidence] = field(default_factory=list)

    @property
    def hooks(self) -> Hooks:
        async def on_stage(changed: StageChanged) -> None:
            self.stages.append(changed)

        async def on_evidence(made: MakeEvidence) -> None:
            self.evidence.append(made)

        return Hooks(on_stage=on_stage, on_evidence=on_evidence)


def run_once(path: Path, kept: MemoryAnswers, reader: FakeReader, told: Told | None = None) -> CheckBook:
    """A process's life: look, draw, read, mark."""

    async def main() -> CheckBook:
        with trio.fail_after(10), open_book(path, LIMITS, now_ns=NOW_NS) as book:
            hooks = (told or Told()).hooks
            service = CheckingService(book, kept, reader.read, hooks=hooks, clock_ns=lambda: NOW_NS)
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run)
                while any(not answer.checked_unix_s for answer in kept.kept.values()) or book.state.jobs:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
            return book

    return trio.run(main)


def test_answers_are_drawn_read_counted_and_marked(tmp_path: Path) -> None:
    kept, reader = MemoryAnswers(), FakeReader()
    kept.keep(*(answer_of(number) for number in range(3)), answer_of(3, wish="never"))
    book = run_once(tmp_path / "checks.db", kept, reader)
    outcomes = [outcome for _, outcome in dict(kept.marks).items()]
    assert sorted(outcomes) == ["checked", "checked", "checked", "not drawn"]
    assert book.state.pairs[PAIR].history.checked == 3
    view = read_book(tmp_path / "checks.db")
    assert view.pairs == book.state.pairs
    assert [line.status for line in view.lines] == ["not_drawn", "checked", "checked", "checked"]
    assert view.counts["checked"] == (3, 12, 0)


def test_a_second_life_reads_nothing_again(tmp_path: Path) -> None:
    kept, reader = MemoryAnswers(), FakeReader()
    kept.keep(answer_of(0))
    first = run_once(tmp_path / "checks.db", kept, reader)
    kept.keep(answer_of(0))  # as if its mark had been lost
    second = run_once(tmp_path / "checks.db", kept, reader)
    assert len(reader.reads) == 1
    assert second.state.pairs == first.state.pairs


def test_a_conviction_takes_two_readings_and_is_told_again_at_the_next_start(tmp_path: Path) -> None:
    kept, reader, told = MemoryAnswers(), FakeReader(always=cheated()), Told()
    kept.keep(*(answer_of(number, output_ids=tuple(range(50))) for number in range(4)))
    book = run_once(tmp_path / "checks.db", kept, reader, told)
    assert book.state.pairs[PAIR].stage is Stage.CONVICT
    assert told.stages[-1].after is Stage.CONVICT
    assert len(told.evidence) == 1
    first = [read for _, read in reader.reads if not read.is_second]
    second = [read for _, read in reader.reads if read.is_second]
    assert len(first) == 4
    assert second
    again = Told()
    run_once(tmp_path / "checks.db", kept, reader, again)
    assert again.stages[0].after is Stage.CONVICT
    assert [made.pair for made in again.evidence] == [PAIR]


def test_a_prompt_is_known_again_in_later_lives_until_the_seller_is_forgiven(tmp_path: Path) -> None:
    kept, reader, path = MemoryAnswers(), FakeReader(always=clean(50)), tmp_path / "checks.db"
    output_ids = tuple(range(50))
    kept.keep(answer_of(0, prompt_ids=(5, 6), output_ids=output_ids))
    run_once(path, kept, reader)
    kept.keep(
        answer_of(1, prompt_ids=(5, 6), output_ids=output_ids),
        answer_of(2, prompt_ids=(5, 7), output_ids=output_ids),
        answer_of(3, prompt_ids=(5, 7), output_ids=output_ids),
    )
    book = run_once(path, kept, reader)
    assert len(reader.reads) == 4
    assert book.state.pairs[PAIR].evidence.tokens == 100
    with open_book(path, LIMITS, now_ns=NOW_NS) as book:
        book.apply(Forgiven(pair=PAIR), now_ns=NOW_NS)
    kept.keep(answer_of(4, prompt_ids=(5, 6), output_ids=output_ids))
    assert run_once(path, kept, reader).state.pairs[PAIR].evidence.tokens == 50


def test_prompts_are_forgotten_by_their_last_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "PROMPTS_MAX", 2)
    a, b, c = (Prompt(bytes([mark]) * PROMPT_BYTES) for mark in range(3))
    with closing(open_database(tmp_path / "checks.db", CHECKS_KIND)) as database:
        for prompt in (a, b, a, c):
            rows.write_prompt(database, PAIR, prompt)
        assert [rows.has_prompt(database, PAIR, one) for one in (a, b, c)] == [True, False, True]


def test_what_cannot_be_read_here_is_said_and_blames_nobody(tmp_path: Path) -> None:
    kept = MemoryAnswers()
    kept.keep(answer_of(0))
    reader = FakeReader(results=[NotRead(why="this model is not here", may_retry=False)])
    book = run_once(tmp_path / "checks.db", kept, reader)
    line = read_book(tmp_path / "checks.db").lines[0]
    assert (line.status, line.why) == ("not_checked", "this model is not here")
    assert kept.marks == [(answer_of(0).request_id, "not checked")]
    assert book.state.pairs[PAIR].stage is Stage.CLEAR


def test_the_user_has_answers_read_that_were_not_drawn(tmp_path: Path) -> None:
    kept, reader = MemoryAnswers(), FakeReader()
    answer = answer_of(0, wish="never")
    kept.keep(answer)
    path = tmp_path / "checks.db"
    run_once(path, kept, reader)

    async def main() -> tuple[int, int]:
        with trio.fail_after(10), open_book(path, LIMITS, now_ns=NOW_NS) as book:
            service = CheckingService(book, kept, reader.read, clock_ns=lambda: NOW_NS)
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run)
                first = await service.want([answer])
                await service.wait_read()
                second = await service.want([answer])
                nursery.cancel_scope.cancel()
        return first, second

    assert trio.run(main) == (1, 0)
    assert len(reader.reads) == 1
    assert read_book(path).lines[0].how == "asked"


def test_a_record_belongs_to_one_process(tmp_path: Path) -> None:
    with (
        open_book(tmp_path / "checks.db", LIMITS, now_ns=NOW_NS),
        pytest.raises(Refused, match="in use by another process"),
        open_book(tmp_path / "checks.db", LIMITS, now_ns=NOW_NS),
    ):
        pass


def test_a_damaged_row_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "checks.db"
    kept = MemoryAnswers()
    kept.keep(answer_of(0))
    run_once(path, kept, FakeReader())
    assert os.stat(path).st_mode & 0o077 == 0
    with closing(open_database(path, CHECKS_KIND)) as database:
        database.execute("UPDATE pairs SET body = X'A0'")
    with pytest.raises(Refused, match="every seller is then checked as a new one"):
        read_book(path)
