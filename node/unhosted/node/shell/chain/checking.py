"""Before the first payment: is this the chain, the token and the contract that the table says?

Each answer is compared with ours and never taken over. A domain that differs would make every signature
worthless, or good for something else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from unhosted.market.eip712 import channels_separator, token_separator
from unhosted.market.ids import Address, address_text
from unhosted.node.core.chain import ChainFacts, ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.abi import AbiError, channels_abi, decode, function_call
from unhosted.node.shell.chain.answers import EndpointFault, data
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.pool import Endpoint, Pool

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """A view of a contract and what it must give. `words` name it in an error."""

    words: str
    to: Address
    call: bytes
    type: str
    expected: object


async def check_chain(pool: Pool, entry: ChainEntry, facts: ChainFacts) -> None:
    """Raises: Refused(chain_mismatch) that names both values; ChainUnavailable."""
    try:
        await pool.survey()
    except ChainUnavailable:
        kinds = {endpoint.health.kind for endpoint in pool.endpoints}
        if kinds == {"wrong_chain"}:  # everybody answers, and says the same
            said = "; ".join(f"{one.transport.host}: {one.health.sentence}" for one in pool.endpoints)
            raise Refused(
                "chain_mismatch",
                f"the endpoints of chain.rpc-urls are of another chain ({said}): correct chain.name or "
                "chain.rpc-urls",
                field="chain.rpc-urls",
            ) from None
        raise
    questions = _questions(facts)
    found = await pool.agreed(
        lambda endpoint, number: _ask(pool, endpoint, number, facts, questions), at="latest"
    )
    has_token, has_channels, *values = found
    if not has_token:
        raise _missing(entry, "USDC", facts.token.contract, "this version of unhosted does not fit the chain")
    if not has_channels:
        advice = (
            f"deploy it with `unhosted wallet deploy --chain {entry.name}`, or choose another chain with "
            "`unhosted config set chain.name NAME`"
        )
        advice += " (start the local one with `unhosted devnet`)" if entry.is_test else ""
        raise _missing(entry, "the contract Channels", facts.channels.contract, advice)
    for question, value in zip(questions, values, strict=True):
        if value != question.expected:
            raise Refused(
                "chain_mismatch",
                f"{question.words} at {address_text(question.to)} on {entry.title} is {_shown(value)}, "
                f"expected is {_shown(question.expected)}: nothing is signed for it. If the endpoint is "
                "right, this version of unhosted does not fit the chain",
                details={"found": _shown(value), "expected": _shown(question.expected)},
            )


async def _ask(
    pool: Pool, endpoint: Endpoint, number: int, facts: ChainFacts, questions: tuple[_Question, ...]
) -> tuple[object, ...]:
    """Whether token and contract have code, and then the answers; all at one block."""
    at = hex(number)
    codes = [
        await pool.ask_at(endpoint, "eth_getCode", "0x" + contract.hex(), at, parse=_code)
        for contract in (facts.token.contract, facts.channels.contract)
    ]
    values: list[object] = []
    for question in questions:
        fields = {"to": "0x" + question.to.hex(), "data": "0x" + question.call.hex()}
        parse = parsing(_decoder(question.type))
        values.append(
            await pool.ask_at(endpoint, "eth_call", fields, at, parse=parse) if all(codes) else None
        )
    return (*(bool(code) for code in codes), *values)


def _missing(entry: ChainEntry, words: str, address: Address, advice: str) -> Refused:
    return Refused(
        "chain_mismatch",
        f"{words} is not on {entry.title}: {address_text(address)} has no code there; {advice}",
        details={"address": address_text(address)},
    )


async def read(pool: Pool, to: Address, call: bytes, decoder: Callable[[bytes], Value], *, at: str) -> Value:
    """A view's value that all endpoints that are well agree on, at one block. Raises: ChainUnavailable."""
    fields = {"to": "0x" + to.hex(), "data": "0x" + call.hex()}

    async def ask(endpoint: Endpoint, number: int) -> Value:
        return await pool.ask_at(endpoint, "eth_call", fields, hex(number), parse=parsing(decoder))

    return await pool.agreed(ask, at=at)


def parsing(decoder: Callable[[bytes], Value]) -> Callable[[object], Value]:
    """Of JSON's answer to an eth_call."""

    def parse(value: object) -> Value:
        try:
            return decoder(data(value, "a call's result"))
        except AbiError as error:
            raise EndpointFault("broken", f"a call's result cannot be read: {error}") from None

    return parse


def _questions(facts: ChainFacts) -> tuple[_Question, ...]:
    token, channels = facts.token.contract, facts.channels.contract

    def of_token(signature: str, kind: str, expected: object) -> _Question:
        return _Question(
            words=f"{signature} of USDC",
            to=token,
            call=function_call(signature),
            type=kind,
            expected=expected,
        )

    def of_channels(name: str, kind: str, expected: object) -> _Question:
        call = channels_abi().encode_call(name)
        return _Question(words=f"{name}() of Channels", to=channels, call=call, type=kind, expected=expected)

    return (
        of_token("name()", "string", facts.token.name),
        of_token("version()", "string", facts.token.version),
        of_token("DOMAIN_SEPARATOR()", "bytes32", token_separator(facts.token)),
        of_channels("token", "address", bytes(token)),
        of_channels("domainSeparator", "bytes32", channels_separator(facts.channels)),
    )


def _decoder(kind: str) -> Callable[[bytes], object]:
    def decoder(value: bytes) -> object:
        # An address without such a function answers with nothing: that is a mismatch, not a broken endpoint.
        return decode((kind,), value)[0] if value else b""

    return decoder


def _code(value: object) -> bytes:
    return data(value, "a contract's code")


def _shown(value: object) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex() if value else "nothing"
    return repr(value)
