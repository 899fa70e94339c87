"""Checking for the node and the command line: opens the record and the kept answers, runs the service, and
makes evidence of what was confirmed. With nothing bought there is nothing on the disk and nothing runs."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import trio

from unhosted.node import app_checks_views as views
from unhosted.node.config import Config
from unhosted.node.core.checks_words import Limits, MakeEvidence, PairKey
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Engines
from unhosted.verify.verdicts import Stage

if TYPE_CHECKING:  # a node that never bought anything does without
    from unhosted.node.core.evidence_wire import EvidenceHash
    from unhosted.node.shell.checking.service import CheckingService
    from unhosted.node.shell.checking.third_party import Answered
    from unhosted.node.shell.money.kept_answers import KeptAnswers
    from unhosted.node.shell.money.kept_words import KeptAnswer

_LOG = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
"""For the first answer that another process of this user kept."""

WANTED_MAX = 1_000
"""Answers that one `check` asks for, the newest ones: hours of reading."""

LIMITS = Limits()

EVIDENCE_ANSWERS_MAX = 64
"""Opened in one file, the heaviest first."""


AskForWord: TypeAlias = "Callable[[str, bytes, EvidenceHash], Awaitable[Answered]]"
"""`app_trusted.TrustedRing.ask_for_word`."""


class CheckDesk:
    """Implements `core.service.ChecksPage`. Without `run`, or before anything was bought, it only shows."""

    def __init__(self, config: Config, engines: Engines | None = None, *, limits: Limits = LIMITS) -> None:
        self._config, self._engines, self._limits = config, engines, limits
        self._service: CheckingService | None = None
        self._kept: KeptAnswers | None = None
        self._wanted = trio.Event()
        self.ask_for_word: AskForWord | None = None

    def stage_of(self, seller: str, model: bytes) -> Stage:
        """For the router, and for who authorises pay; clear while nothing is known."""
        return Stage.CLEAR if self._service is None else self._service.stage_of(seller, model)

    def notice(self) -> None:
        """An answer was kept: it is to be drawn at once."""
        self._wanted.set()
        if self._service is not None:
            self._service.notice()

    def counters(self) -> dict[str, int]:
        """For /metrics."""
        return views.counters(None if self._service is None else self._service.state)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Check until cancelled. A record that cannot be used ends it, is logged, and stops nothing else."""
        task_status.started()
        while not self._config.paths.kept_file.exists():
            self._wanted = trio.Event()
            with trio.move_on_after(LOOK_EVERY_S):
                await self._wanted.wait()
        try:
            async with self.open_service() as service:
                await service.run()
        except* Refused as group:
            for refused in group.exceptions:
                _LOG.error("checking_ended why=%s", refused)

    @asynccontextmanager
    async def open_service(self) -> AsyncIterator[CheckingService]:
        """The service, to be run. Raises: Refused, also if another process has the record."""
        from unhosted.node.app_calibrate import calibration_store
        from unhosted.node.shell.checking.book import open_book
        from unhosted.node.shell.checking.reading import Reader
        from unhosted.node.shell.checking.service import CheckingService, Hooks
        from unhosted.node.shell.evidence.tables import table_for
        from unhosted.node.shell.money.kept_answers import open_kept_answers

        if self._engines is None:
            raise Refused("not_supported", "answers are read by a node: start one with `unhosted serve`")
        paths = self._config.paths
        tables = await trio.to_thread.run_sync(calibration_store, self._config)
        async with open_kept_answers(paths.kept_file) as kept:
            with open_book(paths.checks_file, self._limits, now_ns=time.time_ns()) as book:
                reader = Reader(self._engines, partial(table_for, tables))
                hooks = Hooks(on_evidence=self._make_evidence)
                self._service, self._kept = CheckingService(book, kept, reader.read, hooks=hooks), kept
                try:
                    yield self._service
                finally:
                    self._service = self._kept = None

    # ---- what it shows

    async def receipts(
        self, *, limit: int, before: int | None = None, seller: str | None = None
    ) -> list[views.Shown]:
        whom = None if seller is None else (await self._find(seller)).seller
        async with self._answers() as kept:
            if kept is None:
                return []
            lines = await kept.summaries(limit, before=before, seller=whom)
        return views.receipts(lines, await self._book(), self._names())

    async def receipt(self, wanted: str) -> views.Shown:
        async with self._answers() as kept:
            lines = () if kept is None else await kept.summaries(views.LINES_SEARCHED_MAX)
        found = views.matching(lines, views.hex_of(wanted))
        return views.receipts((found,), await self._book(), self._names())[0]

    async def export(self, wanted: Sequence[str], path: Path, *, prefix_tokens: int | None = None) -> int:
        """Write evidence that opens the answers of these receipts, of one channel; its size in bytes.

        prefix_tokens: of each output, the rest stays shut. Raises: Refused; OSError.
        """
        async with self._answers() as kept:
            lines = () if kept is None else await kept.summaries(views.LINES_SEARCHED_MAX)
            found = [views.matching(lines, views.hex_of(text)) for text in wanted]
            answers = [
                None if kept is None else await kept.of_request(line.receipt.receipt.request_id)
                for line in found
            ]
            opened = [answer for answer in answers if answer is not None]
            if kept is None or len(opened) < len(found):
                raise Refused(
                    "invalid_request",
                    "prompt and output of a receipt are not kept any more: there is nothing to show",
                )
            return await self._write_evidence(kept, opened, path, prefix_tokens=prefix_tokens)

    async def sellers(self, seller: str | None = None) -> list[views.Shown]:
        book = await self._book()
        shown = views.sellers(book, self._names(), evidence=self._evidence_files())
        if seller is None:
            return shown
        whom = (await self._find(seller)).seller
        return [one for one in shown if one["seller"] == whom]

    async def check(self, seller: str | None = None, *, wait: bool = False) -> views.Shown:
        service, kept = self._service, self._kept
        if service is None or kept is None:
            if not self._config.paths.kept_file.exists():
                return {"asked": 0, "sellers": []}
            raise Refused(
                "engine_failed",
                "this node's checks are not running; its log says why, `unhosted doctor` checks this machine",
            )
        whom = None if seller is None else (await self._find(seller)).seller
        asked = await service.want(await self._unread(kept, whom))
        if wait:
            await service.wait_read()
        return {"asked": asked, "sellers": await self.sellers(seller)}

    async def forgive(self, seller: str) -> views.Shown:
        if self._service is None:
            raise Refused("engine_failed", "the checks are not running here")
        found = await self._find(seller)
        pairs = [key for key in self._service.state.pairs if key.seller == found.seller]
        for key in pairs:
            await self._service.forgive(key)
        return {"seller": found.seller, "models": len(pairs)}

    async def ask_peer(self, peer: str, file: str, *, evidence: str) -> views.Shown:
        from unhosted.market.faults import RemoteFault
        from unhosted.node.core.evidence_wire import evidence_hash
        from unhosted.node.shell.evidence.files import read_evidence

        if self.ask_for_word is None:
            raise Refused("not_supported", "peers are asked by a node: start one with `unhosted serve`")
        _, data = await trio.to_thread.run_sync(read_evidence, Path(file))
        named = evidence_hash(data)
        if named.hex() != evidence:
            raise Refused(
                "digest_mismatch",
                f"{file} is another file by now ({named.hex()[:8]}) than was agreed to ({evidence[:8]})",
            )
        try:
            answered = await self.ask_for_word(peer, data, named)
        except RemoteFault as fault:
            raise Refused("peer_unreachable", f"{peer} broke the rules: {fault.message}") from None
        return views.word(answered.vote, answered.signed)

    async def _unread(self, kept: KeptAnswers, seller: str | None) -> list[KeptAnswer]:
        lines = await kept.summaries(WANTED_MAX, seller=seller)
        answers = [await kept.of_request(line.receipt.receipt.request_id) for line in lines if line.is_kept]
        return [answer for answer in answers if answer is not None]

    async def _find(self, seller: str) -> PairKey:
        """A pair of the one seller that the text means."""
        book = await self._book()
        async with self._answers() as kept:
            lines = () if kept is None else await kept.summaries(views.LINES_SEARCHED_MAX)
        return views.seller_of(seller, book, lines)

    async def _book(self) -> views.BookView:
        from unhosted.node.shell.checking.book import read_book

        return await trio.to_thread.run_sync(read_book, self._config.paths.checks_file)

    @asynccontextmanager
    async def _answers(self) -> AsyncIterator[KeptAnswers | None]:
        """Those that are kept; None while nothing was ever bought."""
        from unhosted.node.shell.money.kept_answers import open_kept_answers

        path = self._config.paths.kept_file
        if self._kept is not None:
            yield self._kept
        elif not path.exists():
            yield None
        else:
            async with open_kept_answers(path) as kept:
                yield kept

    def _names(self) -> dict[str, str]:
        """Names of the models that are here, by their hash."""
        from unhosted.node import app

        entries = app.model_store(self._config).entries()
        return {entry.blake3: entry.aliases[0] if entry.aliases else entry.name for entry in entries}

    # ---- evidence

    async def _make_evidence(self, made: MakeEvidence) -> None:
        """A file for each channel of the pair; one that is there already stays as it is."""
        if self._kept is None:
            return
        answers = [await self._kept.of_request(request_id) for request_id in made.request_ids]
        by_channel: dict[bytes, list[KeptAnswer]] = {}
        for answer in answers:
            if answer is not None and answer.proven_tokens:
                by_channel.setdefault(answer.channel_id, []).append(answer)
        for channel, heaviest in by_channel.items():
            path = self._evidence_path(made.pair, channel)
            if not path.exists():
                await self._write_evidence(self._kept, heaviest[:EVIDENCE_ANSWERS_MAX], path)
                _LOG.warning("evidence_made path=%s", path)

    async def _write_evidence(
        self,
        kept: KeptAnswers,
        answers: Sequence[KeptAnswer],
        path: Path,
        *,
        prefix_tokens: int | None = None,
    ) -> int:
        from unhosted.node.shell.evidence.files import write_evidence
        from unhosted.node.shell.evidence.making import make_evidence

        book = await self._book()
        evidence = make_evidence(
            answers,
            chain=[line.receipt for line in await kept.chain(answers[0].channel_id)],
            draws={line.request_id: (line.how, line.chance_ppm) for line in book.lines},
            prefix_tokens=prefix_tokens,
        )
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return await trio.to_thread.run_sync(write_evidence, path, evidence)

    def _evidence_path(self, pair: PairKey, channel: bytes) -> Path:
        name = f"{pair.seller[-8:]}-{pair.model.hex()[:8]}-{channel.hex()[:8]}.cbor"
        return self._config.paths.evidence_dir / name

    def _evidence_files(self) -> Sequence[Path]:
        with suppress(OSError):
            return sorted(self._config.paths.evidence_dir.glob("*.cbor"))
        return ()


@asynccontextmanager
async def open_desk(config: Config) -> AsyncIterator[CheckDesk]:
    """A desk whose service runs in this process, with engines of its own, for as long as the context lasts.

    Raises: Refused.
    """
    from unhosted.node import app
    from unhosted.node.app_facts import engine_settings
    from unhosted.node.shell.engine.manager import EngineManager
    from unhosted.node.shell.nurseries import plain_nursery

    engines = EngineManager(engine_settings(config), app.model_store(config).resolve)
    desk = CheckDesk(config, engines)
    async with plain_nursery() as nursery:
        await nursery.start(engines.run)
        if config.paths.kept_file.exists():
            # A nursery inside: the service has ended before its files are closed.
            async with desk.open_service() as service, plain_nursery() as running:
                await running.start(service.run)
                yield desk
                running.cancel_scope.cancel()
        else:
            yield desk
        nursery.cancel_scope.cancel()
