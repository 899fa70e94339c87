"""The part of `core.chain.Chain`'s promises that is about blocks: what is safe, events, reorganisations."""

import trio

from tests.node.chain.chain_contract import DAY_S, Check, open_channel
from tests.node.chain.stage import OPERATOR, OWNER, SELLER, STRANGER, Opener, Stage, config_of, id_of, row
from unhosted.node.core.chain import ChainEvent
from unhosted.node.shell.chain import calls


async def safe_is_so_many_blocks_behind(open_stage: Opener) -> None:
    async with open_stage(3) as stage:
        chain, config = stage.chain, config_of()
        await open_channel(stage)
        receipt = await chain.send(
            calls.payout(chain.facts.channels, STRANGER.address), STRANGER, key="nothing"
        )
        head = await chain.head()
        assert (head.number, head.safe_number) == (receipt.block_number, receipt.block_number - 3)
        assert not receipt.is_safe
        number = id_of(chain.facts, config)
        assert (await chain.channel(number, at="safe")).deposit_micros == 0
        assert (await chain.channel(number)).deposit_micros == 1_000_000
        stage.mine(3)
        assert (await chain.channel(number, at="safe")).deposit_micros == 1_000_000
        again = await chain.send(
            calls.payout(chain.facts.channels, STRANGER.address), STRANGER, key="nothing"
        )
        assert again.is_safe
        assert again.transaction == receipt.transaction


async def _events(stage: Stage, *, from_block: int, until: int) -> list[ChainEvent]:
    found: list[ChainEvent] = []
    async for batch in stage.chain.events(from_block=from_block):
        found += batch
        if batch.to_block >= until:
            return found
    raise AssertionError("events ended")


async def events_come_in_order_once_and_from_where_one_stopped(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config, at = stage.chain, config_of(), stage.chain.facts.channels
        start = (await chain.head()).number + 1
        await open_channel(stage)
        middle = (await chain.head()).number
        claim = calls.claim(at, SELLER.address, [row(chain.facts, config, amount_micros=70)], payout=True)
        await chain.send(claim, SELLER, key="claim")
        last = (await chain.head()).number
        found = await _events(stage, from_block=start, until=last)
        assert [one.name for one in found] == ["Deposited", "OperatorSet", "Allocated", "Claimed", "Paid"]
        number = id_of(chain.facts, config)
        assert found[2].values == {
            "id": number,
            "payer": OWNER.address,
            "payee": SELLER.address,
            "signer": OPERATOR.address,
            "delay": DAY_S,
            "salt": config.salt,
            "total": 1_000_000,
        }
        assert found[3].values == {"id": number, "amount": 70}
        assert found[4].values == {"payee": SELLER.address, "value": 70}
        places = [(one.block_number, one.log_index) for one in found]
        assert places == sorted(set(places))
        later = await _events(stage, from_block=middle + 1, until=last)
        assert later == found[3:]


async def events_wait_until_they_are_safe(open_stage: Opener) -> None:
    async with open_stage(2) as stage:
        chain = stage.chain
        start = (await chain.head()).number + 1
        await open_channel(stage)
        opened = (await chain.head()).number
        async with trio.open_nursery() as nursery:
            batches = chain.events(from_block=start)
            with trio.move_on_after(0.05):
                async for batch in batches:
                    assert batch.to_block <= opened - 2
                    assert not batch
            nursery.cancel_scope.cancel()
        stage.mine(2)
        found = await _events(stage, from_block=start, until=opened)
        assert [one.name for one in found] == ["Deposited", "OperatorSet", "Allocated"]


async def an_undone_transaction_is_sent_again_under_its_key(open_stage: Opener) -> None:
    async with open_stage(5) as stage:
        chain = stage.chain
        call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=5)
        first = await chain.send(call, STRANGER, key="operator")
        stage.undo(1)
        second = await chain.send(call, STRANGER, key="operator")
        assert second.block_hash != first.block_hash
        assert (await chain.account(STRANGER.address)).limit_micros == 5


async def events_of_undone_blocks_come_again_when_they_are_mined_again(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain = stage.chain
        start = (await chain.head()).number + 1
        found: list[ChainEvent] = []
        batches = chain.events(from_block=start)

        async def until(count: int) -> None:
            while len(found) < count:
                found.extend(await anext(batches))

        for limit in (5, 6):
            call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=limit)
            await chain.send(call, STRANGER, key=f"operator:{limit}")
        await until(2)
        stage.undo(1)
        call = calls.set_operator(chain.facts.channels, OPERATOR.address, limit_micros=7)
        await chain.send(call, STRANGER, key="operator:7")
        await until(3)
        assert [one.values["limit"] for one in found][:3] == [5, 6, 7]


BLOCK_CHECKS: tuple[Check, ...] = (
    safe_is_so_many_blocks_behind,
    events_come_in_order_once_and_from_where_one_stopped,
    events_wait_until_they_are_safe,
    an_undone_transaction_is_sent_again_under_its_key,
    events_of_undone_blocks_come_again_when_they_are_mined_again,
)
