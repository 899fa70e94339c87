"""The book of peers: what is in it stays, what is broken is said, and another process's change is seen."""

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import Capabilities, PairedPeer
from unhosted.node.shell.trusted import book as book_module
from unhosted.node.shell.trusted.book import ADDRESSES_PER_PEER_MAX, DAYS_KEPT, PEERS_MAX, PeerBook

DESK = "12D3KooWDeskAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAdesk"
LAPTOP = "12D3KooWLaptAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAlapt"
Reopen = Callable[[], PeerBook]


def a_peer(peer: str, name: str = "desk", *, state: str = "paired", at: int = 1) -> PairedPeer:
    return PairedPeer(peer=peer, name=name, state=state, paired_unix_s=at)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "peers.db"


@pytest.fixture
def reopen(path: Path) -> Iterator[Reopen]:
    books: list[PeerBook] = []

    def open_book() -> PeerBook:
        books.append(PeerBook(path))
        return books[-1]

    yield open_book
    for book in books:
        book.close()


@pytest.fixture
def book(reopen: Reopen) -> PeerBook:
    return reopen()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look is a fresh one: no test waits for the clock."""
    monkeypatch.setattr(book_module, "REFRESH_S", 0.0)


def refused(act: Callable[[], object]) -> Refused:
    with pytest.raises(Refused) as caught:
        act()
    return caught.value


def test_a_peer_is_there_after_a_restart(book: PeerBook, reopen: Reopen) -> None:
    limits = Capabilities(
        may_fetch=False, may_pool=True, models=("a", "b3:1"), tokens_per_day=9, concurrency=2
    )
    wanted = PairedPeer(peer=DESK, name="Desk", state="paired", paired_unix_s=7, capabilities=limits)
    book.put(wanted)
    book.note_address(DESK, "/ip4/10.0.0.1/tcp/8643", source="mdns", unix_s=8)
    book.add_tokens(DESK, "2026-11-22", 5)
    book.close()
    again = reopen()
    assert again.peers() == (wanted,) and again.get(DESK) == wanted
    assert again.is_paired(DESK)
    assert [known.address for known in again.addresses(DESK)] == ["/ip4/10.0.0.1/tcp/8643"]
    assert again.tokens(DESK, "2026-11-22") == 5


def test_a_pending_peer_is_not_paired(book: PeerBook) -> None:
    book.put(a_peer(DESK, state="pending"))
    assert not book.is_paired(DESK)
    book.put(a_peer(DESK))
    assert book.is_paired(DESK)


def test_a_removed_peer_leaves_nothing(book: PeerBook) -> None:
    book.put(a_peer(DESK))
    book.note_address(DESK, "/ip4/10.0.0.1/tcp/8643", source="mdns", unix_s=8)
    book.add_tokens(DESK, "2026-11-22", 5)
    assert book.remove(DESK) and not book.remove(DESK)
    assert not book.is_paired(DESK) and book.peers() == ()
    book.note_address(DESK, "/ip4/10.0.0.1/tcp/8643", source="mdns", unix_s=9)
    book.add_tokens(DESK, "2026-11-22", 5)
    book.put(a_peer(DESK))
    assert book.addresses(DESK) == () and book.tokens(DESK, "2026-11-22") == 0


def test_capabilities_of_a_stranger_are_refused(book: PeerBook) -> None:
    assert refused(lambda: book.set_capabilities(DESK, Capabilities())).code == "not_paired"
    book.put(a_peer(DESK))
    book.set_capabilities(DESK, Capabilities(may_ask=False))
    found = book.get(DESK)
    assert found is not None and found.capabilities == Capabilities(may_ask=False)


@pytest.mark.parametrize("text", [DESK, "desk", "DESK", DESK[:12], DESK[-6:]])
def test_a_peer_is_found_by_id_name_or_end_of_the_id(book: PeerBook, text: str) -> None:
    book.put(a_peer(DESK, "Desk"))
    book.put(a_peer(LAPTOP, "laptop"))
    assert book.find(text).peer == DESK


def test_what_could_be_two_peers_is_refused_with_both_named(book: PeerBook) -> None:
    book.put(a_peer(DESK, "one"))
    book.put(a_peer(LAPTOP, "two"))
    error = refused(lambda: book.find("12D3KooW"))
    assert DESK in error.message and LAPTOP in error.message
    assert error.details["candidates"] == [DESK, LAPTOP]


def test_a_peer_named_as_the_start_of_anothers_id_does_not_take_its_place(book: PeerBook) -> None:
    book.put(a_peer(DESK, "desk"))
    book.put(a_peer(LAPTOP, DESK[:14]))
    assert "could be any of" in refused(lambda: book.find(DESK[:14])).message
    book.put(a_peer(LAPTOP, DESK))
    assert book.find(DESK).peer == DESK


@pytest.mark.parametrize("text", ["nobody", "12D3K", "", DESK + "x"])
def test_a_peer_that_is_not_there_is_refused_with_those_that_are(book: PeerBook, text: str) -> None:
    assert "unhosted pair" in refused(lambda: book.find(text)).message
    book.put(a_peer(DESK, "desk"))
    error = refused(lambda: book.find(text))
    assert error.code == "not_paired" and "desk" in error.message


def test_addresses_are_newest_first_and_bounded(book: PeerBook) -> None:
    book.put(a_peer(DESK))
    for number in range(ADDRESSES_PER_PEER_MAX + 5):
        book.note_address(DESK, f"/ip4/10.0.0.{number}/tcp/1", source="observed", unix_s=number * 100)
    known = book.addresses(DESK)
    assert len(known) == ADDRESSES_PER_PEER_MAX
    assert known[0].address == f"/ip4/10.0.0.{ADDRESSES_PER_PEER_MAX + 4}/tcp/1"
    assert [entry.unix_s for entry in known] == sorted((entry.unix_s for entry in known), reverse=True)
    book.note_address(DESK, known[-1].address, source="told", unix_s=9999)
    assert book.addresses(DESK)[0].address == known[-1].address
    book.forget_address(DESK, known[-1].address)
    assert known[-1].address not in [entry.address for entry in book.addresses(DESK)]


def test_an_address_that_is_confirmed_again_and_again_is_written_once_a_minute(book: PeerBook) -> None:
    book.put(a_peer(DESK))
    for second in range(59):
        book.note_address(DESK, "/ip4/10.0.0.1/tcp/1", source="observed", unix_s=1000 + second)
    assert book.addresses(DESK)[0].unix_s == 1000
    book.note_address(DESK, "/ip4/10.0.0.1/tcp/1", source="observed", unix_s=1060)
    assert book.addresses(DESK)[0].unix_s == 1060


def test_tokens_add_up_per_day_and_old_days_go(book: PeerBook) -> None:
    book.put(a_peer(DESK))
    days = [f"2026-{1 + number // 28:02d}-{1 + number % 28:02d}" for number in range(DAYS_KEPT + 2)]
    for day in days:
        book.add_tokens(DESK, day, 3)
        book.add_tokens(DESK, day, 4)
    assert book.tokens(DESK, days[-1]) == 7
    assert book.tokens(DESK, days[0]) == 0 and book.tokens(DESK, days[2]) == 7
    assert refused(lambda: book.add_tokens(DESK, days[0], -1)).field == "tokens"


def test_the_book_has_an_end(book: PeerBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book_module, "PEERS_MAX", 8)
    for number in range(8):
        book.put(a_peer(f"peer{number}", f"name{number}"))
    assert "at most 8" in refused(lambda: book.put(a_peer("one more"))).message
    book.put(a_peer("peer0", "still changes"))
    assert len(book.peers()) == 8


@pytest.mark.parametrize("name", ["", "x" * 65, "bell\a", "two\nlines", "\x1b[31mred"])
def test_a_name_that_would_spoil_a_screen_is_refused(book: PeerBook, name: str) -> None:
    assert "printable" in refused(lambda: book.put(a_peer(DESK, name))).message
    assert book.peers() == ()


def test_changes_are_told_once_each_until_taken_back(book: PeerBook) -> None:
    told: list[int] = []
    take_back = book.on_change(lambda: told.append(len(book.peers())))
    book.put(a_peer(DESK))
    book.set_capabilities(DESK, Capabilities(may_ask=False))
    book.note_address(DESK, "/ip4/10.0.0.1/tcp/1", source="mdns", unix_s=1)
    book.remove(DESK)
    book.remove(DESK)
    assert told == [1, 1, 0]
    take_back()
    book.put(a_peer(DESK))
    assert len(told) == 3


def test_unpairing_by_another_process_is_noticed(book: PeerBook, path: Path, eager: None) -> None:
    book.put(a_peer(DESK))
    told: list[bool] = []
    book.on_change(lambda: told.append(book.is_paired(DESK)))
    code = "import sys\nfrom pathlib import Path\nfrom unhosted.node.shell.trusted.book import PeerBook\n"
    code += "book = PeerBook(Path(sys.argv[1]))\nassert book.remove(sys.argv[2])\n"
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    subprocess.run([sys.executable, "-c", code, str(path), DESK], env=environ, check=True)
    assert not book.is_paired(DESK)
    assert told == [False]


def test_an_address_noted_by_another_process_is_no_change_of_the_peers(reopen: Reopen, eager: None) -> None:
    one, other = reopen(), reopen()
    one.put(a_peer(DESK))
    assert other.is_paired(DESK)
    told: list[int] = []
    one.on_change(lambda: told.append(1))
    other.note_address(DESK, "/ip4/10.0.0.1/tcp/1", source="mdns", unix_s=1)
    assert one.is_paired(DESK) and told == []
    assert len(one.addresses(DESK)) == 1


def test_two_books_and_four_threads_lose_no_token(reopen: Reopen) -> None:
    books = [reopen(), reopen()]
    books[0].put(a_peer(DESK))
    rounds = 20

    def count(book: PeerBook) -> None:
        for _ in range(rounds):
            book.add_tokens(DESK, "2026-11-22", 1)

    threads = [threading.Thread(target=count, args=(books[number % 2],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert books[0].tokens(DESK, "2026-11-22") == books[1].tokens(DESK, "2026-11-22") == 4 * rounds


def test_nobody_else_may_read_the_book(book: PeerBook, path: Path) -> None:
    book.put(a_peer(DESK))
    modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600} and len(modes) == 3, modes


def test_a_book_that_others_could_write_is_refused(book: PeerBook, path: Path, reopen: Reopen) -> None:
    book.close()
    path.chmod(0o666)
    error = refused(reopen)
    assert "666" in error.message and "chmod 600" in error.message


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_text(path: Path) -> None:
    path.write_text("these are not the peers you are looking for\n" * 20)


def damage_cut(path: Path) -> None:
    os.truncate(path, 4096)


def damage_zeroes(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))


def damage_foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE peers (name TEXT)")
    database.close()
    path.chmod(0o600)


def damage_capabilities(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("UPDATE peers SET capabilities = '[]'")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [damage_empty, damage_text, damage_cut, damage_zeroes, damage_foreign, damage_capabilities],
)
def test_a_broken_book_is_refused_and_left_as_it_is(
    book: PeerBook, path: Path, reopen: Reopen, damage: Callable[[Path], None]
) -> None:
    book.put(a_peer(DESK))
    book.close()
    damage(path)
    before = path.read_bytes()
    error = refused(reopen)
    assert str(path) in error.message and "broken" in error.message
    assert ("it is empty" in error.message) is (before == b"")
    assert path.read_bytes() == before


def test_a_book_of_a_newer_program_is_refused(book: PeerBook, path: Path, reopen: Reopen) -> None:
    book.close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    assert "schema 99" in refused(reopen).message


def test_a_kill_in_the_middle_of_making_the_book_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom unhosted.node.shell.trusted import book_file\n"
        "os.link = lambda *paths: os.kill(os.getpid(), 9)\nbook_file.open_book(Path(sys.argv[1]))\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environ)
    assert done.returncode == -9 and not path.exists()
    book = PeerBook(path)
    book.put(a_peer(DESK))
    book.close()


def test_a_pairing_survives_a_kill_right_after_the_call(tmp_path: Path) -> None:
    path = tmp_path / "peers.db"
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom unhosted.node.core.peering import PairedPeer\n"
        "from unhosted.node.shell.trusted.book import PeerBook\nbook = PeerBook(Path(sys.argv[1]))\n"
        "book.put(PairedPeer(peer='p', name='n', state='paired', paired_unix_s=1))\n"
        "book.add_tokens('p', '2026-11-22', 11)\nos.kill(os.getpid(), 9)\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    assert subprocess.run([sys.executable, "-c", code, str(path)], env=environ).returncode == -9
    book = PeerBook(path)
    assert book.is_paired("p") and book.tokens("p", "2026-11-22") == 11
    book.close()


def test_a_full_disk_is_said_and_nothing_is_half_written(book: PeerBook) -> None:
    book.put(a_peer(DESK))
    pages = book._database.execute("PRAGMA page_count").fetchone()[0]
    book._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(Refused) as caught:
        for number in range(PEERS_MAX):
            book.put(a_peer(f"peer{number}", "x" * 60))
    assert caught.value.code == "disk_full"
    assert book.is_paired(DESK) and len(book.peers()) > 1
