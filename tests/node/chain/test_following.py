"""Events of `Channels` from endpoints that give little at once, leave something out, or change their mind."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.devchain import DevChain
from tests.node.chain.faulty_rpc import FaultyRpc, change, error, faulty_rpc
from tests.node.chain.opening import with_chain
from tests.node.chain.stage import OPERATOR, STRANGER, fund, local_entry
from unhosted.market.ids import address_text
from unhosted.node.core.chain import ChainEvent, ChainUnavailable
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import WebChain
from unhosted.node.shell.chain.following import SPAN_BLOCKS_MAX

pytestmark = pytest.mark.slow


async def _say(chain: WebChain, *limits: int) -> None:
    for limit in limits:
        call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=limit)
        await chain.send(call, STRANGER, key=f"operator:{limit}")


async def _limits(chain: WebChain, *, from_block: int, until: int) -> list[object]:
    found: list[ChainEvent] = []
    async for batch in chain.events(from_block=from_block):
        assert all(one.block_number <= batch.to_block for one in batch)
        found += batch
        if batch.to_block >= until:
            break
    return [one.values["limit"] for one in found]


def _at_most(rpc: FaultyRpc, blocks: int, code: int, message: str) -> list[int]:
    """The endpoint gives logs of so many blocks at once; what it is asked for is kept in the list."""
    asked: list[int] = []

    def twist(params: list[Any], ask: Any) -> dict[str, Any]:
        span = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16) + 1
        asked.append(span)
        refused = error(code, message)(params, ask)
        return refused if span > blocks else dict(ask(params))

    rpc.on("eth_getLogs", twist)
    return asked


@pytest.mark.parametrize(
    "code, message", [(-32005, "query returned more than 10000 results"), (-32000, "no")]
)
def test_ranges_shrink_to_what_an_endpoint_gives_and_grow_again(
    code: int, message: str, dev: DevChain, tmp_path: Path
) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            start = dev.head()[0] + 1
            await _say(chain, 1, 2)
            dev.mine(40)
            await _say(chain, 3)
            asked = _at_most(rpc, 7, code, message)
            assert await _limits(chain, from_block=start, until=dev.head()[0]) == [1, 2, 3]
            assert min(asked) <= 7
            assert any(later > earlier for earlier, later in pairwise(asked))
            rpc.heal()
            assert await _limits(chain, from_block=start, until=dev.head()[0]) == [1, 2, 3]

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


def test_one_block_that_is_refused_is_an_honest_error(dev: DevChain, tmp_path: Path) -> None:
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            _at_most(rpc, 0, -32000, "archive access is not in your plan")
            with pytest.raises(ChainUnavailable) as fault:
                await _limits(chain, from_block=0, until=dev.head()[0])
            assert "it does not tell the events of blocks 0 to 0" in str(fault.value)
            assert "archive access is not in your plan" in str(fault.value)

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


def test_an_event_that_one_endpoint_leaves_out_is_missed_by_nobody(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            start = dev.head()[0] + 1
            await _say(chain, 1, 2)
            rpc.on("eth_getLogs", change(lambda logs: logs[:-1]))
            batches = chain.events(from_block=start)
            with pytest.raises(ChainUnavailable) as fault:
                await anext(batches)
            assert str(fault.value).count("contradict one another about the events") == 2
            rpc.heal()
            assert [one.values["limit"] for one in await anext(batches)] == [1, 2], "it goes on where it was"

        with_chain(local_entry(dev), [rpc.url, dev.url], tmp_path, story)


def test_logs_in_any_order_come_in_the_chains(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            start = dev.head()[0] + 1
            await _say(chain, 1, 2, 3)
            rpc.on("eth_getLogs", change(lambda logs: logs[::-1]))
            assert await _limits(chain, from_block=start, until=dev.head()[0]) == [1, 2, 3]

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


@pytest.mark.parametrize("field, value", [("address", "0x" + "11" * 20), ("blockNumber", "0xffff")])
def test_a_log_that_nobody_asked_for_is_a_lie(field: str, value: str, dev: DevChain, tmp_path: Path) -> None:
    fund(dev)
    with faulty_rpc(dev.url) as rpc:

        async def story(chain: WebChain) -> None:
            start = dev.head()[0] + 1
            await _say(chain, 1)
            rpc.on("eth_getLogs", change(lambda logs: [{**one, field: value} for one in logs]))
            with pytest.raises(ChainUnavailable) as fault:
                await anext(chain.events(from_block=start))
            assert "a log that was not asked for" in str(fault.value)

        with_chain(local_entry(dev), [rpc.url], tmp_path, story)


def test_two_events_of_one_transaction_that_say_the_same_are_two(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        start = dev.head()[0] + 1
        at = chain.facts.channels
        same = calls.set_operator(at, OPERATOR.address, limit_micros=4)
        await chain.send(calls.multicall(at, [same, same], purpose="twice"), STRANGER, key="twice")
        assert await _limits(chain, from_block=start, until=dev.head()[0]) == [4, 4]
        batches = chain.events(from_block=start)
        assert len(await anext(batches)) == 2
        dev.rpc.call("anvil_reorg", 1, [])
        assert len(await anext(batches)) == 0, "undone"
        await chain.settle()
        await _say(chain, 5)
        assert [one.values["limit"] for one in await anext(batches)] == [5], "given before, not again"

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_an_event_in_a_block_that_was_read_before_it_changed_is_found(dev: DevChain, tmp_path: Path) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        start = dev.head()[0] + 1
        await _say(chain, 1)
        dev.mine(3)
        batches = chain.events(from_block=start)
        assert [one.values["limit"] for one in await anext(batches)] == [1]
        call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=9)
        raw = STRANGER.sign_transaction(
            {
                "type": 2,
                "chainId": 31337,
                "nonce": 1,
                "to": address_text(call.to),
                "value": 0,
                "data": "0x" + call.data.hex(),
                "gas": 100_000,
                "maxFeePerGas": 10**11,
                "maxPriorityFeePerGas": 1,
            }
        )
        dev.rpc.call("anvil_reorg", 3, [["0x" + raw.hex(), 0]])
        found = await anext(batches)
        assert [one.values["limit"] for one in found] == [9]
        assert found[0].block_number == dev.head()[0] - 2

    with_chain(local_entry(dev), [dev.url], tmp_path, story)


def test_an_idle_chain_is_told_of_by_empty_batches(dev: DevChain, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        batches = chain.events(from_block=dev.head()[0] + 1)
        dev.mine(3)
        batch = await anext(batches)
        assert (len(batch), batch.to_block) == (0, dev.head()[0])
        dev.mine(SPAN_BLOCKS_MAX // 2_000)
        assert (await anext(batches)).to_block == dev.head()[0]

    with_chain(local_entry(dev), [dev.url], tmp_path, story)
