"""The key file: other wallets' too, never readable by others, never half written, never written over."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from eth_account import Account

from unhosted.market.ids import address_text
from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys import keystore

PASSWORD = "correct horse ünd staple"
SECRET = bytes(range(7, 39))
WORK = {"scrypt": 1 << 12, "pbkdf2": 1_000}
"""Guessing such a file is easy, and opening it does not slow the tests down."""
BASE, LOCAL = 8453, 31337


def make(path: Path, **changes: object) -> Path:
    keystore.create(path, PASSWORD, secret=SECRET, work=WORK["scrypt"])
    contents = json.loads(path.read_text())
    contents.update(changes)
    path.write_text(json.dumps(contents))
    return path


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_other_wallets_open_our_file_and_we_open_theirs(tmp_path: Path, kdf: keystore.Kdf) -> None:
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    address = keystore.create(ours, PASSWORD, secret=SECRET, kdf=kdf, work=WORK[kdf])
    assert Account.decrypt(json.loads(ours.read_text()), PASSWORD) == SECRET
    theirs.write_text(json.dumps(Account.encrypt(SECRET, PASSWORD, kdf=kdf, iterations=WORK[kdf])))
    theirs.chmod(0o600)
    assert keystore.unlock(keystore.read(theirs), PASSWORD, chain_id=BASE).address == address
    assert address_text(address) == Account.from_key(SECRET).address


def test_a_new_key_is_drawn_each_time_and_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "not" / "there"
    made = [keystore.create(folder / f"{n}.json", PASSWORD, work=WORK["scrypt"]) for n in range(2)]
    assert made[0] != made[1]
    assert (folder / "0.json").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in folder.iterdir()) == ["0.json", "1.json"]


@pytest.mark.slow
def test_the_default_file_takes_scrypt_of_256_mib(tmp_path: Path) -> None:
    keystore.create(tmp_path / "key.json", PASSWORD)
    work = json.loads((tmp_path / "key.json").read_text())["crypto"]
    assert (work["kdf"], work["kdfparams"]["n"], work["kdfparams"]["r"]) == ("scrypt", 1 << 18, 8)
    assert keystore.unlock(keystore.read(tmp_path / "key.json"), PASSWORD, chain_id=BASE)


def test_a_key_is_never_written_over(tmp_path: Path) -> None:
    path = make(tmp_path / "key.json")
    before = path.read_bytes()
    with pytest.raises(Refused, match="never overwritten") as caught:
        keystore.create(path, PASSWORD, work=WORK["scrypt"])
    assert caught.value.code == "key_refused"
    assert path.read_bytes() == before


def test_of_two_that_write_at_once_one_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "key.json")
    before = path.read_bytes()
    monkeypatch.setattr(Path, "exists", lambda self: False)  # the other one was not there yet
    with pytest.raises(Refused, match="never overwritten"):
        keystore.create(path, PASSWORD, work=WORK["scrypt"])
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["key.json"]


def test_a_wrong_password_is_said_to_be_wrong(tmp_path: Path) -> None:
    locked = keystore.read(make(tmp_path / "key.json"))
    with pytest.raises(Refused, match="password does not open") as caught:
        keystore.unlock(locked, PASSWORD + " ", chain_id=BASE)
    assert caught.value.code == "wallet_locked"


@pytest.mark.parametrize("password", ["", "short", "x" * 1025])
def test_a_password_that_is_too_short_or_endless_is_not_taken(tmp_path: Path, password: str) -> None:
    with pytest.raises(Refused, match="choose another one"):
        keystore.create(tmp_path / "key.json", password)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_file_that_others_can_read_is_refused_with_the_command(tmp_path: Path, mode: int) -> None:
    path = make(tmp_path / "key.json")
    path.chmod(mode)
    with pytest.raises(Refused, match=f"chmod 600 {path}"):
        keystore.read(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="unhosted wallet new") as caught:
        keystore.read(tmp_path / "key.json")
    assert caught.value.code == "wallet_missing"


def test_a_file_that_names_another_address_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "key.json", address="11" * 20)
    with pytest.raises(Refused, match="somebody changed it"):
        keystore.unlock(keystore.read(path), PASSWORD, chain_id=BASE)


def crypto(**changes: object) -> dict[str, object]:
    params = {"dklen": 32, "n": 4096, "r": 8, "p": 1, "salt": "00" * 16} | changes
    return {"kdf": "scrypt", "kdfparams": params, "ciphertext": "00" * 32, "mac": "00" * 32}


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "[" * 100_000,
        "x" * (keystore.FILE_BYTES_MAX + 1),
        json.dumps({"version": 4, "crypto": {}}),
        json.dumps({"version": 3}),
        json.dumps({"version": 3, "crypto": {"kdf": "scrypt"}}),
        json.dumps({"version": 3, "crypto": crypto(n=1 << 40)}),
        json.dumps({"version": 3, "crypto": crypto(p=1 << 30)}),
        json.dumps({"version": 3, "crypto": crypto(c=1 << 60)}),
        json.dumps({"version": 3, "crypto": crypto(n="many")}),
        json.dumps({"version": 3, "crypto": crypto(n=-1)}),
        json.dumps({"version": 3, "crypto": crypto(), "address": "0x12"}),
        json.dumps({"version": 3, "crypto": crypto(n=3)}),
        json.dumps({"version": 3, "crypto": crypto() | {"kdf": "argon2"}}),
        json.dumps({"version": 3, "crypto": crypto() | {"ciphertext": "zz"}}),
    ],
)
def test_a_damaged_file_is_refused_at_once(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key.json"
    path.touch(0o600)
    path.write_text(content)
    with pytest.raises(Refused, match="no keystore file") as caught:
        keystore.unlock(keystore.read(path), PASSWORD, chain_id=BASE)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("work", [{"n": 1 << 24}, {"n": 1 << 40}, {"p": 1 << 30}, {"c": 1 << 60}], ids=str)
def test_work_that_would_not_end_is_found_before_it_is_begun(tmp_path: Path, work: dict[str, int]) -> None:
    path = tmp_path / "key.json"
    path.touch(0o600)
    path.write_text(json.dumps({"version": 3, "crypto": crypto(**work)}))
    with pytest.raises(Refused, match="would take"):
        keystore.read(path)


PUBLISHED = [
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",  # the first of anvil and hardhat
    "689af8efa8c651a91ad287602527f3af2fe9f6501a7ac4b061667b5a93e037fd",  # hardhat's last
    "4f3edf983ac636a65a842ce7c78d9aa706d3b113bce9c46f30d7d21715b23b1d",  # ganache's first
    "4c0883a69102937d6231471b5dbb6204fe5129617082792ae468d01a3f362318",  # an example in a manual
    *(f"{number:064x}" for number in range(1, 11)),
    "42" * 32,
    "46" * 32,
    "0123456789abcdef" * 4,
    "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364140",  # the last there is
]


@pytest.mark.parametrize("secret", PUBLISHED, ids=lambda text: f"{text[:6]}…{text[-4:]}")
def test_a_key_that_everybody_has_is_refused_off_the_local_chain(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "key.json"
    keystore.create(path, PASSWORD, secret=bytes.fromhex(secret), work=WORK["scrypt"])
    assert keystore.unlock(keystore.read(path), PASSWORD, chain_id=LOCAL)
    with pytest.raises(Refused, match="published or guessable") as caught:
        keystore.unlock(keystore.read(path), PASSWORD, chain_id=BASE)
    assert caught.value.code == "key_refused"
    assert secret not in str(caught.value)


WRITER = """
import sys
from pathlib import Path
from unhosted.node.shell.keys import keystore
folder = Path(sys.argv[1])
print("ready", flush=True)
for number in range(100_000):
    keystore.create(folder / f"{number}.json", "a long password", work=2)
"""


@pytest.mark.slow
def test_a_kill_while_writing_leaves_whole_files_or_none(tmp_path: Path) -> None:
    written = 0
    for kill in range(4):
        folder = tmp_path / str(kill)
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE, env=child_environment()
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        # Long enough for some files; at which instruction of the next one it dies is chance.
        deadline = time.monotonic() + 10
        while not (folder / f"{kill}.json").exists() and time.monotonic() < deadline:
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        for path in folder.glob("*.json"):
            assert keystore.unlock(keystore.read(path), "a long password", chain_id=LOCAL)
            written += 1
        # What is left of an interrupted one is encrypted and as private as the file itself.
        assert all(part.stat().st_mode & 0o777 == 0o600 for part in folder.glob(".*.part"))
    assert written >= 4


def child_environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
