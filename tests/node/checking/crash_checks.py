"""Lives of a checking service that die by SIGKILL: `python crash_checks.py FOLDER MOMENT:COUNT ...`.

MOMENT: `draw` (before a draw is on the disk), `read` (while answers are read), `mark` (after a result was
recorded, before the kept answer is marked), `marked` (after that), or `never`. COUNT: at which time. Prints
how each life ended, as a line.
"""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from tests.node.checking.checks_world import cheated, clean
from tests.node.checking.kept_world import answer_of
from unhosted.market.ids import RequestId
from unhosted.node.core.checks_words import Findings, Limits, ToRead
from unhosted.node.shell.checking.book import open_book
from unhosted.node.shell.checking.reading import NotRead
from unhosted.node.shell.checking.service import CheckingService
from unhosted.node.shell.money.kept_answers import KeptAnswers, open_kept_answers
from unhosted.node.shell.money.kept_words import KeptAnswer

ANSWERS = 4
WRONG = 8
"""Of the 50 tokens of the first answer: so that counting it twice shows in the evidence."""


class Doomed:
    def __init__(self, moment: str, count: int) -> None:
        self.moment, self.left = moment, count

    def reaches(self, moment: str) -> None:
        if moment == self.moment:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DoomedAnswers:
    """The real store, and the two moments around a mark."""

    def __init__(self, kept: KeptAnswers, doomed: Doomed) -> None:
        self._kept, self._doomed = kept, doomed
        self.next_unchecked, self.of_request = kept.next_unchecked, kept.of_request

    async def mark_checked(
        self, request_id: RequestId, *, outcome: str, now_unix_s: int | None = None
    ) -> bool:
        self._doomed.reaches("mark")
        is_there = await self._kept.mark_checked(request_id, outcome=outcome, now_unix_s=now_unix_s)
        self._doomed.reaches("marked")
        return is_there


async def main(folder: Path, doomed: Doomed) -> None:
    first = answer_of(0).request_id

    async def read(model: bytes, answers: Sequence[tuple[KeptAnswer, ToRead]]) -> list[Findings | NotRead]:
        doomed.reaches("read")
        return [cheated(wrong=WRONG) if answer.request_id == first else clean() for answer, _ in answers]

    def draw(size: int) -> bytes:
        doomed.reaches("draw")
        return os.urandom(size)

    async with open_kept_answers(folder / "kept.db") as kept:
        if await kept.of_request(first) is None:
            for number in range(ANSWERS):
                await kept.keep(answer_of(number, output_ids=tuple(range(50))))
        with open_book(folder / "checks.db", Limits(), now_ns=1_700_000_000_000_000_000) as book:
            service = CheckingService(book, DoomedAnswers(kept, doomed), read, draw=draw)
            async with trio.open_nursery() as nursery:
                await nursery.start(service.run)
                with trio.fail_after(20):
                    while await kept.next_unchecked() is not None or book.state.jobs:
                        await trio.sleep(0.005)
                nursery.cancel_scope.cancel()


def live(folder: Path, moment: str, count: int) -> int:
    """A life in a process of its own, and how it ended. Forked before there is any thread."""
    child = os.fork()
    if child == 0:
        try:
            trio.run(partial(main, folder, Doomed(moment, count)))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for life in sys.argv[2:]:
        moment, _, count = life.partition(":")
        sys.stdout.write(f"{live(Path(sys.argv[1]), moment, int(count))}\n")
        sys.stdout.flush()
