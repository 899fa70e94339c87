"""What a payment channel is to one of its two ends: frozen values, the same classes for payer and payee.

Amounts are cumulative over the channel's whole life, in micro-USDC:

    settled         dues of the requests that ended: tokens delivered, exactly priced
    due             settled + what the live requests cost so far
    authorised      what vouchers say is the payee's, committed in the payer's ledger or on the payee's disk
    pledged         authorised, once everything that is being written now has been written
    wanted          (payer) settled + the targets of live requests: what ought to be pledged by now
    held            (payer) what of that it leaves unauthorised, within the credit that the payee grants

What was authorised and not used, `authorised - due`, stays on the channel and the next request uses it first.
Rules are in `channel_machine`; nothing here decides. The states are named tuples and not dataclasses because
three are made for each piece of an answer, and a frozen dataclass takes twice as long to make.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from unhosted.market.credit import CREDIT_PART
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.market.money import Micros, cost_micros
from unhosted.market.terms import Terms

Role = Literal["payer", "payee"]
Phase = Literal["none", "open", "closing", "closed"]
"""As the contract has it, at the safe block. none -> open -> closing -> closed, or open -> closed at once."""

ContactStage = Literal["lost", "asked", "agreed", "disputed"]
"""lost: no stream. asked: a stream, and the payee has stated its due. agreed: requests may be opened.
disputed: the payer's account is further below the payee's than the payee forgives; it serves no more."""

EndKind = Literal["finished", "stopped", "failed", "lost"]
"""How a request ended: the model was done; the payer or its missing voucher ended it; the payee could not go
on; the stream broke. One that failed, or was lost at the payer, before its first token costs nothing."""

LIVE_REQUESTS_MAX = 64
"""Live requests of one channel: a home seller has eight slots and a queue; each step copies the table."""

CHANNELS_PER_PEER_MAX = 8
"""Open channels that one peer may have with this node: one is enough, others drain after a change of key."""


class BrokenInvariant(Exception):
    """A rule of ours is broken by ourselves. Never caught: going on could only lose somebody's money."""


class Live(NamedTuple):
    """A request under way.

    tokens_out: payer: received; payee: allowed to be sent. due_micros: what they cost with the prompt; 0 at
    the payee until a voucher covers the prompt and a window (`is_covered`; at the payer always so).
    max_micros: of the whole request. window_micros: of a window of answer. target_micros (payer): what ought
    to be authorised for it. tokens_made (payee): by the engine. end: how it is about to end; then the payer
    raises nothing more, and the payee makes nothing more. deadline_ns: when waiting for the other side ends;
    None while it owes nothing.
    """

    terms: Terms
    max_micros: int
    window_micros: int
    tokens_out: int = 0
    due_micros: int = 0
    target_micros: int = 0
    tokens_made: int = 0
    is_covered: bool = True
    end: EndKind | None = None
    deadline_ns: int | None = None


class OnChain(NamedTuple):
    """The contract's channel as last seen; deposit: what counts of it (`credit.usable_deposit_micros`)."""

    phase: Phase = "none"
    deposit_micros: int = 0
    claimed_micros: int = 0
    close_at_unix_s: int = 0


class Tally(NamedTuple):
    """The cumulative account; the words are those of this file's head.

    settled_max_micros: payer: what it would still grant to be settled. Above `settled` only after a crash,
    when it cannot know what it received, or when a prompt was worked on and the stream broke. live_due_micros
    and live_target_micros: sums over the live requests. written_off_micros (payee): dues that it forgave.
    is_refused (payer): ledger or deposit had no room, so wanted may exceed pledged; ends when it does not.
    """

    authorised_micros: int = 0
    pledged_micros: int = 0
    settled_micros: int = 0
    settled_max_micros: int = 0
    live_due_micros: int = 0
    live_target_micros: int = 0
    written_off_micros: int = 0
    is_refused: bool = False


