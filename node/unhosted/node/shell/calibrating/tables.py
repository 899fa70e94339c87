"""Sheets as signed files: made with this node's identity, read from anybody, believed from few."""

import os
from dataclasses import dataclass
from pathlib import Path

from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.signed import FRAME_BYTES, Signed, decode_signed, encode_signed, to_sign
from unhosted.node.core.calibrations import (
    SHEET_BYTES_MAX,
    SHEET_DOMAIN,
    Sheet,
    decode_sheet,
    encode_sheet,
    sheet_id,
)
from unhosted.node.shell.keys.identity import Identity

FILE_BYTES_MAX = SHEET_BYTES_MAX + FRAME_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedSheet:
    """A sheet whose signature was checked against the key that it names. id: of its bytes."""

    sheet: Sheet
    id: bytes


def sign_sheet(sheet: Sheet, identity: Identity) -> bytes:
    """The file. Raises: ValueError if the sheet names another signer."""
    from unhosted.node.shell.keys.identity import public_key

    if public_key(identity.peer) != sheet.signer:
        raise ValueError("the sheet names another signer than the key that is to sign it")
    body = encode_sheet(sheet)
    return encode_signed(Signed(body=body, signature=identity.sign(to_sign(SHEET_DOMAIN, body))))


def read_sheet(data: bytes) -> SignedSheet:
    """Raises: RemoteFault if the bytes are no sheet, or not signed by the key that it names."""
    signed = decode_signed(data, body_bytes_max=SHEET_BYTES_MAX)
    sheet = decode_sheet(signed.body)
    if not _is_signed(sheet.signer, to_sign(SHEET_DOMAIN, signed.body), signed.signature):
        raise RemoteFault(Reason.WRONG_SIGNATURE, "the sheet is not signed by the key that it names")
    return SignedSheet(sheet=sheet, id=sheet_id(signed.body))


def read_file(path: Path) -> bytes:
    """At most FILE_BYTES_MAX and one byte, which no reader takes. Raises: OSError."""
    with open(path, "rb") as file:
        return file.read(FILE_BYTES_MAX + 1)


def write_file(path: Path, data: bytes) -> None:
    """Whole or not at all. Raises: OSError."""
    from unhosted.node.shell.models.files import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    os.chmod(path, 0o644)


def _is_signed(key: bytes, message: bytes, signature: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
