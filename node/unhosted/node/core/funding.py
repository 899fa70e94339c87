"""A deposit, from the node that wants it to the owner who signs it: what is asked for, in words and as data.

The owner's key is elsewhere: in a phone, a hardware wallet, a browser. It signs one EIP-3009 authorization,
whose nonce binds the node's operator key and its monthly limit, so that whoever carries it to the chain can
change nothing. The node keeps what it asked for and takes back nothing but the signature: a file that comes
back with another amount in it is of no use to anybody.

Not handled here: whether the signature is right (keys are the shell's), and sending it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unhosted.market.channels import ChainId, Deployment
from unhosted.market.eip712 import TokenDomain, deposit_nonce, receive_digest
from unhosted.market.ids import (
    ID_BYTES,
    SIGNATURE_BYTES,
    ZERO_ADDRESS,
    Address,
    Digest,
    Signature,
    address_text,
    parse_address,
)
from unhosted.market.money import AMOUNT_MICROS_MAX, Micros, format_usd
from unhosted.market.months import UNIX_S_MAX
from unhosted.node.core.errors import Refused

FORMAT = "unhosted/deposit/1"

VALID_S = 7 * 86_400
"""A week to walk to the machine with the owner's key. A forgotten request must not stay good for ever."""

SIGNATURE_BYTES_MAX = 8_192
"""Contract wallets (ERC-1271) send more than 65 bytes: several signers', each with proofs."""

TEXT_CHARS_MAX = 32_768
"""Of a request as JSON; a right one has about 3,000."""

