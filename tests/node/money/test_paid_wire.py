"""The paid stream's bytes: round trips, vectors for other implementations, and what is no message."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market.cbor import encode
from unhosted.market.channels import ChainId, ChannelConfig, Deployment
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import Address, ChannelId, ModelHash, RequestId, Signature
from unhosted.market.messages import StopRequest
from unhosted.market.money import Price
from unhosted.market.requests import RequestHash
from unhosted.market.terms import OUTPUT_TOKENS_MAX, Terms
from unhosted.node.shell.money.paid_wire import (
    Hello,
    StreamMessage,
    Tokens,
    WorkAsked,
    decode_stream,
    encode_stream,
    pack_ids,
    unpack_ids,
)

VECTORS = Path(__file__).parents[2] / "vectors" / "paid_1.json"
IDS = st.lists(st.integers(0, (1 << 32) - 1), max_size=64).map(tuple)
BYTES_32 = st.binary(min_size=32, max_size=32)

HELLO = Hello(
    contact=bytes(range(16)),
    deployment=Deployment(chain_id=ChainId(31337), contract=Address(b"\xcc" * 20)),
    config=ChannelConfig(
        payer=Address(b"\x01" * 20),
        signer=Address(b"\x02" * 20),
        payee=Address(b"\x03" * 20),
        delay_s=86_400,
        salt=b"\x04" * 32,
    ),
    signature=Signature(b"\x0a" * 65),
)
TOKENS = Tokens(request_id=RequestId(b"\x05" * 32), position=16, ids=(1, 2, 70_000))


def ask(prompt_ids: tuple[int, ...] = (9, 8, 7)) -> WorkAsked:
    return WorkAsked(
        terms=Terms(
            request_id=RequestId(b"\x05" * 32),
            channel_id=ChannelId(b"\x06" * 32),
            price=Price(in_micros_per_mtok=100_000, out_micros_per_mtok=3_000_000),
            tokens_in=len(prompt_ids),
            tokens_out_max=256,
            window_tokens=16,
        ),
        sequence=1,
        model=ModelHash(b"\x07" * 32),
        request_hash=RequestHash(b"\x08" * 32),
        salt=b"\x09" * 32,
        prompt_ids=prompt_ids,
    )


MESSAGES: dict[str, StreamMessage] = {"hello": HELLO, "ask": ask(), "tokens": TOKENS}


def test_the_vectors_are_what_is_sent() -> None:
    """docs/protocol.md names this file for other implementations."""
    vectors = json.loads(VECTORS.read_text())
    assert vectors == {name: encode_stream(message).hex() for name, message in MESSAGES.items()}
    for name, message in MESSAGES.items():
        assert decode_stream(bytes.fromhex(vectors[name])) == message


@given(IDS)
def test_ids_come_back_as_they_were(ids: tuple[int, ...]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids
    assert pack_ids(ids) == b"".join(one.to_bytes(4, "little") for one in ids)


@given(IDS.filter(bool), st.integers(0, OUTPUT_TOKENS_MAX), BYTES_32)
def test_tokens_and_asks_come_back_as_they_were(ids: tuple[int, ...], at: int, of: bytes) -> None:
    piece = Tokens(request_id=RequestId(of), position=at, ids=ids)
    assert decode_stream(encode_stream(piece)) == piece
    assert decode_stream(encode_stream(ask(ids))) == ask(ids)


@given(st.sampled_from(sorted(MESSAGES)), st.integers(0, 400), st.integers(1, 255))
def test_mutated_bytes_are_a_message_or_a_remote_fault(name: str, at: int, flip: int) -> None:
    data = bytearray(encode_stream(MESSAGES[name]))
    data[at % len(data)] ^= flip
    try:
        decode_stream(bytes(data))
    except RemoteFault as fault:
        assert fault.reason in {Reason.MALFORMED, Reason.WRONG_VERSION}


def test_words_about_money_share_the_stream() -> None:
    stop = StopRequest(request_id=RequestId(b"\x05" * 32), reason="cancelled")
    assert decode_stream(encode_stream(stop)) == stop


def test_a_piece_without_a_token_and_half_an_id_are_refused() -> None:
    fields = {"v": 1, "k": "tokens", "rid": TOKENS.request_id, "at": 16}
    with pytest.raises(RemoteFault, match="without a token"):
        decode_stream(encode({**fields, "ids": b""}))
    with pytest.raises(RemoteFault, match="multiple of 4"):
        decode_stream(encode({**fields, "ids": b"\0\0\0"}))


def test_a_prompt_that_is_not_as_long_as_stated_is_refused() -> None:
    with pytest.raises(ValueError, match="are stated"):
        WorkAsked(
            terms=ask().terms,
            sequence=1,
            model=ModelHash(b"\x07" * 32),
            request_hash=RequestHash(b"\x08" * 32),
            salt=bytes(32),
            prompt_ids=(1,),
        )
