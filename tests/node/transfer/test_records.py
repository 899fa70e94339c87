"""The encrypted channel over TCP: what arrives is what was sent, whole and in order, or an error."""

import os
from collections.abc import Awaitable, Callable

import pytest
import trio

from unhosted.node.core.peering import ChannelBroken
from unhosted.node.shell.transfer.records import RECORD_BYTES, RecordChannel, derive_keys

Tamper = Callable[[bytes], bytes]
SEND_KEY, RECEIVE_KEY = derive_keys(b"s" * 32, b"t" * 16)


async def _streams() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends of one TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        near = await trio.open_tcp_stream("127.0.0.1", port)
        return near, await listener.accept()


async def _channels() -> tuple[RecordChannel, RecordChannel]:
    near, far = await _streams()
    return (
        RecordChannel(near, peer="far", send_key=SEND_KEY, receive_key=RECEIVE_KEY),
        RecordChannel(far, peer="near", send_key=RECEIVE_KEY, receive_key=SEND_KEY),
    )


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(10):
            await main()

    trio.run(bounded)


async def _sealed(*messages: bytes, end: bool = False) -> list[bytes]:
    """The records of some messages, as they go over the line."""
    near, far = await _streams()
    channel = RecordChannel(near, peer="far", send_key=SEND_KEY, receive_key=RECEIVE_KEY)
    records = []
    for message in messages:
        await channel.send(message)
        records.append(await _read(far, len(message) + 20))
    if end:
        await channel.end()
        records.append(await _read(far, 20))
    await channel.aclose()
    await far.aclose()
    return records


async def _read(stream: trio.SocketStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.receive_some(count - len(data))
    return data


async def _hear(line: bytes, *, cut: bool = True) -> list[bytes | str | None]:
    """What a channel makes of these bytes: messages, None for the end, the text of its error."""
    near, far = await _streams()
    channel = RecordChannel(far, peer="near", send_key=RECEIVE_KEY, receive_key=SEND_KEY)
    heard: list[bytes | str | None] = []

    async def speak() -> None:
        await near.send_all(line)
        if cut:
            await near.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(speak)
        try:
            while not heard or heard[-1] is not None:
                heard.append(await channel.receive())
        except ChannelBroken as error:
            heard.append(str(error))
        nursery.cancel_scope.cancel()
    await channel.aclose()
    await trio.aclose_forcefully(near)
    return heard


def test_messages_of_all_sizes_arrive_both_ways_at_once() -> None:
    messages = [b"", b"x", os.urandom(5_000), os.urandom(RECORD_BYTES), *([os.urandom(70_000)] * 40)]

    async def main() -> None:
        near, far = await _channels()
        heard: dict[str, list[bytes]] = {"near": [], "far": []}

        async def hear(channel: RecordChannel) -> None:
            while (message := await channel.receive()) is not None:
                heard[channel.peer].append(message)

        async def speak(channel: RecordChannel) -> None:
            await channel.send_all(messages[:10])
            for message in messages[10:]:
                await channel.send(message)
            await channel.end()

        async with trio.open_nursery() as nursery:
            for channel in (near, far):
                nursery.start_soon(hear, channel)
                nursery.start_soon(speak, channel)
        assert heard == {"near": messages, "far": messages}
        assert await near.receive() is None
        with pytest.raises(ChannelBroken):
            await near.send(b"more")
        await near.aclose()
        await far.aclose()

    _run(main)


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    async def main() -> None:
        (record,) = await _sealed(b"hello")
        for place in range(len(record)):
            changed = bytearray(record)
            changed[place] ^= 0x40
            (heard,) = await _hear(bytes(changed))
            assert isinstance(heard, str), f"byte {place}"

    _run(main)


def test_a_cut_connection_is_no_end() -> None:
    async def main() -> None:
        line = b"".join(await _sealed(b"one", b"two", end=True))
        assert await _hear(line) == [b"one", b"two", None]
        for length in range(len(line)):
            assert "cut" in str((await _hear(line[:length]))[-1])

    _run(main)


def test_records_left_out_doubled_or_moved_are_noticed() -> None:
    async def main() -> None:
        one, two, end = await _sealed(b"one", b"two", end=True)
        for line in (two, one + one, two + one, one + end):
            *_, last = await _hear(line)
            assert last == "a record that does not match its key: changed on the way"

    _run(main)


def test_a_record_sent_back_to_its_sender_is_noticed() -> None:
    async def main() -> None:
        (record,) = await _sealed(b"hello")
        near, far = await _streams()
        channel = RecordChannel(near, peer="far", send_key=SEND_KEY, receive_key=RECEIVE_KEY)
        await far.send_all(record)
        with pytest.raises(ChannelBroken, match="does not match its key"):
            await channel.receive()
        await channel.aclose()
        await far.aclose()

    _run(main)


def test_a_length_above_the_limit_is_refused_before_it_is_waited_for() -> None:
    async def main() -> None:
        line = (RECORD_BYTES + 17).to_bytes(4, "big")
        assert "at most" in str((await _hear(line, cut=False))[-1])
        assert "at most" in str((await _hear((15).to_bytes(4, "big"), cut=False))[-1])

    _run(main)


def test_a_cancelled_receive_or_send_breaks_the_channel_for_good() -> None:
    async def main() -> None:
        near, far = await _channels()
        with trio.move_on_after(0):
            await near.receive()
        with pytest.raises(ChannelBroken, match="cancelled"):
            await near.receive()
        with trio.move_on_after(0.01):
            while True:
                await far.send(bytes(RECORD_BYTES))
        with pytest.raises(ChannelBroken, match="cancelled"):
            await far.send(b"more")
        await near.aclose()
        await far.aclose()

    _run(main)


def test_a_larger_piece_comes_whole_or_not_at_all() -> None:
    piece = os.urandom(3 * RECORD_BYTES + 5)
    parts = [piece[at : at + RECORD_BYTES] for at in range(0, len(piece), RECORD_BYTES)]

    async def main() -> None:
        for sent, wanted_bytes, error in (
            (parts, len(piece), ""),
            (parts, len(piece) - 1, "end elsewhere"),
            ([b"x"] * 1000, 1000, "too small"),
            ([b""] * 1000, 1000, "too small"),
        ):
            near, far = await _channels()
            heard: list[None] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, sent)
                if error:
                    with pytest.raises(ChannelBroken, match=error):
                        await far.receive_bytes(wanted_bytes, lambda: heard.append(None))  # noqa: B023
                else:
                    assert await far.receive_bytes(wanted_bytes, lambda: heard.append(None)) == piece  # noqa: B023
                    assert len(heard) == 4
                nursery.cancel_scope.cancel()
            await near.aclose()
            await far.aclose()

    _run(main)


def test_an_end_inside_a_larger_piece_breaks_it() -> None:
    async def main() -> None:
        near, far = await _channels()
        await near.send(b"half")
        await near.end()
        with pytest.raises(ChannelBroken, match="end elsewhere"):
            await far.receive_bytes(8, lambda: None)
        await near.aclose()
        await far.aclose()

    _run(main)


def test_each_direction_has_its_own_key() -> None:
    assert SEND_KEY != RECEIVE_KEY
    assert derive_keys(b"s" * 32, b"u" * 16) != (SEND_KEY, RECEIVE_KEY)
    assert len(SEND_KEY) == len(RECEIVE_KEY) == 32
