"""How a refusal looks on the wire: one table from code to status, and one shape per dialect."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from unhosted.node.core.errors import Code, Refused

Dialect = Literal["openai", "anthropic"]

STATUS_BY_CODE: Mapping[Code, int] = {
    "invalid_request": 400,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    # Not a 5xx: SDKs repeat those by themselves, and asking again makes no machine larger.
    "model_too_large": 422,
    "overloaded": 503,
    "engine_failed": 500,
    "no_provider": 503,
    "not_supported": 400,
    "offline": 503,
    "download_failed": 502,
    "digest_mismatch": 502,
    "disk_full": 507,
    "unauthorized": 401,
    "not_paired": 403,
    "not_allowed": 403,
    "pairing_failed": 409,
    "peer_unreachable": 502,
    "cap_reached": 402,
    "no_funds": 402,
    "price_too_high": 402,
    "no_gas": 402,
    "chain_unavailable": 503,
    "chain_mismatch": 502,
    "wallet_missing": 409,
    "wallet_locked": 409,
    "key_refused": 403,
    "ledger_damaged": 507,
}

RETRY_AFTER_S = 1
"""Sent with 503 when the refusal itself names no time: a slot frees within one answer, not one minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A refusal ready to be sent. `code` is a `Code` or a word of HTTP's own, such as `not_found`."""

    status: int
    code: str
    message: str
    field: str | None = None
    retry_after_s: int | None = None
    details: Mapping[str, object] | None = None


class Rejected(Exception):
    """HTTP itself says no: a route, a method, a header, a size. Caught once, in the gate."""

    def __init__(self, status: int, code: str, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.fault = Fault(status=status, code=code, message=message, retry_after_s=retry_after_s)


def fault_of(refused: Refused) -> Fault:
    status = STATUS_BY_CODE[refused.code]
    retry_after_s = refused.retry_after_s
    if status == 503 and retry_after_s is None:
        retry_after_s = RETRY_AFTER_S
    return Fault(
        status=status,
        code=refused.code,
        message=refused.message,
        field=refused.field,
        retry_after_s=retry_after_s,
        details=refused.details or None,
    )


def error_body(fault: Fault, dialect: Dialect) -> dict[str, object]:
    """The JSON of an error; the numbers behind the message are in `details`."""
    if dialect == "anthropic":
        error: dict[str, object] = {"type": _anthropic_type(fault.status), "message": fault.message}
        error |= {"code": fault.code, "param": fault.field}
    else:
        error = {
            "message": fault.message,
            "type": _openai_type(fault.status),
            "param": fault.field,
            "code": fault.code,
        }
    if fault.details:
        error["details"] = dict(fault.details)
    return {"type": "error", "error": error} if dialect == "anthropic" else {"error": error}


def _openai_type(status: int) -> str:
    if status == 401:
        return "authentication_error"
    if status == 403:
        return "permission_error"
    return "server_error" if status >= 500 else "invalid_request_error"


def _anthropic_type(status: int) -> str:
    by_status = {
        401: "authentication_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        503: "overloaded_error",
    }
    return by_status.get(status, "api_error" if status >= 500 else "invalid_request_error")