_EIP712_DOMAIN = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "verifyingContract", "type": "address"},
]
_RECEIVE = [
    {"name": "from", "type": "address"},
    {"name": "to", "type": "address"},
    {"name": "value", "type": "uint256"},
    {"name": "validAfter", "type": "uint256"},
    {"name": "validBefore", "type": "uint256"},
    {"name": "nonce", "type": "bytes32"},
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositRequest:
    """What the owner is asked to sign. salt: 32 drawn bytes. signature: None until it came back.

    chain_name: as in the settings. title: of the chain, for people.
    """

    chain_name: str
    title: str
    token: TokenDomain
    channels: Deployment
    owner: Address
    operator: Address
    amount_micros: Micros
    limit_micros: Micros
    valid_after_unix_s: int
    valid_before_unix_s: int
    salt: bytes
    signature: Signature | None = None

    def __post_init__(self) -> None:
        for name in ("amount_micros", "limit_micros"):
            value = getattr(self, name)
            if not 0 < value <= AMOUNT_MICROS_MAX:
                raise ValueError(f"{name} {value} is outside 1 to {AMOUNT_MICROS_MAX}")
        if len(self.salt) != ID_BYTES:
            raise ValueError(f"salt of {len(self.salt)} bytes: {ID_BYTES} are needed")
        if ZERO_ADDRESS in (self.owner, self.operator):
            raise ValueError("owner and operator must not be the zero address")
        if not 0 <= self.valid_after_unix_s < self.valid_before_unix_s <= UNIX_S_MAX:
            raise ValueError(f"validity {self.valid_after_unix_s} to {self.valid_before_unix_s} is no span")
        if self.token.chain_id != self.channels.chain_id:
            raise ValueError(f"token on chain {self.token.chain_id}, Channels on {self.channels.chain_id}")

    @property
    def deposit_id(self) -> str:
        """Short, for files, commands and addresses of pages."""
        return self.salt[:8].hex()

    @property
    def nonce(self) -> bytes:
        return deposit_nonce(self.operator, limit_micros=self.limit_micros, salt=self.salt)

    @property
    def digest(self) -> Digest:
        """What the owner's key signs."""
        return receive_digest(
            self.token,
            payer=self.owner,
            payee=self.channels.contract,
            value_micros=self.amount_micros,
            valid_after_unix_s=self.valid_after_unix_s,
            valid_before_unix_s=self.valid_before_unix_s,
            nonce=self.nonce,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositRoom:
    """What bounds a deposit. cap, spent and reserved: of this month. in_contract: free and in channels.

    unspent: of that, what no voucher has promised to a seller. deposited_max: `wallet.max-total-deposit-usd`.
    """

    cap_micros: int
    spent_micros: int
    reserved_micros: int
    in_contract_micros: int
    unspent_micros: int
    deposited_max_micros: int


def check_deposit(room: DepositRoom, *, amount_micros: int, limit_micros: int) -> None:
    """Never more in the contract than may still be spent: a stolen node cannot take what is not there.

    Raises: Refused that names the bound, the numbers and the setting.
    """
    if room.cap_micros == 0:
        raise Refused(
            "cap_reached",
            "the monthly cap is 0, so nothing may ever be paid: set it first, "
            "`unhosted config set public.max-usd-per-month 5`",
            field="public.max-usd-per-month",
        )
    if amount_micros <= 0:
        raise Refused(
            "invalid_request", "a deposit of 0 moves nothing: name an amount in USD", field="amount"
        )
    # What is reserved lies in a channel, so it is among what is unspent, or is yet to be allocated.
    left = room.cap_micros - room.spent_micros - max(room.reserved_micros, room.unspent_micros)
    if amount_micros > left:
        raise Refused(
            "cap_reached",
            f"a deposit of USD {format_usd(amount_micros)} is above the USD {format_usd(max(0, left))} that "
            f"may still be spent this month and is not there yet (cap {format_usd(room.cap_micros)}, spent "
            f"{format_usd(room.spent_micros)}, reserved {format_usd(room.reserved_micros)}, unspent in the "
            f"contract {format_usd(room.unspent_micros)}): deposit less, or raise public.max-usd-per-month",
            field="amount",
        )
    if amount_micros + room.in_contract_micros > room.deposited_max_micros:
        raise Refused(
            "cap_reached",
            f"USD {format_usd(amount_micros)} more would make USD "
            f"{format_usd(amount_micros + room.in_contract_micros)} in the contract, above the limit of USD "
            f"{format_usd(room.deposited_max_micros)}: deposit less, or withdraw, or raise "
            "wallet.max-total-deposit-usd (the contracts had no outside audit yet)",
            field="amount",
        )
    if limit_micros > room.cap_micros:
        raise Refused(
            "cap_reached",
            f"a monthly limit of USD {format_usd(limit_micros)} on the chain is above the cap of USD "
            f"{format_usd(room.cap_micros)}: leave out --limit, or raise public.max-usd-per-month",
            field="limit",
        )
    if limit_micros <= 0:
        raise Refused("invalid_request", "a monthly limit of 0 lets the node open no channel", field="limit")


def with_signature(request: DepositRequest, signature: bytes) -> DepositRequest:
    """Raises: Refused for a length that no wallet makes."""
    if not SIGNATURE_BYTES <= len(signature) <= SIGNATURE_BYTES_MAX:
        raise Refused(
            "invalid_request",
            f"a signature of {len(signature)} bytes; {SIGNATURE_BYTES} are usual and {SIGNATURE_BYTES_MAX} "
            "the most: copy it whole, with 0x",
            field="signature",
        )
    return replace(request, signature=Signature(bytes(signature)))


def typed_data(request: DepositRequest) -> dict[str, Any]:
    """What eth_signTypedData_v4 takes: numbers as decimal texts, since a wallet's may be floats."""
    return {
        "types": {"EIP712Domain": _EIP712_DOMAIN, "ReceiveWithAuthorization": _RECEIVE},
        "primaryType": "ReceiveWithAuthorization",
        "domain": {
            "name": request.token.name,
            "version": request.token.version,
            "chainId": int(request.token.chain_id),
            "verifyingContract": address_text(request.token.contract),
        },
        "message": {
            "from": address_text(request.owner),
            "to": address_text(request.channels.contract),
            "value": str(int(request.amount_micros)),
            "validAfter": str(request.valid_after_unix_s),
            "validBefore": str(request.valid_before_unix_s),
            "nonce": "0x" + request.nonce.hex(),
        },
    }


def words(request: DepositRequest, *, valid_until: str) -> list[str]:
    """What the signature does, for whoever gives it. valid_until: the end of its validity, as people read."""
    return [
        f"Move USD {format_usd(request.amount_micros)} (USDC) of {address_text(request.owner)}",
        f"into the payment contract {address_text(request.channels.contract)}",
        f"on {request.title} (chain {request.channels.chain_id}).",
        f"The key {address_text(request.operator)} on the node may commit at most "
        f"USD {format_usd(request.limit_micros)} of it to sellers in a calendar month (UTC).",
        "What is not committed can be withdrawn by the owner alone, at any time.",
        f"Valid until {valid_until}.",
    ]


def to_json(request: DepositRequest, *, valid_until: str) -> dict[str, Any]:
    """The file that travels: words first, then what is signed, then what else the chain is told."""
    made: dict[str, Any] = {
        "format": FORMAT,
        "id": request.deposit_id,
        "what": words(request, valid_until=valid_until),
        "how": "Sign typed_data with eth_signTypedData_v4 and the key of its `from`, and put the result here "
        "as `signature`. Then, on the node: unhosted wallet fund --signed FILE",
        "chain": request.chain_name,
        "chain_title": request.title,
        "chain_id": int(request.channels.chain_id),
        "owner": address_text(request.owner),
        "operator": address_text(request.operator),
        "amount_micros": str(int(request.amount_micros)),
        "monthly_limit_micros": str(int(request.limit_micros)),
        "salt": "0x" + request.salt.hex(),
        "typed_data": typed_data(request),
    }
    if request.signature is not None:
        made["signature"] = "0x" + request.signature.hex()
    return made


def from_json(told: Mapping[str, Any]) -> DepositRequest:
    """The request in a file of ours. Raises: ValueError that says what is wrong with it."""
    if told.get("format") != FORMAT:
        raise ValueError(f"format {str(told.get('format'))[:40]!r} is not {FORMAT!r}")
    data = _part(told, "typed_data")
    domain, message = _part(data, "domain"), _part(data, "message")
    chain_id = ChainId(_number(told, "chain_id"))
    request = DepositRequest(
        chain_name=_text(told, "chain"),
        title=_text(told, "chain_title"),
        token=TokenDomain(
            name=_text(domain, "name"),
            version=_text(domain, "version"),
            chain_id=ChainId(_number(domain, "chainId")),
            contract=parse_address(_text(domain, "verifyingContract")),
        ),
        channels=Deployment(chain_id=chain_id, contract=parse_address(_text(message, "to"))),
        owner=parse_address(_text(told, "owner")),
        operator=parse_address(_text(told, "operator")),
        amount_micros=Micros(_number(told, "amount_micros")),
        limit_micros=Micros(_number(told, "monthly_limit_micros")),
        valid_after_unix_s=_number(message, "validAfter"),
        valid_before_unix_s=_number(message, "validBefore"),
        salt=_hex(told, "salt"),
        signature=Signature(_hex(told, "signature")) if "signature" in told else None,
    )
    if typed_data(request) != data:
        raise ValueError("typed_data says something else than the fields beside it")
    return request


def signature_of(told: Mapping[str, Any]) -> tuple[str, bytes]:
    """Id and signature of a file that came back; nothing else in it counts.

    Raises: Refused that names the field.
    """
    try:
        return _text(told, "id"), _hex(told, "signature")
    except ValueError as error:
        raise Refused(
            "invalid_request",
            f"the signed file is not usable: {error}; it needs the id of the request and the signature that "
            "the wallet gave",
        ) from None


def _part(told: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = told.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name} is missing")
    return value


def _text(told: Mapping[str, Any], name: str) -> str:
    value = told.get(name)
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        raise ValueError(f"{name} is missing or no text of at most 200 characters")
    return value


def _number(told: Mapping[str, Any], name: str) -> int:
    value = told.get(name)
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 40:
        return int(value)
    if type(value) is not int or value < 0:
        raise ValueError(f"{name} is missing or no whole number")
    return value


def _hex(told: Mapping[str, Any], name: str) -> bytes:
    value = told.get(name)
    if not isinstance(value, str) or len(value) > 2 + 2 * SIGNATURE_BYTES_MAX:
        raise ValueError(f"{name} is missing")
    try:
        return bytes.fromhex(value.strip().removeprefix("0x"))
    except ValueError:
        raise ValueError(f"{name} is not hex") from None
