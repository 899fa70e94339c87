"""What `core.chain.Chain` promises, as checks that run over any implementation of it."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from tests.node.chain.stage import (
    FOREVER_UNIX_S,
    FUNDS_MICROS,
    OPERATOR,
    OWNER,
    SELLER,
    STRANGER,
    Opener,
    Stage,
    allocation,
    authorization,
    config_of,
    id_of,
    row,
)
from unhosted.market.months import month_of
from unhosted.node.core.chain import CallReverted
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain import calls

DAY_S = 86_400


async def open_channel(stage: Stage, *, total_micros: int = 1_000_000, salt: int = 1) -> None:
    """As a buyer without gas does it: two signatures, one transaction of the seller's."""
    facts, config = stage.chain.facts, config_of(salt=salt)
    at = facts.channels
    both = [
        calls.deposit_with_authorization(
            at, authorization(facts, value_micros=5_000_000, limit_micros=3_000_000, salt=salt)
        ),
        calls.allocate(
            at,
            config,
            total_micros=total_micros,
            valid_before_unix_s=FOREVER_UNIX_S,
            signature=allocation(facts, config, total_micros=total_micros),
        ),
    ]
    await stage.chain.send(calls.multicall(at, both, purpose="open"), SELLER, key=f"open:{salt}")


