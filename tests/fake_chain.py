"""`core.chain.Chain` in memory, with the contract's rules: for tests of what stands above the chain.

    chain = FakeChain()
    chain.mint(buyer.address, 5_000_000)
    receipt = await chain.send(calls.deposit(chain.facts.channels, value_micros=…), buyer, key="deposit")

Every transaction makes a block. The test can mine, warp, undo blocks (`undo`), pull the plug (`outage`) and
set confirmations. It passes the same tests as the adapter over anvil. Every block keeps its state: for
runs of thousands of blocks, not of millions.
"""

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

import trio

from tests.fake_channels import Channels, Recover, Reverted, Token
from unhosted.market.channels import ChainId, ChannelConfig, Deployment
from unhosted.market.eip712 import TokenDomain, keccak256
from unhosted.market.ids import Address, ChannelId
from unhosted.node.core.chain import (
    AccountFacts,
    BlockTag,
    Call,
    CallReverted,
    ChainEvent,
    ChainFacts,
    ChainUnavailable,
    ChannelFacts,
    EventBatch,
    Head,
    Receipt,
    Signer,
)
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.abi import AbiError, channels_abi, decode, function_call
from unhosted.node.shell.keys.signer import recover

CHAIN_ID = ChainId(31337)
START_UNIX_S = 1_800_000_000
GAS = 50_000
PRICE_WEI = 1_000_000_000
ETH_WEI = 10**18


@dataclass(slots=True, kw_only=True)
class Block:
    number: int
    hash: bytes
    timestamp_unix_s: int
    state: Channels
    gas_wei: dict[Address, int]
    events: tuple[ChainEvent, ...] = ()
    receipts: dict[str, Receipt] = field(default_factory=dict)


