"""What both ends of a channel do alike, not knowing which end they are: chain facts, and opening.

Each rule takes a channel and an event that the table of `channel_machine` let through, and returns the next
channel and what is to be done.
"""

from typing import Literal

from unhosted.market.channel_effects import Effect, RecordClosed, RefuseReason
from unhosted.market.channel_events import (
    ChannelClaimed,
    ChannelClosed,
    ChannelOpened,
    ChannelToppedUp,
    CloseRequested,
    FactWithdrawn,
    RequestOpened,
)
from unhosted.market.channel_states import (
    LIVE_REQUESTS_MAX,
    Channel,
    Live,
    OnChain,
    Talk,
    Tally,
)
from unhosted.market.credit import window_tokens
from unhosted.market.ids import RequestId
from unhosted.market.terms import Terms

Step = tuple[Channel, tuple[Effect, ...]]

NOTHING: tuple[Effect, ...] = ()


def channel_opened(channel: Channel, event: ChannelOpened, now_ns: int) -> Step:
    chain = OnChain(phase="open", deposit_micros=event.deposit_micros)
    return channel._replace(chain=chain), NOTHING


def channel_topped_up(channel: Channel, event: ChannelToppedUp, now_ns: int) -> Step:
    deposit_micros = max(event.deposit_micros, channel.chain.deposit_micros)
    return channel._replace(chain=channel.chain._replace(deposit_micros=deposit_micros)), NOTHING


def channel_claimed(channel: Channel, event: ChannelClaimed, now_ns: int) -> Step:
    claimed_micros = max(event.claimed_micros, channel.chain.claimed_micros)
    return channel._replace(chain=channel.chain._replace(claimed_micros=claimed_micros)), NOTHING


def close_requested(channel: Channel, event: CloseRequested, now_ns: int) -> Step:
    chain = channel.chain._replace(phase="closing", close_at_unix_s=event.close_at_unix_s)
    return channel._replace(chain=chain), NOTHING


def channel_closed(channel: Channel, event: ChannelClosed, now_ns: int) -> Step:
    claimed_micros = max(event.claimed_micros, channel.chain.claimed_micros)
    chain = channel.chain._replace(phase="closed", claimed_micros=claimed_micros)
    effect = RecordClosed(channel_id=channel.channel_id, claimed_micros=claimed_micros)
    return channel._replace(chain=chain), (effect,)


def fact_withdrawn(channel: Channel, event: FactWithdrawn, now_ns: int) -> Step:
    """Whatever the chain says now is true; what was authorised above a smaller deposit stays, unclaimable
    until the deposit is back, and nothing more is authorised or released against it."""
    channel = channel._replace(chain=event.chain)
    if event.chain.phase != "closed":
        return channel, NOTHING
    claimed_micros = event.chain.claimed_micros
    return channel, (RecordClosed(channel_id=channel.channel_id, claimed_micros=claimed_micros),)


def why_not_open(channel: Channel, event: RequestOpened) -> RefuseReason | None:
    """What keeps a request from being opened, at either end; both ends refuse the same."""
    chain, talk, terms = channel.chain, channel.talk, event.terms
    if terms.channel_id != channel.channel_id:
        return "wrong_channel"
    if chain.phase != "open":
        return "not_open"
    if talk.is_winding_up:
        return "winding_up"
    if talk.stage != "agreed":
        return "disputed" if talk.stage == "disputed" else "no_contact"
    if terms.request_id in channel.live or event.sequence <= talk.sequence:
        return "stale"
    if len(channel.live) >= LIVE_REQUESTS_MAX:
        return "too_many_live"
    if terms.window_tokens > window_tokens(terms.price):
        return "window_too_large"
    if shortfall_micros(channel, terms) > 0:
        return "channel_exhausted"
    return None


def shortfall_micros(channel: Channel, terms: Terms) -> int:
    """By how much the deposit is too small for one more request, with every live one at its maximum: a
    request that opens never stops for want of a deposit, unless the chain takes it back."""
    promised = sum(live.max_micros for live in channel.live.values()) + terms.cost_micros_max
    return channel.tally.settled_micros + promised - channel.chain.deposit_micros


def with_request(channel: Channel, request_id: RequestId, live: Live, tally: Tally) -> Channel:
    """The channel with one live request added or moved on: the only copying on the path of a token."""
    entries = dict(channel.live)
    entries[request_id] = live
    return Channel(
        role=channel.role,
        channel_id=channel.channel_id,
        signer=channel.signer,
        chain=channel.chain,
        tally=tally,
        talk=channel.talk,
        live=entries,
        credit_micros=channel.credit_micros,
        hold_micros=channel.hold_micros,
    )


def without_request(channel: Channel, request_id: RequestId, tally: Tally) -> Channel:
    entries = {key: live for key, live in channel.live.items() if key != request_id}
    return channel._replace(live=entries, tally=tally)


def with_talk(
    channel: Channel,
    stage: Literal["lost", "asked", "agreed", "disputed"],
    *,
    contact: bytes | None = None,
    sequence: int | None = None,
) -> Channel:
    talk = channel.talk
    changed = Talk(
        stage=stage,
        contact=talk.contact if contact is None else contact,
        sequence=talk.sequence if sequence is None else sequence,
        top_up_asked_at_micros=talk.top_up_asked_at_micros,
        is_winding_up=talk.is_winding_up,
    )
    return channel._replace(talk=changed)
