"""The payment channel, both ends: which event counts in which phase, and what it does.

The table below is the machine: it does not know which end it is. What an end does with an event that counts
is in `channel_rules` (both alike), `payer_rules` and `payee_rules`. A phase that a row does not name makes
the event a late or early one, which means nothing: every message may be lost, repeated, late or old.

The life of one request, payer to the left:

    RequestOpened    Authorise ->  ledger
    Authorised       SignVoucher -> VoucherReceived    StoreVoucher -> disk
                                    VoucherStored      StartWork -> engine
                                    TokensMade         ReleaseTokens
    TokensReceived <------------------------------------'
      (used up what was paid) Authorise, SignVoucher, and so on
    EndReceived    <--------------- TellEnd            SettleRequest -> disk
    Authorise, SignVoucher for what is due and not paid; SettleRequest -> ledger

Not handled here: who signed (an argument), what a transaction costs (`claims`), the month's cap (the ledger
refuses), messages per second, and how tokens travel.
"""

from collections.abc import Callable, Mapping
from typing import Any

from unhosted.market import channel_events as events
from unhosted.market import channel_rules, payee_rules, payer_rules
from unhosted.market.channel_checks import check_step
from unhosted.market.channel_effects import Effect
from unhosted.market.channel_events import ChainEvent, Event
from unhosted.market.channel_states import (
    BrokenInvariant,
    Channel,
    OnChain,
    Phase,
    Role,
)

_ALWAYS: Mapping[Phase, Phase] = {"none": "none", "open": "open", "closing": "closing", "closed": "closed"}
_FUNDED: Mapping[Phase, Phase] = {"open": "open", "closing": "closing"}

TABLE: Mapping[type, Mapping[Phase, Phase]] = {
    events.ChannelOpened: {"none": "open"},
    events.ChannelToppedUp: _FUNDED,
    events.ChannelClaimed: _FUNDED,
    events.CloseRequested: {"open": "closing"},
    events.ChannelClosed: {"open": "closed", "closing": "closed"},
    events.FactWithdrawn: {},  # into the phase that it names, whatever that is
    events.ContactMade: _ALWAYS,
    events.ContactLost: _ALWAYS,
    events.StateReceived: _ALWAYS,
    events.HoldChanged: _ALWAYS,
    events.AnswerReceived: _ALWAYS,
    events.RequestOpened: _ALWAYS,  # refused unless open, with the reason
    events.TokensReceived: _FUNDED,
    events.TokensMade: _FUNDED,
    events.Authorised: _ALWAYS,  # what was written is written
    events.AuthorisationRefused: _ALWAYS,
    events.VoucherReceived: _FUNDED,
    events.VoucherStored: _ALWAYS,
    events.VoucherAsked: _FUNDED,
    events.StopWanted: _FUNDED,
    events.StopReceived: _FUNDED,
    events.EndReceived: _FUNDED,
    events.CloseWanted: _FUNDED,
    events.CloseOffered: _FUNDED,
    events.TimePassed: _FUNDED,
}
"""From which phase an event leads to which."""

Rule = Callable[[Channel, Any, int], channel_rules.Step]

