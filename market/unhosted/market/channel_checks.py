"""What must hold of a channel after every step; a breach is our own defect, raised and never caught.

`check_step` looks at what one step changed and at sums, in constant time, since it runs for every piece of an
answer. `check_whole` recomputes everything from the live requests; it runs whenever a request begins or ends.
"""

from unhosted.market.channel_events import (
    ChannelClaimed,
    ChannelClosed,
    Event,
    FactWithdrawn,
    StateReceived,
)
from unhosted.market.channel_states import (
    LIVE_REQUESTS_MAX,
    BrokenInvariant,
    Channel,
    Live,
    cost,
    cost_ahead,
    held_micros,
)
from unhosted.market.money import AMOUNT_MICROS_MAX


def check_step(before: Channel, event: Event, after: Channel) -> None:
    """Raises: BrokenInvariant."""
    if after.tally is not before.tally:
        _check_tally(before, event, after)
    talk = after.talk
    if talk.sequence < before.talk.sequence or (before.talk.is_winding_up and not talk.is_winding_up):
        raise BrokenInvariant(
            f"sequence {before.talk.sequence} fell to {talk.sequence}, or a close was forgotten"
        )
    if len(after.live) != len(before.live) or isinstance(event, FactWithdrawn):
        check_whole(after)


def _check_tally(before: Channel, event: Event, after: Channel) -> None:
    old, new = before.tally, after.tally
    if not old.authorised_micros <= new.authorised_micros <= new.pledged_micros <= AMOUNT_MICROS_MAX:
        raise BrokenInvariant(
            f"authorised {old.authorised_micros} became {new.authorised_micros}, pledged {new.pledged_micros}"
        )
    if new.settled_micros + new.written_off_micros < old.settled_micros + old.written_off_micros:
        raise BrokenInvariant(
            f"settled fell from {old.settled_micros} to {new.settled_micros}, not written off"
        )
    if new.settled_micros > new.settled_max_micros or new.live_due_micros < 0 or new.live_target_micros < 0:
        raise BrokenInvariant(
            f"settled {new.settled_micros} above its maximum {new.settled_max_micros}, or a sum < 0"
        )
    if after.role == "payer":
        wanted = new.settled_micros + new.live_target_micros - held_micros(after)
        if wanted > new.pledged_micros and not new.is_refused:
            raise BrokenInvariant(f"{wanted} wanted above {new.pledged_micros} pledged, and nobody refused")
        if new.pledged_micros > old.pledged_micros and not isinstance(
            event, StateReceived | ChannelClaimed | ChannelClosed | FactWithdrawn
        ):
            _check_raise(after, new.authorised_micros > old.authorised_micros)
    else:
        deposit = after.chain.deposit_micros
        delivered = new.settled_micros + new.live_due_micros
        grew = delivered + new.written_off_micros > (
            old.settled_micros + old.live_due_micros + old.written_off_micros
        )
        if grew and new.live_due_micros > old.live_due_micros and delivered > deposit:
            raise BrokenInvariant(f"delivered for {delivered} micro-USDC above the deposit of {deposit}")
        if new.pledged_micros > old.pledged_micros and new.pledged_micros > deposit:
            raise BrokenInvariant(
                f"a voucher over {new.pledged_micros} was taken, above the deposit of {deposit}"
            )


def _check_raise(after: Channel, is_told: bool) -> None:
    """What is pledged anew is wanted and within the deposit; the ledger may tell more (another process)."""
    if is_told:
        return
    wanted = after.tally.settled_micros + after.tally.live_target_micros - held_micros(after)
    if after.tally.pledged_micros > min(wanted, after.chain.deposit_micros):
        raise BrokenInvariant(
            f"pledged {after.tally.pledged_micros} of {wanted} wanted, deposit {after.chain.deposit_micros}"
        )


def check_whole(channel: Channel) -> None:
    """Raises: BrokenInvariant."""
    if channel.credit_micros < 0 or channel.hold_micros < 0:
        raise BrokenInvariant(f"credit {channel.credit_micros} or hold {channel.hold_micros} is below 0")
    tally, live = channel.tally, channel.live
    if sum(request.due_micros for request in live.values()) != tally.live_due_micros:
        raise BrokenInvariant(f"dues of live requests are not {tally.live_due_micros} in sum")
    if sum(request.target_micros for request in live.values()) != tally.live_target_micros:
        raise BrokenInvariant(f"targets of live requests are not {tally.live_target_micros} in sum")
    if live and (channel.chain.phase in ("none", "closed") or channel.talk.stage != "agreed"):
        raise BrokenInvariant(f"{len(live)} live requests, phase {channel.chain.phase}, {channel.talk.stage}")
    if len(live) > LIVE_REQUESTS_MAX:
        raise BrokenInvariant(f"{len(live)} live requests, at most {LIVE_REQUESTS_MAX}")
    for request in live.values():
        check_request(channel, request)


def check_request(channel: Channel, live: Live) -> None:
    """Raises: BrokenInvariant."""
    terms = live.terms
    if not 0 <= live.tokens_out <= terms.tokens_out_max:
        raise BrokenInvariant(f"{live.tokens_out} tokens of at most {terms.tokens_out_max}")
    if live.is_covered and live.due_micros != cost(terms, live.tokens_out):
        raise BrokenInvariant(f"{live.tokens_out} tokens are not worth {live.due_micros} micro-USDC")
    if channel.role == "payer":
        if live.target_micros > cost_ahead(terms, live.tokens_out):
            raise BrokenInvariant(
                f"target {live.target_micros} beyond a window after {live.tokens_out} tokens"
            )
    elif live.tokens_out > live.tokens_made or (not live.is_covered and live.due_micros + live.tokens_out):
        raise BrokenInvariant(
            f"{live.tokens_out} released of {live.tokens_made} made, covered: {live.is_covered}"
        )
