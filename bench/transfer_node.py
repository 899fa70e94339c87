"""The two programs of `bench.transfer`: one gives a model, the other fetches it and takes the time.

give FOLDER SIZE_MB        a model of random bytes; prints where it is, then serves until its input ends
fetch FOLDER HOST          then lines {"giver": …, "how": bulk | channel | records | plain}
"""

import json
import os
import resource
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import trio

from tests.tiny import write_tiny
from unhosted.node.core.peering import Capabilities, Channel, Connection
from unhosted.node.shell.models.files import hash_file
from unhosted.node.shell.models.progress import Meter
from unhosted.node.shell.models.store import ModelStore
from unhosted.node.shell.nurseries import plain_nursery
from unhosted.node.shell.peers.identity import new_identity
from unhosted.node.shell.peers.network import LibP2PNetwork
from unhosted.node.shell.transfer.fetch import PeerModels, Source, Wanted
from unhosted.node.shell.transfer.messages import Ticket, decode_reply, encode_message
from unhosted.node.shell.transfer.serving import ModelServing
from unhosted.node.shell.transfer.sideband import Sideband, connect

RECORDS = "/unhosted/bench-records/1"
MIB = 1 << 20
ANYWHERE = "0.0.0.0"


class ChannelOnly(LibP2PNetwork):
    """Tells nobody where its peers are, so that no bulk connection is tried."""

    def connections(self) -> tuple[Connection, ...]:
        return ()


async def give(folder: Path, size_mb: int) -> None:
    model = write_tiny(folder / "model.gguf")
    with open(model, "ab") as file:
        while file.tell() < size_mb * 1_000_000:
            file.write(os.urandom(MIB))
    digests = hash_file(model)
    store = ModelStore(folder / "store")
    path = store.install(model, name="model", source="bench", digests=digests).path
    network = LibP2PNetwork(new_identity(), listen=[(ANYWHERE, 0)], is_paired=lambda peer: True)
    sideband = Sideband(0, host=ANYWHERE)

    async def stream(channel: Channel) -> None:
        ticket = sideband.offer(channel.peer)
        await channel.send(encode_message(ticket))
        async with sideband.accepted(ticket) as records:
            assert records is not None
            parts = [memoryview(os.urandom(250_000))] * 4
            for _ in range(size_mb):
                await records.send_all(parts)
            await records.end()
            await channel.receive()

    network.serve(RECORDS, stream, access="paired", message_bytes_max=1024)
    ModelServing(network, store, capabilities=lambda peer: Capabilities(), sideband=sideband).start()
    async with plain_nursery() as nursery:
        await nursery.start(network.run)
        await nursery.start(sideband.run)
        where = {
            "peer": network.peer,
            "port": int(network.addresses()[0].rsplit("/", 1)[-1]),
            "plain_port": _serve_plainly(path),
            "blake3": digests.blake3,
            "size_bytes": digests.size_bytes,
        }
        print(json.dumps(where), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)


def _serve_plainly(path: Path) -> int:
    """The file to whoever connects, as fast as the system can: what the transfer is compared with."""
    listener = socket.create_server((ANYWHERE, 0))

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with connection, open(path, "rb") as file:
                connection.sendfile(file)

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


async def fetch(folder: Path, host: str) -> None:
    while line := await trio.to_thread.run_sync(sys.stdin.readline):
        order = json.loads(line)
        target = folder / "fetched"
        before = resource.getrusage(resource.RUSAGE_SELF)
        if order["how"] == "plain":
            seconds = await trio.to_thread.run_sync(_fetch_plainly, order["giver"], host, target)
        else:
            seconds = await _fetch(order["giver"], order["how"], host, target)
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        target.unlink(missing_ok=True)
        print(json.dumps({"seconds": seconds, "cpu_s": cpu_s, "peak_kib": after.ru_maxrss}), flush=True)


async def _fetch(giver: dict[str, Any], how: str, host: str, target: Path) -> float:
    """Seconds from the connected network to the whole file, checked and hashed."""
    kind = ChannelOnly if how == "channel" else LibP2PNetwork
    network = kind(new_identity(), listen=[(ANYWHERE, 0)], is_paired=lambda peer: True)
    async with plain_nursery() as nursery:
        await nursery.start(network.run)
        await network.connect(giver["peer"], [f"/ip4/{host}/tcp/{giver['port']}"], timeout_s=5)
        begun = time.perf_counter()
        if how == "records":
            await _take_records(network, giver["peer"], host)
            return time.perf_counter() - begun
        models = PeerModels(network, sources=lambda: [Source(peer=giver["peer"], name="giver", facts=None)])
        fetched = await models.fetch(
            Wanted(blake3=giver["blake3"]),
            data_path=target,
            journal_path=target.with_suffix(".journal"),
            meter=Meter("model", lambda progress: None),
        )
        seconds = time.perf_counter() - begun
        target.with_suffix(".journal").unlink()
        assert fetched is not None, "the model did not arrive"
        return seconds
    raise AssertionError


async def _take_records(network: LibP2PNetwork, peer: str, host: str) -> None:
    async with network.open_channel(peer, RECORDS, message_bytes_max=1024, timeout_s=5) as channel:
        message = await channel.receive()
        assert message is not None
        ticket = decode_reply(message)
        assert isinstance(ticket, Ticket)
        records = await connect(host, ticket, peer)
        while await records.receive() is not None:
            pass
        await records.aclose()
        await channel.end()


def _fetch_plainly(giver: dict[str, Any], host: str, target: Path) -> float:
    """Seconds for the same bytes into the same disk, neither encrypted nor checked."""
    begun = time.perf_counter()
    buffer = memoryview(bytearray(MIB))
    with socket.create_connection((host, giver["plain_port"])) as connection, open(target, "wb") as file:
        left_bytes = giver["size_bytes"]
        while left_bytes:
            count = connection.recv_into(buffer)
            assert count, "the plain connection ended early"
            file.write(buffer[:count])
            left_bytes -= count
        file.flush()
        os.fdatasync(file.fileno())
    return time.perf_counter() - begun


if __name__ == "__main__":
    if sys.argv[1] == "give":
        trio.run(give, Path(sys.argv[2]), int(sys.argv[3]))
    else:
        trio.run(fetch, Path(sys.argv[2]), sys.argv[3])
