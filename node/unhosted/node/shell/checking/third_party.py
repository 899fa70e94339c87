"""Evidence read again for another peer, and by another peer for us: both ends of `/unhosted/check/1`.

The reader works for others one file at a time, a few an hour for each peer, within a bound of tokens, at the
engine's lowest priority; it forgets the file when its word is said. It believes nothing of it but signatures,
judges by its own calibration (`evidence_verdict`), and signs what it found, either way.

The asker sends nothing before its user's consent to this file and this reader, and nothing but the ask
before the reader has said that it takes it.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import trio

from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import PeerText
from unhosted.market.signed import Signed
from unhosted.node.core.check_protocol import (
    MESSAGE_BYTES_MAX,
    PIECE_BYTES_MAX,
    PROTOCOL,
    Ask,
    Consent,
    Go,
    Message,
    No,
    Piece,
    Word,
    decode_check,
    disclosure,
    encode_check,
)
from unhosted.node.core.confirmation_wire import confirmation_bytes_to_sign, decode_vote, encode_vote
from unhosted.node.core.confirmations import Vote
from unhosted.node.core.engine_facts import engine_class
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import Evidence
from unhosted.node.core.evidence_verdict import judge
from unhosted.node.core.evidence_wire import decode_evidence, evidence_hash
from unhosted.node.core.inference import Engines
from unhosted.node.core.peering import Access, Channel, ChannelBroken, Network, PeerId, PeerUnreachable
from unhosted.node.shell.evidence.rerun import FindTable, read_again
from unhosted.node.shell.evidence.signatures import faults_of, is_signed

_LOG = logging.getLogger(__name__)

MESSAGE_WAIT_S = 60.0
"""For the next message of a peer that sends a file, or takes one."""

FILE_WAIT_S = 600.0
"""For a whole file: 16 MiB on a slow line. Who sends a byte a minute must not keep others out."""

READING_WAIT_S = 4 * 3_600.0
"""For a word: the reader's own users go first, and TOKENS_MAX tokens on a small machine are an hour."""

TOKENS_FOR_PEERS_MAX = 65_536
"""Opened ids of one file that this machine reads for somebody else: minutes, at most."""

ASKS_PER_HOUR = 6
"""Of one peer: who needs a second reading of a case needs one."""

HOUR_S = 3_600.0

PEERS_MAX = 1_024
"""Whose asks are counted; beyond, the one that asked longest ago is forgotten. Opening a channel costs a peer
more than this costs us."""

OPEN_TIMEOUT_S = 15.0

MayAsk = Callable[[PeerId], bool]
FindTableFor = Callable[[bytes], FindTable]
"""The tables of one model, by its hash."""


class Signer(Protocol):
    """`shell.keys.identity.Identity`."""

    @property
    def peer(self) -> PeerId: ...

    def sign(self, message: bytes) -> bytes: ...


