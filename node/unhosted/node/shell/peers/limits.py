"""What strangers, peers and all of them together may take of this machine. Each number says why."""

from dataclasses import dataclass

from unhosted.node.shell.peers.memory import MEBIBYTE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A stranger is a peer that connected to us and is not paired; whom we dial ourselves is none.

    connections_max: an idle connection costs about 60 KB and a ping every two seconds.
    strangers_max: the rest of the places is kept for paired peers.
    strangers_per_address_max: one machine, or the machines behind one NAT that pair at the same time.
    connections_per_peer_max: both may dial each other at once, and a relayed one may stand beside a direct
    one; a third is a peer that lost its power and came back: the oldest goes.
    handshakes_max, handshakes_per_address_max: a handshake takes 20 ms, so whoever is in the middle of one
    for long is slow or hostile, and the oldest goes first.
    handshakes_per_address_per_s, handshakes_per_address_burst: a handshake costs about 4 ms of CPU.
    handshake_s: for machines that are busy, on a satellite's round trip.
    handshake_bytes_max: both sides of a handshake send less than 2 KB.
    streams_per_peer_max: requests at once, each a stream. streams_per_stranger_max: identify, ping, pairing.
    unread_bytes_per_peer_max, unread_bytes_per_stranger_max: what waits for a handler that is behind.
    memory_bytes_max: what waits for handlers, over all connections. memory_of_strangers_bytes_max: of that.
    stranger_idle_s: a stranger that uses no channel for so long is let go; one that is idle for
    stranger_evictable_s goes sooner if its place is needed.
    """

    connections_max: int = 320
    strangers_max: int = 192
    strangers_per_address_max: int = 64
    connections_per_peer_max: int = 3
    handshakes_max: int = 128
    handshakes_per_address_max: int = 16
    handshakes_per_address_per_s: float = 40.0
    handshakes_per_address_burst: int = 80
    handshake_s: float = 5.0
    handshake_bytes_max: int = 64 * 1024
    streams_per_peer_max: int = 256
    streams_per_stranger_max: int = 8
    unread_bytes_per_peer_max: int = 64 * MEBIBYTE
    unread_bytes_per_stranger_max: int = 1 * MEBIBYTE
    memory_bytes_max: int = 256 * MEBIBYTE
    memory_of_strangers_bytes_max: int = 32 * MEBIBYTE
    stranger_idle_s: float = 60.0
    stranger_evictable_s: float = 1.0
