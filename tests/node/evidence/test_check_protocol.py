"""What a peer says to one that reads evidence for it: bounded, versioned, and counted for who decides."""

import pytest

from tests.node.evidence.stage import Channel, ids
from unhosted.market.cbor import encode
from unhosted.market.faults import RemoteFault
from unhosted.market.signed import Signed
from unhosted.node.core.check_protocol import (
    MESSAGE_BYTES_MAX,
    PIECE_BYTES_MAX,
    Ask,
    Go,
    No,
    Piece,
    Word,
    decode_check,
    disclosure,
    encode_check,
)
from unhosted.node.core.evidence_wire import EvidenceHash
from unhosted.node.shell.evidence.making import make_evidence

ASK = Ask(evidence=EvidenceHash(b"\x01" * 32), model=bytes(32), size_bytes=9_000, tokens=120)


def test_messages_come_out_as_they_went_in_and_others_are_refused() -> None:
    word = Word(signed=Signed(body=b"body", signature=bytes(64)))
    for message in (ASK, Go(), No(why="busy", retry_after_s=5), Piece(data=b"x" * PIECE_BYTES_MAX), word):
        encoded = encode_check(message)
        assert len(encoded) <= MESSAGE_BYTES_MAX
        assert decode_check(encoded) == message
    for wrong in ({"v": 1, "k": "what"}, {"v": 2, "k": "go"}, {"v": 1, "k": "piece", "data": b""}):
        with pytest.raises(RemoteFault):
            decode_check(encode(wrong))


def test_what_is_disclosed_is_counted_and_a_prefix_discloses_less() -> None:
    kept = Channel().sell(ids(1, 20), ids(50, 200))
    whole, part = (disclosure(make_evidence([kept], prefix_tokens=most)) for most in (None, 64))
    assert (whole.prompt_tokens, whole.output_tokens, whole.shut_tokens) == (20, 200, 0)
    assert (part.prompt_tokens, part.output_tokens, part.shut_tokens) == (20, 64, 136)
