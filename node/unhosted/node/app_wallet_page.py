"""The wallet page's side of a deposit: what waits, and the signature that a browser wallet gave."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import trio

from unhosted.node import app_wallet
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.funding import DepositRequest, to_json


class DepositDesk:
    """Implements `core.service.WalletPage`. It needs neither this node's key nor, for an ordinary wallet's
    signature, the chain."""

    def __init__(self, config: Config) -> None:
        self._config = config

    async def waiting(self) -> list[Mapping[str, object]]:
        files = app_wallet.deposit_files(self._config)
        waiting = await trio.to_thread.run_sync(lambda: files.waiting(now_unix_s=int(time.time())))
        return [_shown(request) for request in waiting]

    async def sign(self, deposit_id: str, signature: bytes) -> Mapping[str, object]:
        """Raises: Refused, also offline: checking it takes the chain's code, which is not loaded then."""
        if self._config.offline:
            raise Refused("offline", "this node is offline; start it without --offline to take a deposit")
        from unhosted.node.shell.wallet.funding import accept_signature

        files = app_wallet.deposit_files(self._config)
        open_chain = partial(app_wallet.wallet_chain, self._config)
        return _shown(await accept_signature(open_chain, files, deposit_id, signature))


def _shown(request: DepositRequest) -> dict[str, Any]:
    from unhosted.node.shell.wallet.times import utc_text

    shown = to_json(request, valid_until=utc_text(request.valid_before_unix_s))
    return shown | {"is_signed": shown.pop("signature", None) is not None}
