"""What the owner is asked to sign: within bounds, as wallets read it, and nothing else comes back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, address_text, parse_address
from unhosted.market.money import Micros
from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import (
    SIGNATURE_BYTES_MAX,
    DepositRequest,
    DepositRoom,
    check_deposit,
    from_json,
    signature_of,
    to_json,
    typed_data,
    with_signature,
)
from unhosted.node.shell.keys.signer import recover
from unhosted.node.shell.wallet.deposits import WAITING_MAX, DepositFiles

OWNER = Account.from_key(bytes(range(1, 33)))
BASE = ChainId(8453)
NOW = 1_900_000_000
ROOM = DepositRoom(
    cap_micros=5_000_000,
    spent_micros=1_000_000,
    reserved_micros=500_000,
    in_contract_micros=97_000_000,
    unspent_micros=250_000,
    deposited_max_micros=100_000_000,
)


def make(number: int = 7, *, amount_micros: int = 4_250_000, valid_s: int = 1000) -> DepositRequest:
    return DepositRequest(
        chain_name="base",
        title="Base",
        token=TokenDomain(name="USD Coin", version="2", chain_id=BASE, contract=Address(b"\x22" * 20)),
        channels=Deployment(chain_id=BASE, contract=Address(b"\x33" * 20)),
        owner=parse_address(OWNER.address),
        operator=Address(b"\x44" * 20),
        amount_micros=Micros(amount_micros),
        limit_micros=Micros(5_000_000),
        valid_after_unix_s=0,
        valid_before_unix_s=NOW + valid_s,
        salt=number.to_bytes(32, "little"),
    )


def shown(request: DepositRequest) -> dict[str, object]:
    return json.loads(json.dumps(to_json(request, valid_until="later")))  # type: ignore[no-any-return]


def test_a_wallet_signs_from_the_file_what_the_contract_checks() -> None:
    request = make()
    message = encode_typed_data(full_message=typed_data(request))
    signature = OWNER.sign_message(message).signature
    assert recover(request.digest, signature) == request.owner


@settings(deadline=None)
@given(
    amount=st.integers(1, (1 << 96) - 1),
    limit=st.integers(1, (1 << 96) - 1),
    salt=st.binary(min_size=32, max_size=32),
    signature=st.none() | st.binary(min_size=65, max_size=200),
)
def test_a_request_survives_its_file(amount: int, limit: int, salt: bytes, signature: bytes | None) -> None:
    request = replace(make(), amount_micros=Micros(amount), limit_micros=Micros(limit), salt=salt)
    if signature is not None:
        request = with_signature(request, signature)
    assert from_json(shown(request)) == request


@pytest.mark.parametrize(
    "field", ["amount_micros", "monthly_limit_micros", "operator", "owner", "salt", "chain_id"]
)
def test_a_changed_field_does_not_go_with_what_was_signed(field: str) -> None:
    told = shown(make())
    other = shown(replace(make(8, amount_micros=9), limit_micros=Micros(6), operator=Address(b"\x45" * 20)))
    told[field] = 1 if field == "chain_id" else "0x" + "55" * 20 if field == "owner" else other[field]
    with pytest.raises(ValueError, match=r"says something else|token on chain"):
        from_json(told)


def test_what_is_done_with_the_deposit_is_said_in_words() -> None:
    words = " ".join(shown(make())["what"])  # type: ignore[arg-type]
    for part in ("USD 4.25", OWNER.address, "Base (chain 8453)", address_text(make().operator), "USD 5.00"):
        assert part in words


def test_a_deposit_within_all_bounds_is_accepted() -> None:
    check_deposit(ROOM, amount_micros=3_000_000, limit_micros=5_000_000)


@pytest.mark.parametrize(
    ("room", "amount", "limit", "message"),
    [
        (replace(ROOM, cap_micros=0), 1, 1, "the monthly cap is 0"),
        (ROOM, 3_500_001, 5_000_000, r"above the USD 3\.50 that may still be spent.*cap 5\.00, spent 1\.00"),
        (replace(ROOM, unspent_micros=3_999_999), 2, 1, r"above the USD 0\.000001 .*unspent in the contract"),
        (ROOM, 3_000_001, 5_000_000, r"would make USD 100\.000001 in the contract.*limit of USD 100\.00"),
        (replace(ROOM, spent_micros=9_000_000), 1, 1, r"above the USD 0\.00"),
        (ROOM, 1, 5_000_001, r"monthly limit of USD 5\.000001"),
        (ROOM, 0, 1, "deposit of 0"),
        (ROOM, 1, 0, "limit of 0"),
    ],
)
def test_a_deposit_beyond_a_bound_is_refused_with_the_numbers(
    room: DepositRoom, amount: int, limit: int, message: str
) -> None:
    with pytest.raises(Refused, match=message):
        check_deposit(room, amount_micros=amount, limit_micros=limit)


@pytest.mark.parametrize("size", [0, 64, SIGNATURE_BYTES_MAX + 1])
def test_a_signature_that_no_wallet_makes_is_refused(size: int) -> None:
    with pytest.raises(Refused, match=f"signature of {size} bytes"):
        with_signature(make(), bytes(size))


@pytest.mark.parametrize(
    "told", [{}, {"id": "a"}, {"id": 5, "signature": "0x00"}, {"id": "a", "signature": "zz"}]
)
def test_a_file_without_a_signature_says_what_is_missing(told: dict[str, object]) -> None:
    with pytest.raises(Refused, match="the signed file is not usable"):
        signature_of(told)


def test_requests_wait_on_the_disk_until_they_expire(tmp_path: Path) -> None:
    files = DepositFiles(tmp_path / "deposits")
    assert files.waiting(now_unix_s=NOW) == []
    short, long = make(1, valid_s=10), make(2)
    path = files.save(short, now_unix_s=NOW)
    files.save(long, now_unix_s=NOW)
    assert path.stat().st_mode & 0o777 == 0o600
    assert DepositFiles(tmp_path / "deposits").load(short.deposit_id) == short
    assert {one.deposit_id for one in files.waiting(now_unix_s=NOW)} == {short.deposit_id, long.deposit_id}
    assert files.waiting(now_unix_s=NOW + 10) == [long]
    assert not path.exists()


@pytest.mark.parametrize("deposit_id", ["", "0" * 16, "../../etc/passwd", "0" * 15 + "/"])
def test_an_id_that_nothing_waits_under_is_refused(tmp_path: Path, deposit_id: str) -> None:
    with pytest.raises(Refused, match="waits for a signature here"):
        DepositFiles(tmp_path).load(deposit_id)


@pytest.mark.parametrize("content", ["", "[]", "{", "x" * 40_000, '{"format": "unhosted/deposit/1"}'])
def test_a_damaged_file_of_ours_is_passed_over(tmp_path: Path, content: str) -> None:
    files = DepositFiles(tmp_path)
    path = files.save(make(), now_unix_s=NOW)
    path.write_text(content)
    assert files.waiting(now_unix_s=NOW) == []
    with pytest.raises(Refused, match="waits for a signature here"):
        files.load(make().deposit_id)


def test_a_file_under_another_id_is_passed_over(tmp_path: Path) -> None:
    files = DepositFiles(tmp_path)
    path = files.save(make(), now_unix_s=NOW)
    path.rename(path.with_name("0" * 16 + ".json"))
    assert files.waiting(now_unix_s=NOW) == []


def test_a_loop_that_asks_is_stopped(tmp_path: Path) -> None:
    files = DepositFiles(tmp_path)
    for number in range(WAITING_MAX):
        files.save(make(number), now_unix_s=NOW)
    with pytest.raises(Refused, match="which is the limit"):
        files.save(make(99), now_unix_s=NOW)
    files.save(make(0), now_unix_s=NOW)  # one that waits already may be written again
