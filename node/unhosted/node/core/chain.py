"""The chain as the node sees it: facts that it reads, calls that it sends, events that it follows.

Implemented by `shell/chain` over web3; a fake for tests and simulations passes the same tests. Amounts are
micro-USDC, gas money is wei, times are the chain's own UTC seconds.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, overload

from unhosted.market.channels import ChainId, ChannelConfig, Deployment, SignedVoucher
from unhosted.market.eip712 import TokenDomain
from unhosted.market.ids import Address, ChannelId, Digest, Signature

BlockTag = Literal["latest", "safe"]
"""`safe`: deep enough that a reorganisation would be news (per chain, `ChainFacts.confirmations`)."""


class ChainUnavailable(Exception):
    """No endpoint gave an answer that can be believed. Never a statement about funds. The message names each
    endpoint (host only, an RPC address can hold a key) and what it did, and what to do next."""


class CallReverted(Exception):
    """The contract said no. `error` is its name (`OverDeposit`), `values` its arguments by name."""

    def __init__(self, error: str, values: dict[str, object], message: str) -> None:
        super().__init__(message)
        self.error = error
        self.values = values


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainFacts:
    """A chain and our contracts on it. `bonds` is None where they are not deployed."""

    name: str
    chain_id: ChainId
    token: TokenDomain
    channels: Deployment
    bonds: Deployment | None
    confirmations: int
    explorer_url: str
    is_test: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    number: int
    timestamp_unix_s: int
    safe_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountFacts:
    """A buyer's account in the contract. `used_micros` counts in `month` only; another month starts at 0."""

    free_micros: int
    operator: Address
    limit_micros: int
    used_micros: int
    month: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelFacts:
    """A channel in the contract; `close_at_unix_s` is 0 until somebody asked to close it."""

    deposit_micros: int
    claimed_micros: int
    close_at_unix_s: int
    is_closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRow:
    config: ChannelConfig
    voucher: SignedVoucher


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One transaction to be: `purpose` (`claim`, `deposit`) is for logs, history and errors."""

    to: Address
    data: bytes
    purpose: str
    gas_max: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A transaction in a block. `is_safe` once it is as deep as `safe`; it can vanish before."""

    transaction: bytes
    block_number: int
    block_hash: bytes
    gas_used: int
    fee_wei: int
    is_safe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEvent:
    """One log of `Channels`: `name` and `values` as in the ABI (bytes and ints), and where it stands."""

    name: str
    values: dict[str, object]
    block_number: int
    block_hash: bytes
    transaction: bytes
    log_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBatch(Sequence[ChainEvent]):
    """Events in the chain's order: all there are from the batch before up to and including `to_block`.

    Whoever has acted on them may go on from `to_block + 1` after a restart.
    """

    events: tuple[ChainEvent, ...]
    to_block: int

    def __len__(self) -> int:
        return len(self.events)

    @overload
    def __getitem__(self, index: int) -> ChainEvent: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ChainEvent]: ...
    def __getitem__(self, index: int | slice) -> ChainEvent | Sequence[ChainEvent]:
        return self.events[index]


class Signer(Protocol):
    """A key that may sign; the secret stays inside. Implemented by `shell/keys`."""

    @property
    def address(self) -> Address: ...

    def sign(self, digest: Digest) -> Signature:
        """65 bytes, deterministic (RFC 6979): the same digest gives the same signature after a crash."""
        ...

    def sign_transaction(self, fields: dict[str, object]) -> bytes:
        """The raw signed transaction (EIP-1559 fields as in JSON-RPC)."""
        ...


class Chain(Protocol):
    """Every method may raise ChainUnavailable. Cancellation leaves at most a sent transaction behind, which
    the sender's journal knows."""

    @property
    def facts(self) -> ChainFacts: ...

    async def head(self) -> Head: ...

    async def account(self, payer: Address, *, at: BlockTag = "latest") -> AccountFacts: ...

    async def channel(self, channel_id: ChannelId, *, at: BlockTag = "latest") -> ChannelFacts: ...

    async def credit(self, payee: Address) -> int:
        """Micro-USDC claimed for `payee` and not yet paid out."""
        ...

    async def usdc_balance(self, holder: Address) -> int: ...

    async def gas_balance(self, holder: Address) -> int:
        """Wei."""
        ...

    async def gas_price(self) -> int:
        """Wei per gas that a transaction would pay now."""
        ...

    async def check(self, call: Call, *, sender: Address) -> int:
        """Gas that the call would use now.

        Raises: CallReverted with the contract's own error.
        """
        ...

    async def send(self, call: Call, signer: Signer, *, key: str) -> Receipt:
        """Sign, send and follow until it stands in a block; a stuck one is replaced at a higher fee.

        key: names the intent (`claim:<hex>`); the same key again never sends a second transaction while the
        first can still be mined, also after a restart.
        Raises: CallReverted; Refused(no_gas) with both numbers.
        """
        ...

    def events(self, *, from_block: int) -> AsyncIterator[EventBatch]:
        """Logs of `Channels` up to the safe block, in order, each once, for ever; a batch may be empty and
        then says only that the chain moved on. After ChainUnavailable, ask again from the last `to_block`."""
        ...
