"""The library's host and swarm without what they do unasked, and with handlers that can fail alone."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from libp2p.host.basic_host import BasicHost
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.protocol_muxer.exceptions import MultiselectError
from libp2p.protocol_muxer.multiselect import Multiselect

from unhosted.node.shell.peers.negotiation import Words
from unhosted.node.shell.peers.overrides.stream import Stream

log = logging.getLogger(__name__)

NEGOTIATION_S = 5
"""To name a protocol takes one round trip."""

StreamHandler = Callable[[Any], Awaitable[None]]


class IdleConnector(AutoConnector):  # type: ignore[misc]
    """The library's dials whomever it has heard of, up to half of its limits, whatever is set."""

    async def run_background_task(self, nursery: Any) -> None:
        """Nothing is run."""

    async def maybe_connect(self) -> None:
        """Nobody is dialled."""


class QuietSwarm(Swarm):  # type: ignore[misc]
    """Never dials: `dialer.py` does, and hands over what is connected."""

    def __init__(self, *values: Any, **options: Any) -> None:
        super().__init__(*values, **options)
        self.auto_connector = IdleConnector(swarm=self)

    async def dial_peer(self, peer_id: Any) -> Any:
        raise SwarmException(
            f"there is no connection to {peer_id}, and only this node's own dialer makes one"
        )


class GuardedHost(BasicHost):  # type: ignore[misc]
    """admits: whether a peer may open streams of a protocol, asked at each opening.

    A peer that may not is told that there is no such protocol. Whatever a handler raises resets its stream
    and is logged; the library would end the whole node.
    """

    def __init__(self, swarm: QuietSwarm, admits: Callable[[str, str], bool]) -> None:
        super().__init__(swarm, default_protocols={None: None}, disable_identify_address_discovery=True)
        self.multiselect = Multiselect({})
        self._admits = admits
        # The library's own notifees tag peers for a pruner that never runs here, and ask each new peer to
        # identify itself in system tasks, whose failure ends the process.
        swarm.notifees.clear()

    async def _swarm_stream_handler(self, net_stream: Any) -> None:
        stream: Stream = net_stream.muxed_stream
        stream.is_taken = True
        protocol = ""
        try:
            protocol, handler = await self._negotiate(stream)
            net_stream.set_protocol(protocol)
            await handler(net_stream)
        except MultiselectError as error:
            log.debug("negotiation_failed peer=%s cause=%r", stream.session.peer_id, error.__cause__)
        except Exception as error:
            log.warning(
                "handler_failed protocol=%s peer=%s error=%s",
                protocol or "none",
                stream.session.peer_id,
                type(error).__name__,
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
        finally:
            stream.leave()

    async def _negotiate(self, stream: Stream) -> tuple[str, StreamHandler]:
        peer = str(stream.session.peer_id)
        open_to = {
            protocol: handler
            for protocol, handler in self.multiselect.handlers.items()
            if self._admits(peer, str(protocol))
        }
        protocol, handler = await Multiselect(open_to).negotiate(Words(stream), NEGOTIATION_S)
        return str(protocol), handler
