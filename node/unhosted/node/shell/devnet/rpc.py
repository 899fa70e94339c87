"""JSON-RPC to a chain on this machine, over one connection; blocking, and without web3 (2 s to load)."""

import http.client
import json
from types import TracebackType
from typing import Any, Self

ANSWER_BYTES_MAX = 64 << 20
"""A block of 30 million gas cannot hold logs of this size."""

TIMEOUT_S = 60.0
"""The machine in Python needs seconds for its longest calls, never a minute."""


class RpcFault(Exception):
    """The chain refused a call: `code`, its words, and the revert data if there is any."""

    def __init__(self, method: str, code: int, message: str, data: object) -> None:
        super().__init__(f"{method}: {message} ({code})")
        self.code = code
        self.message = message
        self.data = data


class LocalRpc:
    """One connection to 127.0.0.1; for one thread at a time."""

    def __init__(self, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
        self._last_id = 0

    def call(self, method: str, *params: object) -> Any:
        """The result, as JSON gives it.

        Raises: RpcFault when the chain says no; OSError when it cannot be reached.
        """
        self._last_id += 1
        body = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        answer = self._post(json.dumps(body).encode())
        error = answer.get("error")
        if error is not None:
            raise RpcFault(method, error.get("code", 0), str(error.get("message", "")), error.get("data"))
        return answer.get("result")

    def _post(self, body: bytes) -> dict[str, Any]:
        try:
            return self._exchange(body)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # The server ended an idle connection; a local chain that is gone refuses the second one.
            self._connection.close()
            return self._exchange(body)

    def _exchange(self, body: bytes) -> dict[str, Any]:
        try:
            self._connection.request("POST", "/", body, {"content-type": "application/json"})
            response = self._connection.getresponse()
            raw = response.read(ANSWER_BYTES_MAX)
            answer = json.loads(raw)
        except http.client.RemoteDisconnected:
            raise
        except (http.client.HTTPException, ValueError) as error:
            self._connection.close()
            raise OSError(f"what listens on 127.0.0.1:{self.port} does not speak JSON-RPC") from error
        except OSError:
            self._connection.close()
            raise
        if not isinstance(answer, dict):
            raise OSError(f"what listens on 127.0.0.1:{self.port} does not speak JSON-RPC")
        return answer

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
