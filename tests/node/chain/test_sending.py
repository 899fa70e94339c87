"""One effective transaction for one key, while the chain loses, delays, displaces and undoes them."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from tests.devchain import DevChain
from tests.node.chain.faulty_rpc import faulty_rpc
from tests.node.chain.opening import with_chain
from tests.node.chain.stage import FAST, HASTY, OPERATOR, PATIENT, SELLER, STRANGER, fund, local_entry
from unhosted.market.eip712 import keccak256
from unhosted.market.ids import address_text
from unhosted.node.core.chain import Call, CallReverted, Receipt
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import WebChain, open_chain

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


def _pending(dev: DevChain) -> int:
    count: str = dev.rpc.call("txpool_status")["pending"]
    return int(count, 16)


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.01)


async def _sent_then(
    dev: DevChain, chain: WebChain, meanwhile: Callable[[], Awaitable[None]], *, key: str = "operator"
) -> Receipt:
    """Sends while no block is made; `meanwhile` runs once it waits in the mempool."""
    receipts = []

    async def send() -> None:
        receipts.append(await chain.send(_call(chain), STRANGER, key=key))

    dev.rpc.call("evm_setAutomine", False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await _until(lambda: _pending(dev) > 0)
        await meanwhile()
    return receipts[0]


def test_a_transaction_that_mempools_dropped_is_sent_again(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        async def meanwhile() -> None:
            dev.rpc.call("anvil_dropAllTransactions")
            assert _pending(dev) == 0
            await _until(lambda: _pending(dev) > 0)
            dev.mine()

        await _sent_then(dev, chain, meanwhile)
        assert await _limit(chain) == 5
        [one] = await chain.transactions()
        assert len(one.attempts) == 1
        assert _operator_events(dev) == 1

    with_chain(local_entry(dev), [dev.url], tmp_path, story, sending_policy=PATIENT)


def test_a_stuck_transaction_is_replaced_at_a_higher_fee(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        async def meanwhile() -> None:
            [first] = await chain.transactions()
            base_fee_wei = 3 * first.attempts[0].fees.max_fee_wei
            dev.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
            dev.mine()
            assert await _limit(chain) == 0, "its offer is below the base fee"
            while (await chain.transactions())[0].attempts[0].fees.max_fee_wei < base_fee_wei:
                await trio.sleep(0.02)
            await _until(lambda: _pending(dev) > 0)
            dev.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(base_fee_wei))
            dev.mine()

        receipt = await _sent_then(dev, chain, meanwhile)
        assert await _limit(chain) == 5
        assert _operator_events(dev) == 1
        [one] = await chain.transactions()
        offers = [attempt.fees for attempt in one.attempts]
        for dearer, cheaper in pairwise(offers):
            assert 8 * dearer.max_fee_wei >= 9 * cheaper.max_fee_wei
            assert 8 * dearer.tip_wei >= 9 * cheaper.tip_wei
        assert len(offers) > 1
        assert receipt.transaction in {attempt.transaction for attempt in one.attempts}

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_the_fee_stops_at_the_chains_ceiling(
    dev: DevChain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fund(dev)
    ceiling_wei = 5 * int(dev.rpc.call("eth_gasPrice"), 16)
    entry = replace(local_entry(dev), fee_per_gas_wei_max=ceiling_wei)

    async def story(chain: WebChain) -> None:
        async def meanwhile() -> None:
            await _until(lambda: "transaction_stuck_at_ceiling" in caplog.text)
            dev.mine()

        await _sent_then(dev, chain, meanwhile)
        [one] = await chain.transactions()
        assert 1 < len(one.attempts) < 20
        assert one.attempts[0].fees.max_fee_wei <= ceiling_wei

    with_chain(entry, [dev.url], tmp_path, story, sending_policy=replace(FAST, stuck_s=0.04))


def test_nothing_is_sent_while_gas_is_above_the_ceiling(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    dev.rpc.call("anvil_setNextBlockBaseFeePerGas", hex(50 * GWEI))
    dev.mine()

    async def story(chain: WebChain) -> None:
        with pytest.raises(Refused) as refused:
            await chain.send(_call(chain), STRANGER, key="operator")
        assert refused.value.code == "price_too_high"
        assert "at most 4 gwei is paid" in refused.value.message
        assert await chain.transactions() == []

    with_chain(replace(local_entry(dev), fee_per_gas_wei_max=4 * GWEI), [dev.url], tmp_path, story)


def test_another_transaction_with_its_nonce_displaces_it_and_it_goes_on_with_the_next(
    dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        async def meanwhile() -> None:
            foreign = STRANGER.sign_transaction(
                {
                    "type": 2,
                    "chainId": 31337,
                    "nonce": 0,
                    "to": address_text(SELLER.address),
                    "value": 1,
                    "data": "0x",
                    "gas": 21_000,
                    "maxFeePerGas": 90 * GWEI,
                    "maxPriorityFeePerGas": 80 * GWEI,
                }
            )
            dev.rpc.call("eth_sendRawTransaction", "0x" + foreign.hex())
            dev.mine()
            await _until(lambda: _pending(dev) > 0)
            dev.mine()

        await _sent_then(dev, chain, meanwhile)
        assert await _limit(chain) == 5
        assert _operator_events(dev) == 1
        newer, older = await chain.transactions()
        assert (older.state, older.nonce) == ("displaced", 0)
        assert (newer.state, newer.nonce) == ("safe", 1)

    with_chain(local_entry(dev), [dev.url], tmp_path, story, sending_policy=PATIENT)


def test_an_earlier_nonce_that_is_missing_is_filled(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        dev.rpc.call("evm_setAutomine", False)
        with trio.CancelScope() as given_up:

            async def give_up() -> None:
                await _until(lambda: _pending(dev) > 0)
                given_up.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                await chain.send(_call(chain, 1), STRANGER, key="first")
        dev.rpc.call("anvil_dropAllTransactions")

        async def mine() -> None:
            await _until(lambda: _pending(dev) == 2)
            dev.mine()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mine)
            await chain.send(_call(chain, 2), STRANGER, key="second")
        assert await _limit(chain) == 2
        assert [one.nonce for one in await chain.transactions()] == [1, 0]

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


@pytest.mark.parametrize("is_restarted", [False, True])
def test_what_a_reorganisation_undid_comes_back_without_anybody_asking(
    is_restarted: bool, dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)
    entry = local_entry(dev, confirmations=3)

    async def send(chain: WebChain) -> None:
        receipt = await chain.send(_call(chain), STRANGER, key="operator")
        assert not receipt.is_safe
        if not is_restarted:
            await settle(chain)

    async def settle(chain: WebChain) -> None:
        dev.rpc.call("anvil_reorg", 1, [])
        assert await _limit(chain) == 0
        await chain.settle()
        assert await _limit(chain) == 5
        dev.mine(3)
        await chain.settle()
        [one] = await chain.transactions()
        assert one.state == "safe"
        assert _operator_events(dev) == 1

    with_chain(entry, [dev.url], tmp_path, send)
    if is_restarted:
        with_chain(entry, [dev.url], tmp_path, settle)


def test_run_waits_an_outage_out(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            await chain.send(_call(chain), STRANGER, key="operator")
            rpc.status, rpc.body = 503, b""
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chain.run)
                asked = rpc.asked.total()
                await trio.sleep(0.1)
                rpc.heal()
                dev.mine(3)
                while (await chain.transactions())[0].state != "safe":
                    await trio.sleep(0.02)
                assert rpc.asked.total() > asked
                nursery.cancel_scope.cancel()

        with_chain(local_entry(dev, confirmations=3), [rpc.url], tmp_path, story)


def test_many_at_once_take_different_nonces(dev: DevChain, tmp_path: Path) -> None:
    """Through two adapters on one journal, as two processes have it."""
    fund(dev)

    async def main() -> None:
        receipts: list[Receipt] = []

        async def send(chain: WebChain, number: int) -> None:
            receipts.append(await chain.send(_call(chain, number), STRANGER, key=f"operator:{number}"))

        opened = partial(
            open_chain, local_entry(dev), [dev.url], journal_path=tmp_path / "sent.db", pool_policy=HASTY
        )
        with trio.fail_after(20):
            async with opened(sending_policy=FAST) as one, opened(sending_policy=FAST) as other:
                async with trio.open_nursery() as nursery:
                    for number in range(1, 9):
                        nursery.start_soon(send, (one, other)[number % 2], number)
                found = await one.transactions()
        assert len({receipt.transaction for receipt in receipts}) == 8
        assert sorted(transaction.nonce for transaction in found) == list(range(8))

    trio.run(main)
    assert _operator_events(dev) == 8


def test_one_key_of_two_processes_is_one_transaction(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def main() -> None:
        receipts: list[Receipt] = []

        async def send(chain: WebChain) -> None:
            receipts.append(await chain.send(_call(chain), STRANGER, key="operator"))

        opened = partial(
            open_chain, local_entry(dev), [dev.url], journal_path=tmp_path / "sent.db", pool_policy=HASTY
        )
        with trio.fail_after(20):
            async with (
                opened(sending_policy=FAST) as one,
                opened(sending_policy=FAST) as other,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(send, one)
                nursery.start_soon(send, other)
        assert len({receipt.transaction for receipt in receipts}) == 1

    trio.run(main)
    assert _operator_events(dev) == 1


def test_one_that_fails_in_its_block_says_why_and_may_be_tried_again_once_that_is_safe(
    dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)
    dev.mint(STRANGER.address, 100)

    async def story(chain: WebChain) -> None:
        at = chain.facts.channels
        await chain.send(
            calls.approve(chain.facts.token, at.contract, value_micros=100), STRANGER, key="approve"
        )
        await chain.send(calls.deposit(at, value_micros=100), STRANGER, key="deposit")
        dev.mine(2)
        dev.rpc.call("evm_setAutomine", False)
        refusals: list[CallReverted] = []

        async def withdraw(key: str) -> None:
            try:
                await chain.send(calls.withdraw(at, value_micros=100), STRANGER, key=key)
            except CallReverted as refused:
                refusals.append(refused)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(withdraw, "one")
            nursery.start_soon(withdraw, "two")
            await _until(lambda: _pending(dev) == 2)
            dev.mine()
        [refused] = refusals
        assert "failed in block" in str(refused)
        failed = next(one for one in await chain.transactions() if one.state == "failed")
        with pytest.raises(CallReverted):
            await chain.send(calls.withdraw(at, value_micros=100), STRANGER, key=failed.key)
        assert len(await chain.transactions()) == 4, "while it can be undone, there is no other one"
        dev.mine(2)
        await chain.settle()
        with pytest.raises(CallReverted) as again:
            await chain.send(calls.withdraw(at, value_micros=100), STRANGER, key=failed.key)
        assert again.value.error == "OverFree"
        assert again.value.values == {"value": 100, "free": 0}

    with_chain(local_entry(dev, confirmations=2), [dev.url], tmp_path, story, sending_policy=PATIENT)
