"""What the ledger says to users: refusals with their numbers and the next step, and the picture it gives."""

from collections.abc import Mapping
from dataclasses import dataclass

from unhosted.market.channels import ChannelConfig, Deployment
from unhosted.market.money import format_usd
from unhosted.market.months import Month, month_text
from unhosted.market.spending_words import NO_MONTH, Book, ChannelRow, Refusal
from unhosted.node.core.errors import Code, Refused


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownChannel:
    """A channel as the ledger has it, with what fixes it on the chain."""

    deployment: Deployment
    config: ChannelConfig
    row: ChannelRow


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundChannel:
    """A channel of this buyer as the chain has it at a safe block; `closed_unix_s` 0: not known when."""

    deployment: Deployment
    config: ChannelConfig
    deposit_micros: int
    claimed_micros: int
    is_closed: bool
    closed_unix_s: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerView:
    """The account of spending at one moment. by_month: what was spent, of months in which anything was."""

    book: Book
    channels: tuple[KnownChannel, ...]
    by_month: Mapping[Month, int]


def refused(refusal: Refusal, book: Book) -> Refused:
    """The refusal as every entry point shows it; the amounts in its details are micro-USDC."""
    code, message = _WORDS[refusal.reason]
    month = "no month yet" if book.month == NO_MONTH else month_text(book.month)
    text = message.format(
        asked=format_usd(refusal.asked_micros),
        cap=format_usd(refusal.cap_micros),
        spent=format_usd(refusal.spent_micros),
        reserved=format_usd(refusal.reserved_micros),
        deposit=format_usd(refusal.deposit_micros),
        authorised=format_usd(refusal.authorised_micros),
        low=refusal.low_micros,
        high=refusal.high_micros,
        asked_micros=refusal.asked_micros,
        month=month,
    )
    if refusal.reason == "cap" and refusal.cap_micros == 0:
        text = (
            "nothing is paid: the monthly cap is 0; allow some with"
            " `unhosted config set public.max-usd-per-month 5`"
        )
    details = {
        "reason": refusal.reason,
        "asked_micros": refusal.asked_micros,
        "cap_micros": refusal.cap_micros,
        "spent_micros": refusal.spent_micros,
        "reserved_micros": refusal.reserved_micros,
        "deposit_micros": refusal.deposit_micros,
        "authorised_micros": refusal.authorised_micros,
    }
    return Refused(code, text, details=details)


_WORDS: Mapping[str, tuple[Code, str]] = {
    "cap": (
        "cap_reached",
        "the monthly cap has no room for {asked} USD: of {cap} USD, {spent} are spent in {month} (UTC) and"
        " {reserved} reserved; raise it with `unhosted config set public.max-usd-per-month`, or wait for the"
        " next month",
    ),
    "deposit": (
        "no_funds",
        "the channel has no room for {asked} USD: of its deposit of {deposit} USD, {authorised} are"
        " authorised, and more is reserved; top it up or use another seller",
    ),
    "reservation": (
        "cap_reached",
        "{asked} USD is more than the {high} micro-USDC that are reserved on the channel; reserve the most"
        " that a request can cost before it starts",
    ),
    "unknown_channel": (
        "invalid_request",
        "the ledger knows no such channel; note it before it is used, or read the channels from the chain",
    ),
    "closed_channel": ("no_funds", "the channel is closed; open another one with the seller"),
    "unknown_request": (
        "invalid_request",
        "no money is reserved for this request: it is over, or another process took it for dead",
    ),
    "repeated_request": (
        "invalid_request",
        "money is reserved for this request already; each request needs an id of its own",
    ),
    "too_many": ("overloaded", "{high} are open already; let some of them end first"),
    "time_unknown": (
        "chain_unavailable",
        "the chain's time is not known yet, so neither is the month that a payment would count in; it is read"
        " when an RPC endpoint answers",
    ),
    "clocks_differ": (
        "chain_mismatch",
        "this machine's clock and the chain's newest block are in different months and more than two days"
        " apart; set the clock, or look at `chain.rpc-urls`",
    ),
    "reread": (
        "ledger_damaged",
        "the ledger is older than what was paid (a restored backup, or a lost file), so nothing is paid until"
        " all channels were read from the chain again; that happens when an RPC endpoint answers",
    ),
    "range": ("invalid_request", "{asked_micros} micro-USDC is outside {low} to {high}"),
}
