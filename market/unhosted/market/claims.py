"""When a seller turns vouchers into money: what to claim now, in which order, and whether to pay out.

A claim costs gas, so it waits until the fee is one part in a hundred of the money; after a day one in ten
will do. A channel that closes is claimed at once while anything is gained by it, because after the delay the
rest is the buyer's. Rows ride along with others at the price of a row. The rules are the seller's own:
nothing here binds the buyer. Fees are in micro-USDC, converted by the shell at the rate it trusts; they are
estimates of one moment, and a decision is made anew whenever the shell looks.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from unhosted.market.channels import DELAY_S_DEFAULT
from unhosted.market.ids import ChannelId
from unhosted.market.money import MICROS_PER_USD

ROWS_MAX = 100
"""Rows of one claim: 1.75 million gas. Some chains bound the gas of one transaction."""

FEE_MULTIPLE = 100
"""Claim when the money is so many fees: settlement then costs 1 %."""

OLD_FEE_MULTIPLE = 10
OLD_S = 24 * 3_600
"""Money that waited a day is claimed at 10 % of fee: unclaimed, it can be lost with the key or the disk."""

PAYOUT_MICROS = MICROS_PER_USD
"""Credit that is worth a transfer."""

URGENT_S = DELAY_S_DEFAULT
"""A close that ends sooner and cannot be claimed at a gain is told to the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimable:
    """A channel with a voucher above what was claimed.

    since_unix_s: when the first unclaimed voucher came. close_at_unix_s: 0 while nobody asked to close.
    """

    channel_id: ChannelId
    unclaimed_micros: int
    since_unix_s: int
    close_at_unix_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFees:
    """What gas costs now, in micro-USDC: of a claim without rows, of each row, of paying out in that call."""

    base_micros: int
    row_micros: int
    payout_micros: int

    def __post_init__(self) -> None:
        for name in ("base_micros", "row_micros", "payout_micros"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} {getattr(self, name)} is below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimPlan:
    """rows: to claim in one transaction, most urgent first; empty and pays_out: a payout alone.

    left_over: due, too, but beyond ROWS_MAX; decide again once this claim is in a block. given_up: they close
    soon and their money is not worth the fee; the operator is told.
    """

    rows: tuple[ChannelId, ...]
    pays_out: bool
    left_over: int
    given_up: tuple[ChannelId, ...]


def decide(rows: Iterable[Claimable], *, credit_micros: int, fees: ClaimFees, now_unix_s: int) -> ClaimPlan:
    """What to send now for one payee.

    credit_micros: claimed and not yet paid out. Rows with nothing unclaimed are passed over.
    """
    open_rows = [row for row in rows if row.unclaimed_micros > 0]
    ranked = sorted(open_rows, key=_urgency)
    alone_micros = fees.base_micros + fees.row_micros
    due = [row for row in ranked if _is_due(row, alone_micros, now_unix_s)]
    if not due:
        due = _closing_together(ranked, fees)
    chosen_ids = {row.channel_id for row in due}
    if due:
        # The base fee is paid anyway: now a row is worth what its own gas makes it worth.
        due += [
            row
            for row in ranked
            if row.channel_id not in chosen_ids and _is_due(row, fees.row_micros, now_unix_s)
        ]
        due.sort(key=_urgency)
    claimed_ids = {row.channel_id for row in due}
    chosen = due[:ROWS_MAX]
    credit_after = credit_micros + sum(row.unclaimed_micros for row in chosen)
    return ClaimPlan(
        rows=tuple(row.channel_id for row in chosen),
        pays_out=credit_after >= PAYOUT_MICROS and credit_after > fees.payout_micros,
        left_over=len(due) - len(chosen),
        given_up=tuple(
            row.channel_id
            for row in ranked
            if row.channel_id not in claimed_ids
            and row.close_at_unix_s
            and row.close_at_unix_s - now_unix_s <= URGENT_S
        ),
    )


def _urgency(row: Claimable) -> tuple[int, int, bytes]:
    """What closes first comes first, then what is worth most; the id breaks ties the same way everywhere."""
    return (row.close_at_unix_s or 1 << 62, -row.unclaimed_micros, row.channel_id)


def _is_due(row: Claimable, fee_micros: int, now_unix_s: int) -> bool:
    if row.close_at_unix_s:
        return row.unclaimed_micros > fee_micros
    if row.unclaimed_micros <= fee_micros:
        return False
    is_old = now_unix_s - row.since_unix_s >= OLD_S
    return row.unclaimed_micros >= fee_micros * (OLD_FEE_MULTIPLE if is_old else FEE_MULTIPLE)


def _closing_together(ranked: list[Claimable], fees: ClaimFees) -> list[Claimable]:
    """Closing channels of which none pays a transaction of its own, if they pay one together."""
    closing = [row for row in ranked if row.close_at_unix_s and row.unclaimed_micros > fees.row_micros][
        :ROWS_MAX
    ]
    gain = sum(row.unclaimed_micros - fees.row_micros for row in closing) - fees.base_micros
    return closing if gain > 0 else []
