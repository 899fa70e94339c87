"""What endpoints may say to a transaction, what it may cost, and what is kept of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from tests.devchain import DevChain, dev_chain
from tests.node.chain.faulty_rpc import change, error, faulty_rpc, lie
from tests.node.chain.opening import with_chain
from tests.node.chain.stage import OPERATOR, OWNER, STRANGER, fund, local_entry
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import address_text
from unhosted.node.core.chain import Call, ChainUnavailable
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import WebChain
from unhosted.node.shell.chain.sending import policy_for
from unhosted.node.shell.chain.transactions import KEY_CHARS_MAX

pytestmark = pytest.mark.slow

GWEI = 10**9


def _call(chain: WebChain, limit_micros: int = 5) -> Call:
    """An effect that is easy to see: the sender's own limit."""
    return calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=limit_micros)


async def _limit(chain: WebChain) -> int:
    return (await chain.account(STRANGER.address)).limit_micros


def _operator_events(dev: DevChain) -> int:
    """How often STRANGER's transactions took effect."""
    topic = keccak256(b"OperatorSet(address,address,uint96)")
    wanted = {
        "address": address_text(dev.contracts.channels),
        "fromBlock": "0x0",
        "topics": ["0x" + topic.hex(), "0x" + STRANGER.address.rjust(32, b"\0").hex()],
    }
    return len(dev.rpc.call("eth_getLogs", wanted))


def test_a_receipt_that_another_endpoint_denies_is_not_believed(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_getTransactionReceipt", lie(None))

        async def story(chain: WebChain) -> None:
            with pytest.raises(ChainUnavailable) as fault:
                await chain.send(_call(chain), STRANGER, key="operator")
            assert str(fault.value).count("contradict one another about transaction") == 2
            rpc.heal()
            await chain.send(_call(chain), STRANGER, key="operator")
            assert _operator_events(dev) == 1

        with_chain(local_entry(dev), [rpc.url, dev.url], tmp_path, story)


def test_a_receipt_of_a_block_that_is_gone_is_no_receipt(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:
        rpc.on(
            "eth_getTransactionReceipt", change(lambda one: one and {**one, "blockHash": "0x" + "ab" * 32})
        )

        async def story(chain: WebChain) -> None:
            with trio.move_on_after(0.5) as scope:
                await chain.send(_call(chain), STRANGER, key="operator")
            assert scope.cancelled_caught, "it is not in a block of this chain"
            [one] = await chain.transactions()
            assert one.state == "open"
            rpc.heal()
            await chain.send(_call(chain), STRANGER, key="operator")
            assert _operator_events(dev) == 1

        with_chain(local_entry(dev, confirmations=9), [rpc.url], tmp_path, story)


def test_an_endpoint_that_keeps_transactions_back_delays_nothing(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_sendRawTransaction", lie("0x" + "11" * 32))

        async def story(chain: WebChain) -> None:
            await chain.send(_call(chain), STRANGER, key="operator")
            assert await _limit(chain) == 5

        with_chain(local_entry(dev), [rpc.url, dev.url], tmp_path, story)


REFUSALS = (
    ("insufficient funds for gas * price + value: balance 1, tx cost 2", "no_gas"),
    ("exceeds block gas limit", None),
)


@pytest.mark.parametrize("words, code", REFUSALS)
def test_a_transaction_that_every_endpoint_refuses_frees_its_nonce(
    words: str, code: str | None, dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_sendRawTransaction", error(-32000, words))

        async def story(chain: WebChain) -> None:
            with pytest.raises((Refused, ChainUnavailable)) as refused:
                await chain.send(_call(chain), STRANGER, key="operator")
            assert getattr(refused.value, "code", None) == code
            rpc.heal()
            receipt = await chain.send(_call(chain, 9), STRANGER, key="other")
            assert receipt.is_safe
            newer, older = await chain.transactions()
            assert (newer.nonce, newer.state, older.nonce, older.state) == (0, "safe", 0, "refused")

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


@pytest.mark.parametrize("words", ["already known", "nonce too low: next nonce 1, tx nonce 0"])
def test_an_endpoint_that_took_it_already_is_no_refusal(words: str, dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        def twist(
            params: list[object], ask: Callable[[list[object]], dict[str, object]]
        ) -> dict[str, object]:
            ask(params)
            return {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": words}}

        rpc.on("eth_sendRawTransaction", twist)

        async def story(chain: WebChain) -> None:
            await chain.send(_call(chain), STRANGER, key="operator")
            assert _operator_events(dev) == 1

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


def test_little_gas_money_is_enough_for_a_small_room_above_the_price(dev: DevChain, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        gas = await chain.check(_call(chain), sender=OWNER.address)
        limit, price_wei = gas + gas // 4, await chain.gas_price()
        dev.give_eth(OWNER.address, limit * price_wei * 5 // 4)
        receipt = await chain.send(_call(chain), OWNER, key="operator")
        assert receipt.fee_wei <= limit * price_wei * 5 // 4

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_more_gas_than_was_allowed_is_refused(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        call = replace(_call(chain), gas_max=30_000)
        with pytest.raises(Refused) as refused:
            await chain.send(call, STRANGER, key="operator")
        assert refused.value.code == "price_too_high"
        assert refused.value.details["gas_max"] == 30_000

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_a_key_goes_on_with_the_call_that_was_kept_under_it(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        first = await chain.send(_call(chain, 1), STRANGER, key="operator")
        assert await chain.send(_call(chain, 2), STRANGER, key="operator") == first
        assert await _limit(chain) == 1
        for key in ("", "x" * (KEY_CHARS_MAX + 1)):
            with pytest.raises(LocalFault):
                await chain.send(_call(chain), STRANGER, key=key)

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_history_tells_what_was_paid(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        receipt = await chain.send(_call(chain), STRANGER, key="operator")
        [one] = await chain.transactions()
        assert (one.fee_wei, one.gas_used) == (receipt.fee_wei, receipt.gas_used)
        assert one.block_unix_s == dev.head()[1]
        await chain.settle()
        assert (one.key, one.call.purpose) == ("operator", "set operator")
        spent_wei = 10**18 - await chain.gas_balance(STRANGER.address)
        assert receipt.fee_wei == spent_wei

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_a_new_local_chain_is_not_taken_for_the_one_before(dev: DevChain, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        assert await chain.transactions() == []
        receipt = await chain.send(_call(chain), STRANGER, key="operator")
        assert await chain.gas_balance(STRANGER.address) == 10**18 - receipt.fee_wei

    fund(dev)
    with_chain(local_entry(dev), [dev.url], tmp_path, story)
    with dev_chain() as fresh:
        fund(fresh)
        with_chain(local_entry(fresh), [fresh.url], tmp_path, story)


def test_the_pace_follows_the_chains_blocks(dev: DevChain) -> None:
    quick, slow = (policy_for(local_entry(dev, block_time_ms=time_ms)) for time_ms in (250, 12_000))
    assert quick.poll_s < slow.poll_s <= 2
    assert slow.stuck_s == 60
    assert quick.stuck_s >= 20
