"""A key in a file that other wallets read too: keystore V3, encrypted under a password, mode 0600.

Files are made whole beside their place and linked into it: a kill or a power cut leaves no file or a whole
one, and a file that exists is never replaced. Opening one takes about a second of scrypt, on purpose; so it
is done once, in a thread.
"""

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unhosted.market.ids import Address, address_text, parse_address
from unhosted.node.core.errors import Refused
from unhosted.node.shell.keys.log_filter import conceal
from unhosted.node.shell.keys.published import check_use
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.node.shell.recursion import keep_recursion_limit

FILE_BYTES_MAX = 64 << 10
"""A right file has about 500 bytes."""

PASSWORD_CHARS_MIN = 8
"""The file may leave the machine in a backup; scrypt makes guessing slow, not a short password long."""

PASSWORD_BYTES_MAX = 1024

SCRYPT_MEMORY_BYTES_MAX = 1 << 30
"""The usual work factor takes 256 MiB; a damaged file must not take all memory there is."""

PBKDF2_ROUNDS_MAX = 10_000_000
"""Ten times what wallets write; a larger number would only hang."""

Kdf = Literal["scrypt", "pbkdf2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keystore:
    """A keystore file as read, still locked. address: None where the file does not say it."""

    path: Path
    address: Address | None
    contents: Mapping[str, Any] = field(repr=False)


def create(
    path: Path, password: str, *, secret: bytes | None = None, kdf: Kdf = "scrypt", work: int | None = None
) -> Address:
    """Write a key to a new file, a fresh one unless `secret` is given; blocks for a second.

    work: the cost of a guess, in the kdf's own units (tests take less than the default).
    Raises: Refused if the password is too short or the file exists; OSError.
    """
    from eth_keyfile.keyfile import create_keyfile_json

    keep_recursion_limit()
    check_new_password(password)
    if path.exists():
        raise exists_already(path)
    secret = os.urandom(32) if secret is None else secret
    signer = KeySigner(secret)
    made = create_keyfile_json(secret, password.encode(), kdf=kdf, iterations=work)
    made["address"] = signer.address.hex()
    _write(path, json.dumps(made, indent=1) + "\n")
    return signer.address


def read(path: Path) -> Keystore:
    """The file at `path`. Raises: Refused when it is missing, loosely kept or no keystore."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Refused(
            "wallet_missing",
            f"there is no key at {path}; make one with `unhosted wallet new`, or name another file in "
            "the setting wallet.keystore",
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        check_private(path, os.fstat(descriptor), holds="this node's key")
        raw = file.read(FILE_BYTES_MAX + 1)
    try:
        contents = json.loads(raw) if len(raw) <= FILE_BYTES_MAX else None
    except (ValueError, RecursionError):
        contents = None
    if not isinstance(contents, dict) or contents.get("version") != 3:
        raise _no_keystore(path, "it is not JSON with version 3")
    crypto = contents.get("crypto") or contents.get("Crypto")
    if not isinstance(crypto, dict):
        raise _no_keystore(path, "it has no part named crypto")
    _check_work(path, crypto)
    return Keystore(path=path, address=_stated_address(path, contents), contents=contents)


def unlock(keystore: Keystore, password: str, *, chain_id: int) -> KeySigner:
    """The key in the file, for use on a chain; blocks for about a second: run it in a thread.

    Raises: Refused (wallet_locked) if the password is wrong; Refused (key_refused) if the file is damaged, or
    holds a key that everybody has and the chain is not the local one.
    """
    from eth_keyfile.exceptions import EthKeyfileValueError
    from eth_keyfile.keyfile import decode_keyfile_json

    keep_recursion_limit()
    path = keystore.path
    try:
        secret = bytes(decode_keyfile_json(dict(keystore.contents), password.encode()))
        signer = KeySigner(secret)
    except EthKeyfileValueError:
        # Its only one while decoding: the code over the encrypted key does not match.
        raise Refused(
            "wallet_locked",
            f"the password does not open {path}; try again, check the file that wallet.password-file names, "
            "or put back a copy of the key file if that was damaged",
        ) from None
    except Exception as error:
        # A damaged file can fail in any way in there, and the error may quote it.
        raise _no_keystore(path, f"decrypting it failed ({type(error).__name__})") from None
    if keystore.address is not None and keystore.address != signer.address:
        raise Refused(
            "key_refused",
            f"{path} says it is {address_text(keystore.address)} and holds the key of "
            f"{address_text(signer.address)}: put back a copy of the file, somebody changed it",
        )
    check_use(signer, secret, chain_id=chain_id, source=str(path))
    conceal(secret)
    return signer


def check_new_password(password: str) -> None:
    """Raises: Refused (wallet_locked) with the rule."""
    if len(password) < PASSWORD_CHARS_MIN or len(password.encode()) > PASSWORD_BYTES_MAX:
        raise Refused(
            "wallet_locked",
            f"a password of {len(password)} characters; {PASSWORD_CHARS_MIN} are the least and "
            f"{PASSWORD_BYTES_MAX} bytes the most: choose another one",
        )


def check_private(path: Path, status: os.stat_result, *, holds: str) -> None:
    """Raises: Refused, with the command that mends it, if others of this machine can read the file."""
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise Refused(
            "key_refused",
            f"{path} can be read by other users of this machine (mode {mode:04o}), and it holds {holds}: "
            f"run `chmod 600 {path}`",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise Refused(
            "key_refused",
            f"{path} belongs to user {status.st_uid} and not to user {os.geteuid()}, who runs this: "
            f"run `chown {os.geteuid()} {path}` as root",
        )


def exists_already(path: Path) -> Refused:
    return Refused(
        "key_refused",
        f"{path} holds a key already and is never overwritten: move it away first, and only if you have "
        "taken the money of its channels back, or name another file with --keystore",
    )


def _check_work(path: Path, crypto: Mapping[str, Any]) -> None:
    """A number of rounds that would never end is a damaged file, found before it is tried."""
    work = crypto.get("kdfparams")
    if not isinstance(work, dict):
        raise _no_keystore(path, "it has no kdfparams")
    numbers = {name: work.get(name, 0) for name in ("n", "r", "p", "c", "dklen")}
    if any(type(value) is not int or value < 0 for value in numbers.values()):
        raise _no_keystore(path, "its kdfparams are not whole numbers")
    memory_bytes = 128 * numbers["n"] * numbers["r"]
    if memory_bytes * max(1, numbers["p"]) > SCRYPT_MEMORY_BYTES_MAX:
        raise _no_keystore(path, f"its scrypt would take {memory_bytes} bytes of memory")
    if numbers["c"] > PBKDF2_ROUNDS_MAX or numbers["dklen"] > 64:
        raise _no_keystore(path, f"its pbkdf2 would take {numbers['c']} rounds")


def _stated_address(path: Path, contents: Mapping[str, Any]) -> Address | None:
    stated = contents.get("address")
    if stated is None:
        return None
    try:
        return parse_address("0x" + str(stated).lower().removeprefix("0x"))
    except ValueError as error:
        raise _no_keystore(path, str(error)) from None


def _no_keystore(path: Path, why: str) -> Refused:
    return Refused(
        "key_refused",
        f"{path} is no keystore file (V3): {why}; put back a copy of it, or name the right file in the "
        "setting wallet.keystore",
    )


def _write(path: Path, text: str) -> None:
    """A new file, whole and on the disk when this returns. Raises: Refused if there is one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f".{path.name}.{os.urandom(8).hex()}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        try:
            # Not a rename: that would replace a key that another process wrote meanwhile.
            os.link(part, path)
        except FileExistsError:
            raise exists_already(path) from None
    finally:
        os.unlink(part)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
