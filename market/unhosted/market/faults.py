"""What can go wrong between two parties of the market, in three families; who catches each is said here.

`RemoteFault`: the other side broke a rule. Raised by decoding, returned by `check_*`, and the channel machine
has an effect `ReportFault` with the same reasons; the shell catches it once per stream, ends the stream with
the reason as its word, and lets the reason cost reputation.
A refusal: one of our own policies said no (cap, price, limit). A value among the effects or results
(`RefuseRequest`, the ledger's refusals), never raised here; the shell makes the node's one user-facing error
of it.
`BrokenInvariant` (in `channel_states`): a rule of ours is broken by ourselves. Never caught: the process
stops, since going on could only lose more of somebody's money.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Which rule a peer broke. The texts go over the wire and into the audit trail: they never change."""

    MALFORMED = "malformed"  # no message of the protocol, or a field outside its rule
    WRONG_VERSION = "wrong_version"
    WRONG_SIGNATURE = "wrong_signature"  # not by the key that has to sign
    WRONG_CHANNEL = "wrong_channel"  # a channel of somebody else, or on another chain or contract
    WRONG_REQUEST = "wrong_request"  # a request that was never opened, or is over
    WRONG_TERMS = "wrong_terms"  # price, counts or limits differ from what was agreed
    WRONG_RECEIPT = "wrong_receipt"  # counts, hashes or amount differ from what was delivered
    SECOND_RECEIPT = "second_receipt"  # another receipt for the same request: equivocation
    WRONG_ORDER = "wrong_order"  # a message that cannot come now
    EXPIRED = "expired"  # an offer or a quote from too long ago, or from the future
    OVER_DEPOSIT = "over_deposit"  # a voucher above what the channel holds
    OVER_CLAIM = "over_claim"  # asks for more money than was delivered for
    OVER_WINDOW = "over_window"  # more tokens or unpaid work than the credit window
    STALLED = "stalled"  # nothing came in time
    TOO_MANY = "too_many"  # requests, channels or messages above a limit


class RemoteFault(Exception):
    """A peer broke a rule. `message` states the number that broke it; it holds nothing secret."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(f"{reason.value}: {message}")
        self.reason = reason
        self.message = message
