"""A ledger that lost history: restored from a backup, gone, cut, or flipped. It never pays twice."""

import os
import random
import shutil
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.node.money.ledger_world import (
    DAY_S,
    NOW_UNIX_S,
    SIGNER,
    Clock,
    files,
    found,
    ledger_in,
    of,
    ready_ledger,
    request,
)
from tests.node.money.test_ledger import refused, run, shown
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.ledger_file import LedgerFile
from unhosted.node.shell.money.ledger_reading import read_history
from unhosted.node.shell.money.seal import Seal, Sealed

ONE, TWO = of(1), of(2)
CAP, DEPOSIT = 600, 500


def write(folder: Path, work: Callable[[Ledger], Awaitable[None]]) -> None:
    async def main() -> None:
        async with ready_ledger(folder, cap=CAP, deposit=DEPOSIT) as ledger:
            await work(ledger)

    run(main)


async def pay(ledger: Ledger, number: int, micros: int, channel: int = 1) -> None:
    await ledger.reserve(request(number), of(channel), micros)
    await ledger.authorise(request(number), micros)
    await ledger.finish(request(number), micros)


def copy(folder: Path, to: Path) -> None:
    """A backup of the ledger alone, taken between two runs."""
    shutil.copytree(files(folder)[0].parent, to / "data", dirs_exist_ok=True)


def restore(backup: Path, folder: Path) -> None:
    shutil.rmtree(files(folder)[0].parent)
    shutil.copytree(backup / "data", files(folder)[0].parent)


def paid_after_a_backup(folder: Path) -> Path:
    """A ledger that spent 100, was backed up, and spent 400 more. Returns the backup."""
    write(folder, lambda ledger: pay(ledger, 1, 100))
    backup = folder / "backup"
    copy(folder, backup)
    write(folder, lambda ledger: pay(ledger, 2, 400))
    return backup


def test_a_restored_backup_pays_nothing_until_the_channels_were_read(tmp_path: Path) -> None:
    restore(paid_after_a_backup(tmp_path), tmp_path)

    async def main() -> None:
        async with ledger_in(tmp_path, cap=CAP) as ledger:
            assert (await ledger.view()).book.must_reread
            error = await refused(ledger.reserve(request(3), TWO, 1), "ledger_damaged")
            assert "restored backup" in error.message and "chain" in error.message
        async with ledger_in(tmp_path, cap=CAP) as ledger:
            await refused(ledger.reserve(request(3), TWO, 1), "ledger_damaged")
            await ledger.reread([found(1, DEPOSIT), found(2, DEPOSIT)], chain_unix_s=NOW_UNIX_S)
            view = await ledger.view()
            assert view.book.spent_micros == 2 * DEPOSIT, "every open deposit counts as spent this month"
            await refused(ledger.reserve(request(3), TWO, 1), "no_funds")
            await ledger.note_closed(TWO, 0)
            await ledger.note_closed(ONE, 500)
            assert (await ledger.view()).book.spent_micros == 500, "what was really claimed"

    run(main)


def test_a_reread_counts_in_its_own_month_and_what_the_ledger_never_knew(
    tmp_path: Path,
) -> None:
    restore(paid_after_a_backup(tmp_path), tmp_path)

    async def main() -> None:
        clock = Clock(NOW_UNIX_S + DAY_S)
        async with ledger_in(tmp_path, cap=CAP, clock=clock) as ledger:
            await refused(
                ledger.reread([found(3, 50)], chain_unix_s=NOW_UNIX_S - 90 * DAY_S), "chain_mismatch"
            )
            assert (await ledger.view()).book.must_reread
            await ledger.reread([found(3, 50)], chain_unix_s=clock.unix_s)
            view = await ledger.view()
            # Channels 1 and 2 were not among those read: they count in full all the same.
            assert view.by_month == {24322: 100, 24323: 400 + 500 + 50}
            assert (view.book.spent_micros, view.book.must_reread) == (950, False)

    run(main)


def test_a_lost_ledger_starts_again_with_every_deposit_counted(tmp_path: Path) -> None:
    paid_after_a_backup(tmp_path)
    shutil.rmtree(files(tmp_path)[0].parent)

    async def main() -> None:
        async with ledger_in(tmp_path, cap=CAP) as ledger:
            await ledger.note_chain_time(NOW_UNIX_S)
            await refused(ledger.reserve(request(3), ONE, 1), "ledger_damaged")
            await ledger.reread([found(1, DEPOSIT, 20)], chain_unix_s=NOW_UNIX_S)
            assert (await ledger.view()).book.spent_micros == DEPOSIT
            await refused(ledger.reserve(request(3), ONE, 1), "no_funds")

    run(main)


