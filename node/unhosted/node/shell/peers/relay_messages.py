"""Messages of circuit relay v2, as the libp2p specification has them: a varint length, then Protobuf."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

from google.protobuf.message import DecodeError
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb import circuit_pb2

from unhosted.node.core.peering import ChannelBroken, PeerId

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"

MESSAGE_BYTES_MAX = 4096
"""The specification's own; ours have less than 300."""

Status = Literal[
    "OK",
    "RESERVATION_REFUSED",
    "RESOURCE_LIMIT_EXCEEDED",
    "PERMISSION_DENIED",
    "CONNECTION_FAILED",
    "NO_RESERVATION",
    "MALFORMED_MESSAGE",
    "UNEXPECTED_MESSAGE",
]
"""Names as in the specification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayMessage:
    """kind: of hop RESERVE, CONNECT, STATUS; of stop CONNECT, STATUS. limits of 0: none said.

    peer: the target on hop, the source on stop. expires_unix_s: of a reservation.
    """

    kind: Literal["RESERVE", "CONNECT", "STATUS"]
    peer: PeerId | None = None
    status: Status | None = None
    expires_unix_s: int = 0
    duration_s: int = 0
    data_bytes: int = 0


def encode(message: RelayMessage, protocol: str) -> bytes:
    """With its length in front."""
    made: Any = circuit_pb2.HopMessage() if protocol == HOP else circuit_pb2.StopMessage()
    made.type = type(made).Type.Value(message.kind)
    if message.peer is not None:
        made.peer.id = ID.from_base58(message.peer).to_bytes()
    if message.status is not None:
        made.status = circuit_pb2.Status.Value(message.status)
    if message.duration_s or message.data_bytes:
        made.limit.duration, made.limit.data = message.duration_s, message.data_bytes
    if protocol == HOP and message.expires_unix_s:
        made.reservation.expire = message.expires_unix_s
    payload: bytes = made.SerializeToString()
    return _varint(len(payload)) + payload


def decode(payload: bytes, protocol: str) -> RelayMessage:
    """Raises: ValueError for what is no message of `protocol`."""
    made: Any = circuit_pb2.HopMessage() if protocol == HOP else circuit_pb2.StopMessage()
    try:
        made.ParseFromString(payload)
    except DecodeError as error:
        raise ValueError(f"no {protocol} message: {error}") from None
    kinds, statuses = type(made).Type, circuit_pb2.Status
    if not made.HasField("type") or made.type not in kinds.values():
        raise ValueError(f"no {protocol} message: it has no known type")
    peer = made.peer.id if made.HasField("peer") else b""
    if len(peer) > 64:  # a multihash of a key; an Ed25519 one has 38 bytes
        raise ValueError(f"a peer id of {len(peer)} bytes")
    known = made.status != statuses.UNUSED and made.status in statuses.values()
    reservation = made.reservation if protocol == HOP else None
    return RelayMessage(
        kind=kinds.Name(made.type),
        peer=ID(peer).to_base58() if peer else None,
        status=cast(Status, statuses.Name(made.status)) if known else None,
        expires_unix_s=reservation.expire if reservation is not None else 0,
        duration_s=made.limit.duration,
        data_bytes=made.limit.data,
    )


async def read_message(receive: Callable[[int], Awaitable[bytes]], protocol: str) -> RelayMessage:
    """The next message and not a byte more: what follows it belongs to the two ends.

    receive: gives 1 to n bytes, none at the end. Raises: ChannelBroken, ValueError.
    """
    size, shift = 0, 0
    while True:
        byte = (await _exactly(receive, 1))[0]
        size |= (byte & 0x7F) << shift
        if size > MESSAGE_BYTES_MAX or shift > 14:
            raise ValueError(f"a {protocol} message of {size} bytes; {MESSAGE_BYTES_MAX} are the most")
        if byte < 0x80:
            break
        shift += 7
    return decode(await _exactly(receive, size), protocol)


async def _exactly(receive: Callable[[int], Awaitable[bytes]], count: int) -> bytes:
    read = b""
    while len(read) < count:
        more = await receive(count - len(read))
        if not more:
            raise ChannelBroken("it ended in the middle of a relay message")
        read += more
    return read


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