class FakeChain:
    """recover: as `shell.keys.signer.recover`; simulations may give a cheaper one that fits their signers."""

    def __init__(self, *, confirmations: int = 0, recover: Recover = recover) -> None:
        token = TokenDomain(name="USD Coin", version="2", chain_id=CHAIN_ID, contract=Address(b"\x11" * 20))
        channels = Deployment(chain_id=CHAIN_ID, contract=Address(b"\x22" * 20))
        self._facts = ChainFacts(
            name="local",
            chain_id=CHAIN_ID,
            token=token,
            channels=channels,
            bonds=None,
            confirmations=confirmations,
            explorer_url="",
            is_test=True,
        )
        state = Channels(at=channels, token=Token(domain=token), recover=recover)
        first = Block(number=0, hash=bytes(32), timestamp_unix_s=START_UNIX_S, state=state, gas_wei={})
        self.blocks = [first]
        self.outage = ""
        """Not empty: every call raises ChainUnavailable with these words."""
        self.sent = 0
        """Transactions that were mined, also those undone since."""
        self._branch = 0
        self._waiting_s = 0
        self._intents: dict[str, tuple[Call, Address]] = {}
        self._moved = trio.Event()

    @property
    def facts(self) -> ChainFacts:
        return self._facts

    # What the test does.

    def mint(self, to: Address, amount_micros: int) -> None:
        balances = self._mine().state.token.balances
        balances[to] = balances.get(to, 0) + amount_micros

    def give_gas(self, to: Address, wei: int = ETH_WEI) -> None:
        gas = self._mine().gas_wei
        gas[to] = gas.get(to, 0) + wei

    def mine(self, blocks: int = 1) -> None:
        for _ in range(blocks):
            self._mine()

    def warp(self, seconds: int) -> None:
        """Let time pass and mine a block in the new time."""
        self._waiting_s += seconds
        self._mine()

    def token(self) -> Token:
        """The token's storage in a new block, to pause it or to blacklist somebody."""
        return self._mine().state.token

    def undo(self, blocks: int) -> None:
        """A reorganisation: these blocks never were, and as many empty ones stand in their place."""
        del self.blocks[len(self.blocks) - blocks :]
        self._branch += 1
        self.mine(blocks)

    # core.chain.Chain

    async def head(self) -> Head:
        await self._reach()
        head = self.blocks[-1]
        return Head(
            number=head.number, timestamp_unix_s=head.timestamp_unix_s, safe_number=self._safe_number()
        )

    async def account(self, payer: Address, *, at: BlockTag = "latest") -> AccountFacts:
        await self._reach()
        return self._at(at).state.account(payer)

    async def channel(self, channel_id: ChannelId, *, at: BlockTag = "latest") -> ChannelFacts:
        await self._reach()
        return self._at(at).state.channel(channel_id)

    async def credit(self, payee: Address) -> int:
        await self._reach()
        return self.blocks[-1].state.credits.get(payee, 0)

    async def usdc_balance(self, holder: Address) -> int:
        await self._reach()
        return self.blocks[-1].state.token.balances.get(holder, 0)

    async def gas_balance(self, holder: Address) -> int:
        await self._reach()
        return self.blocks[-1].gas_wei.get(holder, 0)

    async def gas_price(self) -> int:
        await self._reach()
        return PRICE_WEI

    async def check(self, call: Call, *, sender: Address) -> int:
        await self._reach()
        self._run(call, sender)
        return GAS

    async def send(self, call: Call, signer: Signer, *, key: str) -> Receipt:
        await self._reach()
        if (found := self._receipt(key)) is not None:
            return found
        call, sender = self._intents.get(key, (call, signer.address))
        state = self._run(call, sender)
        balance_wei = self.blocks[-1].gas_wei.get(sender, 0)
        if balance_wei < GAS * PRICE_WEI:
            details = {"needed_wei": GAS * PRICE_WEI, "balance_wei": balance_wei}
            words = f"{call.purpose} costs {GAS * PRICE_WEI} wei, {balance_wei} are there"
            raise Refused("no_gas", words, details=details)
        self._intents[key] = (call, sender)
        self.sent += 1
        block = self._mine(state, sender)
        transaction = keccak256(key.encode())
        block.events = tuple(
            ChainEvent(
                name=name,
                values=values,
                block_number=block.number,
                block_hash=block.hash,
                transaction=transaction,
                log_index=index,
            )
            for index, (name, values) in enumerate(state.said)
        )
        block.receipts[key] = Receipt(
            transaction=transaction,
            block_number=block.number,
            block_hash=block.hash,
            gas_used=GAS,
            fee_wei=GAS * PRICE_WEI,
            is_safe=False,
        )
        found = self._receipt(key)
        assert found is not None
        return found

    def events(self, *, from_block: int) -> AsyncIterator[EventBatch]:
        return _Events(self, from_block)

    async def next_events(
        self, first: int, from_block: int, last: tuple[int, bytes] | None
    ) -> tuple[list[ChainEvent], tuple[int, bytes]]:
        """All from `first` on, or from `from_block` if the block `last` (number, hash) is gone."""
        while True:
            await self._reach()
            safe = self._safe_number()
            if last is not None and (last[0] > safe or self.blocks[last[0]].hash != last[1]):
                first = from_block
            if first <= safe:
                found = [one for block in self.blocks[first : safe + 1] for one in block.events]
                return found, (safe, self.blocks[safe].hash)
            await self._moved.wait()

    # Inside.

    async def _reach(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.outage:
            raise ChainUnavailable(self.outage)

    def _safe_number(self) -> int:
        return max(0, self.blocks[-1].number - self._facts.confirmations)

    def _at(self, at: BlockTag) -> Block:
        return self.blocks[self._safe_number() if at == "safe" else -1]

    def _receipt(self, key: str) -> Receipt | None:
        for block in reversed(self.blocks):
            if key in block.receipts:
                return replace(block.receipts[key], is_safe=block.number <= self._safe_number())
        return None

    def _mine(self, state: Channels | None = None, payer: Address | None = None) -> Block:
        before = self.blocks[-1]
        gas_wei = dict(before.gas_wei)
        if payer is not None:
            gas_wei[payer] -= GAS * PRICE_WEI
        number = before.number + 1
        block = Block(
            number=number,
            hash=keccak256(before.hash + bytes((number % 256, self._branch % 256))),
            timestamp_unix_s=self._next_unix_s(),
            state=state or copy.deepcopy(before.state),
            gas_wei=gas_wei,
        )
        self._waiting_s = 0
        self.blocks.append(block)
        self._moved.set()
        self._moved = trio.Event()
        return block

    def _next_unix_s(self) -> int:
        return self.blocks[-1].timestamp_unix_s + 1 + self._waiting_s

    def _run(self, call: Call, sender: Address) -> Channels:
        """The state after the call, which is not that of any block yet."""
        state = copy.deepcopy(self.blocks[-1].state)
        state.now_unix_s, state.said = self._next_unix_s(), []
        try:
            if call.to == self._facts.token.contract:
                _run_token(state.token, call.data, sender)
            else:
                _run_channels(state, call.data, sender)
        except Reverted as error:
            details = f"{error.error}: {error.values}"
            raise CallReverted(error.error, error.values, f"{call.purpose} was refused ({details})") from None
        return state


class _Events:
    def __init__(self, chain: FakeChain, from_block: int) -> None:
        self._chain, self._from_block, self._first = chain, from_block, from_block
        self._last: tuple[int, bytes] | None = None
        self._given: set[tuple[bytes, int]] = set()

    def __aiter__(self) -> "_Events":
        return self

    async def __anext__(self) -> EventBatch:
        found, self._last = await self._chain.next_events(self._first, self._from_block, self._last)
        self._first = self._last[0] + 1
        fresh = tuple(one for one in found if (one.transaction, one.log_index) not in self._given)
        self._given.update((one.transaction, one.log_index) for one in found)
        return EventBatch(events=fresh, to_block=self._last[0])


def _run_token(token: Token, data: bytes, sender: Address) -> None:
    if data[:4] == function_call("approve(address,uint256)", ZERO, 0)[:4]:
        spender, value = decode(("address", "uint256"), data[4:])
        token.approve(sender, Address(spender), value)
    elif data[:4] == function_call("transfer(address,uint256)", ZERO, 0)[:4]:
        to, value = decode(("address", "uint256"), data[4:])
        token.transfer(sender, Address(to), value)
    else:
        raise Reverted("unknown")


def _run_channels(state: Channels, data: bytes, sender: Address) -> None:
    try:
        name, values = channels_abi().decode_call(data)
    except AbiError:
        raise Reverted("unknown") from None
    if name == "multicall":
        for inner in values["data"]:
            _run_channels(state, inner, sender)
        return
    given = dict(values)
    if "cfg" in given:
        given["cfg"] = _config(given["cfg"])
    match name:
        case "deposit":
            state.deposit(sender, given["value"])
        case "depositWithPermit":
            state.deposit_with_permit(sender, given["value"], given["deadline"], given["sig"])
        case "depositWithAuthorization":
            numbers = {
                "value": given["value"],
                "valid_after": given["validAfter"],
                "valid_before": given["validBefore"],
                "limit": given["limit"],
            }
            operator = Address(given["operator"])
            payer = Address(given["payer"])
            state.deposit_with_authorization(
                payer, numbers, operator=operator, salt=given["salt"], sig=given["sig"]
            )
        case "setOperator":
            state.set_operator(sender, Address(given["operator"]), given["limit"])
        case "withdraw":
            state.withdraw(sender, given["value"])
        case "allocate":
            state.allocate(sender, given["cfg"], given["total"], given["validBefore"], given["sig"])
        case "claim":
            rows = [(_config(cfg), amount, sig) for cfg, amount, sig in given["rows"]]
            state.claim(Address(given["payee"]), rows, given["payOut"])
        case "payout":
            state.payout(Address(given["payee"]))
        case "close":
            state.close(sender, given["cfg"], given["amount"], given["voucherSig"], given["payeeSig"])
        case "requestClose":
            state.request_close(sender, given["cfg"], given["validBefore"], given["sig"])
        case "finalizeClose":
            state.finalize_close(given["cfg"])
        case _:
            raise Reverted("unknown")


def _config(words: tuple[bytes, bytes, bytes, int, bytes]) -> ChannelConfig:
    payer, signer, payee, delay_s, salt = words
    return ChannelConfig(
        payer=Address(payer), signer=Address(signer), payee=Address(payee), delay_s=delay_s, salt=salt
    )


ZERO = Address(bytes(20))
