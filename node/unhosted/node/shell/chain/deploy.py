"""Bringing the contracts onto a chain: what would be done, whether it is right, and doing it once.

A deployment goes through the deployment proxy (`addresses.py`), so that the address follows from the code.
It can be repeated at any time: what stands is compared byte by byte and left alone, what was begun before a
crash is followed to its end by the journal of transactions.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import trio

from unhosted.contracts import Artifact, artifact
from unhosted.market.channels import Deployment
from unhosted.market.eip712 import (
    BONDS_NAME,
    CHANNELS_NAME,
    bonds_separator,
    channels_separator,
    keccak256,
    token_separator,
)
from unhosted.market.ids import ID_BYTES, Address, address_text
from unhosted.node.core.chain import Call, CallReverted, ChainUnavailable, Signer
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.adapter import Surroundings, _network
from unhosted.node.shell.chain.addresses import (
    DEPLOYMENT_PROXY,
    DEPLOYMENT_PROXY_CODE,
    BondsTerms,
    bonds_init_code,
    channels_init_code,
    create2_address,
    deployment_data,
)
from unhosted.node.shell.chain.answers import RpcError, data
from unhosted.node.shell.chain.chains import ChainEntry
from unhosted.node.shell.chain.estimating import estimate, market_now
from unhosted.node.shell.chain.pool import Endpoint, Pool
from unhosted.node.shell.chain.receipts import balance_of
from unhosted.node.shell.chain.sending import Sending
from unhosted.node.shell.chain.transactions import Journal

GAS_MAX = 6_000_000
"""Above the larger of the two (2.5 million, measured); more is not what was checked."""

DOMAIN_SEPARATOR = keccak256(b"DOMAIN_SEPARATOR()")[:4]

ContractName = Literal["Channels", "Bonds"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One contract to be. gas: what its deployment would take; 0 where it stands already."""

    name: ContractName
    address: Address
    init_code: bytes
    runtime_code: bytes
    is_deployed: bool
    gas: int

    @property
    def code_hash(self) -> bytes:
        """keccak-256 of the init code: with the salt, it makes the address."""
        return keccak256(self.init_code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be done, after everything that can be checked beforehand was right."""

    chain: ChainEntry
    parts: tuple[Part, ...]
    sender: Address
    balance_wei: int
    price_wei: int

    @property
    def gas(self) -> int:
        return sum(part.gas for part in self.parts)

    @property
    def cost_wei(self) -> int:
        return self.gas * self.price_wei


class Deployer:
    """Made by `open_deployer`: a chain on which the contracts need not stand yet."""

    def __init__(self, pool: Pool, entry: ChainEntry, sending: Sending) -> None:
        self._pool, self._entry, self._sending = pool, entry, sending

    async def plan(self, *, sender: Address, bonds: BondsTerms | None) -> Plan:
        """Look at the chain and say what is to be done; nothing is sent.

        Raises: Refused (chain_mismatch, not_supported) with both values; ChainUnavailable.
        """
        pool, entry = self._pool, self._entry
        await _check_proxy(pool, entry)
        await _check_token(pool, entry)
        parts = [await _part(pool, entry, "Channels", channels_init_code(entry.token.contract), sender, None)]
        if bonds is not None:
            init_code = bonds_init_code(entry.token.contract, bonds)
            parts.append(await _part(pool, entry, "Bonds", init_code, sender, bonds))
        return Plan(
            chain=entry,
            parts=tuple(parts),
            sender=sender,
            balance_wei=await balance_of(pool, sender),
            price_wei=(await market_now(pool, entry)).price_wei,
        )

    async def deploy(self, plan: Plan, signer: Signer, *, report: Callable[[Part], None]) -> None:
        """Send what is missing and check what then stands. Again after a crash: it goes on.

        report: called when a contract stands and was compared.
        Raises: Refused(no_gas) with both numbers; CallReverted; ChainUnavailable.
        """
        for part in plan.parts:
            if not part.is_deployed:
                await self._send(part, signer)
            if not await self._stands(part):
                raise Refused(
                    "chain_mismatch",
                    f"the deployment of {part.name} is in a block, and there is no code at"
                    f" {address_text(part.address)} yet: run the command again, it goes on from here",
                )
            report(part)

    async def _send(self, part: Part, signer: Signer) -> None:
        call = Call(
            to=DEPLOYMENT_PROXY,
            data=deployment_data(part.init_code),
            purpose=f"deployment of {part.name}",
            gas_max=GAS_MAX,
        )
        try:
            await self._sending.send(call, signer, key=f"deploy:{part.address.hex()}")
        except CallReverted:
            # The proxy gives no reason. Somebody may have been quicker: the same code, at the same address.
            if not await self._stands(part):
                raise

    async def _stands(self, part: Part) -> bool:
        return await _stands(self._pool, self._entry, part.name, part.address, part.runtime_code)


@asynccontextmanager
async def open_deployer(
    entry: ChainEntry, urls: Sequence[str] = (), *, journal_path: Path
) -> AsyncIterator[Deployer]:
    """The chain at these endpoints. The journal is the node's own, so that both share its key's nonces.

    Raises: Refused(chain_mismatch, ledger_damaged); ChainUnavailable.
    """
    around = Surroundings()
    pool = Pool(
        entry,
        urls or entry.rpc_urls,
        clock=around.clock,
        unix_now=around.unix_now,
        chance=around.chance,
    )
    try:
        await _check_is_chain(pool, entry)
        network = await _network(pool, entry)
        journal = await trio.to_thread.run_sync(lambda: Journal(journal_path, network=network))
        try:
            sending = Sending(pool, journal, entry, clock=around.clock, unix_now=around.unix_now)
            yield Deployer(pool, entry, sending)
        finally:
            journal.close()
    finally:
        pool.close()


async def _check_is_chain(pool: Pool, entry: ChainEntry) -> None:
    try:
        await pool.survey()
    except ChainUnavailable:
        if {endpoint.health.kind for endpoint in pool.endpoints} == {"wrong_chain"}:
            said = "; ".join(f"{one.transport.host}: {one.health.sentence}" for one in pool.endpoints)
            raise Refused(
                "chain_mismatch",
                f"the endpoints are of another chain ({said}): correct --chain or chain.rpc-urls",
                field="chain.rpc-urls",
            ) from None
        raise


async def _part(
    pool: Pool,
    entry: ChainEntry,
    name: ContractName,
    init_code: bytes,
    sender: Address,
    terms: BondsTerms | None,
) -> Part:
    address = create2_address(init_code)
    deployment = Deployment(chain_id=entry.chain_id, contract=address)
    if terms is None:
        runtime_code = channels_runtime(deployment, entry.token.contract)
    else:
        runtime_code = bonds_runtime(deployment, entry.token.contract, terms)
    is_deployed = await _stands(pool, entry, name, address, runtime_code)
    gas = 0
    if not is_deployed:
        call = Call(to=DEPLOYMENT_PROXY, data=deployment_data(init_code), purpose=f"deployment of {name}")
        gas = await estimate(pool, call, sender=sender)
    return Part(
        name=name,
        address=address,
        init_code=init_code,
        runtime_code=runtime_code,
        is_deployed=is_deployed,
        gas=gas,
    )


def channels_runtime(deployment: Deployment, token: Address) -> bytes:
    """The code that stands at `deployment`, byte for byte."""
    separator = channels_separator(deployment)
    return _runtime(artifact("Channels"), deployment, CHANNELS_NAME, separator, {"token": _word(token)})


def bonds_runtime(deployment: Deployment, token: Address, terms: BondsTerms) -> bytes:
    own = {
        "token": _word(token),
        "sink": _word(terms.sink),
        "k": _number(terms.quorum),
        "kAppeal": _number(terms.appeal_quorum),
        "maxSlash": _number(terms.slash_max_micros),
        "window": _number(terms.appeal_window_s),
        "unbond": _number(terms.unbond_s),
    }
    return _runtime(artifact("Bonds"), deployment, BONDS_NAME, bonds_separator(deployment), own)


def _runtime(
    compiled: Artifact, deployment: Deployment, name: str, separator: bytes, own: dict[str, bytes]
) -> bytes:
    domain = {
        "_nameHash": keccak256(name.encode()),
        "_chainId": _number(deployment.chain_id),
        "_separator": separator,
    }
    return compiled.runtime(own | domain)


async def _check_proxy(pool: Pool, entry: ChainEntry) -> None:
    if await _code(pool, DEPLOYMENT_PROXY) != DEPLOYMENT_PROXY_CODE:
        raise Refused(
            "not_supported",
            f"{entry.title} has no deployment proxy at {address_text(DEPLOYMENT_PROXY)}, so the contracts"
            " cannot get their usual address there: bring the proxy there by its public transaction first",
        )


async def _check_token(pool: Pool, entry: ChainEntry) -> None:
    """Its EIP-712 domain binds name, version, chain id and address: one word says all of them."""
    where = address_text(entry.token.contract)
    if not await _code(pool, entry.token.contract):
        raise Refused("chain_mismatch", f"there is no USDC at {where} on {entry.title}; nothing is deployed")
    fields = {"to": where, "data": "0x" + DOMAIN_SEPARATOR.hex()}

    async def ask(endpoint: Endpoint, number: int) -> bytes:
        try:
            return await pool.ask_at(endpoint, "eth_call", fields, hex(number), parse=_domain)
        except RpcError as error:
            if error.is_revert:
                return b""
            raise

    found, wanted = await pool.agreed(ask, at="latest"), token_separator(entry.token)
    if found != wanted:
        raise Refused(
            "chain_mismatch",
            f"the token at {where} on {entry.title} has the EIP-712 domain 0x{found.hex()}, USDC"
            f" ({entry.token.name}, version {entry.token.version}) has 0x{wanted.hex()}: deposits by"
            " signature would fail, nothing is deployed",
        )


async def _stands(
    pool: Pool, entry: ChainEntry, name: ContractName, address: Address, runtime_code: bytes
) -> bool:
    """Whether exactly this code stands there. Raises: Refused if it is other code."""
    found = await _code(pool, address)
    if found and found != runtime_code:
        raise Refused(
            "chain_mismatch",
            f"the code at {address_text(address)} on {entry.title} is not {name}: keccak-256"
            f" 0x{keccak256(found).hex()}, expected 0x{keccak256(runtime_code).hex()}; the endpoint may be"
            " lying, name another with chain.rpc-urls",
        )
    return bool(found)


async def _code(pool: Pool, address: Address) -> bytes:
    async def ask(endpoint: Endpoint, number: int) -> bytes:
        return await pool.ask_at(
            endpoint,
            "eth_getCode",
            address_text(address),
            hex(number),
            parse=lambda value: data(value, "code"),
        )

    return await pool.agreed(ask, at="latest")


def _bytes(value: object) -> bytes:
    return data(value, "a contract's code")


def _domain(value: object) -> bytes:
    return data(value, "a domain separator")[:ID_BYTES]


def _word(address: Address) -> bytes:
    return address.rjust(ID_BYTES, b"\0")


def _number(value: int) -> bytes:
    return value.to_bytes(ID_BYTES, "big")
