"""Takes the network away from the process that runs a model.

On Linux the process enters a network namespace of its own, with nothing in it, not even a loopback that is
up: what it cannot reach it cannot leak to, whatever the library or the model file does. Where the kernel
forbids that, an audit hook refuses Python's own doors, which says less: native code could still make sockets.
`unhosted doctor` shows which level holds.
"""

import ctypes
import os
import sys
from typing import Literal

Level = Literal["network-namespace", "audit-hook"]

_CLONE_NEWNET = 0x40000000
_CLONE_NEWUSER = 0x10000000
_REFUSED_EVENTS = frozenset(
    {
        "socket.__new__",
        "socket.connect",
        "socket.bind",
        "socket.getaddrinfo",
        "socket.sendto",
        "socket.sendmsg",
    }
)


def enter() -> Level:
    """Give up the network, for this process and all it starts. Call before any thread exists."""
    if sys.platform == "linux" and _enter_empty_namespace():
        return "network-namespace"
    sys.addaudithook(_refuse_sockets)
    return "audit-hook"


def _enter_empty_namespace() -> bool:
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWNET) == 0:  # allowed to root without a user namespace
        return True
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        return False
    # Files are opened with the same identity as before.
    try:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    except OSError:
        return True  # the namespace stands; unmapped ids still open what the kernel lets the real user open
    return True


def _refuse_sockets(event: str, _arguments: tuple[object, ...]) -> None:
    if event in _REFUSED_EVENTS:
        raise PermissionError(f"a model's process has no network: {event} refused")
