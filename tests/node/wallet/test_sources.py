"""Where key and password are looked for, in which order, and what is refused on the way."""

import os
from pathlib import Path

import pytest
import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys import keystore, sources
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.keys.sources import CREDENTIAL, KeySettings, Prompt

PASSWORD = "a long password"
SECRET, RAW = bytes(range(7, 39)), bytes(range(9, 41))
BASE, LOCAL = 8453, 31337


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    keystore.create(tmp_path / "key.json", PASSWORD, secret=SECRET, work=2)
    return tmp_path / "key.json"


def private(path: Path, content: str) -> Path:
    path.touch(0o600)
    path.write_text(content)
    return path


def load(
    path: Path,
    *,
    named: bool = True,
    password_file: Path | None = None,
    chain_id: int = BASE,
    environ: dict[str, str] | None = None,
    prompt: Prompt | None = None,
) -> bytes:
    settings = KeySettings(keystore=path, is_keystore_named=named, password_file=password_file)
    environ = {} if environ is None else environ

    async def main() -> KeySigner:
        with trio.fail_after(10):
            return await sources.load_operator(settings, chain_id=chain_id, environ=environ, prompt=prompt)

    return trio.run(main).address


FILE_ADDRESS, RAW_ADDRESS = KeySigner(SECRET).address, KeySigner(RAW).address


def never(question: str) -> str:
    raise AssertionError("nobody was to be asked")


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_the_password_comes_from_the_file_that_the_settings_name(
    tmp_path: Path, key_file: Path, ending: str
) -> None:
    password_file = private(tmp_path / "password", PASSWORD + ending)
    assert load(key_file, password_file=password_file, prompt=never) == FILE_ADDRESS


def test_or_from_the_credential_of_a_service(tmp_path: Path, key_file: Path) -> None:
    credential = private(tmp_path / CREDENTIAL, PASSWORD)
    credential.chmod(0o440)  # as systemd may make it
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(key_file, environ=environ, prompt=never) == FILE_ADDRESS


def test_or_from_whoever_is_there(key_file: Path) -> None:
    asked: list[str] = []

    def prompt(question: str) -> str:
        asked.append(question)
        return PASSWORD

    assert load(key_file, prompt=prompt) == FILE_ADDRESS
    assert asked == [f"Password of {key_file}"]


def test_without_any_of_them_it_says_what_there_is(key_file: Path) -> None:
    with pytest.raises(Refused, match=r"UNHOSTED_PASSWORD_FILE.*systemd credential") as caught:
        load(key_file)
    assert caught.value.code == "wallet_locked"


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (PASSWORD, 0o644, "chmod 600"),
        ("", 0o600, "must hold one line"),
        ("\n", 0o600, "must hold one line"),
        (PASSWORD + "\nmore\n", 0o600, "must hold one line"),
        ("x" * 2000, 0o600, "must hold one line"),
        ("wrong password", 0o600, "does not open"),
    ],
)
def test_a_password_file_that_is_wrong_says_how(
    tmp_path: Path, key_file: Path, content: str, mode: int, message: str
) -> None:
    password_file = private(tmp_path / "password", content)
    password_file.chmod(mode)
    with pytest.raises(Refused, match=message) as caught:
        load(key_file, password_file=password_file)
    assert "more" not in str(caught.value)


def test_a_password_file_that_is_not_there_is_named(tmp_path: Path, key_file: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere cannot be read: No such file"):
        load(key_file, password_file=tmp_path / "nowhere")


def test_a_raw_key_is_for_the_local_chain_and_is_not_inherited(tmp_path: Path, key_file: Path) -> None:
    for text in (RAW.hex(), "0x" + RAW.hex().upper()):
        environ = {"UNHOSTED_PRIVATE_KEY": text}
        assert load(key_file, named=False, chain_id=LOCAL, environ=environ) == RAW_ADDRESS
        assert environ == {}
        with pytest.raises(Refused, match="local chain 31337 alone") as caught:
            load(key_file, chain_id=BASE, environ={"UNHOSTED_PRIVATE_KEY": text})
        assert caught.value.code == "key_refused"
        assert RAW.hex() not in str(caught.value).lower()


def test_a_key_file_that_the_user_named_wins_over_a_raw_key(tmp_path: Path, key_file: Path) -> None:
    password_file = private(tmp_path / "password", PASSWORD)
    environ = {"UNHOSTED_PRIVATE_KEY": RAW.hex()}
    found = load(key_file, chain_id=LOCAL, environ=environ, password_file=password_file)
    assert found == FILE_ADDRESS and environ == {}


@pytest.mark.parametrize("text", ["12", "0x", "zz" * 32, "00" * 32, "ff" * 32])
def test_a_raw_key_that_is_none_is_refused_without_being_quoted(key_file: Path, text: str) -> None:
    with pytest.raises(Refused, match="UNHOSTED_PRIVATE_KEY") as caught:
        load(key_file, named=False, chain_id=LOCAL, environ={"UNHOSTED_PRIVATE_KEY": text})
    assert text not in str(caught.value).replace("UNHOSTED_PRIVATE_KEY has 2 characters", "") or text == "0x"


def test_unlocking_does_not_hold_up_the_node(tmp_path: Path) -> None:
    """The event loop turns while scrypt works."""
    keystore.create(tmp_path / "key.json", PASSWORD, secret=SECRET, work=1 << 14)
    password_file = private(tmp_path / "password", PASSWORD)
    settings = KeySettings(
        keystore=tmp_path / "key.json", is_keystore_named=True, password_file=password_file
    )
    turns = 0

    async def main() -> None:
        nonlocal turns
        async with trio.open_nursery() as nursery:

            async def turn() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(turn)
            await sources.load_operator(settings, chain_id=BASE, environ=dict(os.environ))
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns > 10
