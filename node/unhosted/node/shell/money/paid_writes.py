"""The ledger's commits for one channel's requests, beside its other work."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from unhosted.market.channel_effects import Authorise, StopReason
from unhosted.market.channel_events import AuthorisationRefused, Authorised, Event
from unhosted.market.channels import SignedVoucher
from unhosted.market.ids import ChannelId, RequestId
from unhosted.node.core.errors import Refused
from unhosted.node.shell.money.ledger import Ledger
from unhosted.node.shell.money.paid_vouchers import ChannelVouchers

Write = Callable[[], Awaitable[Event]]


class AuthoriseWrites:
    """Requests share a commit; one request's own writes keep their order. refused: told of what was not."""

    def __init__(self, ledger: Ledger, *, refused: Callable[[RequestId, Refused], None]) -> None:
        self._ledger, self._refused = ledger, refused
        self._last: dict[RequestId, trio.Event] = {}

    def begin(self, effect: Authorise) -> Write:
        """Takes its place now; to be called, perhaps in another task, for the event that it comes to."""
        before = self._last.get(effect.request_id)
        done = self._last[effect.request_id] = trio.Event()
        return partial(self._write, effect, before, done)

    async def wait(self, request_id: RequestId) -> None:
        """Until all that was begun for a request is through; it is over, and forgotten here."""
        last = self._last.pop(request_id, None)
        if last is not None:
            await last.wait()

    async def _write(self, effect: Authorise, before: trio.Event | None, done: trio.Event) -> Event:
        request_id = effect.request_id
        try:
            if before is not None:
                await before.wait()
            total = await self._ledger.authorise(request_id, effect.delta_micros)
        except Refused as why:
            self._refused(request_id, why)
            reason: StopReason = "cap_reached" if why.code == "cap_reached" else "ledger_failed"
            return AuthorisationRefused(
                request_id=request_id, delta_micros=effect.delta_micros, reason=reason
            )
        finally:
            done.set()
        return Authorised(request_id=request_id, total_micros=total)


async def raise_authorised(
    ledger: Ledger,
    vouchers: ChannelVouchers,
    of: ChannelId,
    amount_micros: int,
    *,
    shown: SignedVoucher | None,
    deposit_micros: int,
) -> None:
    """By the voucher that the seller showed, or by what the chain paid out."""
    if shown is not None and shown.voucher.amount_micros == amount_micros:
        signed_by = vouchers.signed_by(shown)
        if signed_by is not None:
            await ledger.raise_authorised(shown, signed_by=signed_by)
        return
    await ledger.note_deposit(of, deposit_micros, claimed_micros=amount_micros)
