"""Messages about money: one form for each value, one error for everything else."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market import messages
from unhosted.market.cbor import decode, encode
from unhosted.market.channels import ChainId, ChannelConfig, Deployment, SignedVoucher, Voucher
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import Address, ChannelId, Digest, RequestId, Signature
from unhosted.market.messages_wire import MESSAGE_BYTES_MAX, decode_money, encode_money
from unhosted.market.money import Micros

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "money_1.json").read_text("utf-8"))

CHANNEL = ChannelId(b"\xc1" * 32)
REQUEST = RequestId(b"\x21" * 32)
SIGNED = SignedVoucher(
    voucher=Voucher(channel_id=CHANNEL, amount_micros=Micros(148)), signature=Signature(b"\x51" * 65)
)
ALLOCATION = messages.Allocation(
    total_micros=Micros(1_000_000), valid_before_unix_s=1_800_000_000, signature=Signature(b"\x52" * 65)
)
EXAMPLES: dict[str, messages.MoneyMessage] = {
    "voucher": messages.VoucherMessage(signed=SIGNED),
    "need": messages.VoucherNeeded(request_id=REQUEST, needed_micros=Micros(196)),
    "state": messages.ChannelState(
        contact=b"\x0c" * 16, channel_id=CHANNEL, voucher=SIGNED, due_micros=Micros(120), sequence=7
    ),
    "state of a new channel": messages.ChannelState(
        contact=b"\x0c" * 16, channel_id=CHANNEL, voucher=None, due_micros=Micros(0), sequence=0
    ),
    "answer": messages.StateAnswer(contact=b"\x0c" * 16, channel_id=CHANNEL, due_micros=Micros(120)),
    "stop": messages.StopRequest(request_id=REQUEST, reason="cancelled"),
    "end": messages.RequestEnd(request_id=REQUEST, tokens_out=31, end="finished"),
    "end of what was refused": messages.RequestEnd(
        request_id=REQUEST, tokens_out=0, end="failed", refusal="channel_exhausted"
    ),
    "relay": messages.RelayRequest(
        deployment=Deployment(chain_id=ChainId(31337), contract=Address(b"\xcc" * 20)),
        config=ChannelConfig(
            payer=Address(b"\x01" * 20),
            signer=Address(b"\x02" * 20),
            payee=Address(b"\x03" * 20),
            delay_s=86_400,
            salt=bytes(32),
        ),
        allocation=ALLOCATION,
        deposit=messages.DepositAuthorisation(
            value_micros=Micros(5_000_000),
            valid_after_unix_s=0,
            valid_before_unix_s=1_800_000_000,
            operator=Address(b"\x02" * 20),
            limit_micros=Micros(5_000_000),
            salt=b"\x5a" * 32,
            signature=Signature(b"\x53" * 65),
        ),
    ),
    "topup": messages.TopUpOffer(channel_id=CHANNEL, allocation=ALLOCATION),
    "relayed": messages.RelayAnswer(channel_id=CHANNEL, transaction=b"\x7e" * 32),
    "relayed not": messages.RelayAnswer(
        channel_id=CHANNEL, transaction=None, message="the fee is above what the channel is worth"
    ),
    "close": messages.CloseOffer(signed=SIGNED),
    "closed": messages.CloseSigned(
        channel_id=CHANNEL, amount_micros=Micros(148), signature=Signature(b"\x54" * 65)
    ),
    "unclosed": messages.CloseRefused(channel_id=CHANNEL, reason="amount_too_low", needed_micros=Micros(150)),
    "receipted": messages.ReceiptAck(request_id=REQUEST, receipt=Digest(b"\xdd" * 32)),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_message_has_one_form(name: str) -> None:
    data = encode_money(EXAMPLES[name])
    assert decode_money(data) == EXAMPLES[name]
    assert len(data) <= MESSAGE_BYTES_MAX
    assert data.hex() == VECTORS[name]


def test_the_vectors_are_all_of_them() -> None:
    assert list(VECTORS) == list(EXAMPLES)


def test_unknown_kinds_and_fields_are_passed_over() -> None:
    assert decode_money(encode({"v": 1, "k": "rebate", "amount": 5})) is None
    value = decode(encode_money(EXAMPLES["voucher"]), bytes_max=MESSAGE_BYTES_MAX)
    assert decode_money(encode({**value, "hint": 3})) == EXAMPLES["voucher"]


def test_another_version_is_refused() -> None:
    value = decode(encode_money(EXAMPLES["voucher"]), bytes_max=MESSAGE_BYTES_MAX)
    with pytest.raises(RemoteFault) as caught:
        decode_money(encode({**value, "v": 2}))
    assert caught.value.reason is Reason.WRONG_VERSION


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("voucher", "amount", -1),
        ("voucher", "amount", 1 << 63),
        ("voucher", "sig", b"\x51" * 64),
        ("voucher", "ch", b"\xc1" * 31),
        ("need", "needed", True),
        ("state", "contact", b"\x0c" * 15),
        ("state", "seq", 1 << 53),
        ("state", "sig", None),
        ("end", "tokens", (1 << 40) + 1),
        ("end", "end", "won"),
        ("end", "why", "channel_exhausted"),
        ("stop", "why", "because"),
        ("relay", "delay", 60),
        ("relay", "payee", bytes(20)),
        ("relay", "chain", 0),
        ("relay", "allocate", 5),
        ("topup", "allocate", {}),
        ("relayed not", "message", "two\nlines"),
        ("relayed", "tx", b""),
        ("receipted", "receipt", b"\xdd"),
    ],
)
def test_a_field_outside_its_rule_is_the_peers_fault(name: str, field: str, value: object) -> None:
    message = decode(encode_money(EXAMPLES[name]), bytes_max=MESSAGE_BYTES_MAX)
    with pytest.raises(RemoteFault) as caught:
        decode_money(encode({**message, field: value}))
    assert caught.value.reason is Reason.MALFORMED


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(EXAMPLES)),
    cuts=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    length=st.integers(0, 700),
)
def test_no_bytes_do_more_than_raise_the_one_error(
    name: str, cuts: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(encode_money(EXAMPLES[name]))
    for place, value in cuts:
        data[place % len(data)] = value
    damaged = bytes(data[: length or len(data)])
    try:
        message = decode_money(damaged)
    except RemoteFault:
        return
    assert message is None or decode_money(encode_money(message)) == message


@settings(max_examples=80, deadline=None)
@given(data=st.binary(max_size=200))
def test_noise_is_no_message(data: bytes) -> None:
    with suppress(RemoteFault):
        assert decode_money(data) is None


def test_a_message_above_its_size_is_not_read() -> None:
    value = decode(encode_money(EXAMPLES["voucher"]), bytes_max=MESSAGE_BYTES_MAX)
    with pytest.raises(RemoteFault):
        decode_money(encode({**value, "pad": bytes(MESSAGE_BYTES_MAX)}))
