"""Deposits that wait for the owner's signature, for the wallet page and on this machine alone.

Who can reach the node over a network could read who pays how much, and a page on a machine that is not the
owner's is no place to sign at.
"""

from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import SIGNATURE_BYTES_MAX
from unhosted.node.http.errors import Rejected
from unhosted.node.http.exchange import Exchange, Header, send_json
from unhosted.node.http.parsing import Body, parse

_HEADERS: tuple[Header, ...] = ((b"cache-control", b"no-store"),)


class SignatureBody(Body):
    """signature: hex with 0x, as eth_signTypedData_v4 gives it."""

    signature: str


async def list_deposits(exchange: Exchange) -> None:
    check_loopback(exchange)
    await send_json(exchange.send, {"deposits": await exchange.node.wallet.waiting()}, headers=_HEADERS)


async def sign_deposit(exchange: Exchange) -> None:
    """Take the signature of one deposit. Nothing else of the request can be changed from here."""
    check_loopback(exchange)
    text = parse(SignatureBody, exchange.body).signature
    try:
        signature = (
            bytes.fromhex(text.removeprefix("0x")) if len(text) <= 2 + 2 * SIGNATURE_BYTES_MAX else b""
        )
    except ValueError:
        signature = b""
    if not signature:
        raise Refused(
            "invalid_request", "signature: hex digits are needed, as the wallet gave them", field="signature"
        )
    deposit = await exchange.node.wallet.sign(str(exchange.scope["path_params"]["deposit"]), signature)
    await send_json(exchange.send, {"deposit": deposit}, headers=_HEADERS)


def check_loopback(exchange: Exchange) -> None:
    """Raises: Rejected where the node listens to other machines."""
    if not exchange.settings.is_loopback:
        raise Rejected(
            403,
            "loopback_only",
            f"the wallet page is for this machine alone and the node listens on {exchange.settings.host}: "
            "use the file of `unhosted wallet fund` instead",
        )
