"""What goes over the wire to contracts and endpoints, and what strangers may send back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node.chain.stage import OPERATOR, OWNER, SELLER, config_of, row
from unhosted.contracts import artifact
from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain, keccak256
from unhosted.market.ids import Address
from unhosted.node.core.chain import Call, CallReverted, ChainFacts
from unhosted.node.shell.chain import answers, calls
from unhosted.node.shell.chain.abi import AbiError, channels_abi, decode, encode, function_call, split_types
from unhosted.node.shell.chain.answers import EndpointFault, RpcError
from unhosted.node.shell.chain.reverts import TOKEN_WORDS, WORDS, reverted, reverted_by

AT = Deployment(chain_id=ChainId(31337), contract=Address(b"\x22" * 20))
TOKEN = TokenDomain(name="USD Coin", version="2", chain_id=AT.chain_id, contract=Address(b"\x11" * 20))
FACTS = ChainFacts(
    name="local",
    chain_id=AT.chain_id,
    token=TOKEN,
    channels=AT,
    bonds=None,
    confirmations=0,
    explorer_url="",
    is_test=True,
)
CONFIG = config_of()
CFG = (CONFIG.payer, CONFIG.signer, CONFIG.payee, CONFIG.delay_s, CONFIG.salt)
SIGNATURE = bytes(range(65))
AUTHORIZATION = calls.DepositAuthorization(
    payer=OWNER.address,
    value_micros=1,
    valid_after_unix_s=2,
    valid_before_unix_s=3,
    operator=OPERATOR.address,
    limit_micros=4,
    salt=bytes(32),
    signature=SIGNATURE,
)
ROW = row(FACTS, CONFIG, amount_micros=9)


@pytest.mark.parametrize(
    "call, signature, values",
    [
        (calls.deposit(AT, value_micros=5), "deposit(uint256)", {"value": 5}),
        (
            calls.deposit_with_permit(AT, value_micros=5, deadline_unix_s=6, signature=SIGNATURE),
            "depositWithPermit(uint256,uint256,bytes)",
            {"value": 5, "deadline": 6, "sig": SIGNATURE},
        ),
        (
            calls.deposit_with_authorization(AT, AUTHORIZATION),
            "depositWithAuthorization(address,uint256,uint256,uint256,address,uint96,bytes32,bytes)",
            {
                "payer": OWNER.address,
                "value": 1,
                "validAfter": 2,
                "validBefore": 3,
                "operator": OPERATOR.address,
                "limit": 4,
                "salt": bytes(32),
                "sig": SIGNATURE,
            },
        ),
        (
            calls.set_operator(AT, OPERATOR.address, limit_micros=7),
            "setOperator(address,uint96)",
            {"operator": OPERATOR.address, "limit": 7},
        ),
        (calls.withdraw(AT, value_micros=8), "withdraw(uint96)", {"value": 8}),
        (
            calls.allocate(AT, CONFIG, total_micros=9, valid_before_unix_s=10, signature=SIGNATURE),
            "allocate((address,address,address,uint32,bytes32),uint96,uint40,bytes)",
            {"cfg": CFG, "total": 9, "validBefore": 10, "sig": SIGNATURE},
        ),
        (
            calls.claim(AT, SELLER.address, [ROW], payout=True),
            "claim(address,((address,address,address,uint32,bytes32),uint96,bytes)[],bool)",
            {"payee": SELLER.address, "rows": ((CFG, 9, ROW.voucher.signature),), "payOut": True},
        ),
        (calls.payout(AT, SELLER.address), "payout(address)", {"payee": SELLER.address}),
        (
            calls.close(AT, CONFIG, amount_micros=0, voucher=None, payee_signature=SIGNATURE),
            "close((address,address,address,uint32,bytes32),uint96,bytes,bytes)",
            {"cfg": CFG, "amount": 0, "voucherSig": b"", "payeeSig": SIGNATURE},
        ),
        (
            calls.request_close(AT, CONFIG, valid_before_unix_s=11, signature=SIGNATURE),
            "requestClose((address,address,address,uint32,bytes32),uint40,bytes)",
            {"cfg": CFG, "validBefore": 11, "sig": SIGNATURE},
        ),
        (
            calls.finalize_close(AT, CONFIG),
            "finalizeClose((address,address,address,uint32,bytes32))",
            {"cfg": CFG},
        ),
    ],
)
def test_a_call_says_what_its_builder_was_told(call: Call, signature: str, values: dict[str, object]) -> None:
    assert call.to == AT.contract
    assert call.data[:4] == keccak256(signature.encode())[:4]
    assert channels_abi().decode_call(call.data) == (signature.partition("(")[0], values)


def test_a_multicall_holds_its_calls() -> None:
    inner = [calls.deposit(AT, value_micros=5), calls.payout(AT, SELLER.address)]
    name, values = channels_abi().decode_call(calls.multicall(AT, inner, purpose="both").data)
    assert (name, values) == ("multicall", {"data": tuple(call.data for call in inner)})
    elsewhere = calls.approve(TOKEN, AT.contract, value_micros=1)
    for wrong in ([], [elsewhere], inner * calls.CALLS_MAX):
        with pytest.raises(ValueError, match="1 to 16 are possible"):
            calls.multicall(AT, wrong, purpose="both")


def test_a_claim_is_bounded() -> None:
    for count in (0, calls.CLAIM_ROWS_MAX + 1):
        with pytest.raises(ValueError, match="1 to 100 are possible"):
            calls.claim(AT, SELLER.address, [ROW] * count, payout=False)


def test_types_are_split_at_the_outer_commas() -> None:
    assert split_types("address,(uint8,(bool,bytes))[],uint96") == (
        "address",
        "(uint8,(bool,bytes))[]",
        "uint96",
    )
    assert split_types("") == ()


def test_a_value_outside_its_type_is_no_call() -> None:
    for value in (-1, 1 << 96):
        with pytest.raises(AbiError):
            calls.withdraw(AT, value_micros=value)


def test_every_error_of_the_contract_has_words() -> None:
    errors = {part["name"] for part in artifact("Channels").abi if part["type"] == "error"}
    assert errors == set(WORDS)


def _error(name: str, *values: object) -> bytes:
    part = next(one for one in artifact("Channels").abi if one["type"] == "error" and one["name"] == name)
    types = [one["type"] for one in part["inputs"]]
    return keccak256(f"{name}({','.join(types)})".encode())[:4] + encode(types, values)


def test_an_error_of_the_contract_is_told_with_its_values() -> None:
    found = reverted_by(_error("OverLimit", 2_000_001, 500_000), purpose="allocate")
    assert (found.error, found.values) == ("OverLimit", {"value": 2_000_001, "left": 500_000})
    assert "value 2.000001 USDC, left 0.50 USDC" in str(found)
    assert "monthly limit" in str(found)


@pytest.mark.parametrize("reason", TOKEN_WORDS)
def test_a_word_of_the_token_becomes_one_of_ours(reason: str) -> None:
    data = bytes.fromhex("08c379a0") + encode(("string",), (reason,))
    for found in (
        reverted(RpcError(3, "execution reverted", data), purpose="deposit"),
        reverted(RpcError(3, f"execution reverted: {reason}", b""), purpose="deposit"),
    ):
        assert (found.error, found.values) == ("Error", {"reason": reason})
        assert TOKEN_WORDS[reason] in str(found)


def test_other_reverts_are_told_as_they_are() -> None:
    panic = reverted_by(bytes.fromhex("4e487b71") + (0x11).to_bytes(32, "big"), purpose="claim")
    assert (panic.error, panic.values) == ("Panic", {"code": 0x11})
    silent = reverted_by(b"", purpose="claim")
    assert (silent.error, str(silent)) == ("unknown", "claim was reverted, the contract said nothing")
    foreign = reverted_by(b"\x01\x02\x03\x04", purpose="claim")
    assert foreign.values == {"data": b"\x01\x02\x03\x04"}
    wordless = reverted(RpcError(-32000, "out of gas", b""), purpose="claim")
    assert str(wordless) == "claim was reverted: out of gas"


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([b"", bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")]))
def test_no_revert_data_breaks_us(data: bytes, start: bytes) -> None:
    assert isinstance(reverted_by(start + data, purpose="claim"), CallReverted)


@pytest.mark.parametrize("message", ["execution reverted", "", "VM Exception: revert"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda text: text,
        lambda text: {"data": text},
        lambda text: f"Reverted {text}",
        lambda text: {"result": text, "program_counter": 5},
    ],
)
def test_revert_data_is_found_wherever_an_endpoint_puts_it(wrap: object, message: str) -> None:
    data = _error("OverFree", 2, 1)
    fault = {"code": 3, "message": message, "data": wrap("0x" + data.hex())}  # type: ignore[operator]
    with pytest.raises(RpcError) as failure:
        answers.result_of({"error": fault})
    assert failure.value.is_revert
    assert reverted(failure.value, purpose="withdraw").error == "OverFree"


LIMITS = (
    (-32005, "limit exceeded"),
    (429, "too fast"),
    (-32029, ""),
    (-32000, "rate limit reached, try again in 2s"),
    (-32000, "Too Many Requests"),
    (-32000, "daily request count exceeded, request rate limited"),
    (-32097, "Your app has exceeded its compute units per second capacity."),
)
RANGES = (
    (-32005, "query returned more than 10000 results"),
    (-32602, "block range is too wide"),
    (-32000, "exceed maximum block range: 5000"),
    (-32600, "eth_getLogs is limited to a 10,000 range: block range too large"),
    (-32614, "eth_getLogs is limited to 0 - 1000 blocks range"),
)


@pytest.mark.parametrize("code, message", LIMITS)
def test_a_limit_is_known_by_its_code_or_its_words(code: int, message: str) -> None:
    with pytest.raises(EndpointFault) as fault:
        answers.result_of({"error": {"code": code, "message": message}})
    assert fault.value.kind == "limited"


@pytest.mark.parametrize("code, message", RANGES)
def test_too_wide_a_range_is_no_limit_of_requests(code: int, message: str) -> None:
    with pytest.raises(RpcError) as failure:
        answers.result_of({"error": {"code": code, "message": message}})
    assert failure.value.is_range


@pytest.mark.parametrize(
    "message", ["gas limit exceeded", "intrinsic gas too low", "nonce too low", "execution reverted: quoted"]
)
def test_other_errors_are_the_methods_own(message: str) -> None:
    with pytest.raises(RpcError):
        answers.result_of({"error": {"code": -32000, "message": message}})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.from_regex(r"0x[0-9a-f]{0,80}", fullmatch=True),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(
            st.sampled_from(
                [
                    "result",
                    "error",
                    "code",
                    "message",
                    "data",
                    "number",
                    "hash",
                    "timestamp",
                    "blockNumber",
                    "blockHash",
                    "transactionHash",
                    "status",
                    "gasUsed",
                    "topics",
                    "address",
                    "logIndex",
                    "removed",
                ]
            ),
            inner,
            max_size=8,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(JSON)
def test_no_answer_breaks_us(value: object) -> None:
    """Whatever an endpoint says, it is a value of ours, its own error, or a fault of the endpoint."""
    value = json.loads(json.dumps(value))
    readers = (
        answers.result_of,
        answers.block,
        lambda one: answers.mined(one, bytes(32)),
        lambda one: answers.event(one, contract=AT.contract, first=0, last=9),
        lambda one: answers.quantity(one, "x"),
        lambda one: answers.data(one, "x"),
    )
    for reader in readers:
        try:
            reader(value)
        except (EndpointFault, RpcError) as fault:
            assert len(str(fault)) < 500


def _log(**changes: object) -> dict[str, object]:
    topic = keccak256(b"Claimed(bytes32,uint96)")
    return {
        "address": "0x" + AT.contract.hex(),
        "topics": ["0x" + topic.hex(), "0x" + "07" * 32],
        "data": "0x" + (5).to_bytes(32, "big").hex(),
        "blockNumber": "0x5",
        "blockHash": "0x" + "0b" * 32,
        "transactionHash": "0x" + "0c" * 32,
        "logIndex": "0x2",
        "removed": False,
        **changes,
    }


def test_a_log_is_read() -> None:
    found = answers.event(_log(), contract=AT.contract, first=5, last=5)
    assert found is not None
    assert (found.name, found.values) == ("Claimed", {"id": b"\x07" * 32, "amount": 5})
    assert (found.block_number, found.log_index, found.transaction) == (5, 2, b"\x0c" * 32)
    unknown = _log(topics=["0x" + "01" * 32])
    assert answers.event(unknown, contract=AT.contract, first=5, last=5) is None
    assert answers.event(_log(topics=[]), contract=AT.contract, first=5, last=5) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"address": "0x" + "99" * 20},
        {"blockNumber": "0x6"},
        {"removed": True},
        {"topics": ["0x" + keccak256(b"Claimed(bytes32,uint96)").hex()]},
        {"data": "0x01"},
        {"data": "0x" + "ff" * 32},
        {"topics": "0x"},
        {"logIndex": "two"},
    ],
)
def test_a_log_that_is_not_ours_or_not_whole_is_a_fault_of_the_endpoint(changes: dict[str, object]) -> None:
    with pytest.raises(EndpointFault):
        answers.event(_log(**changes), contract=AT.contract, first=5, last=5)


def test_a_receipt_of_another_transaction_is_a_lie() -> None:
    receipt = {
        "transactionHash": "0x" + "0c" * 32,
        "status": "0x1",
        "blockNumber": "0x5",
        "blockHash": "0x" + "0b" * 32,
        "gasUsed": "0x5208",
        "effectiveGasPrice": "0x10",
        "l1Fee": "0x64",
    }
    assert answers.mined(receipt, b"\x0c" * 32).fee_wei == 21_000 * 16 + 100
    with pytest.raises(EndpointFault) as fault:
        answers.mined(receipt, b"\x0d" * 32)
    assert fault.value.kind == "lying"


def test_padding_and_missing_bytes_are_seen() -> None:
    for data in (b"", b"\x01", bytes(31), b"\xff" * 32):
        with pytest.raises(AbiError):
            decode(("address",), data)
    assert function_call("name()") == keccak256(b"name()")[:4]
