"""The payee's rules: no token beyond what is paid and a window of credit, no voucher that is not durable.

A request is covered once the best voucher pays what was delivered so far on the channel, its prompt and a
window; only then does the engine begin. From then on its tokens are released while everything delivered on
the channel stays within the best voucher and one window more. What the engine made beyond that is held. Where
the payee grants a buyer credit, it counts like a voucher.

The payee believes nothing but vouchers of the channel's signer. What the payer says at a new contact can only
lower what the payee thinks it is owed, and only within `credit.write_off_max_micros`; below that it stops
serving on the channel until the payer's account is back in reach.
"""

from unhosted.market.channel_effects import (
    AskVoucher,
    ClaimNow,
    Effect,
    RefuseClose,
    RefuseRequest,
    ReleaseTokens,
    ReportFault,
    SettleRequest,
    SettleTotal,
    SignClose,
    StartWork,
    StopReason,
    StopWork,
    StoreVoucher,
    TellEnd,
    TellState,
)
from unhosted.market.channel_events import (
    AnswerReceived,
    ChannelClosed,
    CloseOffered,
    CloseRequested,
    ContactLost,
    ContactMade,
    FactWithdrawn,
    RequestOpened,
    StopReceived,
    StopWanted,
    TimePassed,
    TokensMade,
    VoucherReceived,
    VoucherStored,
)
from unhosted.market.channel_rules import (
    NOTHING,
    Step,
    fact_withdrawn,
    why_not_open,
    with_request,
    with_talk,
    without_request,
)
from unhosted.market.channel_rules import channel_closed as closed_at_either_end
from unhosted.market.channel_rules import close_requested as close_requested_at_either_end
from unhosted.market.channel_states import (
    BrokenInvariant,
    Channel,
    EndKind,
    Live,
    Tally,
    begin,
    cost,
    cost_ahead,
    credit_now_micros,
)
from unhosted.market.credit import tokens_within, write_off_max_micros
from unhosted.market.faults import Reason
from unhosted.market.ids import RequestId

UNPAID_NS = 20_000_000_000
"""A voucher takes a commit and a way there and back. Who needs longer keeps a slot from somebody who pays."""


def contact_made(channel: Channel, event: ContactMade, now_ns: int) -> Step:
    """Speak first: what is the best voucher here, and how much of it was used."""
    channel, effects = contact_lost(channel, ContactLost(), now_ns)
    state = TellState(
        contact=event.contact,
        voucher_micros=channel.tally.authorised_micros,
        due_micros=channel.tally.settled_micros,
        sequence=channel.talk.sequence,
        credit_micros=channel.credit_micros,
    )
    return with_talk(channel, "asked", contact=event.contact), (*effects, state)


def contact_lost(channel: Channel, event: ContactLost, now_ns: int) -> Step:
    """What was released counts as delivered until the payer says otherwise."""
    effects: tuple[Effect, ...] = ()
    for request_id in channel.live:
        channel, done = _end(channel, request_id, "lost", "stalled")
        effects += done
    return with_talk(channel, "lost", contact=b""), effects


def answer_received(channel: Channel, event: AnswerReceived, now_ns: int) -> Step:
    """Less than delivered means that a link swallowed tokens, or that the payer says so. More is what a crash
    made this end forget, and never more than there is."""
    talk, tally = channel.talk, channel.tally
    if talk.stage not in ("asked", "disputed") or event.contact != talk.contact:
        return channel, NOTHING
    due_micros = min(event.due_micros, max(tally.settled_micros, channel.chain.deposit_micros))
    forgiven = max(tally.settled_micros - due_micros, 0)
    written_off = tally.written_off_micros + forgiven
    most = write_off_max_micros(tally.authorised_micros)
    if written_off > most:
        message = (
            f"{forgiven} of {tally.settled_micros} micro-USDC are denied, {written_off} of {most} in all"
        )
        return with_talk(channel, "disputed"), (ReportFault(reason=Reason.OVER_WINDOW, message=message),)
    channel = with_talk(channel, "agreed")
    if due_micros == tally.settled_micros:
        return channel, NOTHING
    tally = tally._replace(
        settled_micros=due_micros,
        settled_max_micros=due_micros,
        written_off_micros=written_off,
    )
    effect = SettleTotal(settled_micros=due_micros, written_off_micros=written_off)
    return channel._replace(tally=tally), (effect,)


def request_opened(channel: Channel, event: RequestOpened, now_ns: int) -> Step:
    request_id = event.terms.request_id
    reason = why_not_open(channel, event)
    if reason is not None:
        return channel, (RefuseRequest(request_id=request_id, reason=reason),)
    live = begin(event.terms, is_covered=False, deadline_ns=now_ns + UNPAID_NS)
    channel = with_talk(channel, "agreed", sequence=event.sequence)
    return _release(with_request(channel, request_id, live, channel.tally), request_id, now_ns)