class Talk(NamedTuple):
    """Where the two ends stand with each other.

    contact: 16 bytes that name the present stream. sequence: of the newest request that was opened.
    top_up_asked_at_micros: the deposit at which a top-up was asked for, so that it is asked for once.
    is_winding_up: a close is signed or asked for, so nothing new may start.
    """

    stage: ContactStage = "lost"
    contact: bytes = b""
    sequence: int = 0
    top_up_asked_at_micros: int = 0
    is_winding_up: bool = False


class Channel(NamedTuple):
    """One end of a channel. signer: whose vouchers count. `live` is in the order of opening.

    credit_micros: what the payee lets stand unpaid beside a window; it says so at each contact. hold_micros
    (payer): how much it would leave unpaid, as a stake, until answers were checked.
    """

    role: Role
    channel_id: ChannelId
    signer: Address
    chain: OnChain = OnChain()
    tally: Tally = Tally()
    talk: Talk = Talk()
    live: Mapping[RequestId, Live] = MappingProxyType({})
    credit_micros: int = 0
    hold_micros: int = 0


def due_micros(channel: Channel) -> int:
    """What was delivered so far, as this end knows it."""
    return channel.tally.settled_micros + channel.tally.live_due_micros


def wanted_micros(channel: Channel) -> int:
    """What the payer ought to have authorised by now."""
    return channel.tally.settled_micros + channel.tally.live_target_micros


def credit_now_micros(channel: Channel) -> int:
    """What may stand unpaid beside a window: as the payee grants, in proportion to what was authorised."""
    return min(channel.credit_micros, channel.tally.authorised_micros // CREDIT_PART)


def held_micros(channel: Channel) -> int:
    """What the payer leaves unauthorised of what it wants to."""
    return min(channel.hold_micros, credit_now_micros(channel))


def surplus_micros(channel: Channel) -> int:
    """Authorised, and neither used nor promised to a live request: the next request uses it first."""
    return max(channel.tally.pledged_micros - wanted_micros(channel), 0)


def begin(terms: Terms, *, is_covered: bool, deadline_ns: int) -> Live:
    """A request of which nothing came and nothing was counted yet."""
    return Live(
        terms=terms,
        max_micros=terms.cost_micros_max,
        window_micros=cost_micros(terms.price, tokens_in=0, tokens_out=terms.window_tokens),
        is_covered=is_covered,
        deadline_ns=deadline_ns,
    )


def cost(terms: Terms, tokens_out: int) -> Micros:
    """Of the prompt and so many tokens."""
    return cost_micros(terms.price, tokens_in=terms.tokens_in, tokens_out=tokens_out)


def cost_ahead(terms: Terms, tokens_out: int) -> Micros:
    """Of a window more than that, within the agreed maximum."""
    return cost(terms, min(tokens_out + terms.window_tokens, terms.tokens_out_max))


def next_deadline_ns(channel: Channel) -> int | None:
    """When `TimePassed` is due."""
    deadlines = [live.deadline_ns for live in channel.live.values() if live.deadline_ns is not None]
    return min(deadlines, default=None)


def restore(
    *,
    role: Role,
    channel_id: ChannelId,
    signer: Address,
    chain: OnChain,
    authorised_micros: int,
    settled_micros: int,
    settled_max_micros: int,
    sequence: int,
    written_off_micros: int = 0,
    is_winding_up: bool = False,
    credit_micros: int = 0,
    hold_micros: int = 0,
) -> Channel:
    """A channel from what was durable; requests that were live are gone.

    settled_max_micros: payer: what its ledger holds possible (`due_max`), as it cannot know how much of those
    requests it received; it grants up to what it authorised. Payee: the same as settled.
    credit_micros: payee: what it grants. hold_micros: payer: the most that it may have held back before.
    """
    return Channel(
        role=role,
        channel_id=channel_id,
        signer=signer,
        chain=chain,
        tally=Tally(
            authorised_micros=authorised_micros,
            pledged_micros=authorised_micros,
            settled_micros=settled_micros,
            settled_max_micros=settled_max_micros,
            written_off_micros=written_off_micros,
            is_refused=role == "payer" and settled_micros > authorised_micros,
        ),
        talk=Talk(sequence=sequence, is_winding_up=is_winding_up),
        credit_micros=credit_micros,
        hold_micros=hold_micros,
    )
