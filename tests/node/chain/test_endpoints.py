"""Endpoints that lie, lag, limit, break off and die: what is believed then, and what is said."""

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.devchain import DevChain
from tests.node.chain.faulty_rpc import FaultyRpc, change, error, faulty_rpc, lie, unused_url
from tests.node.chain.opening import with_chain
from tests.node.chain.stage import OWNER, SELLER, STRANGER, fund, local_entry
from unhosted.market.ids import ChannelId
from unhosted.node.core.chain import Call, CallReverted, ChainUnavailable
from unhosted.node.core.errors import Refused
from unhosted.node.shell.chain import calls
from unhosted.node.shell.chain.adapter import Surroundings, WebChain
from unhosted.node.shell.chain.answers import EndpointFault
from unhosted.node.shell.chain.health import Health, after_fault
from unhosted.node.shell.chain.pool import PoolPolicy
from unhosted.node.shell.chain.transport import ANSWER_BYTES_MAX, host_of

pytestmark = pytest.mark.slow

CHANNEL = ChannelId(bytes(32))


@pytest.fixture
def bad(dev: DevChain) -> Iterator[FaultyRpc]:
    with faulty_rpc(dev.url) as rpc:
        yield rpc


@pytest.fixture
def other(dev: DevChain) -> Iterator[FaultyRpc]:
    with faulty_rpc(dev.url) as rpc:
        yield rpc


async def _refusal(chain: WebChain) -> str:
    """What a money read says while nobody can be believed."""
    with pytest.raises(ChainUnavailable) as fault:
        await chain.account(OWNER.address, at="safe")
    return str(fault.value)


def _spoil(rpc: FaultyRpc, how: str) -> str:
    """Make every answer of an endpoint wrong; gives words that must be in the error."""
    if how == "429":
        rpc.status, rpc.body = 429, b"slow down"
        return "limits requests (HTTP 429)"
    if how == "-32005":
        rpc.on("eth_getBlockByNumber", error(-32005, "limit exceeded"))
        return "limits requests (limit exceeded)"
    if how == "words":
        rpc.on(
            "eth_getBlockByNumber",
            error(-32000, "Your app has exceeded its compute units per second capacity"),
        )
        return "limits requests"
    if how == "502":
        rpc.status, rpc.body = 502, b"<html>Bad gateway</html>"
        return "HTTP 502"
    if how == "401":
        rpc.status, rpc.body = 401, b"{}"
        return "does not let us in"
    if how == "html":
        rpc.body = b"<html>Welcome to our hotel's network</html>"
        return "not JSON"
    if how == "truncated":
        rpc.body, rpc.length = b'{"jsonrpc": "2.0", "id": 1, "res', 900
        return "ended too early"
    if how == "array":
        rpc.body = b"[1, 2]"
        return "not JSON-RPC"
    if how == "deep":
        rpc.body = b"[" * 100_000
        return "not JSON"
    if how == "number":
        rpc.on("eth_getBlockByNumber", lie({"number": 5, "hash": "0x00", "timestamp": "0x1"}))
        return "is not a number in hex"
    if how == "redirect":
        rpc.status, rpc.headers, rpc.body = 302, {"location": "http://127.0.0.1:9/elsewhere"}, b""
        return "sends requests to another address"
    if how == "silent":
        rpc.is_silent = True
        return "no answer within"
    if how == "drip":
        rpc.body, rpc.drip = b" " * 10_000, True
        return "no answer within"
    if how == "endless":
        rpc.body = b" " * (ANSWER_BYTES_MAX + 10)
        return "longer than"
    if how == "bomb":
        rpc.body, rpc.headers = gzip.compress(b" " * 4 * ANSWER_BYTES_MAX), {"content-encoding": "gzip"}
        return "longer than"
    raise AssertionError(how)


WRONGS = ("429", "-32005", "words", "502", "401", "html", "truncated", "array", "deep", "number", "redirect")
SLOW_WRONGS = ("silent", "drip", "endless", "bomb")
SHORT = PoolPolicy(timeout_s=0.4, rounds=2, pause_s=0.01)


@pytest.mark.parametrize("how", (*WRONGS, *SLOW_WRONGS))
def test_a_spoilt_endpoint_is_named_and_never_becomes_a_lack_of_funds(
    how: str, dev: DevChain, bad: FaultyRpc, tmp_path: Path
) -> None:
    async def story(chain: WebChain) -> None:
        words = _spoil(bad, how)
        said = await _refusal(chain)
        assert words in said
        assert bad.url.removeprefix("http://") in said
        assert "says nothing about funds" in said
        assert "chain.rpc-urls" in said
        with pytest.raises(ChainUnavailable):
            await chain.gas_balance(OWNER.address)
        bad.heal()
        assert (await chain.account(OWNER.address, at="safe")).free_micros == 0

    policy = SHORT if how in ("silent", "drip") else PoolPolicy(timeout_s=5, rounds=2, pause_s=0.01)
    with_chain(local_entry(dev), [bad.url], tmp_path, story, pool_policy=policy)


