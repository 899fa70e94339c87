"""One effective transaction for one intent, whatever is killed, lost, stuck, replaced or undone.

The order is: check the call, price it, look at the gas money; then, in one commit, take a nonce and keep the
signed bytes; then send them to every endpoint; then follow until a block has them, sending the same bytes
again if they were lost, and others with the same nonce and a higher fee if they are stuck. All forms of an
intent share its nonce, so at most one of them can be mined.

A key that is seen again goes on with what was kept under it, also when the call differs: the first one may be
mined at any moment. What is not held here: an endpoint that refuses the first form and keeps it back. Its
nonce goes to the next intent then, and if the bytes are shown later, either is mined, not both.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from unhosted.market.eip712 import keccak256
from unhosted.market.ids import Address, address_text
from unhosted.node.core.chain import Call, CallReverted, ChainUnavailable, Receipt, Signer
from unhosted.node.core.errors import LocalFault
from unhosted.node.shell.chain.answers import RpcError
from unhosted.node.shell.chain.broadcasting import Verdict, broadcast
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.estimating import estimate, fees_for, gas_limit, market_now, no_gas
from unhosted.node.shell.chain.fees import Fees, afforded, replacing
from unhosted.node.shell.chain.pool import Pool
from unhosted.node.shell.chain.receipts import Standing, balance_of, nonce_of, standing
from unhosted.node.shell.chain.reverts import reverted
from unhosted.node.shell.chain.transactions import KEY_CHARS_MAX, Journal, Transaction

DISPLACED_MAX = 3
"""A key whose nonce was taken this often by other programs shares its account with one: that must be said."""

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class SendingPolicy:
    """poll_s: between looks. resend_s: the same bytes again. stuck_s: a higher fee. settle_s: between looks
    at what stands in blocks that are not safe yet."""

    poll_s: float
    resend_s: float
    stuck_s: float
    settle_s: float


def policy_for(entry: ChainEntry) -> SendingPolicy:
    """From the chain's block time: a transaction that ten blocks and 20 s pass by is stuck."""
    block_s = entry.block_time_ms / 1000
    poll_s = max(0.2, min(2.0, block_s / 2))
    return SendingPolicy(
        poll_s=poll_s,
        resend_s=max(10.0, 3 * block_s),
        stuck_s=max(20.0, 5 * block_s),
        settle_s=max(2.0, 5 * poll_s),
    )