def voucher_received(channel: Channel, event: VoucherReceived, now_ns: int) -> Step:
    """Late and repeated ones say nothing new; a better one is stored before anything is done for it."""
    deposit = channel.chain.deposit_micros
    if event.channel_id != channel.channel_id:
        message = f"a voucher for channel {event.channel_id.hex()[:8]}"
        return channel, (ReportFault(reason=Reason.WRONG_CHANNEL, message=message),)
    if event.signer != channel.signer:
        message = f"a voucher over {event.amount_micros} micro-USDC is not by the channel's signer"
        return channel, (ReportFault(reason=Reason.WRONG_SIGNATURE, message=message),)
    if event.amount_micros <= channel.tally.pledged_micros:
        return channel, NOTHING
    if event.amount_micros > deposit:
        message = f"a voucher over {event.amount_micros} micro-USDC, above the deposit of {deposit}"
        return channel, (ReportFault(reason=Reason.OVER_DEPOSIT, message=message),)
    tally = channel.tally._replace(pledged_micros=event.amount_micros)
    effect = StoreVoucher(amount_micros=event.amount_micros, signature=event.signature)
    return channel._replace(tally=tally), (effect,)


def voucher_stored(channel: Channel, event: VoucherStored, now_ns: int) -> Step:
    if event.amount_micros <= channel.tally.authorised_micros:
        return channel, NOTHING
    if event.amount_micros > channel.tally.pledged_micros:
        raise BrokenInvariant(
            f"a voucher over {event.amount_micros} micro-USDC was stored, the best received is over "
            f"{channel.tally.pledged_micros}"
        )
    channel = channel._replace(tally=channel.tally._replace(authorised_micros=event.amount_micros))
    effects: tuple[Effect, ...] = ()
    for request_id, live in channel.live.items():
        if live.is_covered and live.tokens_out == live.tokens_made:
            continue
        channel, released = _release(channel, request_id, now_ns)
        effects += released
    return channel, effects


def tokens_made(channel: Channel, event: TokensMade, now_ns: int) -> Step:
    live = channel.live.get(event.request_id)
    if live is None or live.end:
        return channel, NOTHING
    if not live.is_covered:
        raise BrokenInvariant("the engine made tokens of a request that no voucher covers")
    # The engine may run one step too far; what is above the agreed number does not exist.
    made = min(live.tokens_made + event.count, live.terms.tokens_out_max)
    is_last = event.is_last or made == live.terms.tokens_out_max
    return _release(channel, event.request_id, now_ns, made=made, end="finished" if is_last else None)


def stop_wanted(channel: Channel, event: StopWanted, now_ns: int) -> Step:
    return _end(channel, event.request_id, "failed", event.reason)


def stop_received(channel: Channel, event: StopReceived, now_ns: int) -> Step:
    return _end(channel, event.request_id, "stopped", "cancelled")


def close_offered(channel: Channel, event: CloseOffered, now_ns: int) -> Step:
    """Sign away what is not used: it was never earned. Once signed, the payer may close at any moment."""
    chain, needed = channel.chain, max(channel.tally.settled_micros, channel.chain.claimed_micros)
    if event.signer != channel.signer:
        message = f"a voucher over {event.amount_micros} micro-USDC is not by the channel's signer"
        return channel, (ReportFault(reason=Reason.WRONG_SIGNATURE, message=message),)
    if chain.phase not in ("open", "closing"):
        return channel, (RefuseClose(reason="not_open"),)
    if channel.live:
        return channel, (RefuseClose(reason="still_live"),)
    if event.amount_micros < needed:
        return channel, (RefuseClose(reason="amount_too_low", needed_micros=needed),)
    if event.amount_micros > chain.deposit_micros:
        message = (
            f"a close over {event.amount_micros} micro-USDC, above the deposit of {chain.deposit_micros}"
        )
        return channel, (ReportFault(reason=Reason.OVER_DEPOSIT, message=message),)
    channel = channel._replace(talk=channel.talk._replace(is_winding_up=True))
    return channel, (SignClose(amount_micros=event.amount_micros, voucher_signature=event.signature),)


def time_passed(channel: Channel, event: TimePassed, now_ns: int) -> Step:
    effects: tuple[Effect, ...] = ()
    for request_id, live in channel.live.items():
        if live.deadline_ns is not None and live.deadline_ns <= now_ns:
            channel, ended = _end(channel, request_id, "stopped", "unpaid")
            effects += ended
    return channel, effects


