"""From a socket to a session: the library's Noise and protocol selection, and our multiplexer."""

from typing import Any

from libp2p.custom_types import TProtocol
from libp2p.protocol_muxer.exceptions import MultiselectClientError, MultiselectError
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.transport.exceptions import MuxerUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader

from unhosted.node.shell.peers.overrides.session import Policy, Session

YAMUX = TProtocol("/yamux/1.0.0")


class Upgrader(TransportUpgrader):  # type: ignore[misc]
    """Noise and nothing else: no plaintext, no secio, no TLS, whatever the other side offers."""

    def __init__(self, noise: Any, policy_of: Any) -> None:
        super().__init__({NOISE: noise}, {YAMUX: Session})
        self._policy_of = policy_of

    async def upgrade_connection(self, conn: Any, peer_id: Any) -> Session:
        """Agree on Yamux. Raises: MuxerUpgradeFailure."""
        try:
            await self.muxer_multistream.select_transport(conn)
        except (MultiselectError, MultiselectClientError) as error:
            raise MuxerUpgradeFailure("the other side does not speak Yamux") from error
        policy: Policy = self._policy_of(peer_id)
        return Session(conn, peer_id, policy)
