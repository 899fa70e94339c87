"""Naming the protocol of a stream (multistream-select): words, each after its length."""

from libp2p.abc import IMultiselectCommunicator
from libp2p.protocol_muxer.exceptions import MultiselectCommunicatorError
from libp2p.stream_muxer.exceptions import MuxedStreamError

from unhosted.node.core.peering import PeerUnreachable
from unhosted.node.shell.peers.overrides.stream import Stream

MULTISTREAM = "/multistream/1.0.0"
NOT_AVAILABLE = "na"

WORD_BYTES_MAX = 1024
"""The longest protocol names in use have some 60 characters."""

LENGTH_BYTES_MAX = 2
"""Of a word's length: seven bits in each."""

WORDS_MAX = 16
"""A peer names the version and a few protocols; it does not ask for the list again and again."""


class Words(IMultiselectCommunicator):  # type: ignore[misc]
    """Words of a negotiation, taken from the stream to the byte: what follows them stays for the protocol."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._words_left = WORDS_MAX

    async def write(self, msg_str: str | None) -> None:
        try:
            await self._stream.write(encode(msg_str or ""))
        except MuxedStreamError as error:
            raise MultiselectCommunicatorError("the stream ended in the negotiation") from error

    async def read(self) -> str:
        self._words_left -= 1
        if self._words_left < 0:
            raise MultiselectCommunicatorError(f"more than {WORDS_MAX} words of negotiation")
        try:
            word = await self._word()
        except MuxedStreamError as error:
            raise MultiselectCommunicatorError("the stream ended in the negotiation") from error
        try:
            return word.removesuffix(b"\n").decode("utf-8")
        except UnicodeDecodeError as error:
            raise MultiselectCommunicatorError("a word of the negotiation is no UTF-8") from error

    async def _word(self) -> bytes:
        length = 0
        for place in range(LENGTH_BYTES_MAX):
            await self._stream.wait_buffered(1)
            part = self._stream.take(1)[0]
            length |= (part & 0x7F) << (7 * place)
            if part < 0x80:
                break
        else:
            raise MultiselectCommunicatorError(f"a word of the negotiation is longer than {WORD_BYTES_MAX}")
        if not 0 < length <= WORD_BYTES_MAX:
            raise MultiselectCommunicatorError(f"a word of the negotiation has {length} bytes")
        await self._stream.wait_buffered(length)
        return self._stream.take(length)


def encode(word: str) -> bytes:
    body = word.encode("utf-8") + b"\n"
    if len(body) < 0x80:
        return bytes((len(body),)) + body
    return bytes((len(body) & 0x7F | 0x80, len(body) >> 7)) + body


async def name_protocol(stream: Stream, peer: str, protocol: str) -> None:
    """Say both words at once, which saves a round trip, and hear both answers. Raises: PeerUnreachable."""
    words = Words(stream)
    try:
        await stream.write(encode(MULTISTREAM) + encode(protocol))
        heard = (await words.read(), await words.read())
    except (MultiselectCommunicatorError, MuxedStreamError) as error:
        raise PeerUnreachable(f"{peer} did not answer for {protocol}: {_reason(stream, error)}") from error
    if heard == (MULTISTREAM, NOT_AVAILABLE):
        raise PeerUnreachable(
            f"{peer} refuses {protocol}: it does not know it, or does not know this machine"
        )
    if heard != (MULTISTREAM, protocol):
        raise PeerUnreachable(f"{peer} answered {heard[1][:80]!r} when asked for {protocol}")


def _reason(stream: Stream, error: Exception) -> str:
    return stream.session.reason or str(error.__cause__ or error)