def close_requested(channel: Channel, event: CloseRequested, now_ns: int) -> Step:
    channel, effects = close_requested_at_either_end(channel, event, now_ns)
    if channel.tally.authorised_micros <= channel.chain.claimed_micros:
        return channel, effects
    claim = ClaimNow(voucher_micros=channel.tally.authorised_micros, close_at_unix_s=event.close_at_unix_s)
    return channel, (*effects, claim)


def channel_closed(channel: Channel, event: ChannelClosed, now_ns: int) -> Step:
    channel, ended = _end_all(channel, "channel_closed")
    channel, effects = closed_at_either_end(channel, event, now_ns)
    return channel, (*ended, *effects)


def funding_withdrawn(channel: Channel, event: FactWithdrawn, now_ns: int) -> Step:
    ended = NOTHING
    if event.chain.phase in ("none", "closed"):
        channel, ended = _end_all(channel, "channel_closed")
    channel, effects = fact_withdrawn(channel, event, now_ns)
    return channel, (*ended, *effects)


def _release(
    channel: Channel,
    request_id: RequestId,
    now_ns: int,
    *,
    made: int | None = None,
    end: EndKind | None = None,
) -> Step:
    """Release as many of the request's tokens as money allows; start it, or end it, if that was all.

    made, end: where the engine just moved.
    """
    live, tally = channel.live[request_id], channel.tally
    terms, due_before, deadline_ns = live.terms, live.due_micros, live.deadline_ns
    made = live.tokens_made if made is None else made
    end = end or live.end
    deposit = channel.chain.deposit_micros
    paid = tally.authorised_micros + credit_now_micros(channel)
    others = tally.settled_micros + tally.live_due_micros - due_before
    effects: list[Effect] = []
    if not live.is_covered:
        if min(paid, deposit) < others + cost_ahead(terms, 0):
            return channel, NOTHING
        deadline_ns = None
        effects.append(StartWork(request_id=request_id))
    credit = min(paid + live.window_micros, deposit)
    most = tokens_within(terms.price, tokens_in=terms.tokens_in, micros=credit - others)
    tokens_out = max(min(made, most), live.tokens_out)
    is_held = tokens_out < made
    if tokens_out > live.tokens_out:
        effects.append(ReleaseTokens(request_id=request_id, position=tokens_out))
        deadline_ns = None
    if is_held and deadline_ns is None:
        deadline_ns = now_ns + UNPAID_NS
        needed = max(
            others + cost(terms, tokens_out + 1) - live.window_micros - credit_now_micros(channel), 0
        )
        effects.append(AskVoucher(request_id=request_id, needed_micros=needed))
    due = cost(terms, tokens_out)
    moved = Live(
        terms=terms,
        max_micros=live.max_micros,
        window_micros=live.window_micros,
        tokens_out=tokens_out,
        due_micros=due,
        tokens_made=made,
        is_covered=True,
        end=end,
        deadline_ns=deadline_ns,
    )
    channel = with_request(channel, request_id, moved, _delivered(tally, due - due_before))
    if end and not is_held:
        channel, ended = _end(channel, request_id, "finished", None)
        effects.extend(ended)
    return channel, tuple(effects)


def _end(channel: Channel, request_id: RequestId, end: EndKind, reason: StopReason | None) -> Step:
    """What was held back is dropped. A request that never started, or failed at once, costs nothing."""
    live = channel.live.get(request_id)
    if live is None:
        return channel, NOTHING
    if not live.is_covered and end == "stopped":
        end = "failed"
    due = 0 if end == "failed" and live.tokens_out == 0 else live.due_micros
    settled = channel.tally.settled_micros + due
    tally = channel.tally._replace(
        settled_micros=settled,
        settled_max_micros=settled,
        live_due_micros=channel.tally.live_due_micros - live.due_micros,
    )
    effects: tuple[Effect, ...] = () if reason is None else (StopWork(request_id=request_id, reason=reason),)
    tokens_out = live.tokens_out
    settle = SettleRequest(
        request_id=request_id, tokens_out=tokens_out, due_micros=due, due_max_micros=due, end=end
    )
    effects += (settle,)
    if end != "lost":
        effects += (TellEnd(request_id=request_id, tokens_out=tokens_out, end=end),)
    return without_request(channel, request_id, tally), effects


def _end_all(channel: Channel, reason: StopReason) -> Step:
    effects: tuple[Effect, ...] = ()
    for request_id in channel.live:
        channel, ended = _end(channel, request_id, "stopped", reason)
        effects += ended
    return channel, effects


def _delivered(tally: Tally, more_micros: int) -> Tally:
    return Tally(
        authorised_micros=tally.authorised_micros,
        pledged_micros=tally.pledged_micros,
        settled_micros=tally.settled_micros,
        settled_max_micros=tally.settled_max_micros,
        live_due_micros=tally.live_due_micros + more_micros,
        written_off_micros=tally.written_off_micros,
    )