class CheckServer:
    """Reads evidence again for peers. engines: of this machine. may_ask: beside what the network lets in;
    nobody at first. clock_s: monotonic."""

    def __init__(
        self,
        identity: Signer,
        engines: Engines,
        find_table: FindTableFor,
        *,
        may_ask: MayAsk = lambda peer: False,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._identity, self._engines, self._find_table = identity, engines, find_table
        self._may_ask, self._clock_s = may_ask, clock_s
        self._is_busy = False
        self._asked: OrderedDict[PeerId, list[float]] = OrderedDict()

    def start(self, network: Network, *, access: Access = "paired") -> None:
        """Answer on the network from now on. access: `anyone` where the operator lets strangers ask."""
        network.serve(PROTOCOL, self.handle, access=access, message_bytes_max=MESSAGE_BYTES_MAX)

    async def handle(self, channel: Channel) -> None:
        try:
            answer = await self._answer(channel)
        except RemoteFault as fault:
            _LOG.info("check_for_peer_fault peer=%s reason=%s", channel.peer[-8:], fault.reason.value)
            answer = No(why=fault.message)
        except ChannelBroken:
            return
        with trio.move_on_after(MESSAGE_WAIT_S):
            try:
                await channel.send(encode_check(answer))
                await channel.end()
            except ChannelBroken:
                _LOG.info("check_for_peer_unheard peer=%s", channel.peer[-8:])

    async def _answer(self, channel: Channel) -> Word | No:
        ask = await _receive(channel, within_s=MESSAGE_WAIT_S)
        if not isinstance(ask, Ask):
            raise RemoteFault(Reason.WRONG_ORDER, f"{type(ask).__name__} before an ask")
        refusal = self._refusal(channel.peer, ask)
        if refusal is not None:
            return refusal
        self._is_busy = True
        try:
            return await self._read_for(channel, ask)
        except Refused as refused:
            _LOG.info("check_for_peer_refused peer=%s code=%s", channel.peer[-8:], refused.code)
            return No(why=f"not read here: {refused.code}")  # the message may name files of this machine
        finally:
            self._is_busy = False

    def _refusal(self, peer: PeerId, ask: Ask) -> No | None:
        if not self._may_ask(peer):
            return No(why="this machine does not read evidence for you")
        if ask.tokens > TOKENS_FOR_PEERS_MAX:
            return No(
                why=f"{ask.tokens} tokens are opened, at most {TOKENS_FOR_PEERS_MAX} are read for others:"
                " open fewer answers, or prefixes"
            )
        if self._is_busy:
            return No(why="another file is being read", retry_after_s=60)
        now_s = self._clock_s()
        recent = [at_s for at_s in self._asked.pop(peer, []) if now_s - at_s < HOUR_S]
        self._asked[peer] = recent
        while len(self._asked) > PEERS_MAX:
            self._asked.popitem(last=False)
        if len(recent) >= ASKS_PER_HOUR:
            wait_s = int(HOUR_S - (now_s - recent[0])) + 1
            return No(why=f"at most {ASKS_PER_HOUR} files an hour", retry_after_s=wait_s)
        recent.append(now_s)
        return None

    async def _read_for(self, channel: Channel, ask: Ask) -> Word | No:
        name = f"b3:{ask.model.hex()}"
        own = await self._engines.facts(name)  # without the model nothing is asked to be sent
        await channel.send(encode_check(Go()))
        data = await _receive_file(channel, ask)
        evidence = await trio.to_thread.run_sync(partial(_opened, data, ask))
        with trio.move_on_after(READING_WAIT_S) as reading:
            read = await read_again(evidence, self._engines, name, find_table=self._find_table(ask.model))
        if reading.cancelled_caught:
            return No(why="this machine was too busy to read it", retry_after_s=int(READING_WAIT_S))
        judgement = await trio.to_thread.run_sync(judge, evidence, read)
        if judgement.is_gross and judgement.verdict == "clear":
            # To see nothing by a table for gross differences refutes nothing.
            return No(
                why="nothing gross shows, and the noise between these engines was never measured here:"
                " `unhosted calibrate` on the reader's machine does"
            )
        is_exact = all(one.check == "exact" for one in read)
        body = encode_vote(
            Vote(
                evidence=ask.evidence,
                reader=PeerText(self._identity.peer),
                host="",
                engine_class=engine_class(own),
                check="exact" if is_exact else "statistical",
                convicts=judgement.verdict == "convicts",
                left_milli=judgement.left_milli,
                is_proven=bool(judgement.proofs),
            )
        )
        signature = self._identity.sign(confirmation_bytes_to_sign(body))
        _LOG.info("check_for_peer_done peer=%s tokens=%d", channel.peer[-8:], judgement.tokens)
        return Word(signed=Signed(body=body, signature=signature))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """vote: with the reader's host as this machine sees it. signed: for whoever should see it, too."""

    vote: Vote
    signed: Signed


class Asker:
    """Asks peers to read evidence again. A consent is used up by the ask, also by one that fails."""

    def __init__(self, network: Network, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._network, self._clock_ns = network, clock_ns
        self._used: set[Consent] = set()

    async def ask(self, data: bytes, consent: Consent) -> Answered:
        """data: the file's bytes. The peer is connected.

        Raises: Refused without a consent that covers this, where the reader refuses, or cannot be reached;
        RemoteFault for a reader that breaks the rules.
        """
        evidence = decode_evidence(data)
        named, now_ns = evidence_hash(data), self._clock_ns()
        self._used = {one for one in self._used if one.covers(one.evidence, one.peer, now_ns)}
        if consent in self._used or not consent.covers(named, consent.peer, now_ns):
            raise Refused(
                "invalid_request",
                f"nobody agreed to show {named.hex()[:8]} to {consent.peer}: ask the user, each time anew",
            )
        self._used.add(consent)
        shown = disclosure(evidence)
        ask = Ask(evidence=named, model=shown.model, size_bytes=len(data), tokens=evidence.tokens)
        try:
            async with self._network.open_channel(
                consent.peer, PROTOCOL, message_bytes_max=MESSAGE_BYTES_MAX, timeout_s=OPEN_TIMEOUT_S
            ) as channel:
                signed = await _asked(channel, ask, data)
        except (ChannelBroken, PeerUnreachable) as broken:
            raise Refused("peer_unreachable", f"{consent.peer} was not heard to the end: {broken}") from None
        host = _host(self._network, consent.peer)
        return Answered(
            vote=await trio.to_thread.run_sync(_vote, signed, ask, consent.peer, host), signed=signed
        )


async def _asked(channel: Channel, ask: Ask, data: bytes) -> Signed:
    await _send(channel, ask)
    first = await _receive(channel, within_s=MESSAGE_WAIT_S)
    if isinstance(first, No):
        raise _refused(channel.peer, first)
    if not isinstance(first, Go):
        raise RemoteFault(Reason.WRONG_ORDER, f"{type(first).__name__} instead of go or no")
    for start in range(0, len(data), PIECE_BYTES_MAX):
        await _send(channel, Piece(data=data[start : start + PIECE_BYTES_MAX]))
    await channel.end()
    last = await _receive(channel, within_s=READING_WAIT_S)
    if isinstance(last, No):
        raise _refused(channel.peer, last)
    if not isinstance(last, Word):
        raise RemoteFault(Reason.WRONG_ORDER, f"{type(last).__name__} instead of a word")
    return last.signed


def _vote(signed: Signed, ask: Ask, peer: PeerId, host: str) -> Vote:
    """Blocking. Raises: RemoteFault for a word that is not this peer's, or on something else."""
    vote = decode_vote(signed.body, host=host)
    if vote.reader != peer or not is_signed(
        vote.reader, confirmation_bytes_to_sign(signed.body), signed.signature
    ):
        raise RemoteFault(Reason.WRONG_SIGNATURE, f"the word of {peer} is signed by somebody else")
    if vote.evidence != ask.evidence:
        raise RemoteFault(
            Reason.WRONG_REQUEST, f"a word on {vote.evidence.hex()[:8]}, which nobody asked about"
        )
    return vote


def _opened(data: bytes, ask: Ask) -> Evidence:
    """Blocking. Raises: RemoteFault for a file that is not what was announced, or contradicts itself."""
    if evidence_hash(data) != ask.evidence:
        raise RemoteFault(Reason.WRONG_REQUEST, "the file is not the one that was named")
    evidence = decode_evidence(data)
    faults = faults_of(evidence)
    if faults:
        raise RemoteFault(Reason.WRONG_RECEIPT, f"the evidence contradicts itself: {faults[0]}")
    if evidence.answers[0].asked.model != ask.model or evidence.tokens != ask.tokens:
        raise RemoteFault(Reason.WRONG_TERMS, "the file is of another model or size than was announced")
    return evidence


async def _receive_file(channel: Channel, ask: Ask) -> bytes:
    data, until_s = bytearray(), trio.current_time() + FILE_WAIT_S
    while len(data) < ask.size_bytes:
        left_s = max(0.0, until_s - trio.current_time())
        piece = await _receive(channel, within_s=min(MESSAGE_WAIT_S, left_s))
        if not isinstance(piece, Piece):
            raise RemoteFault(Reason.WRONG_ORDER, f"{type(piece).__name__} within a file")
        data += piece.data
    if len(data) > ask.size_bytes:
        raise RemoteFault(Reason.WRONG_TERMS, f"{len(data)} bytes came, {ask.size_bytes} were announced")
    return bytes(data)


async def _send(channel: Channel, message: Message) -> None:
    with trio.move_on_after(MESSAGE_WAIT_S) as waiting:
        await channel.send(encode_check(message))
    if waiting.cancelled_caught:
        raise ChannelBroken(f"{channel.peer} took nothing for {MESSAGE_WAIT_S:g} s")


async def _receive(channel: Channel, *, within_s: float) -> Message:
    with trio.move_on_after(within_s):
        data = await channel.receive()
        if data is None:
            raise ChannelBroken(f"{channel.peer} ended before it was its turn")
        return decode_check(data)
    raise ChannelBroken(f"nothing came from {channel.peer} for {within_s:g} s")


def _refused(peer: PeerId, no: No) -> Refused:
    return Refused(
        "not_supported", f"{peer} did not read it: {no.why}", retry_after_s=no.retry_after_s or None
    )


def _host(network: Network, peer: PeerId) -> str:
    """Where the peer was reached, without its port: two peers of one machine have one host. A relay's
    address where there is one between, so that two behind one relay count as one."""
    addresses = [one.remote_address for one in network.connections() if one.peer == peer]
    return addresses[0].split("/tcp/")[0] if addresses else ""
