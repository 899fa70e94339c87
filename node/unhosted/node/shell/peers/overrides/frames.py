"""The frames of Yamux: twelve bytes of header, and for data a body. Also what breaks a session."""

import struct

HEADER = struct.Struct("!BBHII")
"""version, kind, flags, stream, length (of the body, or a window's increment, or a ping's value)."""

DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8

WINDOW_BYTES = 256 * 1024
"""What each side may send on a new stream before it is told to go on; the protocol's own number."""

WINDOW_BYTES_MAX = 2**32 - 1
NOISE_BYTES_MAX = 65519
"""Plain bytes of one Noise message."""

FRAME_BYTES_MAX = NOISE_BYTES_MAX - HEADER.size
"""Body of the frames that we send: frame and Noise message end together. Others may send longer ones."""


class SessionFault(Exception):
    """The peer broke a rule, or a limit: the connection ends. The message says which."""


def frame(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """A frame without a body."""
    return HEADER.pack(0, kind, flags, stream_id, length)
