"""What the seller's book holds, as frozen values. Amounts are micro-USDC and cumulative per channel."""

from dataclasses import dataclass
from typing import Literal

from unhosted.market.channel_states import EndKind
from unhosted.market.channels import ChannelConfig, Deployment, SignedVoucher
from unhosted.market.ids import ChannelId, ModelHash, RequestId
from unhosted.market.offers import CheckClass
from unhosted.market.receipts import NO_RECEIPT, ReceiptHash
from unhosted.market.requests import RequestHash
from unhosted.node.core.chain import ChannelFacts, ClaimRow

MoveKind = Literal["claimed", "paid", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SoldChannel:
    """A channel that this node is paid on.

    facts: as last seen at a safe block. best: the best voucher, on the disk. settled_micros: dues of requests
    that ended; live_micros: of those under way, as far as they were written down. written_off_micros: dues
    forgiven at a contact. since_unix_s: when the first voucher above the claimed amount came, 0 for none.
    sequence: of the newest request that was opened. last_receipt: of the channel.
    """

    channel_id: ChannelId
    deployment: Deployment
    config: ChannelConfig
    facts: ChannelFacts
    best: SignedVoucher | None = None
    settled_micros: int = 0
    live_micros: int = 0
    written_off_micros: int = 0
    since_unix_s: int = 0
    sequence: int = 0
    is_winding_up: bool = False
    last_receipt: ReceiptHash = NO_RECEIPT

    @property
    def best_micros(self) -> int:
        return 0 if self.best is None else self.best.voucher.amount_micros

    @property
    def claimable_micros(self) -> int:
        """What a claim would bring now: nothing after the close, and nothing while the deposit is smaller
        than the voucher (a top-up vanished in a reorganisation): it is taken whole or not at all."""
        if self.facts.is_closed or self.best_micros > self.facts.deposit_micros:
            return 0
        return max(self.best_micros - self.facts.claimed_micros, 0)

    @property
    def due_micros(self) -> int:
        return self.settled_micros + self.live_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class SoldRequest:
    """A request that was opened. end: None while it is under way; due_micros: the least that is owed so far.

    receipt: encoded (`market.receipts`); None while it is live, where nothing is due, and for one that a
    crash cut off until the next contact.
    """

    request_id: RequestId
    channel_id: ChannelId
    sequence: int
    opened_unix_s: int
    due_micros: int = 0
    tokens_out: int = 0
    end: EndKind | None = None
    ended_unix_s: int = 0
    receipt: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the receipt of a request will say whatever it delivers. engine: hash of the engine's facts."""

    request_id: RequestId
    channel_id: ChannelId
    model: ModelHash
    request_hash: RequestHash
    tokens_in: int
    engine: bytes
    check: CheckClass


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """How far a live request has come on the disk: its receipt is never over less. due_micros: with the
    prompt. output_root: of the first `tokens_out` ids."""

    tokens_out: int
    due_micros: int
    output_root: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimInFlight:
    """A claim that was decided, and is not at a safe block yet. key: of its transaction, for `Chain.send`.

    rows: what it claims, empty for a payout alone.
    """

    key: str
    begun_unix_s: int
    pays_out: bool
    rows: tuple[ClaimRow, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Money of ours that moved on the chain, at a safe block. channel_id: None for a payout."""

    kind: MoveKind
    amount_micros: int
    channel_id: ChannelId | None
    block_number: int
    transaction: bytes
    log_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Earnings:
    """settled: dues of requests that ended. promised: the best vouchers of all channels. unpaid: due and not
    covered by a voucher. claimable: promised, on open channels, not yet claimed. claimed: in our credit or
    paid out. paid: to our address. lost: vouchers on channels that were closed without them. exposure:
    unpaid work and unclaimed vouchers, what is gone if this disk is gone."""

    settled_micros: int
    promised_micros: int
    unpaid_micros: int
    claimable_micros: int
    claimed_micros: int
    paid_micros: int
    lost_micros: int
    requests_live: int
    channels_open: int

    @property
    def exposure_micros(self) -> int:
        return self.unpaid_micros + self.claimable_micros
