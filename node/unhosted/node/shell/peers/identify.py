"""What any libp2p node may ask: who we are (identify) and whether we are there (ping).

Only what is needed goes out: the program's version, the addresses where it listens, where the asker is seen
from, and the protocols that this asker may use. We ask nobody: what a peer says of itself comes over a
channel of ours.
"""

from collections.abc import Sequence
from typing import Any

import trio
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.stream_muxer.exceptions import MuxedStreamError
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from unhosted.node.shell.peers.addresses import text_of
from unhosted.node.shell.peers.overrides.stream import Stream

PING = "/ipfs/ping/1.0.0"
PING_BYTES = 32
PING_IDLE_S = 60.0
"""Between two pings on a stream, as other implementations send them."""

PROTOCOL_VERSION = "unhosted/1"
ADDRESSES_MAX = 32

__all__ = ["IDENTIFY", "PING", "answer_identify", "answer_ping"]


async def answer_identify(
    stream: Stream, *, agent: str, public_key: bytes, addresses: Sequence[str], protocols: Sequence[str]
) -> None:
    """agent: the program and its version. public_key: as libp2p serialises it."""
    message = Identify(
        protocol_version=PROTOCOL_VERSION,
        agent_version=agent,
        public_key=public_key,
        listen_addrs=[packed for packed in map(_pack, addresses[:ADDRESSES_MAX]) if packed],
        observed_addr=_observed(stream.get_remote_address()),
        protocols=list(protocols),
    )
    await stream.write(encode_varint_prefixed(message.SerializeToString()))
    stream.finish()


async def answer_ping(stream: Stream) -> None:
    """Send back what comes, 32 bytes at a time, until the other side has enough."""
    try:
        while True:
            with trio.fail_after(PING_IDLE_S):
                await stream.wait_buffered(PING_BYTES)
            await stream.write(stream.take(PING_BYTES))
    except (MuxedStreamError, trio.TooSlowError):
        stream.finish()


def _pack(address: str) -> bytes:
    try:
        return bytes(Multiaddr(address).to_bytes())
    except (MultiaddrError, ValueError):
        return b""


def _observed(remote: Any) -> bytes:
    return _pack(text_of(*remote)) if remote else b""
