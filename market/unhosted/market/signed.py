"""Messages signed by a peer's identity (Ed25519): the bytes that were signed travel as they were signed.

A reader checks the signature over the body as it came and decodes that body, never a second encoding of what
it understood: so fields that this version does not know stay covered. Signing and checking are the shell's;
`to_sign` gives it the exact bytes.
"""

from dataclasses import dataclass

from unhosted.market.cbor import encode
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import PEER_SIGNATURE_BYTES

VERSION = 1
FRAME_BYTES = 96
"""What the envelope adds to a body at most: the signature, two keys, the version and their heads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """body: canonical CBOR, as it was signed. signature: Ed25519, 64 bytes, over `to_sign(domain, body)`."""

    body: bytes
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.signature) != PEER_SIGNATURE_BYTES:
            raise ValueError(f"signature of {len(self.signature)} bytes: {PEER_SIGNATURE_BYTES} are needed")


def to_sign(domain: bytes, body: bytes) -> bytes:
    """The bytes that the peer's key signs: the domain string, then the body as encoded."""
    return domain + body


def encode_signed(signed: Signed) -> bytes:
    return encode({"v": VERSION, "body": signed.body, "sig": signed.signature})


def decode_signed(data: bytes, *, body_bytes_max: int) -> Signed:
    """Raises: RemoteFault."""

    def unpack(fields: Fields) -> Signed:
        return Signed(
            body=fields.data("body", bytes_max=body_bytes_max),
            signature=fields.exactly("sig", size_bytes=PEER_SIGNATURE_BYTES),
        )

    return read_message(data, bytes_max=body_bytes_max + FRAME_BYTES, version=VERSION, unpack=unpack)