class Sending:
    """Sends for every key of this process. The journal keeps several processes apart."""

    def __init__(
        self,
        pool: Pool,
        journal: Journal,
        entry: ChainEntry,
        *,
        clock: Callable[[], float],
        unix_now: Callable[[], float],
        policy: SendingPolicy | None = None,
    ) -> None:
        self._pool, self._journal, self._entry = pool, journal, entry
        self._clock, self._unix_now = clock, unix_now
        self._policy = policy or policy_for(entry)
        self._disk = trio.CapacityLimiter(1)
        self._key_locks: dict[str, tuple[trio.Lock, list[None]]] = {}
        self._sender_locks: dict[Address, trio.Lock] = {}
        self._signers: dict[Address, Signer] = {}

    async def send(self, call: Call, signer: Signer, *, key: str) -> Receipt:
        """See `core.chain.Chain.send`. Cancelling leaves the intent in the journal: the key goes on with it.

        Raises: CallReverted; Refused(no_gas, price_too_high); ChainUnavailable.
        """
        if not 0 < len(key) <= KEY_CHARS_MAX:
            raise LocalFault(
                f"a key of {len(key)} letters for {call.purpose}: 1 to {KEY_CHARS_MAX} are possible"
            )
        self._signers[signer.address] = signer
        lock, users = self._key_locks.setdefault(key, (trio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                return await self._send(call, signer, key)
        finally:
            users.pop()
            if not users:
                self._key_locks.pop(key, None)

    async def settle(self) -> None:
        """One look at everything that is not done: what vanished is sent again, what is safe is marked so.

        Also what an earlier run of the program left behind. Raises: ChainUnavailable.
        """
        for transaction in await self._on_disk(self._journal.live):
            if transaction.key in self._key_locks:
                continue  # somebody follows it
            transaction = await self._look(transaction)
            if transaction.state == "open":
                await self._push(transaction, self._signers.get(transaction.sender))

    async def run(self) -> None:
        """`settle` for ever. An outage is waited out: `send` and the reads are who tells of it."""
        while True:
            try:
                await self.settle()
            except ChainUnavailable as fault:
                logger.info("settle_delayed reason=%s", fault)
            await trio.sleep(self._policy.settle_s)

    async def history(self, *, limit: int, before_id: int | None = None) -> list[Transaction]:
        return await self._on_disk(partial(self._journal.history, limit=limit, before_id=before_id))

    async def _send(self, call: Call, signer: Signer, key: str) -> Receipt:
        for _ in range(DISPLACED_MAX):
            transaction = await self._on_disk(partial(self._journal.by_key, key))
            if transaction is None:
                transaction = await self._begin(call, signer, key)
            else:
                if transaction.call.data != call.data:
                    logger.warning("send_goes_on_with_earlier_call key=%s purpose=%s", key, call.purpose)
                if transaction.state == "open":
                    await self._show(transaction)
            transaction = await self._follow(transaction, signer)
            if transaction.state in ("mined", "safe"):
                return receipt_of(transaction)
            if transaction.state in ("failed", "failed_safe"):
                raise await self._reason(transaction)
        raise ChainUnavailable(
            f"{call.purpose} lost its place {DISPLACED_MAX} times to other transactions of "
            f"{address_text(signer.address)}: another program sends with the same key. Give the node its own"
        )

    async def _begin(self, call: Call, signer: Signer, key: str) -> Transaction:
        async with self._sender_locks.setdefault(signer.address, trio.Lock()):
            gas = gas_limit(call, await estimate(self._pool, call, sender=signer.address))
            fees = await self._affordable(call, signer.address, gas)
            first_nonce = await nonce_of(self._pool, signer.address, at="latest")

            def sign(nonce: int) -> bytes:
                return signer.sign_transaction(self._fields(call, nonce, gas, fees))

            begin = partial(
                self._journal.begin,
                key=key,
                sender=signer.address,
                call=call,
                gas_limit=gas,
                fees=fees,
                first_nonce=first_nonce,
                sign=sign,
                hash_of=keccak256,
                now_unix_s=int(self._unix_now()),
            )
            transaction, is_new = await self._on_disk(begin)
            logger.info("transaction_begun key=%s nonce=%d gas=%d", key, transaction.nonce, gas)
            await self._show(transaction, is_new=is_new)
            return transaction

    async def _show(self, transaction: Transaction, *, is_new: bool = False) -> None:
        """Raises: Refused(no_gas); ChainUnavailable if every endpoint refuses it: a new one ends then."""
        verdict = await broadcast(self._pool, transaction.attempts[0])
        if verdict.kind in ("no_funds", "refused"):
            if is_new:
                await self._on_disk(partial(self._journal.mark, transaction.id, "refused"))
            raise await self._refusal(transaction, verdict)

    async def _affordable(self, call: Call, sender: Address, gas: int) -> Fees:
        now = await market_now(self._pool, self._entry)
        wanted = fees_for(now, self._entry, purpose=call.purpose)
        balance_wei = await balance_of(self._pool, sender)
        fees = afforded(wanted, now, gas=gas, balance_wei=balance_wei)
        if fees is None:
            needed_wei = gas * wanted.max_fee_wei
            raise no_gas(
                self._entry,
                purpose=call.purpose,
                sender=sender,
                needed_wei=needed_wei,
                balance_wei=balance_wei,
            )
        return fees

    async def _refusal(self, transaction: Transaction, verdict: Verdict) -> Exception:
        if verdict.kind == "no_funds":
            needed_wei = transaction.gas_limit * transaction.attempts[0].fees.max_fee_wei
            balance_wei = await balance_of(self._pool, transaction.sender)
            return no_gas(
                self._entry,
                purpose=transaction.call.purpose,
                sender=transaction.sender,
                # A rollup takes a data fee on top, which only its nodes know: then the balance looks enough.
                needed_wei=max(needed_wei, balance_wei + 1),
                balance_wei=balance_wei,
            )
        return ChainUnavailable(
            f"no endpoint of {self._entry.title} takes {transaction.call.purpose} ({verdict.words}). Nothing "
            "was sent. Name other endpoints: unhosted config set chain.rpc-urls URL,URL"
        )

    async def _follow(self, transaction: Transaction, signer: Signer) -> Transaction:
        """Until it is in a block, or can never be. Raises: ChainUnavailable."""
        pushed_s = bumped_s = self._clock()
        while True:
            transaction = await self._look(transaction)
            if transaction.state != "open":
                return transaction
            now_s = self._clock()
            if now_s - bumped_s >= self._policy.stuck_s:
                pushed_s = bumped_s = now_s
                transaction = await self._raise_fee(transaction, signer)
            elif now_s - pushed_s >= self._policy.resend_s:
                pushed_s = now_s
                await self._push_all(transaction)
            await trio.sleep(self._policy.poll_s)

    async def _look(self, transaction: Transaction) -> Transaction:
        """The intent as the chain has it now, kept in the journal."""
        if transaction.state in ("safe", "failed_safe", "displaced", "refused"):
            return transaction
        found = await standing(self._pool, transaction)
        if found is not None:
            return await self._mark_mined(transaction, found)
        if transaction.state != "open":
            logger.warning("transaction_vanished key=%s nonce=%d", transaction.key, transaction.nonce)
            transaction = await self._on_disk(partial(self._journal.mark, transaction.id, "open"))
            await broadcast(self._pool, transaction.attempts[0])
        if await nonce_of(self._pool, transaction.sender, at="latest") <= transaction.nonce:
            return transaction
        # The nonce is used. Ours may be shown a moment late; once that is safe, it was another one.
        if await nonce_of(self._pool, transaction.sender, at="safe") <= transaction.nonce:
            return transaction
        found = await standing(self._pool, transaction)
        if found is not None:
            return await self._mark_mined(transaction, found)
        logger.warning("transaction_displaced key=%s nonce=%d", transaction.key, transaction.nonce)
        return await self._on_disk(partial(self._journal.mark, transaction.id, "displaced"))

    async def _mark_mined(self, transaction: Transaction, found: Standing) -> Transaction:
        same = transaction.block_hash == found.mined.block_hash and transaction.state in ("mined", "failed")
        if same and not found.is_safe:
            return transaction
        mark = partial(
            self._journal.mark_mined,
            transaction.id,
            found.mined,
            block_unix_s=found.block_unix_s,
            is_safe=found.is_safe,
        )
        self._pool.forget_heads()  # whoever sent it reads what it did
        return await self._on_disk(mark)

    async def _push_all(self, transaction: Transaction) -> None:
        """Send the same bytes again, and those of the sender's earlier nonces: a missing one holds up all.

        Also of one that was safe: a reorganisation that deep is news, but then it is missing as well.
        """
        first_nonce = await nonce_of(self._pool, transaction.sender, at="latest")
        between = partial(self._journal.between, transaction.sender, first_nonce, transaction.nonce)
        for one in await self._on_disk(between):
            await broadcast(self._pool, one.attempts[0])

    async def _push(self, transaction: Transaction, signer: Signer | None) -> None:
        """For one that nobody follows: send it again, at a higher fee if it waited for long enough."""
        waited_s = self._unix_now() - transaction.attempts[0].made_unix_s
        if signer is not None and waited_s >= self._policy.stuck_s:
            await self._raise_fee(transaction, signer)
        else:
            await broadcast(self._pool, transaction.attempts[0])

    async def _raise_fee(self, transaction: Transaction, signer: Signer) -> Transaction:
        """The same intent and nonce at a higher fee, if the ceiling leaves room; else the same bytes."""
        if await nonce_of(self._pool, transaction.sender, at="latest") < transaction.nonce:
            await self._push_all(transaction)  # it waits for an earlier nonce, not for a better price
            return transaction
        now = await market_now(self._pool, self._entry)
        fees = replacing(transaction.attempts[0].fees, now, ceiling_wei=self._entry.fee_per_gas_wei_max)
        if fees is None:
            logger.warning("transaction_stuck_at_ceiling key=%s nonce=%d", transaction.key, transaction.nonce)
        else:
            fields = self._fields(transaction.call, transaction.nonce, transaction.gas_limit, fees)
            raw = await trio.to_thread.run_sync(signer.sign_transaction, fields)
            add = partial(
                self._journal.add_attempt,
                transaction.id,
                transaction_hash=keccak256(raw),
                raw=raw,
                fees=fees,
                now_unix_s=int(self._unix_now()),
            )
            transaction = await self._on_disk(add)
            logger.info("transaction_replaced key=%s max_fee_wei=%d", transaction.key, fees.max_fee_wei)
        await self._push_all(transaction)
        return transaction

    async def _reason(self, transaction: Transaction) -> CallReverted:
        """Why a transaction failed in its block: the same call, run on the state that it met there."""
        call, number = transaction.call, transaction.block_number
        fields = {
            "from": "0x" + transaction.sender.hex(),
            "to": "0x" + call.to.hex(),
            "data": "0x" + call.data.hex(),
        }
        words = f"transaction 0x{(transaction.transaction or b'').hex()} failed in block {number}"
        try:
            await self._pool.ask("eth_call", fields, hex(max(0, (number or 0) - 1)), parse=str)
        except RpcError as failure:
            if failure.is_revert:
                found = reverted(failure, purpose=call.purpose)
                return CallReverted(found.error, found.values, f"{found}; {words}")
        except ChainUnavailable:
            pass  # that it failed is known; only the reason is not
        return CallReverted(
            "unknown", {}, f"{call.purpose} was reverted, the state before its block tells no reason; {words}"
        )

    def _fields(self, call: Call, nonce: int, gas: int, fees: Fees) -> dict[str, object]:
        return {
            "type": 2,
            "chainId": int(self._entry.chain_id),
            "nonce": nonce,
            "to": address_text(call.to),
            "value": 0,
            "data": "0x" + call.data.hex(),
            "gas": gas,
            "maxFeePerGas": fees.max_fee_wei,
            "maxPriorityFeePerGas": fees.tip_wei,
        }

    async def _on_disk(self, work: Callable[[], Result]) -> Result:
        return await trio.to_thread.run_sync(work, limiter=self._disk)


def receipt_of(transaction: Transaction) -> Receipt:
    """Of one that is mined or safe."""
    if transaction.transaction is None or transaction.block_number is None or transaction.block_hash is None:
        raise LocalFault(f"transaction {transaction.key} is {transaction.state} and has no block")
    return Receipt(
        transaction=transaction.transaction,
        block_number=transaction.block_number,
        block_hash=transaction.block_hash,
        gas_used=transaction.gas_used or 0,
        fee_wei=transaction.fee_wei or 0,
        is_safe=transaction.state == "safe",
    )
