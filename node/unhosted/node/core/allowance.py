"""What a paired peer may still ask of this machine: its capabilities, applied to one ask at a time.

Tokens are prompt and completion together, counted per UTC day. An ask reserves the most that it may use, as
far as it says; it is admitted when what was used today, what the asks under way have reserved and its own
prompt stay within the limit. So many asks at once cannot pass the limit together, and one ask passes it at
most by the length of its own answer. Nothing here is durable: tokens used today come from the peer book.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.peering import Capabilities, PeerId

DAY_S = 86_400

OPEN_ANSWER_TOKENS = 512
"""Reserved for an ask that names no max_tokens: a long chat answer. What it uses counts in the end."""

NAMES_SHOWN = 5
"""Models named in a refusal; more would not fit a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one admitted ask holds until `release`."""

    peer: PeerId
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnderWay:
    """The admitted asks of one peer that have not ended: their number and the tokens they reserved."""

    asks: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Allowances:
    """What is under way, by peer. At most one entry per paired peer with asks under way."""

    under_way: Mapping[PeerId, UnderWay] = field(default_factory=dict)

    def of(self, peer: PeerId) -> UnderWay:
        return self.under_way.get(peer, UnderWay())


def admit(
    state: Allowances,
    peer: PeerId,
    capabilities: Capabilities,
    *,
    model_names: Collection[str],
    tokens_today: int,
    prompt_tokens: int,
    max_tokens: int | None,
    unix_s: int,
) -> tuple[Allowances, Reservation]:
    """Admit an ask and reserve its tokens.

    model_names: the model's name and aliases, and `b3:` with its hash. prompt_tokens: an estimate is enough.
    Raises: Refused (not_allowed) with the rule, the count, and when the count starts anew.
    """
    check_model(capabilities, model_names)
    before = state.of(peer)
    if before.asks >= capabilities.concurrency:
        raise Refused(
            "not_allowed",
            f"{before.asks} of your requests are under way here, at most {capabilities.concurrency} may be; "
            f"wait for one to end, or ask this machine's owner for more: unhosted peers allow",
            retry_after_s=1,
            details={"rule": "concurrency", "count": before.asks, "limit": capabilities.concurrency},
        )
    tokens = prompt_tokens + (OPEN_ANSWER_TOKENS if max_tokens is None else max_tokens)
    limit = capabilities.tokens_per_day
    if limit is not None and tokens_today + before.tokens + prompt_tokens > limit:
        resets_in_s = seconds_to_reset(unix_s)
        raise Refused(
            "not_allowed",
            f"{tokens_today} of {limit} tokens per day are used, {before.tokens} are reserved by your "
            f"requests under way, and this prompt has about {prompt_tokens}; the count starts anew at 00:00 "
            f"UTC, in {_duration(resets_in_s)}",
            retry_after_s=resets_in_s if tokens_today + prompt_tokens > limit else 1,
            details={"rule": "tokens_per_day", "count": tokens_today, "limit": limit},
        )
    after = UnderWay(asks=before.asks + 1, tokens=before.tokens + tokens)
    return _with(state, peer, after), Reservation(peer=peer, tokens=tokens)


def release(state: Allowances, reservation: Reservation) -> Allowances:
    """The ask has ended; what it used is the peer book's to count."""
    before = state.of(reservation.peer)
    after = UnderWay(asks=before.asks - 1, tokens=before.tokens - reservation.tokens)
    if after.asks < 0 or after.tokens < 0 or (after.asks == 0 and after.tokens != 0):
        raise LocalFault(f"{after.asks} asks and {after.tokens} reserved tokens are left of {before}")
    return _with(state, reservation.peer, after)


def check_model(capabilities: Capabilities, model_names: Collection[str]) -> None:
    """Also for what has no tokens to reserve. Raises: Refused (not_allowed)."""
    if not capabilities.may_ask:
        raise Refused(
            "not_allowed",
            "asking it is not allowed to this peer; its owner can change that: unhosted peers allow ID --ask",
            details={"rule": "may_ask"},
        )
    if not allows_model(capabilities, model_names):
        allowed = capabilities.models or ()
        shown = ", ".join(allowed[:NAMES_SHOWN]) + (", …" if len(allowed) > NAMES_SHOWN else "")
        raise Refused(
            "not_allowed",
            f"you may not use {next(iter(model_names), 'this model')} here; allowed: {shown or 'none'}",
            details={"rule": "models"},
        )


def allows_model(capabilities: Capabilities, model_names: Collection[str]) -> bool:
    """Whether one of the model's names is on the list; everything is when there is no list."""
    return capabilities.models is None or not set(capabilities.models).isdisjoint(model_names)


def utc_day(unix_s: int) -> str:
    """The UTC day as ISO 8601, such as 2026-09-30: the key under which tokens are counted."""
    # Civil date from days since 1970-03-01 of a 400-year cycle; `datetime` could read a clock.
    days = unix_s // DAY_S + 719_468
    era, day_of_era = divmod(days, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month_from_march = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month_from_march + 2) // 5 + 1
    month = month_from_march + 3 if month_from_march < 10 else month_from_march - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return f"{year:04}-{month:02}-{day:02}"


def seconds_to_reset(unix_s: int) -> int:
    """Until the next UTC midnight: 1 to 86400."""
    return DAY_S - unix_s % DAY_S


def _with(state: Allowances, peer: PeerId, under_way: UnderWay) -> Allowances:
    entries = {**state.under_way, peer: under_way}
    if under_way.asks == 0:
        del entries[peer]
    return Allowances(entries)


def _duration(seconds: int) -> str:
    hours, rest = divmod(seconds, 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{max(rest // 60, 1)} min"
