"""All that an interface of a host carries, as the kernel sees it, to be searched for bytes."""

import socket
import struct
import threading
from collections import defaultdict

CAPTURE_BYTES_MAX = 512 * 1024 * 1024
"""A test that carries more is told so; it could not have found what it looked for."""

SOL_PACKET, PACKET_STATISTICS = 263, 6

Flow = tuple[bytes, int, bytes, int]


class Capture:
    """Frames of all interfaces of a namespace, from `with` on. Search it after the traffic has ended."""

    def __init__(self, packets: socket.socket) -> None:
        self._packets = packets
        self._frames: list[bytes] = []
        self._size_bytes = 0
        self._thread = threading.Thread(target=self._read, name="capture")

    def __enter__(self) -> "Capture":
        self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024 * 1024)
        self._packets.settimeout(0.05)
        self._stopping = False
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take what is waiting still, then end."""
        self._stopping = True
        if self._thread.is_alive():
            self._thread.join()
            self.lost = struct.unpack("II", self._packets.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
            self._packets.close()

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def count(self, needle: bytes) -> int:
        """How often `needle` went by, in TCP streams put together again and in single frames of the rest.

        Raises: AssertionError if frames were lost on the way here: the search would prove nothing.
        """
        self.stop()
        assert self.lost == 0, f"{self.lost} frames were lost before they could be searched"
        assert self._size_bytes <= CAPTURE_BYTES_MAX, f"more than {CAPTURE_BYTES_MAX} bytes went by"
        return sum(stream.count(needle) for stream in (*self.streams().values(), *self._others()))

    def streams(self) -> dict[Flow, bytes]:
        """One way of one TCP connection each: source, port, destination, port."""
        parts: dict[Flow, dict[int, bytes]] = defaultdict(dict)
        for frame in self._frames:
            segment = _segment(frame)
            if segment is not None and segment[2]:
                flow, sequence, payload = segment
                if len(payload) > len(parts[flow].get(sequence, b"")):
                    parts[flow][sequence] = payload
        return {flow: _join(found) for flow, found in parts.items()}

    def _others(self) -> list[bytes]:
        return [frame for frame in self._frames if _segment(frame) is None]

    def _read(self) -> None:
        while True:
            try:
                frame = self._packets.recv(262144)
            except TimeoutError:
                if self._stopping:
                    return
                continue
            self._size_bytes += len(frame)
            if self._size_bytes <= CAPTURE_BYTES_MAX:
                self._frames.append(frame)


def _segment(frame: bytes) -> tuple[Flow, int, bytes] | None:
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
        start = 14 + (frame[14] & 15) * 4
        size = int.from_bytes(frame[16:18], "big") or len(frame) - 14  # zero: larger than the field can say
        source, target, end = frame[26:30], frame[30:34], 14 + size
    elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
        start = 54
        size = int.from_bytes(frame[18:20], "big") or len(frame) - 54
        source, target, end = frame[22:38], frame[38:54], 54 + size
    else:
        return None
    from_port, to_port, sequence = struct.unpack_from("!HHI", frame, start)
    data = start + (frame[start + 12] >> 4) * 4
    return (source, from_port, target, to_port), sequence, frame[data:end]


def _join(parts: dict[int, bytes]) -> bytes:
    """In order of sequence numbers, what was sent twice once. Numbers that pass 2**32 are not handled."""
    joined, next_sequence = [], 0
    for sequence in sorted(parts):
        payload = parts[sequence][max(0, next_sequence - sequence) :]
        if payload:
            joined.append(payload)
            next_sequence = sequence + len(parts[sequence])
    return b"".join(joined)
