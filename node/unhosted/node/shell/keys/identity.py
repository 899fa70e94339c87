"""Who this machine is: an Ed25519 key in a file that nobody else can read, made at the first start.

The peer id is the text of the public key (libp2p's "identity" multihash in base58), so that whoever holds a
peer id can check signatures of that peer, and nobody can take another's id. No libp2p is imported here: the
command line shows the peer id without waiting a second for it.
"""

import base64
import binascii
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from unhosted.node.core.errors import Refused
from unhosted.node.core.peering import PeerId

PREFIX = b"\x00\x24\x08\x01\x12\x20"
"""Identity multihash of 36 bytes, then the protobuf of an Ed25519 key: type 1, 32 bytes of data."""

HEADER, FOOTER = "-----BEGIN UNHOSTED IDENTITY-----", "-----END UNHOSTED IDENTITY-----"
SEED_BYTES = 32
FILE_BYTES_MAX = 4096
"""A right file has about 120 bytes."""

ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """peer: this machine's id. seed: the private key, 32 bytes; it never appears in a repr or a log."""

    peer: PeerId
    seed: bytes = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """An Ed25519 signature of 64 bytes, which `verify` checks against the peer id."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(message)


def new_identity() -> Identity:
    """A fresh key, kept nowhere."""
    return _identity(os.urandom(SEED_BYTES))


def load_identity(path: Path) -> Identity:
    """The identity in the file at `path`, which is created at the first start.

    Raises: Refused if the file is readable by others, belongs to somebody else or holds no key.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        _create(path)
        return _read(path)


def public_key(peer: PeerId) -> bytes:
    """The 32 bytes of the peer's public key. Raises: ValueError if `peer` is no Ed25519 peer id."""
    decoded = _base58_decode(peer)
    if not decoded.startswith(PREFIX) or len(decoded) != len(PREFIX) + SEED_BYTES:
        raise ValueError(f"{peer[:80]!r} is no peer id: those have 52 characters and begin with 12D3KooW")
    return decoded[len(PREFIX) :]


def verify(peer: PeerId, message: bytes, signature: bytes) -> bool:
    """Whether `peer` signed `message`. Raises: ValueError if `peer` is no Ed25519 peer id."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key(peer)).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _identity(seed: bytes) -> Identity:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Identity(peer=_base58_encode(PREFIX + public), seed=seed)


def _read(path: Path) -> Identity:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_owner(path, status)
        text = file.read(FILE_BYTES_MAX).decode("ascii", "replace")
    lines = text.split()
    body = text.strip().removeprefix(HEADER).removesuffix(FOOTER).strip()
    if not text.startswith(HEADER) or not text.strip().endswith(FOOTER) or not lines:
        raise _unreadable(path)
    try:
        seed = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise _unreadable(path) from None
    if len(seed) != SEED_BYTES:
        raise _unreadable(path)
    return _identity(seed)


def _check_owner(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        raise Refused(
            "invalid_request",
            f"{path} can be read by other users of this machine (mode {mode:04o}), and it holds this node's "
            f"private key: run `chmod 600 {path}`, or move it away to get a new identity",
        )
    if status.st_uid not in (os.geteuid(), 0):
        raise Refused(
            "invalid_request",
            f"{path} belongs to user {status.st_uid} and not to user {os.geteuid()}, who runs this node: "
            "change its owner, or move it away to get a new identity",
        )


def _unreadable(path: Path) -> Refused:
    return Refused(
        "invalid_request",
        f"{path} holds no identity (a key of {SEED_BYTES} bytes in base64 between two marks): put back a "
        "copy of it, or move it away; with a new identity this machine has to be paired again",
    )


def _create(path: Path) -> None:
    """Write a new key beside the place and link it there: a file that exists is whole and stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = path.with_name(f"{path.name}.{os.urandom(8).hex()}.part")
    body = base64.b64encode(os.urandom(SEED_BYTES)).decode("ascii")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(f"{HEADER}\n{body}\n{FOOTER}\n".encode("ascii"))
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(part, path)
        except FileExistsError:
            return  # another process was first: its key is the one
    finally:
        os.unlink(part)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _base58_encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    zeros = len(data) - len(data.lstrip(b"\0"))
    return ALPHABET[0] * zeros + text


def _base58_decode(text: str) -> bytes:
    if len(text) > 128 or not set(text) <= set(ALPHABET):
        raise ValueError(f"{text[:80]!r} is no base58 text of at most 128 characters")
    number = 0
    for letter in text:
        number = number * 58 + ALPHABET.index(letter)
    zeros = len(text) - len(text.lstrip(ALPHABET[0]))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
