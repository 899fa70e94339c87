"""Where the node's key comes from: an encrypted file or, on the local chain alone, a variable.

The password of the file comes from a file that the settings name, from a systemd credential, or from whoever
is at the keyboard. It is never an argument of a command: every user of a machine can read those.
"""

import os
import re
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys import keystore
from unhosted.node.shell.keys.log_filter import conceal
from unhosted.node.shell.keys.published import LOCAL_CHAIN_ID
from unhosted.node.shell.keys.signer import KeySigner

OPERATOR_VARIABLE = "UNHOSTED_PRIVATE_KEY"
OWNER_VARIABLE = "UNHOSTED_OWNER_KEY"
"""Raw keys, 64 hex digits, on the local chain alone. The owner's signs deposits there without a wallet."""

CREDENTIAL = "unhosted-wallet-password"
"""Name of the systemd credential: `LoadCredential=unhosted-wallet-password:/etc/…`."""

_RAW = re.compile(r"(?:0x)?[0-9a-fA-F]{64}")

Prompt = Callable[[str], str]
"""Asks for a password; the text says what for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """keystore: where the key is, or is to be. is_keystore_named: by the user, so that nothing else is meant.

    password_file: None to look elsewhere.
    """

    keystore: Path
    is_keystore_named: bool
    password_file: Path | None


async def load_operator(
    settings: KeySettings,
    *,
    chain_id: int,
    environ: MutableMapping[str, str],
    prompt: Prompt | None = None,
) -> KeySigner:
    """The operator's key, unlocked. A raw key is taken out of `environ`, so that no child inherits it.

    prompt: None where nobody can be asked.
    Raises: Refused (wallet_missing, wallet_locked, key_refused).
    """
    raw = load_raw(OPERATOR_VARIABLE, chain_id=chain_id, environ=environ)
    if raw is not None and not settings.is_keystore_named:
        return raw
    locked = keystore.read(settings.keystore)
    password = find_password(settings, environ, prompt)
    return await trio.to_thread.run_sync(partial(keystore.unlock, locked, password, chain_id=chain_id))


def load_raw(name: str, *, chain_id: int, environ: MutableMapping[str, str]) -> KeySigner | None:
    """The key in the variable `name`, which is removed; None if it is not set.

    Raises: Refused (key_refused) on any chain but the local one, whatever the variable holds.
    """
    text = environ.pop(name, "").strip()
    if not text:
        return None
    if chain_id != LOCAL_CHAIN_ID:
        raise Refused(
            "key_refused",
            f"{name} is for the local chain {LOCAL_CHAIN_ID} alone, and this is chain {chain_id}: other "
            "programs can read a variable. Unset it, and keep the key in a file: `unhosted wallet new`",
        )
    if not _RAW.fullmatch(text):
        raise Refused("key_refused", f"{name} has {len(text)} characters; a key is 64 hex digits")
    secret = bytes.fromhex(text.removeprefix("0x"))
    conceal(secret)
    try:
        return KeySigner(secret)
    except ValueError as error:
        raise Refused("key_refused", f"{name} is {error}") from None


def find_password(settings: KeySettings, environ: MutableMapping[str, str], prompt: Prompt | None) -> str:
    """Raises: Refused (wallet_locked) that names the ways to give one."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if settings.password_file is not None:
        return read_password(settings.password_file)
    if folder and (Path(folder) / CREDENTIAL).exists():
        # systemd made it for this service alone and says so in its own way, so its mode is not looked at.
        return read_password(Path(folder) / CREDENTIAL, is_credential=True)
    if prompt is not None:
        return prompt(f"Password of {settings.keystore}")
    raise Refused(
        "wallet_locked",
        f"{settings.keystore} needs its password and nobody can be asked here: put it into a file of mode "
        f"0600 that the setting wallet.password-file (UNHOSTED_PASSWORD_FILE) names, or give the service "
        f"the systemd credential {CREDENTIAL}",
    )


def read_password(path: Path, *, is_credential: bool = False) -> str:
    """The file's one line. Raises: Refused if it is missing, loosely kept, empty or has several lines."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
            if not is_credential:
                keystore.check_private(path, os.fstat(file.fileno()), holds="the wallet's password")
            raw = file.read(keystore.PASSWORD_BYTES_MAX + 3)
    except OSError as error:
        raise Refused(
            "wallet_locked", f"the password file {path} cannot be read: {error.strerror}; check its name"
        ) from None
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        password = line.decode()
    except UnicodeDecodeError:
        password = ""
    if not password or "\n" in password or len(line) > keystore.PASSWORD_BYTES_MAX:
        raise Refused(
            "wallet_locked",
            f"the password file {path} must hold one line of UTF-8 text, at most "
            f"{keystore.PASSWORD_BYTES_MAX} bytes",
        )
    return password
