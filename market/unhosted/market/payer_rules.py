"""The payer's rules: pay a window ahead of what came, never for more; and say at each contact what is owed.

A voucher is asked for when what was received has used up a request's target. The ledger commits the raise
first (`Authorise`); only `Authorised` makes a signature (`SignVoucher`). So whatever is killed, nothing is
signed that is not counted, and what is signed is exactly what is counted.

The payer's own count is what it pays by. It differs from the payee's only when a stream broke with tokens in
flight, or when a crash made the payer forget: then it grants what the payee states, between what it knows to
be settled and what it had authorised. That is all a lying payee can gain by a crash, and it is less than a
window for each request that was live.
"""

from unhosted.market.channel_effects import (
    BreakContact,
    Effect,
    OfferClose,
    RefuseClose,
    RefuseRequest,
    ReportFault,
    SettleRequest,
    SettleTotal,
    SignVoucher,
    StopReason,
    TellAnswer,
)
from unhosted.market.channel_events import (
    AuthorisationRefused,
    Authorised,
    ChannelClaimed,
    ChannelClosed,
    CloseWanted,
    ContactLost,
    ContactMade,
    EndReceived,
    FactWithdrawn,
    HoldChanged,
    RequestOpened,
    StateReceived,
    StopWanted,
    TimePassed,
    TokensReceived,
    VoucherAsked,
)
from unhosted.market.channel_rules import (
    NOTHING,
    Step,
    fact_withdrawn,
    shortfall_micros,
    why_not_open,
    with_talk,
)
from unhosted.market.channel_rules import channel_claimed as claimed_at_either_end
from unhosted.market.channel_rules import channel_closed as closed_at_either_end
from unhosted.market.channel_states import (
    Channel,
    begin,
    cost,
    held_micros,
)
from unhosted.market.faults import Reason
from unhosted.market.payer_account import (
    advance,
    ask_top_up,
    hold,
    raise_to_shown,
    settle,
    stop,
    with_tally,
)

STALL_NS = 120_000_000_000
"""No token for two minutes: a queue and a long prompt on a slow machine take one. Whoever wants an answer
sooner goes elsewhere sooner and ends the request itself."""


def contact_made(channel: Channel, event: ContactMade, now_ns: int) -> Step:
    """The payee speaks first: only it has both numbers."""
    channel, effects = contact_lost(channel, ContactLost(), now_ns)
    return with_talk(channel, "asked", contact=event.contact), effects


def contact_lost(
    channel: Channel, event: ContactLost, now_ns: int, *, ended: SettleRequest | None = None
) -> Step:
    """What came is owed. A request of which nothing came is free, unless the payee says that it worked.

    ended: how one of them ended just before. All are settled at once: what one still needs, another one's
    target pays.
    """
    endings = tuple(
        ended
        if ended is not None and request_id == ended.request_id
        else SettleRequest(
            request_id=request_id,
            tokens_out=live.tokens_out,
            due_micros=live.due_micros if live.tokens_out else 0,
            due_max_micros=live.due_micros,
            end="lost",
        )
        for request_id, live in channel.live.items()
    )
    channel, effects = settle(channel, endings)
    return with_talk(channel, "lost", contact=b""), effects


def state_received(channel: Channel, event: StateReceived, now_ns: int) -> Step:
    """Grant what the payee states, from what is known to be settled up to what may be."""
    talk, tally = channel.talk, channel.tally
    if talk.stage != "asked" or event.contact != talk.contact:
        return channel, NOTHING
    effects: tuple[Effect, ...] = ()
    shown = 0
    if event.voucher_signer == channel.signer:
        shown = event.voucher_micros
    elif event.voucher_signer is not None:
        effects += (
            ReportFault(reason=Reason.WRONG_SIGNATURE, message="a voucher shown as ours is not ours"),
        )
    channel, raised = raise_to_shown(channel, shown)
    tally = channel.tally
    # What was refused by the ledger was never signed, so no statement of the payee's can make it owed; what
    # was held back was not signed either, and is.
    covered = tally.authorised_micros + channel.hold_micros
    most = min(tally.settled_max_micros, max(tally.settled_micros, covered))
    settled = min(max(event.due_micros, tally.settled_micros), most)
    effects += raised
    if settled != tally.settled_max_micros or settled != tally.settled_micros:
        effects += (SettleTotal(settled_micros=settled),)
    channel = channel._replace(credit_micros=event.credit_micros)
    tally = with_tally(tally, held=held_micros(channel), settled=settled, settled_max=settled)
    channel, _ = hold(channel._replace(tally=tally), channel.hold_micros, None)
    tally = channel.tally
    channel = with_talk(channel, "agreed", sequence=max(talk.sequence, event.sequence))
    if tally.authorised_micros > shown:
        effects += (SignVoucher(amount_micros=tally.authorised_micros),)
    return channel, (*effects, TellAnswer(contact=event.contact, due_micros=settled))


