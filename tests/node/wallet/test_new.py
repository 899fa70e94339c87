"""`unhosted wallet new`, at a keyboard and without one; and where a key must not appear."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.node.wallet.conftest import PASSWORD, Unhosted
from tests.node.wallet.test_keystore import child_environment
from unhosted.market.ids import address_text
from unhosted.node.shell.keys import keystore

TERMINAL_TIMEOUT_S = 30


def private(path: Path, content: str) -> Path:
    path.touch(0o600)
    path.write_text(content)
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys whose passwords are cheap to try."""
    create = keystore.create
    monkeypatch.setattr(keystore, "create", lambda path, password: create(path, password, work=2))


def test_a_key_is_made_under_the_password_of_a_file(unhosted: Unhosted, home: Path, quick: None) -> None:
    password_file = private(home / "password", PASSWORD + "\n")
    made = unhosted("wallet", "new", "--password-file", str(password_file), "--json")
    assert made.code == 0, made.err
    path = home / "home" / "state" / "wallet.json"
    assert made.json["keystore"] == str(path)
    signer = keystore.unlock(keystore.read(path), PASSWORD, chain_id=8453)
    assert made.json["address"] == address_text(signer.address)
    assert "back up that file and the password" in made.err
    before = path.read_bytes()
    again = unhosted("wallet", "new", "--password-file", str(password_file))
    assert again.code == 1 and "never overwritten" in again.err
    assert path.read_bytes() == before


def test_a_file_elsewhere_is_made_and_how_to_use_it_is_said(
    unhosted: Unhosted, home: Path, quick: None
) -> None:
    password_file = private(home / "password", PASSWORD)
    made = unhosted("wallet", "new", "--keystore", "cold.json", "--password-file", str(password_file))
    assert made.code == 0
    assert f"unhosted config set wallet.keystore {home / 'cold.json'}" in made.err


def test_without_a_keyboard_or_a_file_nothing_is_made(unhosted: Unhosted, home: Path) -> None:
    refused = unhosted("wallet", "new")
    assert refused.code == 1 and "--password-file" in refused.err
    assert not (home / "home").exists()


def test_a_short_password_is_refused_before_anything_is_made(unhosted: Unhosted, home: Path) -> None:
    refused = unhosted("wallet", "new", "--password-file", str(private(home / "password", "short")))
    assert refused.code == 1 and "8 are the least" in refused.err


@pytest.mark.parametrize("where", [("wallet", "fund", "1", "--owner"), ("config", "set", "wallet.payee")])
def test_a_private_key_where_an_address_belongs_is_not_repeated(
    unhosted: Unhosted, where: tuple[str, ...]
) -> None:
    key = bytes(range(1, 33)).hex()
    for text in (key, "0x" + key):
        refused = unhosted(*where, text, *(("--chain", "base-sepolia") if where[0] == "wallet" else ()))
        assert refused.code == 1
        assert key[:16] not in refused.out + refused.err
        assert "looks like a private key" in refused.err or "unhosted wallet new" in refused.err


def test_no_option_of_any_command_takes_a_key(unhosted: Unhosted) -> None:
    commands = ("new", "show", "fund", "relay", "withdraw", "close", "history", "export")
    shown = "".join(unhosted("wallet", name, "--help").out for name in commands)
    options = set(re.findall(r"--[a-z-]+", shown))
    assert "--owner" in options and "--password-file" in options
    assert not {name for name in options if re.search("secret|private|password$|key$|mnemonic|seed", name)}


def at_terminal(home: Path, answers: list[str]) -> tuple[int, str]:
    """`wallet new` at a terminal of its own: what it shows, and its exit code."""
    screen, keyboard = pty.openpty()
    environment = child_environment() | {"UNHOSTED_HOME": str(home), "TERM": "dumb"}
    process = subprocess.Popen(
        [sys.executable, "-m", "unhosted.node", "wallet", "new"],
        stdin=keyboard,
        stdout=keyboard,
        stderr=keyboard,
        env=environment,
        start_new_session=True,
    )
    os.close(keyboard)
    shown = b""
    deadline = time.monotonic() + TERMINAL_TIMEOUT_S
    while time.monotonic() < deadline:
        if not select.select([screen], [], [], 1.0)[0]:
            continue
        try:
            read = os.read(screen, 4096)
        except OSError:  # the other end is closed
            break
        shown += read
        if answers and shown.rstrip().endswith(b":") and read.strip():
            os.write(screen, answers.pop(0).encode() + b"\n")
    os.close(screen)
    return process.wait(timeout=TERMINAL_TIMEOUT_S), shown.decode()


@pytest.mark.slow
def test_at_a_terminal_the_password_is_asked_twice_and_never_shown(tmp_path: Path) -> None:
    code, shown = at_terminal(tmp_path, [PASSWORD, PASSWORD])
    assert code == 0, shown
    assert "New password for" in shown and "The same once more" in shown
    assert PASSWORD not in shown
    assert keystore.unlock(keystore.read(tmp_path / "state" / "wallet.json"), PASSWORD, chain_id=8453)


@pytest.mark.slow
def test_two_different_passwords_make_nothing(tmp_path: Path) -> None:
    code, shown = at_terminal(tmp_path, [PASSWORD, PASSWORD + "!"])
    assert code == 1 and "the two passwords differ" in shown
    assert PASSWORD not in shown
    assert not list(tmp_path.rglob("*.json"))
