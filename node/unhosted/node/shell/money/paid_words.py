"""Why a paid request was refused or stopped, in words for the buyer, with what to do next."""

from collections.abc import Mapping

from unhosted.market.channel_effects import RefuseReason, StopReason
from unhosted.node.core.errors import Code, Refused

_REFUSALS: Mapping[RefuseReason, tuple[Code, str]] = {
    "wrong_channel": ("invalid_request", "the terms are for another channel than this stream's"),
    "not_open": (
        "no_funds",
        "the channel is not open on the chain as far as both sides see; wait for its transaction",
    ),
    "no_contact": ("peer_unreachable", "the seller's stream is gone; connect again"),
    "disputed": (
        "no_provider",
        "the seller counts more delivered tokens than this node received, beyond what it forgives; use"
        " another seller, and close the channel with `unhosted wallet close`",
    ),
    "winding_up": ("no_funds", "the channel is being closed; open another one"),
    "too_many_live": ("overloaded", "too many requests are under way on the channel; let some end first"),
    "stale": ("invalid_request", "the request's id or number was used before on this channel"),
    "window_too_large": (
        "invalid_request",
        "the credit window is larger than this price allows",
    ),
    "channel_exhausted": (
        "no_funds",
        "the channel's deposit has no room for the most that the request can cost; top it up",
    ),
    "under_reserved": ("cap_reached", "less is reserved under the cap than the request can cost"),
    "still_live": ("overloaded", "requests are still under way on the channel; let them end first"),
    "amount_too_low": ("invalid_request", "the close offers less than the seller has earned"),
}

_STOPS: Mapping[StopReason, tuple[Code, str]] = {
    "cancelled": ("engine_failed", "the request was cancelled"),
    "stalled": ("no_provider", "the seller sent nothing in time; what came is paid, nothing more"),
    "unpaid": ("no_funds", "no voucher reached the seller in time"),
    "channel_exhausted": ("no_funds", "the channel's deposit has no room for the next window; top it up"),
    "cap_reached": (
        "cap_reached",
        "the monthly cap has no room for the next window; raise public.max-usd-per-month or wait for the next"
        " month (UTC)",
    ),
    "ledger_failed": (
        "ledger_damaged",
        "the ledger could not write what would be spent, so nothing more is; `unhosted doctor` says more",
    ),
    "engine_failed": ("engine_failed", "the seller's engine failed"),
    "draining": ("no_provider", "the seller takes no more work"),
    "over_claim": ("no_provider", "the seller claimed more tokens than it delivered or than were agreed"),
    "channel_closed": ("no_funds", "the channel was closed on the chain"),
}


def refusal(reason: RefuseReason) -> Refused:
    code, message = _REFUSALS[reason]
    return Refused(code, message, details={"reason": reason})


def stopped(reason: StopReason) -> Refused:
    code, message = _STOPS[reason]
    return Refused(code, message, details={"reason": reason})
