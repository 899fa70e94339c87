"""A slow and lossy cable in user space: copies frames between two TAP interfaces. Standard library alone.

`wire.py NAME NAME DELAY_MS LOSS_PERCENT SEED`, in the namespace where both are to be. Many kernels come
without tc's netem; TAP interfaces are in all. Prints a line once both are there. DELAY_MS: each way.
"""

import collections
import contextlib
import fcntl
import os
import random
import select
import struct
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000

FRAMES_MAX = 20_000
"""Frames under way: 2.4 Gbit/s at 100 ms and 1,500 bytes; more are dropped, as in any full buffer."""


def main() -> None:
    delay_ns, loss = int(float(sys.argv[3]) * 1e6), float(sys.argv[4]) / 100
    chance = random.Random(int(sys.argv[5]))
    ends = [_tap(name) for name in sys.argv[1:3]]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    under_way: dict[int, collections.deque[tuple[int, bytes]]] = {end: collections.deque() for end in ends}
    print("up", flush=True)
    while True:
        now_ns = time.monotonic_ns()
        for end, frames in under_way.items():
            while frames and frames[0][0] <= now_ns:
                _write(end, frames.popleft()[1])
        due_ns = min((frames[0][0] for frames in under_way.values() if frames), default=None)
        wait_s = None if due_ns is None else max(0, due_ns - now_ns) / 1e9
        for end in select.select(ends, [], [], wait_s)[0]:
            for frame in _waiting(end):
                frames = under_way[other[end]]
                if chance.random() >= loss and len(frames) < FRAMES_MAX:
                    frames.append((time.monotonic_ns() + delay_ns, frame))


def _tap(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TAP_NO_PI))
    return end


def _waiting(end: int) -> list[bytes]:
    frames: list[bytes] = []
    with contextlib.suppress(OSError):  # nothing more now, or the interface is down
        while len(frames) < 256:
            frames.append(os.read(end, 65536))
    return frames


def _write(end: int, frame: bytes) -> None:
    with contextlib.suppress(OSError):  # down or full: lost, as on a cable
        os.write(end, frame)


if __name__ == "__main__":
    main()
