"""The paid stream's bytes: round trips, vectors for other implementations, and what is no message."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market.acks import SignedAck, StreamAck
from unhosted.market.cbor import encode
from unhosted.market.channels import ChainId, ChannelConfig, Deployment
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import Address, ChannelId, ModelHash, RequestId, Signature, parse_peer
from unhosted.market.messages import StopRequest
from unhosted.market.money import Price
from unhosted.market.requests import NO_QUOTE, Request, encode_request
from unhosted.market.roots import TOKEN_ID_MAX, ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import OUTPUT_TOKENS_MAX, Terms
from unhosted.node.core.engine_facts import EngineFacts, facts_hash
from unhosted.node.core.sampling_words import Sampling, encode_sampling
from unhosted.node.shell.money.paid_wire import (
    AckGiven,
    EngineStated,
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
IDS = st.lists(st.integers(0, TOKEN_ID_MAX), max_size=64).map(tuple)
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
BUYER = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
SELLER = "12D3KooWHdiAxVd8uMQR1hGWXccidmfCwLqcMpGwR6QcTP6QRMuD"
FACTS = EngineFacts(library="0.1 (abc)", build="0a" * 32, device="cpu:x86-64:avx2", weights="q4_1")
TOKENS = Tokens(request_id=RequestId(b"\x05" * 32), position=16, ids=(1, 2, 70_000))


def ask(prompt_ids: tuple[int, ...] = (9, 8, 7)) -> WorkAsked:
    request = Request(
        buyer=parse_peer(BUYER),
        seller=parse_peer(SELLER),
        quote=NO_QUOTE,
        model=ModelHash(b"\x07" * 32),
        terms=Terms(
            request_id=RequestId(b"\x05" * 32),
            channel_id=ChannelId(b"\x06" * 32),
            price=Price(in_micros_per_mtok=100_000, out_micros_per_mtok=3_000_000),
            tokens_in=len(prompt_ids),
            tokens_out_max=256,
            window_tokens=16,
        ),
        prompt_root=ids_root("prompt", prompt_ids, salt=b"\x09" * 32),
        sampling=encode_sampling(Sampling(stop=("\n\n",))),
        seed=bytes(range(32)),
        channel_sequence=1,
        sent_unix_s=1_700_000_000,
    )
    signed = Signed(body=encode_request(request), signature=b"\x08" * 64)
    return WorkAsked(signed=signed, request=request, salt=b"\x09" * 32, prompt_ids=prompt_ids)


def acknowledgement() -> AckGiven:
    ack = StreamAck(
        request_hash=ask().request_hash,
        tokens_out=64,
        output_root=ids_root("output", range(64), salt=b"\x09" * 32),
        engine=facts_hash(FACTS),
        check="exact",
    )
    signed = SignedAck(ack=ack, signature=Signature(b"\x0b" * 65))
    return AckGiven(request_id=ask().terms.request_id, signed=signed)


MESSAGES: dict[str, StreamMessage] = {
    "hello": HELLO,
    "ask": ask(),
    "tokens": TOKENS,
    "engine": EngineStated(facts=FACTS),
    "ack": acknowledgement(),
}


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
    whole = ask()
    with pytest.raises(ValueError, match="are stated"):
        WorkAsked(signed=whole.signed, request=whole.request, salt=bytes(32), prompt_ids=(1,))


def test_an_id_that_no_vocabulary_has_is_refused() -> None:
    packed = pack_ids([TOKEN_ID_MAX + 1])
    with pytest.raises(RemoteFault, match="token id 2147483648 is above"):
        decode_stream(encode({"v": 1, "k": "tokens", "rid": TOKENS.request_id, "at": 16, "ids": packed}))