def hold_changed(channel: Channel, event: HoldChanged, now_ns: int) -> Step:
    return hold(channel, event.hold_micros, event.request_id)


def request_opened(channel: Channel, event: RequestOpened, now_ns: int) -> Step:
    terms = event.terms
    reason = why_not_open(channel, event)
    if reason is None and event.reserved_micros < terms.cost_micros_max:
        reason = "under_reserved"
    if reason is not None:
        effects: tuple[Effect, ...] = (RefuseRequest(request_id=terms.request_id, reason=reason),)
        if reason == "channel_exhausted":
            channel, asked = ask_top_up(channel, shortfall_micros(channel, terms))
            effects += asked
        return channel, effects
    due, deadline_ns = cost(terms, 0), now_ns + STALL_NS
    return advance(
        with_talk(channel, "agreed", sequence=event.sequence),
        terms.request_id,
        begin(terms, is_covered=True, deadline_ns=deadline_ns),
        tokens_out=0,
        due=due,
        deadline_ns=deadline_ns,
        is_raising=True,
    )


def tokens_received(channel: Channel, event: TokensReceived, now_ns: int) -> Step:
    """A repeated piece is nothing new; one after a gap is not counted, and so not paid."""
    live = channel.live.get(event.request_id)
    claimed = event.position + event.count
    if live is None or event.position > live.tokens_out or claimed <= live.tokens_out:
        return channel, NOTHING
    terms = live.terms
    tokens_out = min(claimed, terms.tokens_out_max)
    due = cost(terms, tokens_out)
    is_too_many = claimed > terms.tokens_out_max
    is_raising = live.end is None and not is_too_many and live.target_micros <= due
    channel, effects = advance(
        channel,
        event.request_id,
        live,
        tokens_out=tokens_out,
        due=due,
        # After a stop only the end counts, not another token.
        deadline_ns=live.deadline_ns if live.end else now_ns + STALL_NS,
        is_raising=is_raising and live.target_micros < live.max_micros,
    )
    if is_too_many:
        message = f"{claimed} tokens of at most {terms.tokens_out_max} came"
        channel, stopped = stop(channel, event.request_id, "over_claim", now_ns)
        return channel, (ReportFault(reason=Reason.OVER_CLAIM, message=message), *stopped)
    if is_raising:
        next_micros = cost(terms, min(tokens_out + 1, terms.tokens_out_max))
        if channel.live[event.request_id].target_micros < next_micros:
            channel, stopped = stop(channel, event.request_id, "channel_exhausted", now_ns)
            effects += stopped
    return channel, effects


def authorised(channel: Channel, event: Authorised, now_ns: int) -> Step:
    """Commits of one group may be told in any order: the larger total holds."""
    tally = channel.tally
    if event.total_micros <= tally.authorised_micros:
        return channel, NOTHING
    changed = with_tally(
        tally,
        held=held_micros(channel),
        authorised=event.total_micros,
        pledged=max(tally.pledged_micros, event.total_micros),
    )
    effects = (SignVoucher(amount_micros=event.total_micros),) if channel.talk.stage == "agreed" else NOTHING
    return channel._replace(tally=changed), effects


def authorisation_refused(channel: Channel, event: AuthorisationRefused, now_ns: int) -> Step:
    """The request stops. What came of it is owed all the same: the next voucher that can be covers it."""
    tally = channel.tally
    pledged = max(tally.pledged_micros - event.delta_micros, tally.authorised_micros)
    tally = with_tally(tally._replace(is_refused=True), held=held_micros(channel), pledged=pledged)
    return stop(channel._replace(tally=tally), event.request_id, event.reason, now_ns)