@pytest.mark.parametrize("how", ("429", "502", "html", "truncated"))
def test_a_second_endpoint_answers_while_the_first_is_spoilt(
    how: str, dev: DevChain, bad: FaultyRpc, tmp_path: Path
) -> None:
    async def story(chain: WebChain) -> None:
        dev.mint(OWNER.address, 7)
        words = _spoil(bad, how)
        assert await chain.usdc_balance(OWNER.address) == 7
        assert not (await chain.channel(CHANNEL, at="safe")).is_closed
        first, second = chain.endpoints()
        assert (first.is_well, second.is_well) == (False, True)
        assert words in first.sentence

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_a_dead_endpoint_rests_and_is_asked_again(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    now_s = 1000.0

    async def story(chain: WebChain) -> None:
        nonlocal now_s
        bad.status, bad.body = 503, b""
        await chain.head()
        asked = bad.asked.total()
        bad.heal()
        await chain.head()
        assert bad.asked.total() == asked, "it rests"
        now_s += 60
        await chain.head()
        assert bad.asked.total() > asked
        assert all(one.is_well for one in chain.endpoints())

    around = Surroundings(clock=lambda: now_s)
    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story, surroundings=around)


def test_nobody_listens(dev: DevChain, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        raise AssertionError("it must not open")

    url = unused_url()
    with pytest.raises(ChainUnavailable) as fault:
        with_chain(local_entry(dev), [url], tmp_path, story)
    assert "it cannot be reached (Connection refused)" in str(fault.value)


def test_an_unknown_host_is_named(dev: DevChain, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        raise AssertionError("it must not open")

    with pytest.raises(ChainUnavailable) as fault:
        with_chain(local_entry(dev), ["http://no-such-host.invalid/"], tmp_path, story)
    assert "no-such-host.invalid: it cannot be reached" in str(fault.value)


LIES: dict[str, tuple[str, Any]] = {
    "balance": ("eth_getBalance", lie("0x0")),
    "state": ("eth_call", change(lambda result: "0x" + "00" * (len(result) // 2 - 2) + "01")),
    "block": ("eth_getBlockByNumber", change(lambda result: result and {**result, "hash": "0x" + "ab" * 32})),
}


@pytest.mark.parametrize("lied", LIES)
def test_two_that_contradict_each_other_are_both_not_believed(
    lied: str, dev: DevChain, bad: FaultyRpc, tmp_path: Path
) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        bad.on(*LIES[lied])
        with pytest.raises(ChainUnavailable) as fault:
            if lied == "balance":
                await chain.gas_balance(SELLER.address)
            else:
                await chain.channel(CHANNEL, at="safe")
        assert str(fault.value).count("contradict") == 2
        bad.heal()
        assert await chain.gas_balance(SELLER.address) == 10**18
        assert all(one.is_well for one in chain.endpoints())

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_a_majority_is_believed_against_one_liar(
    dev: DevChain, bad: FaultyRpc, other: FaultyRpc, tmp_path: Path
) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        bad.on("eth_getBalance", lie("0x0"))
        assert await chain.gas_balance(SELLER.address) == 10**18
        first = chain.endpoints()[0]
        assert not first.is_well
        assert "most others contradict it" in first.sentence

    with_chain(local_entry(dev), [bad.url, other.url, dev.url], tmp_path, story)


def test_a_lie_about_gas_money_does_not_become_a_refusal(
    dev: DevChain, bad: FaultyRpc, tmp_path: Path
) -> None:
    fund(dev)

    async def story(chain: WebChain) -> None:
        bad.on("eth_getBalance", lie("0x0"))
        call = calls.set_operator(chain.facts.channels, OWNER.address, limit_micros=1)
        with pytest.raises(ChainUnavailable):
            await chain.send(call, STRANGER, key="operator")
        assert await chain.transactions() == []

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_an_endpoint_of_another_chain_is_left_out(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    bad.on("eth_chainId", lie("0x1"))

    async def story(chain: WebChain) -> None:
        first = chain.endpoints()[0]
        assert first.sentence == "it is chain 1, the local development chain is chain 31337"
        await chain.head()

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_one_that_is_far_behind_is_left_out(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        old = dev.rpc.call("eth_getBlockByNumber", "latest", False)
        bad.on(
            "eth_getBlockByNumber",
            lambda params, ask: (
                ask(params) if params[0] != "latest" else {"jsonrpc": "2.0", "id": 1, "result": old}
            ),
        )
        dev.mine(2)
        await chain.head()
        assert all(one.is_well for one in chain.endpoints()), "two blocks behind is usual"
        dev.mine(8)
        assert (await chain.head()).number == dev.head()[0]
        assert "10 blocks behind" in chain.endpoints()[0].sentence

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_old_and_future_blocks_are_not_believed_where_blocks_are_regular(
    dev: DevChain, tmp_path: Path
) -> None:
    offset_s = 0

    async def story(chain: WebChain) -> None:
        nonlocal offset_s
        await chain.head()
        offset_s = 500
        assert "newest block is" in await _refusal(chain)
        offset_s = -500
        assert "in the future (or this machine's clock is wrong)" in await _refusal(chain)
        offset_s = 0
        await chain.head()

    entry = local_entry(dev, block_time_ms=1000)
    around = Surroundings(unix_now=lambda: dev.head()[1] + offset_s, clock=_ticking())
    with_chain(entry, [dev.url], tmp_path, story, surroundings=around)


def _ticking() -> Any:
    now_s = iter(range(0, 1_000_000, 2))
    return lambda: float(next(now_s))


def test_a_node_without_the_safe_tag_is_read_by_depth(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    from dataclasses import replace

    entry = replace(local_entry(dev, confirmations=4), has_safe_tag=True)

    async def story(chain: WebChain) -> None:
        head = await chain.head()
        assert head.safe_number == head.number, "anvil knows the tag, and nothing is undone there"
        for twist in (
            lambda params, ask: (
                ask(params) if params[0] != "safe" else {"error": {"code": -32000, "message": "no"}}
            ),
            lambda params, ask: ask(params) if params[0] != "safe" else {"result": None},
        ):
            bad.on("eth_getBlockByNumber", twist)
            head = await chain.head()
            assert head.safe_number == head.number - 4
            assert chain.endpoints()[0].is_well

    with_chain(entry, [bad.url], tmp_path, story)


def test_a_revert_counts_only_where_all_agree(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        call = calls.set_operator(chain.facts.channels, OWNER.address, limit_micros=1)
        bad.on("eth_call", error(3, "execution reverted", "0x"))
        assert await chain.check(call, sender=OWNER.address) > 20_000
        missing = calls.payout(chain.facts.channels, OWNER.address)
        nonsense = Call(to=missing.to, data=b"\x01\x02\x03\x04", purpose="nonsense")
        with pytest.raises(CallReverted) as refused:
            await chain.check(nonsense, sender=OWNER.address)
        assert refused.value.error == "unknown"

    with_chain(local_entry(dev), [bad.url, dev.url], tmp_path, story)


def test_the_address_of_an_endpoint_is_never_shown(
    dev: DevChain, bad: FaultyRpc, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secret = "s3cr3t-key"
    url = f"{bad.url}/v3/{secret}?token={secret}".replace("http://", f"http://user:{secret}@")
    said = []

    async def story(chain: WebChain) -> None:
        for how in ("429", "502", "html", "truncated", "redirect", "words"):
            said.append(_spoil(bad, how))
            said.append(await _refusal(chain))
            said.extend(one.sentence + one.host for one in chain.endpoints())
            bad.heal()
        bad.on("eth_getBlockByNumber", error(-32000, f"wrong key for {url}"))
        said.append(await _refusal(chain))
        bad.body = b""
        said.append(await _refusal(chain))

    with_chain(local_entry(dev), [url], tmp_path, story)
    assert secret not in " ".join(said) + caplog.text
    assert bad.url.removeprefix("http://") in " ".join(said)


@pytest.mark.parametrize("url", ["", "ftp://host/", "http://", "host:8545", "http://[::1", "http://h:99999/"])
def test_an_address_that_is_none_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(Refused) as refused:
        host_of(url)
    assert refused.value.field == "chain.rpc-urls"
    assert "chain.rpc-urls" in refused.value.message
    assert "99999" not in refused.value.message


def test_a_cancelled_read_ends_at_once(dev: DevChain, bad: FaultyRpc, tmp_path: Path) -> None:
    async def story(chain: WebChain) -> None:
        bad.is_silent = True
        with trio.move_on_after(0.05) as scope:
            await chain.head()
        assert scope.cancelled_caught
        bad.released.set()

    with_chain(local_entry(dev), [bad.url], tmp_path, story, limit_s=3)


def test_rests_grow_and_are_spread() -> None:
    fault = EndpointFault("dead", "it died")
    health, rests = Health(), []
    for _ in range(12):
        health = after_fault(health, fault, now_s=100.0, chance=0.5)
        rests.append(health.rests_until_s - 100.0)
    assert rests[:4] == [1, 2, 4, 8]
    assert rests == sorted(rests)
    assert rests[-1] == rests[-2] == 64
    spread = [after_fault(Health(), fault, now_s=0, chance=chance).rests_until_s for chance in (0, 1)]
    assert spread == [0.75, 1.25]
    asked = after_fault(Health(), EndpointFault("limited", "", retry_after_s=30), now_s=0, chance=0.5)
    assert asked.rests_until_s == 30
    forever = after_fault(Health(), EndpointFault("limited", "", retry_after_s=1e9), now_s=0, chance=0.5)
    assert forever.rests_until_s == 600