def test_a_ledger_whose_seal_is_gone_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    files(tmp_path)[1].unlink()

    async def main() -> None:
        async with ledger_in(tmp_path, cap=CAP) as ledger:
            await refused(ledger.reserve(request(3), ONE, 1), "ledger_damaged")

    run(main)


def test_when_all_was_restored_the_chain_and_the_sellers_tell(tmp_path: Path) -> None:
    """Nothing on the machine can know it: what remains possible is bounded by the deposits."""
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    shutil.copytree(tmp_path / "data", tmp_path / "backup" / "data")
    shutil.copytree(tmp_path / "state", tmp_path / "backup" / "state")
    write(tmp_path, lambda ledger: pay(ledger, 2, 300))
    for name in ("data", "state"):
        shutil.rmtree(tmp_path / name)
        shutil.copytree(tmp_path / "backup" / name, tmp_path / name)

    async def main() -> None:
        async with ledger_in(tmp_path, cap=CAP) as ledger:
            assert not (await ledger.view()).book.must_reread
            assert (await ledger.note_deposit(ONE, DEPOSIT, claimed_micros=250)).authorised_micros == 250
            row = await ledger.raise_authorised(shown(ONE, 400), signed_by=SIGNER)
            assert row.authorised_micros == 400 and (await ledger.view()).book.spent_micros == 400

    run(main)


def test_a_deleted_log_is_noticed(tmp_path: Path) -> None:
    """The newest commits live in the write-ahead log alone until it is folded into the file."""

    async def main() -> None:
        path, seal = files(tmp_path)
        async with ready_ledger(tmp_path, cap=CAP) as ledger:
            await pay(ledger, 1, 100)
            for name in (path.name, f"{path.name}-wal"):
                shutil.copy(path.with_name(name), tmp_path / name)
            sealed = seal.read_bytes()
        for kept_wal in (True, False):
            folder = tmp_path / str(kept_wal)
            there, its_seal = files(folder)
            there.parent.mkdir(parents=True)
            its_seal.parent.mkdir(parents=True)
            its_seal.write_bytes(sealed)
            for name in (path.name, f"{path.name}-wal")[: 1 + kept_wal]:
                shutil.copy(tmp_path / name, there.with_name(name))
            there.chmod(0o600)
            try:
                async with ledger_in(folder, cap=CAP) as ledger:
                    view = await ledger.view()
                assert (view.book.spent_micros, view.book.must_reread) == (
                    (100, False) if kept_wal else (0, True)
                )
            except Refused as error:
                assert error.code == "ledger_damaged" and not kept_wal

    run(main)


def test_a_log_without_its_file_is_not_replayed_into_a_new_one(tmp_path: Path) -> None:
    path, _ = files(tmp_path)

    async def main() -> None:
        async with ready_ledger(tmp_path) as ledger:
            await pay(ledger, 1, 100)
            shutil.copy(path.with_name(f"{path.name}-wal"), tmp_path / "wal")
        path.unlink()
        shutil.copy(tmp_path / "wal", path.with_name(f"{path.name}-wal"))
        with pytest.raises(Refused, match="the file is gone"):
            async with ledger_in(tmp_path):
                raise AssertionError("it was opened")

    run(main)


def test_flipped_bytes_are_refused_or_change_nothing(tmp_path: Path) -> None:
    """Wherever a byte of the file changes, the ledger is refused, doubted, or says what it said before."""
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    path, seal = files(tmp_path)
    whole, sealed = path.read_bytes(), seal.read_bytes()
    before = _audit(path, seal)
    assert before is not None
    draw = random.Random(4)
    outcomes = {"refused": 0, "doubted": 0, "same": 0}
    used = [place for place in range(len(whole)) if whole[place]]
    for place in [*draw.sample(used, 90), *draw.sample(range(len(whole)), 20)]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        for name in ("-wal", "-shm"):
            path.with_name(path.name + name).unlink(missing_ok=True)
        seal.write_bytes(sealed)
        found = _audit(path, seal)
        if found is None:
            outcomes["refused"] += 1
        elif found[0]:
            outcomes["doubted"] += 1
        else:
            assert found == before, place
            outcomes["same"] += 1
    assert outcomes["refused"] > 20, outcomes