_BOTH: Mapping[type, Rule] = {
    events.ChannelOpened: channel_rules.channel_opened,
    events.ChannelToppedUp: channel_rules.channel_topped_up,
}
_PAYER: Mapping[type, Rule] = {
    events.ChannelClaimed: payer_rules.channel_claimed,
    events.CloseRequested: channel_rules.close_requested,
    events.ChannelClosed: payer_rules.channel_closed,
    events.FactWithdrawn: payer_rules.funding_withdrawn,
    events.ContactMade: payer_rules.contact_made,
    events.ContactLost: payer_rules.contact_lost,
    events.StateReceived: payer_rules.state_received,
    events.HoldChanged: payer_rules.hold_changed,
    events.RequestOpened: payer_rules.request_opened,
    events.TokensReceived: payer_rules.tokens_received,
    events.Authorised: payer_rules.authorised,
    events.AuthorisationRefused: payer_rules.authorisation_refused,
    events.VoucherAsked: payer_rules.voucher_asked,
    events.StopWanted: payer_rules.stop_wanted,
    events.EndReceived: payer_rules.end_received,
    events.CloseWanted: payer_rules.close_wanted,
    events.TimePassed: payer_rules.time_passed,
}
_PAYEE: Mapping[type, Rule] = {
    events.ChannelClaimed: channel_rules.channel_claimed,
    events.CloseRequested: payee_rules.close_requested,
    events.ChannelClosed: payee_rules.channel_closed,
    events.FactWithdrawn: payee_rules.funding_withdrawn,
    events.ContactMade: payee_rules.contact_made,
    events.ContactLost: payee_rules.contact_lost,
    events.AnswerReceived: payee_rules.answer_received,
    events.RequestOpened: payee_rules.request_opened,
    events.TokensMade: payee_rules.tokens_made,
    events.VoucherReceived: payee_rules.voucher_received,
    events.VoucherStored: payee_rules.voucher_stored,
    events.StopWanted: payee_rules.stop_wanted,
    events.StopReceived: payee_rules.stop_received,
    events.CloseOffered: payee_rules.close_offered,
    events.TimePassed: payee_rules.time_passed,
}
RULES: Mapping[Role, Mapping[type, Rule]] = {"payer": {**_BOTH, **_PAYER}, "payee": {**_BOTH, **_PAYEE}}

_ORDER: Mapping[Phase, int] = {"none": 0, "open": 1, "closing": 2, "closed": 3}


def step(channel: Channel, event: Event, now_ns: int) -> tuple[Channel, tuple[Effect, ...]]:
    """The channel after `event`, and what is to be done, in order.

    Raises: BrokenInvariant for an event that cannot come at this end, and for a broken invariant.
    """
    kind = type(event)
    rule = RULES[channel.role].get(kind)
    if rule is None:
        raise BrokenInvariant(f"{kind.__name__} came to a {channel.role}")
    before = channel.chain.phase
    phases = TABLE[kind]
    if before not in phases and kind is not events.FactWithdrawn:
        return channel, ()
    after, effects = rule(channel, event, now_ns)
    if after is channel:
        return channel, effects
    if after.chain is not channel.chain and after.chain.phase != phases.get(before, after.chain.phase):
        raise BrokenInvariant(f"{kind.__name__} led from {before} to {after.chain.phase}")
    check_step(channel, event, after)
    return after, effects


def chain_events(seen: OnChain, now: OnChain) -> tuple[ChainEvent, ...]:
    """The events that lead from what was seen to what the chain says now, however many were missed."""
    if seen.phase == "none":
        seen = OnChain()
    is_back = (
        _ORDER[now.phase] < _ORDER[seen.phase]
        or now.deposit_micros < seen.deposit_micros
        or now.claimed_micros < seen.claimed_micros
        or (seen.phase == now.phase == "closing" and seen.close_at_unix_s != now.close_at_unix_s)
        or (seen.phase == "closed" and seen.claimed_micros != now.claimed_micros)
    )
    if is_back:
        return (events.FactWithdrawn(chain=now),)
    found: list[ChainEvent] = []
    if seen.phase == "none" and now.phase != "none":
        found.append(events.ChannelOpened(deposit_micros=now.deposit_micros))
    elif now.deposit_micros > seen.deposit_micros:
        found.append(events.ChannelToppedUp(deposit_micros=now.deposit_micros))
    if now.claimed_micros > seen.claimed_micros and now.phase != "closed":
        found.append(events.ChannelClaimed(claimed_micros=now.claimed_micros))
    if now.phase == "closing" and seen.phase != "closing":
        found.append(events.CloseRequested(close_at_unix_s=now.close_at_unix_s))
    if now.phase == "closed" and seen.phase != "closed":
        found.append(events.ChannelClosed(claimed_micros=now.claimed_micros))
    return tuple(found)
