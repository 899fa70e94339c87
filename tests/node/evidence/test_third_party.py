"""Evidence that another peer reads again: consented to each time, refused before it is sent, signed for."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, cast

import pytest
import trio

from tests.fake_network import Fabric, FakeNetwork
from tests.node.engine.harness import running_host
from tests.node.evidence.conftest import Files, HostEngines, NoTables
from tests.node.evidence.stage import FACTS, Channel, ids
from tests.node.peers.harness import real_network, until_connections
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import PeerText
from unhosted.market.signed import Signed
from unhosted.node.core import peering
from unhosted.node.core.check_protocol import (
    CONSENT_NS,
    MESSAGE_BYTES_MAX,
    PROTOCOL,
    Ask,
    Consent,
    Go,
    No,
    Piece,
    Word,
    decode_check,
    encode_check,
)
from unhosted.node.core.confirmation_wire import confirmation_bytes_to_sign, encode_vote
from unhosted.node.core.confirmations import Vote, is_confirmed
from unhosted.node.core.engine_facts import EngineFacts, engine_class
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import Evidence
from unhosted.node.core.evidence_wire import EvidenceHash, encode_evidence, evidence_hash
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Engines
from unhosted.node.shell.checking.third_party import (
    ASKS_PER_HOUR,
    HOUR_S,
    TOKENS_FOR_PEERS_MAX,
    Answered,
    Asker,
    CheckServer,
)
from unhosted.node.shell.evidence.making import make_evidence
from unhosted.node.shell.evidence.tables import table_for
from unhosted.node.shell.keys.identity import Identity, new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork

NOW_NS = 1_700_000_000_000_000_000
MODEL = bytes(range(32))


@dataclass
class NoEngines:
    """A machine without any model. asked: names that it was asked about."""

    asked: list[str] = field(default_factory=list)

    async def facts(self, model: str) -> EngineFacts:
        self.asked.append(model)
        raise Refused("model_not_found", "/home/somebody/secret.gguf is not here")

    async def check(self, model: str, requests: Sequence[CheckRequest]) -> tuple[CheckedAnswer, ...]:
        raise AssertionError("nothing is read without a model")


@dataclass
class WaitingEngines(NoEngines):
    """One whose engine never has time."""

    has_begun: trio.Event = field(default_factory=trio.Event)

    async def facts(self, model: str) -> EngineFacts:
        self.has_begun.set()
        await trio.sleep_forever()
        raise AssertionError


def server(engines: object, identity: Identity | None = None, **more: Any) -> CheckServer:
    return CheckServer(
        identity or new_identity(),
        cast(Engines, engines),
        lambda model: partial(table_for, NoTables(), model),
        **{"may_ask": lambda peer: True, **more},
    )


@asynccontextmanager
async def fakes(serving: CheckServer | None = None) -> AsyncIterator[tuple[FakeNetwork, FakeNetwork]]:
    """Two paired machines, connected; the second one reads for others."""
    fabric = Fabric()
    near = FakeNetwork(fabric, new_identity().peer, paired=set())
    far = FakeNetwork(fabric, new_identity().peer, paired={near.peer})
    if serving is not None:
        serving.start(far)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for network in (near, far):
                await nursery.start(network.run)
            await near.connect(far.peer, far.addresses(), timeout_s=5.0)
            yield near, far
            nursery.cancel_scope.cancel()


def some_evidence() -> Evidence:
    return make_evidence([Channel(model=MODEL).sell(ids(1, 20), ids(50, 100))])


def consent(data: bytes, peer: str, given_ns: int = NOW_NS) -> Consent:
    return Consent(evidence=evidence_hash(data), peer=peer, given_ns=given_ns)


def asker(network: peering.Network) -> Asker:
    return Asker(network, clock_ns=lambda: NOW_NS)


@pytest.mark.slow
def test_a_peer_reads_it_again_over_the_network_and_its_signed_word_confirms(files: Files) -> None:
    data = files.wrong_seed.read_bytes()
    own = Vote(
        evidence=evidence_hash(data),
        reader=PeerText(new_identity().peer),
        host="/ip4/10.0.0.1",
        engine_class="another engine",
        check="statistical",
        convicts=True,
        left_milli=9_000,
        is_own=True,
    )

    async def main() -> tuple[Answered, EngineFacts, str]:
        async with running_host(files.model) as host, trio.open_nursery() as nursery:
            identity, near = new_identity(), real_network(set())
            far = LibP2PNetwork(
                identity, listen=(("127.0.0.1", 0),), is_paired=lambda peer: False, agent="unhosted/0.test"
            )
            for network in (near, far):
                await nursery.start(network.run)
            server(HostEngines(host), identity).start(far, access="anyone")
            await near.connect(far.peer, far.addresses(), timeout_s=5.0)
            await until_connections(near, 1)
            answered = await asker(near).ask(data, consent(data, far.peer))
            nursery.cancel_scope.cancel()
        return answered, host.facts, far.peer

    answered, facts, reader = trio.run(_within, main)
    vote = answered.vote
    assert (vote.reader, vote.convicts, vote.engine_class) == (reader, True, engine_class(facts))
    assert vote.left_milli >= 6_000
    assert vote.host == "/ip4/127.0.0.1", "without the port: two peers of one machine are one"
    assert is_confirmed([own, vote])
    assert not is_confirmed([own, replace(vote, host=own.host)])


@pytest.mark.slow
def test_honest_answers_get_no_word_against_their_seller(files: Files) -> None:
    """Where nothing was measured, to see nothing refutes nothing either."""
    data = files.honest.read_bytes()

    async def main() -> None:
        async with running_host(files.model) as host, fakes(server(HostEngines(host))) as (near, far):
            with pytest.raises(Refused, match="nothing gross shows"):
                await asker(near).ask(data, consent(data, far.peer))

    trio.run(main)


def test_nothing_is_sent_without_a_consent_to_this_file_and_this_reader() -> None:
    data, engines = encode_evidence(some_evidence()), NoEngines()
    other = encode_evidence(make_evidence([Channel(model=MODEL).sell(ids(2, 20), ids(50, 100))]))

    async def main() -> None:
        async with fakes(server(engines)) as (near, far):
            for wrong in (
                consent(other, far.peer),
                consent(data, far.peer, given_ns=NOW_NS - CONSENT_NS - 1),
                consent(data, far.peer, given_ns=NOW_NS + 1),
            ):
                with pytest.raises(Refused, match="nobody agreed"):
                    await asker(near).ask(data, wrong)
            assert not engines.asked
            with pytest.raises(Refused, match="was not heard"):
                await asker(near).ask(data, consent(data, new_identity().peer))
            twice = asker(near)
            given = consent(data, far.peer)
            with pytest.raises(Refused, match="model_not_found"):
                await twice.ask(data, given)
            with pytest.raises(Refused, match="nobody agreed"):
                await twice.ask(data, given)
            assert len(engines.asked) == 1

    trio.run(main)


def test_what_a_reader_refuses_it_never_sees() -> None:
    """And its refusal names no file of its machine."""
    data = encode_evidence(some_evidence())
    heard: list[bytes] = []

    async def main() -> None:
        async with fakes() as (near, far):

            async def listen(channel: peering.Channel) -> None:
                heard.append(await channel.receive() or b"")
                await channel.send(encode_check(No(why="not now")))
                while (more := await channel.receive()) is not None:
                    heard.append(more)

            far.serve(PROTOCOL, listen, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
            with pytest.raises(Refused, match="not now"):
                await asker(near).ask(data, consent(data, far.peer))

    trio.run(main)
    assert [type(decode_check(one)) for one in heard] == [Ask]
    no = trio.run(_refusal, server(NoEngines()))
    assert "secret" not in no.why
    assert "model_not_found" in no.why


async def _refusal(serving: CheckServer, tokens: int = 120, peer: str = "") -> No:
    ask = Ask(evidence=EvidenceHash(bytes(32)), model=MODEL, size_bytes=1_000, tokens=tokens)
    [answer] = await _talk(serving, [ask])
    assert isinstance(answer, No)
    return answer


async def _talk(serving: CheckServer, messages: Sequence[Any], *, ends: bool = True) -> list[Any]:
    """All that the reader says to these messages."""
    heard = []
    async with (
        fakes(serving) as (near, far),
        near.open_channel(far.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0) as channel,
    ):
        for message in messages:
            await channel.send(message if type(message) is bytes else encode_check(message))
        if ends:
            await channel.end()
        while (data := await channel.receive()) is not None:
            heard.append(decode_check(data))
    return heard


def test_nobody_is_read_for_before_the_owner_says_so() -> None:
    serving = CheckServer(new_identity(), cast(Engines, NoEngines()), lambda model: cast(Any, None))
    assert "for you" in trio.run(_refusal, serving).why


def test_a_reader_bounds_what_it_does_for_others() -> None:
    now_s = [0.0]
    serving = server(NoEngines(), clock_s=lambda: now_s[0])
    assert str(TOKENS_FOR_PEERS_MAX) in trio.run(_refusal, serving, TOKENS_FOR_PEERS_MAX + 1).why

    async def main() -> list[No]:
        ask = encode_check(Ask(evidence=EvidenceHash(bytes(32)), model=MODEL, size_bytes=1_000, tokens=100))
        answers = []
        async with fakes(serving) as (near, far):
            for number in range(ASKS_PER_HOUR + 2):
                now_s[0] += HOUR_S if number == ASKS_PER_HOUR + 1 else 1.0
                async with near.open_channel(
                    far.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
                ) as channel:
                    await channel.send(ask)
                    answers.append(cast(No, decode_check(await channel.receive() or b"")))
        return answers

    answers = trio.run(main)
    assert ["an hour" in one.why for one in answers] == [False] * ASKS_PER_HOUR + [True, False]
    assert answers[-2].retry_after_s > 3_000


def test_one_file_is_read_at_a_time() -> None:
    engines = WaitingEngines()
    serving = server(engines)

    async def main() -> No:
        ask = encode_check(Ask(evidence=EvidenceHash(bytes(32)), model=MODEL, size_bytes=1_000, tokens=100))
        async with (
            fakes(serving) as (near, far),
            near.open_channel(
                far.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
            ) as first,
            near.open_channel(
                far.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=5.0
            ) as second,
        ):
            await first.send(ask)
            await engines.has_begun.wait()
            await second.send(ask)
            return cast(No, decode_check(await second.receive() or b""))

    assert "another file" in trio.run(main).why


class KnownEngines(NoEngines):
    """One that has the model, and is never brought to read."""

    async def facts(self, model: str) -> EngineFacts:
        return FACTS


DATA = encode_evidence(some_evidence())
ASK = Ask(evidence=evidence_hash(DATA), model=MODEL, size_bytes=len(DATA), tokens=some_evidence().tokens)


def _forged() -> bytes:
    evidence = some_evidence()
    answer = evidence.answers[0]
    request = replace(answer.request, signature=bytes(64))
    return encode_evidence(replace(evidence, answers=(replace(answer, request=request),)))


FORGED = _forged()


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([Go()], "Go before an ask"),
        ([b"\xa0"], "v"),
        ([ASK, Word(signed=Signed(body=b"", signature=bytes(64)))], "Word within a file"),
        ([ASK, Piece(data=DATA + b"more")], "were announced"),
        ([ASK, Piece(data=DATA[:-1] + b"\x00")], "not the one that was named"),
        ([replace(ASK, model=bytes(32)), Piece(data=DATA)], "another model"),
        ([replace(ASK, tokens=1), Piece(data=DATA)], "another model or size"),
        (
            [replace(ASK, evidence=evidence_hash(FORGED), size_bytes=len(FORGED)), Piece(data=FORGED)],
            "contradicts itself",
        ),
    ],
)
def test_an_asker_that_breaks_the_rules_is_told_which_and_costs_no_reading(
    messages: list[Any], why: str
) -> None:
    heard = trio.run(_talk, server(KnownEngines()), messages)
    assert isinstance(heard[-1], No)
    assert why in heard[-1].why


def _word(identity: Identity, vote: Vote) -> Word:
    body = encode_vote(vote)
    return Word(signed=Signed(body=body, signature=identity.sign(confirmation_bytes_to_sign(body))))


@pytest.mark.parametrize("what", ["other_key", "other_name", "other_evidence", "no_word"])
def test_a_word_that_is_not_the_readers_on_this_file_counts_for_nothing(what: str) -> None:
    identity, stranger = new_identity(), new_identity()
    vote = Vote(
        evidence=evidence_hash(DATA),
        reader=PeerText(stranger.peer if what == "other_name" else identity.peer),
        host="",
        engine_class="any",
        check="statistical",
        convicts=True,
        left_milli=9_000,
    )
    if what == "other_evidence":
        vote = replace(vote, evidence=EvidenceHash(bytes(32)))
    signer = stranger if what in ("other_key", "other_name") else identity
    answer = Go() if what == "no_word" else _word(signer, vote)

    async def main() -> None:
        fabric = Fabric()
        near = FakeNetwork(fabric, new_identity().peer, paired=set())
        far = FakeNetwork(fabric, identity.peer, paired={near.peer})

        async def lie(channel: peering.Channel) -> None:
            await channel.receive()
            await channel.send(encode_check(Go()))
            while await channel.receive() is not None:
                pass
            await channel.send(encode_check(answer))
            await channel.end()

        far.serve(PROTOCOL, lie, access="paired", message_bytes_max=MESSAGE_BYTES_MAX)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for network in (near, far):
                    await nursery.start(network.run)
                await near.connect(far.peer, far.addresses(), timeout_s=5.0)
                with pytest.raises(RemoteFault) as found:
                    await asker(near).ask(DATA, consent(DATA, far.peer))
                nursery.cancel_scope.cancel()
        expected = {"other_evidence": Reason.WRONG_REQUEST, "no_word": Reason.WRONG_ORDER}
        assert found.value.reason is expected.get(what, Reason.WRONG_SIGNATURE)

    trio.run(main)


async def _within(work: Any) -> Any:
    with trio.fail_after(60):
        return await work()
