"""Bringing the library up: Noise over our own sockets, and nothing that it does unasked."""

import logging
from collections.abc import Callable
from typing import Any

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import Transport as Noise

from unhosted.node.shell.peers.identity import Identity
from unhosted.node.shell.peers.limits import Limits
from unhosted.node.shell.peers.overrides import check_version
from unhosted.node.shell.peers.overrides.host import GuardedHost, QuietSwarm
from unhosted.node.shell.peers.overrides.session import Policy
from unhosted.node.shell.peers.overrides.upgrader import Upgrader

log = logging.getLogger(__name__)


def make_host(
    identity: Identity,
    limits: Limits,
    *,
    policy_of: Callable[[Any], Policy],
    admits: Callable[[str, str], bool],
) -> GuardedHost:
    """A host without transports: what is dialled or accepted is handed to its swarm with `add_conn`.

    Raises: Refused if the library's version is not the known one.
    """
    check_version()
    _take_logs()
    keys = create_new_key_pair(identity.seed)
    peer_id = ID.from_pubkey(keys.public_key)
    peerstore = PeerStore()
    peerstore.add_key_pair(peer_id, keys)
    noise = Noise(keys, noise_privkey=new_noise_key_pair().private_key)
    # The swarm's own limits stand beyond ours, so that they never decide.
    beyond = 2 * limits.connections_max
    config = ConnectionConfig(
        min_connections=0,
        low_watermark=0,
        max_connections=beyond,
        high_watermark=beyond,
        max_connections_per_peer=beyond,
    )
    swarm = QuietSwarm(peer_id, peerstore, Upgrader(noise, policy_of), [], connection_config=config)
    return GuardedHost(swarm, admits)


class _ToOurLog(logging.Handler):
    """The library's records under our logger's name, and as details: strangers can cause each of them."""

    def emit(self, record: logging.LogRecord) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("library module=%s message=%s", record.name, record.getMessage())


def _take_logs() -> None:
    """Without a handler of its own the library's warnings go to stderr, past every setting."""
    theirs = logging.getLogger("libp2p")
    theirs.propagate = False
    if not any(isinstance(handler, _ToOurLog) for handler in theirs.handlers):
        theirs.addHandler(_ToOurLog())
    # Its debug records format every frame: they are never made.
    theirs.setLevel(logging.WARNING)
