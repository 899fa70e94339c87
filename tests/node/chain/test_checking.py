"""Before the first payment: chain, token and contract must be what the table says."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.devchain import DevChain
from tests.node.chain.faulty_rpc import Twist, faulty_rpc, lie
from tests.node.chain.opening import with_chain
from tests.node.chain.stage import local_entry
from unhosted.market.eip712 import token_separator
from unhosted.market.ids import Address, address_text
from unhosted.node.core.chain import ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain.abi import channels_abi, encode, function_call
from unhosted.node.shell.chain.adapter import WebChain
from unhosted.node.shell.chain.chains import ChainEntry, chain_by_name, chains, facts_of
from unhosted.node.shell.devnet.contracts import dev_contracts


async def _never(chain: WebChain) -> None:
    raise AssertionError("it must not open")


def _refusal(entry: ChainEntry, urls: list[str], folder: Path) -> Refused:
    with pytest.raises(Refused) as refused:
        with_chain(entry, urls, folder, _never)
    assert refused.value.code == "chain_mismatch"
    return refused.value


@pytest.mark.slow
def test_another_chain_is_refused_with_both_ids(dev: DevChain, tmp_path: Path) -> None:
    entry = chain_by_name("base")
    said = _refusal(entry, [dev.url], tmp_path).message
    assert "it is chain 31337, Base is chain 8453" in said
    assert "chain.rpc-urls" in said


@pytest.mark.slow
def test_a_contract_that_is_not_there_is_named_with_what_to_do(dev: DevChain, tmp_path: Path) -> None:
    nowhere = Address(b"\x77" * 20)
    entry = local_entry(dev).with_contracts(channels=nowhere)
    said = _refusal(entry, [dev.url], tmp_path).message
    assert address_text(nowhere) in said
    assert "unhosted wallet deploy --chain local" in said
    assert "unhosted devnet" in said
    no_token = local_entry(dev).with_contracts(token=nowhere, channels=dev.contracts.channels)
    assert "USDC is not on" in _refusal(no_token, [dev.url], tmp_path).message


def _changed(call: bytes, result: bytes) -> Twist:
    """Lies about one view, and is honest about all others."""

    def twist(params: list[dict[str, str]], ask: Callable[..., dict[str, object]]) -> dict[str, object]:
        if params[0]["data"] == "0x" + call.hex():
            return {"jsonrpc": "2.0", "id": 1, "result": "0x" + result.hex()}
        return ask(params)

    return twist


VIEWS = {
    "name() of USDC": (function_call("name()"), encode(("string",), ("USD Coin (PoS)",))),
    "version() of USDC": (function_call("version()"), encode(("string",), ("1",))),
    "DOMAIN_SEPARATOR() of USDC": (function_call("DOMAIN_SEPARATOR()"), b"\x01" * 32),
    "token() of Channels": (channels_abi().encode_call("token"), encode(("address",), (b"\x05" * 20,))),
    "domainSeparator() of Channels": (channels_abi().encode_call("domainSeparator"), b"\x02" * 32),
}


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
def test_each_word_of_token_and_contract_is_compared(view: str, dev: DevChain, tmp_path: Path) -> None:
    call, result = VIEWS[view]
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_call", _changed(call, result))
        refused = _refusal(local_entry(dev), [rpc.url], tmp_path)
    assert view in refused.message
    assert refused.details["found"] != refused.details["expected"]
    for value in refused.details.values():
        assert str(value) in refused.message


@pytest.mark.slow
def test_a_view_that_gives_nothing_is_a_mismatch(dev: DevChain, tmp_path: Path) -> None:
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_call", _changed(function_call("version()"), b""))
        assert "is nothing, expected is '2'" in _refusal(local_entry(dev), [rpc.url], tmp_path).message


@pytest.mark.slow
def test_one_that_lies_about_the_token_beside_an_honest_one_is_no_mismatch(
    dev: DevChain, tmp_path: Path
) -> None:
    with faulty_rpc(dev.url) as rpc:
        rpc.on("eth_getCode", lie("0x"))
        with pytest.raises(ChainUnavailable) as fault:
            with_chain(local_entry(dev), [rpc.url, dev.url], tmp_path, _never)
    assert "contradict" in str(fault.value)


SEPARATORS = {
    "ethereum": (1, "0x06c37168", "e335"),
    "base": (8453, "0x02fa7265", "834f"),
    "base-sepolia": (84532, "0x71f17a3b", "9818"),
    "arbitrum": (42161, "0x08d11903", "2c78"),
    "arbitrum-sepolia": (421614, "0x85944e12", "08bb"),
    "polygon": (137, "0xcaa2ce1a", "e2ca"),
    "op": (10, "0x26d9c34b", "933f"),
}
"""As published for the USDC of each chain, or computed apart from this program."""


@pytest.mark.parametrize("name", SEPARATORS)
def test_the_table_gives_the_published_domain_separators(name: str) -> None:
    chain_id, start, end = SEPARATORS[name]
    entry = chain_by_name(name)
    separator = "0x" + token_separator(entry.token).hex()
    assert entry.chain_id == chain_id
    assert (separator[: len(start)], separator[-len(end) :]) == (start, end)


def test_every_chain_of_the_table_can_be_used() -> None:
    assert next(iter(chains())) == "base"
    for name, entry in chains().items():
        facts = facts_of(entry)
        assert facts.name == name
        assert facts.channels.chain_id == facts.token.chain_id == entry.chain_id
        assert entry.fee_per_gas_wei_max > 0
        hosts = {url.split("/")[2].split(".", 1)[-1] for url in entry.rpc_urls}
        if not entry.is_test:
            assert len(hosts) >= 2, "two endpoints of two operators"
            assert all(url.startswith("https://") for url in entry.rpc_urls)
    mains = [facts_of(entry).channels.contract for entry in chains().values() if not entry.is_test]
    assert len(set(mains)) == len(mains), "the token is in the code, so each chain has its own address"


def test_the_local_chain_of_the_table_is_the_one_that_devnet_makes() -> None:
    facts, contracts = facts_of(chain_by_name("local")), dev_contracts()
    assert facts.token.contract == contracts.token
    assert facts.channels.contract == contracts.channels
    assert facts.bonds is not None
    assert facts.bonds.contract == contracts.bonds


def test_contracts_that_the_table_names_are_taken_from_there() -> None:
    named = replace(chain_by_name("base"), channels=Address(b"\x05" * 20), bonds=Address(b"\x06" * 20))
    facts = facts_of(named)
    assert facts.channels.contract == b"\x05" * 20
    assert facts.bonds is not None and facts.bonds.contract == b"\x06" * 20


def test_an_unknown_chain_is_refused_with_those_there_are() -> None:
    with pytest.raises(Refused) as refused:
        chain_by_name("bass")
    assert "base, base-sepolia" in refused.value.message
    assert refused.value.field == "chain.name"