def _audit(path: Path, seal: Path) -> tuple[object, ...] | None:
    """What the ledger says that money hangs on; None if it is refused."""
    try:
        file = LedgerFile(path, seal, clock_ns=Clock())
    except Refused as error:
        assert error.code == "ledger_damaged", error
        return None
    try:
        state = file.audit()
        read_history(path)
    except Refused as error:
        assert error.code == "ledger_damaged", error
        return None
    finally:
        file.close()
    return state.book.must_reread, state.book, state.channels, state.spent


def test_a_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    path, seal = files(tmp_path)
    whole = path.read_bytes()
    for size in (0, 1, 100, 4096, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert _audit(path, seal) is None, size


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE channels SET authorised = 0", "checksum"),
        ("UPDATE spent SET month = month - 1", "checksum"),
        ("UPDATE book SET spent = 0", "checksum"),
        ("UPDATE book SET month = month + 1", "checksum"),
        ("DELETE FROM spent", "months sum to 0"),
        ("DELETE FROM book", "the book is gone"),
        ("DELETE FROM entries WHERE kind = 'request'", "history counts 0"),
        ("PRAGMA application_id = 7", "another program"),
        ("PRAGMA user_version = 9", "schema 9"),
    ],
)
def test_a_changed_figure_is_refused_with_its_name_and_what_to_do(
    tmp_path: Path, damage: str, words: str
) -> None:
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    path, _ = files(tmp_path)
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(damage)
    database.close()

    async def main() -> None:
        with pytest.raises(Refused, match=words) as caught:
            async with ledger_in(tmp_path):
                raise AssertionError("it was opened")
        assert caught.value.code == "ledger_damaged" and str(path) in caught.value.message

    run(main)


def test_an_open_file_is_refused_with_the_command_that_closes_it(tmp_path: Path) -> None:
    write(tmp_path, lambda ledger: pay(ledger, 1, 100))
    path, _ = files(tmp_path)
    os.chmod(path, 0o644)

    async def main() -> None:
        with pytest.raises(Refused, match="chmod 600"):
            async with ledger_in(tmp_path):
                raise AssertionError("it was opened")

    run(main)


def test_a_seal_is_never_lowered_and_a_torn_one_is_read_from_its_twin(tmp_path: Path) -> None:
    seal, number = Seal(tmp_path / "seal"), b"\x01" * 16
    assert seal.read() is None
    for commits in (1, 2, 5, 4):
        seal.write(Sealed(ledger_id=number, commits=commits))
    assert seal.read() == Sealed(ledger_id=number, commits=5)
    with (tmp_path / "seal").open("r+b") as file:
        file.seek(512 + 3)
        file.write(b"torn")
    assert seal.read() == Sealed(ledger_id=number, commits=2)
    seal.write(Sealed(ledger_id=b"\x02" * 16, commits=1))
    assert seal.read() == Sealed(ledger_id=b"\x02" * 16, commits=1)
    seal.close()


def test_losing_power_keeps_every_answered_commit(tmp_path: Path) -> None:
    """The log is cut at any byte behind the last answered commit, as if its tail never reached the disk; and
    before it, as if the disk had lied: then the seal tells. What a disk does with a sync is not tested."""
    path, seal = files(tmp_path)
    wal = path.with_name(f"{path.name}-wal")
    answered: list[tuple[int, int]] = []

    async def main() -> None:
        async with ready_ledger(tmp_path, cap=CAP) as ledger:
            await ledger.reserve(request(1), ONE, 100)
            for _ in range(8):
                total = await ledger.authorise(request(1), 3)
                answered.append((wal.stat().st_size, total))
            shutil.copy(path, tmp_path / "file")
            shutil.copy(wal, tmp_path / "wal")
            shutil.copy(seal, tmp_path / "seal")

    run(main)
    log = (tmp_path / "wal").read_bytes()
    draw = random.Random(9)
    sizes = [size for size, _ in answered]
    for cut in sorted({*sizes, *(draw.randrange(sizes[0], len(log)) for _ in range(30))}):
        cut_folder = tmp_path / f"cut{cut}"
        there, its_seal = files(cut_folder)
        there.parent.mkdir(parents=True)
        its_seal.parent.mkdir(parents=True)
        shutil.copy(tmp_path / "file", there)
        there.with_name(f"{there.name}-wal").write_bytes(log[:cut])
        shutil.copy(tmp_path / "seal", its_seal)
        state = _audit(there, its_seal)
        assert state is not None
        must_reread, book, *_ = state
        whole = [total for size, total in answered if size <= cut]
        assert book.spent_micros == whole[-1], "a committed prefix"  # type: ignore[attr-defined]
        assert must_reread == (whole[-1] < answered[-1][1]), "and the seal knows of what is missing"
