"""A reader's signed word on evidence that it ran again, as it travels: a body under the reader's identity.

What the host and the class of the engine are to the one who asked stays with that one: a reader that lies
about its class can at most make two readings of one class pass for two.
"""

from typing import cast

from unhosted.market.cbor import encode
from unhosted.market.fields import Fields, read_message
from unhosted.market.ids import PeerText, parse_peer
from unhosted.market.offers import CHECK_CLASSES, CheckClass
from unhosted.market.signed import to_sign
from unhosted.node.core.confirmations import Vote
from unhosted.node.core.evidence_wire import EvidenceHash
from unhosted.verify.noise import CLASS_CHARS_MAX

CONFIRMATION_DOMAIN = b"unhosted/confirmation/v1"
VERSION = 1
CONFIRMATION_BYTES_MAX = 512
PEER_CHARS = 52
LEFT_MILLI_MAX = 1 << 53


def encode_vote(vote: Vote) -> bytes:
    """The body to sign, by the reader."""
    return encode(
        {
            "v": VERSION,
            "evidence": vote.evidence,
            "reader": vote.reader,
            "engine": vote.engine_class,
            "check": vote.check,
            "convicts": vote.convicts,
            "left": vote.left_milli,
            "proven": vote.is_proven,
        }
    )


def decode_vote(body: bytes, *, host: str) -> Vote:
    """host: where the reader was reached. Raises: RemoteFault; the signature is checked elsewhere."""

    def unpack(fields: Fields) -> Vote:
        return Vote(
            evidence=EvidenceHash(fields.exactly("evidence")),
            reader=PeerText(parse_peer(fields.text("reader", chars_max=PEER_CHARS))),
            host=host,
            engine_class=fields.text("engine", chars_max=CLASS_CHARS_MAX),
            check=cast(CheckClass, fields.word("check", among=CHECK_CLASSES)),
            convicts=fields.flag("convicts"),
            left_milli=fields.uint("left", least=-LEFT_MILLI_MAX, most=LEFT_MILLI_MAX),
            is_proven=fields.flag("proven"),
        )

    return read_message(body, bytes_max=CONFIRMATION_BYTES_MAX, version=VERSION, unpack=unpack)


def confirmation_bytes_to_sign(body: bytes) -> bytes:
    return to_sign(CONFIRMATION_DOMAIN, body)
