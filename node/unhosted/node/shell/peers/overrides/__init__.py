"""What is different from the library, version 0.8.1, and why. Nothing in the library is patched in place:
these classes stand in for its own where it hands the choice to its caller.

| file | stands in for | because |
|---|---|---|
| session.py, stream.py | Yamux, YamuxStream | a cancelled read or write ends the whole connection; a peer may fill the memory, open any number of streams, and is not noticed when it dies; a writer gives up after 5 s |
| upgrader.py | MuxerMultistream | it builds the library's own Yamux whatever it was told |
| host.py | BasicHost, Swarm | a handler's exception, or a word that is no UTF-8, ends the node; it dials by itself, one address per transport, and sleeps after each dial; it asks every stranger to identify itself, in tasks that may not fail |

Beside these, sockets are ours (`listener`, `dialer`): the library's listener shares its port silently, raises
nothing when the port is taken, and never gives back the places of inbound connections.
`tests/node/peers/test_stock_faults.py` shows each fault in the library, `test_attacks.py` that it is none here.
"""  # noqa: E501

import importlib.metadata

from unhosted.node.core.errors import Refused

KNOWN_VERSION = "0.8.1"
"""The only one whose insides these overrides have been tested with."""


def check_version() -> None:
    """Raises: Refused if another version of the library is installed."""
    check(importlib.metadata.version("libp2p"))


def check(installed: str) -> None:
    if installed != KNOWN_VERSION:
        raise Refused(
            "not_supported",
            f"libp2p {installed} is installed, and this program knows the insides of {KNOWN_VERSION} alone: "
            f"run `pip install libp2p=={KNOWN_VERSION}`",
        )
