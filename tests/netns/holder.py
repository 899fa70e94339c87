"""The process that a laboratory of network namespaces hangs on; see `lab.py`. Standard library alone.

It is started in a mount namespace and a network namespace of its own (as an ordinary user: in a user
namespace too). It makes sockets inside the hosts and passes them out. Once its control socket is closed it
ends all processes that share its mount namespace: those of the laboratory, and no others. With them the
kernel frees every namespace, bridge and cable, also when the tests were killed.
"""

import array
import contextlib
import ctypes
import os
import signal
import socket
import struct
import subprocess
import sys
import time

REQUEST = struct.Struct("!64siii")
"""Name of the host, padded with zero bytes, then family, type and protocol of the socket."""

GOODBYE = b"bye"
"""Sent by tests that have waited for their programs."""

CLONE_NEWNET = 0x40000000


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is the tests' business; they close the control socket
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    os.mkdir("/run/netns")
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    control.send(b"ready")
    while True:
        request = control.recv(REQUEST.size, socket.MSG_WAITALL)
        if len(request) < REQUEST.size:
            break
        control.sendmsg(*_answer(request, own))
    _end_the_others()
    if request != GOODBYE:  # the tests were killed, perhaps while a program was on its way in here
        time.sleep(0.5)
        _end_the_others()


def _answer(request: bytes, own: int) -> tuple[list[bytes], list[tuple[int, int, bytes]]]:
    padded, family, kind, protocol = REQUEST.unpack(request)
    try:
        _enter(os.open(f"/run/netns/{padded.rstrip(bytes(1)).decode()}", os.O_RDONLY), close=True)
        try:
            made = socket.socket(family, kind, protocol)
        finally:
            _enter(own)
    except OSError as error:
        return [str(error).encode()], []
    # The descriptor in the message is a copy of its own by the time `detach` leaves this one to the kernel.
    return [b"ok"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [made.detach()]).tobytes())]


def _enter(namespace: int, *, close: bool = False) -> None:
    failed = ctypes.CDLL(None, use_errno=True).setns(namespace, CLONE_NEWNET)
    number = ctypes.get_errno()
    if close:
        os.close(namespace)
    if failed:
        raise OSError(number, os.strerror(number))


def _end_the_others() -> None:
    mine = os.readlink("/proc/self/ns/mnt")
    while True:
        found = False
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with contextlib.suppress(OSError):  # ended meanwhile, or nobody's we may look at
                    if os.readlink(f"/proc/{name}/ns/mnt") == mine and not _is_dead(name):
                        os.kill(int(name), signal.SIGKILL)
                        found = True
        if not found:
            return


def _is_dead(pid: str) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] in "ZX"


if __name__ == "__main__":
    main()
