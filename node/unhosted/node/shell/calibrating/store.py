"""The noise tables that this node goes by: its own, and those that came with the program.

    DATA/calibration/MODEL-BUILD.cbor   sheets made here, signed by this node's identity
    node/data/calibration/*.cbor        shipped; known by their hash, which this file holds

A sheet of anybody else is not believed: noise stated too low would convict the honest, stated too high it
would clear the cheat. A table counts for the pair of classes it was measured on, with the very build of the
library that checked; for every other pair the worst of what is known of the model stands in, and only gross
cheats are seen.
"""

import logging
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from unhosted.market.faults import RemoteFault
from unhosted.node.core.calibrations import Row, Sheet, table_id
from unhosted.node.shell.calibrating.tables import SignedSheet, read_file, read_sheet
from unhosted.verify.noise import NoiseTable, Rule, worst_of

log = logging.getLogger(__name__)

SHIPPED_DIR = Path(__file__).resolve().parents[2] / "data" / "calibration"
SHIPPED_IDS: frozenset[str] = frozenset({"8387778b62a834853a5b44efba010c3c9c89180fcdf27f52ce1a9028953fec70"})
"""Hashes of the sheets that came with this version; `unhosted calibrate --publish` says a new one's."""

SHEETS_MAX = 256
"""Read from a folder: models times builds of one machine, with room; more would be somebody's rubbish."""

SUFFIX = ".cbor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A file that is not used, and why, for `unhosted calibrate --list`."""

    path: Path
    why: str


class CalibrationStore:
    """Blocking: it reads small files, and again only those that changed."""

    def __init__(
        self,
        directory: Path,
        *,
        own_keys: Collection[bytes],
        shipped_dir: Path = SHIPPED_DIR,
        shipped_ids: Collection[str] = SHIPPED_IDS,
    ) -> None:
        """own_keys: Ed25519 keys, 32 bytes each, whose sheets are believed: this node's own."""
        self.directory = directory
        self._own_keys = frozenset(own_keys)
        self._shipped_dir = shipped_dir
        self._shipped_ids = frozenset(shipped_ids)
        self._read: dict[Path, tuple[tuple[int, int], SignedSheet | str]] = {}

    def path_for(self, model: bytes, build: str) -> Path:
        """Where the sheet of this model and build lies: a newer one takes its place."""
        return self.directory / f"{model.hex()[:32]}-{build[:32] or 'unknown'}{SUFFIX}"

    def sheets(self) -> tuple[Sheet, ...]:
        """Those that are believed: own ones before shipped ones, newer before older."""
        own, shipped, _ = self._all()
        return tuple(sheet for group in (own, shipped) for sheet in group)

    def passed_over(self) -> tuple[Passed, ...]:
        return tuple(self._all()[2])

    def find_table(
        self,
        model: bytes,
        seller_class: str,
        checker_class: str,
        *,
        build: str,
        rule: Rule = "statistical",
    ) -> NoiseTable | None:
        """The table to judge by; None if nothing is known that could judge.

        build: of the library that checks. For a pair that was not measured with it, and in the statistical
        rule only, a table for gross verdicts is made of the worst that is known of the model.
        """
        rows = [
            (sheet, row)
            for sheet in self.sheets()
            if sheet.model == model
            for row in sheet.rows
            if row.table.rule == rule
        ]
        for sheet, row in rows:
            is_pair = (row.table.seller_class, row.table.checker_class) == (seller_class, checker_class)
            if is_pair and sheet.build == build:
                return row.table
        if rule == "exact" or not rows:
            return None
        return worst_of(
            [row.table for _, row in rows], seller_class=seller_class, checker_class=checker_class
        )

    def row_of(self, wanted: bytes) -> Row | None:
        """The row whose table is known by this hash (`core.calibrations.table_id`)."""
        rows = (row for sheet in self.sheets() for row in sheet.rows)
        return next((row for row in rows if table_id(row.table) == wanted), None)

    def knows(self, wanted: bytes) -> bool:
        """Whether a table with this hash stands in a sheet that is believed here."""
        return self.row_of(wanted) is not None

    def _all(self) -> tuple[list[Sheet], list[Sheet], list[Passed]]:
        own: list[Sheet] = []
        shipped: list[Sheet] = []
        passed: list[Passed] = []
        for path in self._files(self.directory):
            found = self._open(path)
            if isinstance(found, str):
                passed.append(Passed(path=path, why=found))
            elif found.sheet.signer in self._own_keys:
                own.append(found.sheet)
            else:
                passed.append(
                    Passed(path=path, why="it is signed by another node, whose word does not count")
                )
        for path in self._files(self._shipped_dir):
            found = self._open(path)
            if isinstance(found, str):
                passed.append(Passed(path=path, why=found))
            elif found.id.hex() in self._shipped_ids:
                shipped.append(found.sheet)
            else:
                passed.append(Passed(path=path, why="it is not one that came with this version"))
        for group in (own, shipped):
            group.sort(key=lambda sheet: -sheet.made_unix_s)
        return own, shipped, passed

    def _files(self, directory: Path) -> list[Path]:
        return sorted(directory.glob(f"*{SUFFIX}"))[:SHEETS_MAX]

    def _open(self, path: Path) -> SignedSheet | str:
        """The sheet, or why it is none; read again when the file is another one."""
        try:
            status = path.stat()
            mark = (status.st_mtime_ns, status.st_size)
            held = self._read.get(path)
            if held is not None and held[0] == mark:
                return held[1]
            found: SignedSheet | str = read_sheet(read_file(path))
        except OSError as error:
            return f"it cannot be read: {error.strerror}"
        except RemoteFault as fault:
            found = f"it is no sheet: {fault.message}"
            log.warning("calibration_passed_over file=%s reason=%s", path.name, fault.reason.value)
        if len(self._read) >= 2 * SHEETS_MAX:
            self._read.clear()
        self._read[path] = (mark, found)
        return found