def voucher_asked(channel: Channel, event: VoucherAsked, now_ns: int) -> Step:
    """The payee may have lost our last voucher; what it asks for beyond that comes when its tokens do."""
    if event.request_id not in channel.live or channel.tally.authorised_micros == 0:
        return channel, NOTHING
    return channel, (SignVoucher(amount_micros=channel.tally.authorised_micros),)


def stop_wanted(channel: Channel, event: StopWanted, now_ns: int) -> Step:
    return stop(channel, event.request_id, event.reason, now_ns)


def end_received(channel: Channel, event: EndReceived, now_ns: int) -> Step:
    live = channel.live.get(event.request_id)
    if live is None:
        return channel, NOTHING
    tokens_out = min(event.tokens_out, live.tokens_out)
    is_free = tokens_out == 0 and event.end in ("failed", "lost")
    due = 0 if is_free else cost(live.terms, tokens_out)
    ending = SettleRequest(
        request_id=event.request_id, tokens_out=tokens_out, due_micros=due, due_max_micros=due, end=event.end
    )
    if event.tokens_out <= live.tokens_out:
        return settle(channel, (ending,))
    message = f"the payee counts {event.tokens_out} tokens, {live.tokens_out} came"
    channel, broken = _break(channel, "over_claim", now_ns, ended=ending)
    return channel, (ReportFault(reason=Reason.OVER_CLAIM, message=message), *broken)


def close_wanted(channel: Channel, event: CloseWanted, now_ns: int) -> Step:
    """What is settled is the payee's and the surplus comes back; what the chain paid out already is gone."""
    if channel.live:
        return channel, (RefuseClose(reason="still_live"),)
    if channel.talk.stage != "agreed":
        return channel, (RefuseClose(reason="no_contact"),)
    amount = max(
        min(channel.tally.settled_micros, channel.tally.authorised_micros), channel.chain.claimed_micros
    )
    channel = channel._replace(talk=channel.talk._replace(is_winding_up=True))
    return channel, (OfferClose(amount_micros=amount),)


def time_passed(channel: Channel, event: TimePassed, now_ns: int) -> Step:
    """First a stop; when even the end does not come, the two no longer count alike."""
    effects: tuple[Effect, ...] = ()
    for request_id, live in channel.live.items():
        if live.deadline_ns is None or live.deadline_ns > now_ns:
            continue
        if live.end:
            channel, broken = _break(channel, "stalled", now_ns)
            return channel, (*effects, ReportFault(reason=Reason.STALLED, message="no end came"), *broken)
        channel, stopped = stop(channel, request_id, "stalled", now_ns)
        effects += stopped
    return channel, effects


def channel_claimed(channel: Channel, event: ChannelClaimed, now_ns: int) -> Step:
    """A claim above what the ledger knows proves a voucher that a restored backup has forgotten."""
    channel, effects = claimed_at_either_end(channel, event, now_ns)
    channel, raised = raise_to_shown(channel, event.claimed_micros)
    return channel, (*raised, *effects)


def channel_closed(channel: Channel, event: ChannelClosed, now_ns: int) -> Step:
    channel, lost = _break(channel, "channel_closed", now_ns) if channel.live else (channel, NOTHING)
    channel, raised = raise_to_shown(channel, event.claimed_micros)
    channel, effects = closed_at_either_end(channel, event, now_ns)
    return channel, (*lost, *raised, *effects)


def funding_withdrawn(channel: Channel, event: FactWithdrawn, now_ns: int) -> Step:
    lost = raised = NOTHING
    if channel.live and event.chain.phase in ("none", "closed"):
        channel, lost = _break(channel, "channel_closed", now_ns)
    channel, raised = raise_to_shown(channel, event.chain.claimed_micros)
    channel, effects = fact_withdrawn(channel, event, now_ns)
    return channel, (*lost, *raised, *effects)


def _break(channel: Channel, reason: StopReason, now_ns: int, *, ended: SettleRequest | None = None) -> Step:
    broken = BreakContact(contact=channel.talk.contact, reason=reason)
    channel, effects = contact_lost(channel, ContactLost(), now_ns, ended=ended)
    return channel, (*effects, broken)
