"""The port of a local chain: free, or a sentence about who has it."""

import contextlib
import socket

from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet.accounts import CHAIN_ID
from unhosted.node.shell.devnet.rpc import LocalRpc, RpcFault

PORT_DEFAULT = 8545
"""Where every wallet and tool looks for a local chain."""

PROBE_TIMEOUT_S = 0.5


def free_port() -> int:
    """A port that was free a moment ago; another program may be quicker."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free(port: int) -> None:
    """Raises: Refused that says what has the port and what to do."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except PermissionError:
            message = f"port {port} may not be opened by this user; choose one above 1023 with --port"
            raise Refused("invalid_request", message, field="port") from None
        except OSError:
            raise Refused("invalid_request", _who_has(port), field="port") from None


def _who_has(port: int) -> str:
    owner = _owner(port)
    try:
        with LocalRpc(port, timeout_s=PROBE_TIMEOUT_S) as rpc:
            chain_id = int(rpc.call("eth_chainId"), 16)
    except (OSError, RpcFault, ValueError, TypeError):
        return f"port {port} is taken by {owner}; stop it or choose another with --port"
    if chain_id == CHAIN_ID:
        return (
            f"port {port} is taken: a local chain ({CHAIN_ID}) already runs there, {owner};"
            f" use it at http://127.0.0.1:{port}, or start another with --port"
        )
    return f"port {port} is taken by a node of chain {chain_id}, {owner}; choose another with --port"


def _owner(port: int) -> str:
    """`anvil (process 123)`. The system may hide it from this user."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"
