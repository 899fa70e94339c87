"""What a transaction offers per gas (EIP-1559), and what takes the place of a stuck one. Pure."""

from dataclasses import dataclass

BUMP_DIVISOR = 8
"""A replacement offers an eighth more at least: mempools refuse less than 10 %, some less than 12.5 %."""
TIP_SHARE = 10
"""The tip is paid in full, whoever asked for it, so it is at most a tenth of the ceiling."""
AFFORDED_DIVISOR = 8
"""With little gas money a transaction may go with an eighth of room above the base fee, not with twice it."""
TIP_WEI_UNKNOWN = 1_000_000
"""0.001 gwei, where no endpoint suggests a tip: rollups take it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fees:
    """Wei per gas: at most `max_fee_wei` in all, of which `tip_wei` for whoever builds the block."""

    max_fee_wei: int
    tip_wei: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """Wei per gas that the chain takes now."""

    base_fee_wei: int
    tip_wei: int

    @property
    def price_wei(self) -> int:
        return self.base_fee_wei + self.tip_wei


def market(*, base_fee_wei: int, tip_wei: int, ceiling_wei: int) -> Market:
    return Market(base_fee_wei=base_fee_wei, tip_wei=min(tip_wei, ceiling_wei // TIP_SHARE))


def offered(now: Market, *, ceiling_wei: int) -> Fees | None:
    """Twice the base fee and the tip: six full blocks in a row do not pass it. None if the price is above the
    ceiling already."""
    if now.price_wei > ceiling_wei:
        return None
    return Fees(max_fee_wei=min(ceiling_wei, 2 * now.base_fee_wei + now.tip_wei), tip_wei=now.tip_wei)


def afforded(fees: Fees, now: Market, *, gas: int, balance_wei: int) -> Fees | None:
    """The same fees, or less room above the base fee where the balance is small; None if it is too small."""
    most_wei = min(fees.max_fee_wei, balance_wei // gas)
    least_wei = min(fees.max_fee_wei, now.price_wei + now.base_fee_wei // AFFORDED_DIVISOR)
    return Fees(max_fee_wei=most_wei, tip_wei=fees.tip_wei) if most_wei >= least_wei else None


def replacing(before: Fees, now: Market, *, ceiling_wei: int) -> Fees | None:
    """What takes the place of a transaction with `before`; None if the ceiling leaves no room for it."""
    fresh = Fees(max_fee_wei=2 * now.base_fee_wei + now.tip_wei, tip_wei=now.tip_wei)
    max_fee_wei = min(ceiling_wei, max(_bumped(before.max_fee_wei), fresh.max_fee_wei))
    if max_fee_wei < _bumped(before.max_fee_wei):
        return None
    tip_wei = max(_bumped(before.tip_wei), fresh.tip_wei)
    return Fees(max_fee_wei=max(max_fee_wei, tip_wei), tip_wei=tip_wei) if tip_wei <= ceiling_wei else None


def _bumped(value_wei: int) -> int:
    return value_wei + value_wei // BUMP_DIVISOR + 1
