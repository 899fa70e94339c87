"""What can go wrong with a request, as values that every entry point shows in its own way.

`Refused` is an answer: policy, a limit or the request itself said no, and the state is as before. It is
caught once per entry point (HTTP turns it into an OpenAI-shaped error, the CLI into one line and exit 1).
`LocalFault` is a defect of ours: it is never caught, the process that finds it stops.
"""

from collections.abc import Mapping
from typing import Literal

Code = Literal[
    "invalid_request",  # a field breaks a rule: `field` names it
    "model_not_found",
    "context_length_exceeded",
    "model_too_large",  # it cannot fit: bytes needed and present are in the message and the details
    "overloaded",  # the bounded queue is full: `retry_after_s` says when to come back
    "engine_failed",  # the engine's process died twice under this request, or could not start
    "no_provider",  # no ring that the request allows can serve it
    "not_supported",
    "offline",  # the network is needed and --offline forbids it
    "download_failed",
    "digest_mismatch",
    "disk_full",
    "unauthorized",
    "not_paired",  # the other machine is no paired peer of this one, or has ended the pairing
    "not_allowed",  # a paired peer asks for more than its capabilities: the message says which
    "pairing_failed",  # wrong, used or expired code, or one side said no
    "peer_unreachable",  # a named peer cannot be reached: addresses tried are in the message
    "cap_reached",  # the monthly cap has no room for it: spent, reserved and cap are in the message
    "no_funds",  # the account or the channel holds less than it needs: both numbers are in the message
    "price_too_high",  # above the ceiling the user set: both prices are in the message
    "no_gas",  # the sending key cannot pay the transaction fee: both numbers are in the message
    "chain_unavailable",  # no RPC endpoint gave an answer that can be believed; says nothing about funds
    "chain_mismatch",  # the chain, token or contract at the endpoint is not the one that was configured
    "wallet_missing",  # there is no key yet
    "wallet_locked",  # the password is missing or wrong
    "key_refused",  # a key that must not be used here, such as a published test key off the local chain
    "ledger_damaged",  # the record of what was spent cannot be trusted, so nothing is spent
]


class Refused(Exception):
    """The one error of the surface. `message` names the value, the rule it broke and what to do next."""

    def __init__(
        self,
        code: Code,
        message: str,
        *,
        field: str | None = None,
        retry_after_s: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.field = field
        self.retry_after_s = retry_after_s
        self.details: Mapping[str, object] = dict(details or {})


class LocalFault(Exception):
    """An invariant of ours is broken. Never caught: going on could only make it worse."""