async def a_buyer_without_gas_opens_a_channel_through_the_seller(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config = stage.chain, config_of()
        assert await chain.gas_balance(OWNER.address) == 0
        await open_channel(stage)
        account = await chain.account(OWNER.address)
        channel = await chain.channel(id_of(chain.facts, config))
        now_unix_s = (await chain.head()).timestamp_unix_s
        assert (account.free_micros, account.operator) == (4_000_000, OPERATOR.address)
        assert (account.limit_micros, account.used_micros) == (3_000_000, 1_000_000)
        assert account.month == month_of(now_unix_s)
        assert (channel.deposit_micros, channel.claimed_micros, channel.close_at_unix_s) == (1_000_000, 0, 0)
        assert not channel.is_closed
        assert await chain.usdc_balance(OWNER.address) == FUNDS_MICROS - 5_000_000
        assert await chain.usdc_balance(chain.facts.channels.contract) == 5_000_000


async def an_unknown_account_and_channel_are_empty(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        account = await stage.chain.account(STRANGER.address, at="safe")
        channel = await stage.chain.channel(id_of(stage.chain.facts, config_of(salt=99)), at="safe")
        assert (account.free_micros, account.operator, account.month) == (0, bytes(20), 0)
        assert (channel.deposit_micros, channel.is_closed) == (0, False)
        assert await stage.chain.credit(STRANGER.address) == 0


async def nobody_else_can_name_the_operator(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        facts = stage.chain.facts
        good = authorization(facts, value_micros=5_000_000, limit_micros=1)
        stolen = calls.DepositAuthorization(
            payer=good.payer,
            value_micros=good.value_micros,
            valid_after_unix_s=good.valid_after_unix_s,
            valid_before_unix_s=good.valid_before_unix_s,
            operator=STRANGER.address,
            limit_micros=good.limit_micros,
            salt=good.salt,
            signature=good.signature,
        )
        call = calls.deposit_with_authorization(facts.channels, stolen)
        with pytest.raises(CallReverted) as refused:
            await stage.chain.check(call, sender=STRANGER.address)
        assert refused.value.error == "Error"
        assert refused.value.values == {"reason": "FiatTokenV2: invalid signature"}


async def a_deposit_authorization_works_once(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        facts = stage.chain.facts
        call = calls.deposit_with_authorization(
            facts.channels, authorization(facts, value_micros=1_000_000, limit_micros=0)
        )
        await stage.chain.send(call, SELLER, key="first")
        with pytest.raises(CallReverted) as refused:
            await stage.chain.send(call, SELLER, key="second")
        assert refused.value.values == {"reason": "FiatTokenV2: authorization is used or canceled"}
        assert (await stage.chain.account(OWNER.address)).free_micros == 1_000_000


async def the_operators_limit_holds_and_opens_with_the_next_month(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        facts, config = stage.chain.facts, config_of(salt=2)
        await open_channel(stage)
        call = calls.allocate(
            facts.channels,
            config,
            total_micros=2_000_001,
            valid_before_unix_s=FOREVER_UNIX_S,
            signature=allocation(facts, config, total_micros=2_000_001),
        )
        with pytest.raises(CallReverted) as refused:
            await stage.chain.send(call, SELLER, key="more")
        assert refused.value.error == "OverLimit"
        assert refused.value.values == {"value": 2_000_001, "left": 2_000_000}
        stage.warp(31 * DAY_S)
        await stage.chain.send(call, SELLER, key="more")
        account = await stage.chain.account(OWNER.address)
        assert (account.used_micros, account.free_micros) == (2_000_001, 1_999_999)


async def a_claim_is_paid_once(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config = stage.chain, config_of()
        at = chain.facts.channels
        await open_channel(stage)
        claim = calls.claim(
            at, SELLER.address, [row(chain.facts, config, amount_micros=300_000)], payout=False
        )
        await chain.send(claim, STRANGER, key="claim:1")  # anybody may
        await chain.send(claim, STRANGER, key="claim:2")
        assert await chain.credit(SELLER.address) == 300_000
        await chain.send(calls.payout(at, SELLER.address), STRANGER, key="payout")
        assert await chain.credit(SELLER.address) == 0
        assert await chain.usdc_balance(SELLER.address) == 300_000
        more = row(chain.facts, config, amount_micros=450_000)
        await chain.send(calls.claim(at, SELLER.address, [more], payout=True), SELLER, key="claim:3")
        assert await chain.usdc_balance(SELLER.address) == 450_000
        assert (await chain.channel(id_of(chain.facts, config))).claimed_micros == 450_000


async def a_forged_or_too_high_voucher_is_named(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        facts, config = stage.chain.facts, config_of()
        await open_channel(stage)
        number = id_of(facts, config)

        async def refusal(amount_micros: int, signer: object) -> CallReverted:
            one = row(facts, config, amount_micros=amount_micros, signer=signer)  # type: ignore[arg-type]
            with pytest.raises(CallReverted) as refused:
                await stage.chain.check(
                    calls.claim(facts.channels, SELLER.address, [one], payout=False), sender=SELLER.address
                )
            return refused.value

        forged = await refusal(10, STRANGER)
        assert forged.error == "BadSig"
        assert forged.values == {"id": number, "expected": OPERATOR.address, "recovered": STRANGER.address}
        high = await refusal(1_000_001, OPERATOR)
        assert high.error == "OverDeposit"
        assert high.values == {"id": number, "amount": 1_000_001, "deposit": 1_000_000}


async def a_seller_closes_at_once_and_the_rest_goes_back(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config = stage.chain, config_of()
        await open_channel(stage)
        voucher = row(chain.facts, config, amount_micros=250_000).voucher.signature
        close = calls.close(chain.facts.channels, config, amount_micros=250_000, voucher=voucher)
        await chain.send(close, SELLER, key="close")
        channel = await chain.channel(id_of(chain.facts, config))
        assert (channel.is_closed, channel.claimed_micros) == (True, 250_000)
        assert (await chain.account(OWNER.address)).free_micros == 4_750_000
        assert await chain.credit(SELLER.address) == 250_000
        with pytest.raises(CallReverted) as refused:
            await chain.check(close, sender=SELLER.address)
        assert refused.value.error == "ChannelIsClosed"
        assert refused.value.values == {"id": id_of(chain.facts, config)}


async def a_buyers_close_waits_for_its_delay(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config, at = stage.chain, config_of(), stage.chain.facts.channels
        await open_channel(stage)
        with pytest.raises(CallReverted) as early:
            await chain.check(calls.finalize_close(at, config), sender=STRANGER.address)
        assert early.value.error == "NotReady"
        assert early.value.values["closeAt"] == 0
        with pytest.raises(CallReverted) as stranger:
            await chain.check(calls.request_close(at, config), sender=STRANGER.address)
        assert stranger.value.error == "Expired"  # without a signature its time is over
        # The operator has no gas in this story, so the owner's node gets some.
        await _give_gas(stage)
        await chain.send(calls.request_close(at, config), OPERATOR, key="request")
        close_at = (await chain.channel(id_of(chain.facts, config))).close_at_unix_s
        assert close_at == (await chain.head()).timestamp_unix_s + DAY_S
        late = row(chain.facts, config, amount_micros=100_000)
        await chain.send(calls.claim(at, SELLER.address, [late], payout=False), SELLER, key="late")
        stage.warp(DAY_S)
        await chain.send(calls.finalize_close(at, config), STRANGER, key="finalize")
        assert (await chain.channel(id_of(chain.facts, config))).is_closed
        assert (await chain.account(OWNER.address)).free_micros == 4_900_000


async def _give_gas(stage: Stage) -> None:
    give = getattr(stage.chain, "give_gas", None) or stage.dev.give_eth  # type: ignore[attr-defined]
    give(OPERATOR.address, 10**17)


async def one_key_is_one_transaction(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        facts = stage.chain.facts
        call = calls.set_operator(facts.channels, OPERATOR.address, limit_micros=5)
        first = await stage.chain.send(call, STRANGER, key="operator")
        head = (await stage.chain.head()).number
        again = await stage.chain.send(call, STRANGER, key="operator")
        assert (again.transaction, again.block_hash) == (first.transaction, first.block_hash)
        receipts = []

        async def send() -> None:
            receipts.append(await stage.chain.send(call, STRANGER, key="operator"))

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(send)
        assert {receipt.transaction for receipt in receipts} == {first.transaction}
        assert (await stage.chain.head()).number == head


async def without_gas_money_nothing_is_sent_and_both_numbers_are_told(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        call = calls.set_operator(stage.chain.facts.channels, OPERATOR.address, limit_micros=5)
        with pytest.raises(Refused) as refused:
            await stage.chain.send(call, OWNER, key="operator")
        assert refused.value.code == "no_gas"
        assert refused.value.details["balance_wei"] == 0
        needed_wei = refused.value.details["needed_wei"]
        assert isinstance(needed_wei, int)
        assert needed_wei > 10_000 * await stage.chain.gas_price()
        assert (await stage.chain.account(OWNER.address)).operator == bytes(20)


async def a_check_gives_gas_and_changes_nothing(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        call = calls.set_operator(stage.chain.facts.channels, OPERATOR.address, limit_micros=5)
        assert 20_000 < await stage.chain.check(call, sender=OWNER.address) < 200_000
        assert (await stage.chain.account(OWNER.address)).limit_micros == 0


async def a_paused_token_stops_payouts_but_not_claims(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config, at = stage.chain, config_of(), stage.chain.facts.channels
        await open_channel(stage)
        stage.pause_token()
        claim = calls.claim(at, SELLER.address, [row(chain.facts, config, amount_micros=10)], payout=False)
        await chain.send(claim, SELLER, key="claim")
        with pytest.raises(CallReverted) as refused:
            await chain.send(calls.payout(at, SELLER.address), SELLER, key="payout")
        assert refused.value.values == {"reason": "Pausable: paused"}


async def a_blacklisted_seller_keeps_its_credit(open_stage: Opener) -> None:
    async with open_stage(0) as stage:
        chain, config, at = stage.chain, config_of(), stage.chain.facts.channels
        await open_channel(stage)
        stage.blacklist(SELLER.address)
        claim = calls.claim(at, SELLER.address, [row(chain.facts, config, amount_micros=10)], payout=False)
        await chain.send(claim, SELLER, key="claim")
        with pytest.raises(CallReverted) as refused:
            await chain.check(calls.payout(at, SELLER.address), sender=SELLER.address)
        assert refused.value.values == {"reason": "Blacklistable: account is blacklisted"}
        assert await chain.credit(SELLER.address) == 10


Check = Callable[[Opener], Awaitable[None]]
MONEY_CHECKS: tuple[Check, ...] = (
    a_buyer_without_gas_opens_a_channel_through_the_seller,
    an_unknown_account_and_channel_are_empty,
    nobody_else_can_name_the_operator,
    a_deposit_authorization_works_once,
    the_operators_limit_holds_and_opens_with_the_next_month,
    a_claim_is_paid_once,
    a_forged_or_too_high_voucher_is_named,
    a_seller_closes_at_once_and_the_rest_goes_back,
    a_buyers_close_waits_for_its_delay,
    one_key_is_one_transaction,
    without_gas_money_nothing_is_sent_and_both_numbers_are_told,
    a_check_gives_gas_and_changes_nothing,
    a_paused_token_stops_payouts_but_not_claims,
    a_blacklisted_seller_keeps_its_credit,
)


def run(check: Check, open_stage: Opener) -> None:
    async def main() -> None:
        with trio.fail_after(20):
            await check(open_stage)

    trio.run(partial(main))
