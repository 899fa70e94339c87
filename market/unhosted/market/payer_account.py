"""How the payer's account moves: raising a target, settling a request, believing its own vouchers."""

from collections.abc import Sequence

from unhosted.market.channel_effects import (
    AskTopUp,
    Authorise,
    Effect,
    RaiseAuthorised,
    SettleRequest,
    StopReason,
    TellStop,
)
from unhosted.market.channel_rules import NOTHING, Step, with_request
from unhosted.market.channel_states import Channel, Live, Tally, cost_ahead, held_micros
from unhosted.market.ids import RequestId

END_NS = 30_000_000_000
"""After a stop the payee only has to say how much it sent."""

TOP_UP_PART = 4
"""A top-up is asked for when less than a quarter of the deposit is left: it takes some blocks to count."""


def advance(
    channel: Channel,
    request_id: RequestId,
    live: Live,
    *,
    tokens_out: int,
    due: int,
    deadline_ns: int | None,
    is_raising: bool,
) -> Step:
    """Count what came; raising, aim a window beyond it, as far as the deposit goes, and authorise what is not
    pledged yet. One new value of each state: this runs for every piece of an answer.

    live: as the channel has it, or a new one.
    """
    tally, deposit = channel.tally, channel.chain.deposit_micros
    target, pledged, delta = live.target_micros, tally.pledged_micros, 0
    held = held_micros(channel)
    others = tally.settled_micros + tally.live_target_micros - target
    if is_raising:
        target = max(min(cost_ahead(live.terms, tokens_out), deposit - others), target)
        delta = max(min(others + target - held, deposit) - pledged, 0)
        pledged += delta
    moved = Live(
        terms=live.terms,
        max_micros=live.max_micros,
        window_micros=live.window_micros,
        tokens_out=tokens_out,
        due_micros=due,
        target_micros=target,
        end=live.end,
        deadline_ns=deadline_ns,
    )
    counted = Tally(
        authorised_micros=tally.authorised_micros,
        pledged_micros=pledged,
        settled_micros=tally.settled_micros,
        settled_max_micros=tally.settled_max_micros,
        live_due_micros=tally.live_due_micros + due - live.due_micros,
        live_target_micros=tally.live_target_micros + target - live.target_micros,
        written_off_micros=tally.written_off_micros,
        # Arrears that the deposit had no room for stand until they are pledged.
        is_refused=tally.is_refused and others + target - held > pledged,
    )
    channel = with_request(channel, request_id, moved, counted)
    if delta == 0:
        return channel, NOTHING
    effects: tuple[Effect, ...] = (Authorise(request_id=request_id, delta_micros=delta),)
    if (deposit - pledged) * TOP_UP_PART < deposit:
        channel, asked = ask_top_up(channel, 0)
        effects += asked
    return channel, effects


def settle(channel: Channel, endings: Sequence[SettleRequest]) -> Step:
    """Requests are over. What they owe and no voucher covers yet is authorised while the ledger still knows
    them: once, after all of them, since one's surplus pays for another. Arrears without a request wait for
    the next one."""
    if not endings:
        return channel, NOTHING
    tally, entries = channel.tally, dict(channel.live)
    for ending in endings:
        live = entries.pop(ending.request_id)
        tally = with_tally(
            tally,
            held=held_micros(channel),
            settled=tally.settled_micros + ending.due_micros,
            settled_max=tally.settled_max_micros + ending.due_max_micros,
            live_due=-live.due_micros,
            live_target=-live.target_micros,
        )
    tally, delta = _pledge(tally, channel.chain.deposit_micros, held_micros(channel))
    channel = channel._replace(tally=tally, live=entries)
    if delta == 0:
        return channel, tuple(endings)
    return channel, (Authorise(request_id=endings[0].request_id, delta_micros=delta), *endings)


def hold(channel: Channel, hold_micros: int, request_id: RequestId | None) -> Step:
    """Hold so much back from now on. What is let go is authorised under `request_id`, else with the next
    request; what was authorised stays authorised."""
    channel = channel._replace(hold_micros=hold_micros)
    held, delta = held_micros(channel), 0
    tally = with_tally(channel.tally, held=held)
    if request_id is not None:
        tally, delta = _pledge(tally, channel.chain.deposit_micros, held)
    missing = tally.settled_micros + tally.live_target_micros - held > tally.pledged_micros
    channel = channel._replace(tally=tally._replace(is_refused=missing))
    if request_id is None or delta == 0:
        return channel, NOTHING
    return channel, (Authorise(request_id=request_id, delta_micros=delta),)


def stop(channel: Channel, request_id: RequestId, reason: StopReason, now_ns: int) -> Step:
    """Ask the payee to end it; what still comes until then is paid, too."""
    live = channel.live.get(request_id)
    if live is None or live.end:
        return channel, NOTHING
    stopped = live._replace(end="stopped", deadline_ns=now_ns + END_NS)
    channel = with_request(channel, request_id, stopped, channel.tally)
    return channel, (TellStop(request_id=request_id, reason=reason),)


def ask_top_up(channel: Channel, needed_micros: int) -> Step:
    """Once for each deposit, unless a request waits for it."""
    deposit = channel.chain.deposit_micros
    if channel.talk.top_up_asked_at_micros == deposit and needed_micros == 0:
        return channel, NOTHING
    channel = channel._replace(talk=channel.talk._replace(top_up_asked_at_micros=deposit))
    return channel, (AskTopUp(deposit_micros=deposit, needed_micros=needed_micros),)


def raise_to_shown(channel: Channel, shown_micros: int) -> Step:
    """A voucher that our key signed counts, whether or not this ledger remembers: never lower, only higher.
    What it was for is not known, so it may be due."""
    tally = channel.tally
    if shown_micros <= tally.authorised_micros:
        return channel, NOTHING
    tally = with_tally(
        tally,
        held=held_micros(channel),
        authorised=shown_micros,
        pledged=max(shown_micros, tally.pledged_micros),
        settled_max=tally.settled_max_micros + shown_micros - tally.authorised_micros,
    )
    return channel._replace(tally=tally), (RaiseAuthorised(amount_micros=shown_micros),)


def _pledge(tally: Tally, deposit_micros: int, held: int) -> tuple[Tally, int]:
    """Pledge what is wanted, not held back and missing, as far as the deposit goes; and how much that is."""
    missing = tally.settled_micros + tally.live_target_micros - held - tally.pledged_micros
    if missing <= 0:
        return tally, 0
    delta = max(min(missing, deposit_micros - tally.pledged_micros), 0)
    if delta < missing:
        tally = tally._replace(is_refused=True)
    return with_tally(tally, held=held, pledged=tally.pledged_micros + delta), delta


def with_tally(
    tally: Tally,
    *,
    held: int,
    authorised: int | None = None,
    pledged: int | None = None,
    settled: int | None = None,
    settled_max: int | None = None,
    live_due: int = 0,
    live_target: int = 0,
) -> Tally:
    """The tally with totals set and sums moved; a refusal is over once everything wanted is pledged."""
    pledged = tally.pledged_micros if pledged is None else pledged
    settled = tally.settled_micros if settled is None else settled
    targets = tally.live_target_micros + live_target
    return Tally(
        authorised_micros=tally.authorised_micros if authorised is None else authorised,
        pledged_micros=pledged,
        settled_micros=settled,
        settled_max_micros=tally.settled_max_micros if settled_max is None else settled_max,
        live_due_micros=tally.live_due_micros + live_due,
        live_target_micros=targets,
        written_off_micros=tally.written_off_micros,
        is_refused=tally.is_refused and settled + targets - held > pledged,
    )
