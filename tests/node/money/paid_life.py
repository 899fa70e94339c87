"""One life of a buyer or a seller that can be ended at any point, and what it leaves as evidence."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import trio

from unhosted.market.channel_effects import Authorise, Effect, ReleaseTokens, StoreVoucher
from unhosted.market.channel_events import Authorised, VoucherStored
from unhosted.market.messages import VoucherMessage
from unhosted.market.money import Price
from unhosted.market.receipts import receipt_hash
from unhosted.node.core.peering import Channel as Stream
from unhosted.node.shell.money.paid_wire import AckGiven, ReceiptGiven, Tokens, WorkAsked, decode_stream
from unhosted.node.shell.money.payee import Payee
from unhosted.node.shell.money.payer import Payer

PRICE = Price(in_micros_per_mtok=1_000_000, out_micros_per_mtok=3_000_000)
"""3 micro-USDC a token: a window is 16 of them, 48 micro-USDC."""

PROMPT_TOKENS = 10
ALLOCATION_MICROS = 250_000
LATE_S = 0.05
"""For so long the disk of the control does not have it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How one life of a program goes. url: of the chain. kill_at: the point at which it kills itself, -1
    for never. length: tokens of an answer. pause_s: between two of its pieces. is_hasty: the control, which
    goes on before the disk has it. allocation_micros: of the channel. dearness: how often PRICE is asked.
    """

    role: str
    folder: str
    url: str
    host: str = "127.0.0.1"
    port: int = 0
    kill_at: int = -1
    length: int = 70
    pause_s: float = 0.0
    cap_micros: int = 1_000_000
    allocation_micros: int = ALLOCATION_MICROS
    dearness: int = 1
    is_hasty: bool = False

    @property
    def price(self) -> Price:
        return Price(
            in_micros_per_mtok=PRICE.in_micros_per_mtok * self.dearness,
            out_micros_per_mtok=PRICE.out_micros_per_mtok * self.dearness,
        )


class Life:
    """Points at which it can end, and what is left of it."""

    def __init__(self, setting: Setting) -> None:
        self._left = setting.kill_at
        path = Path(setting.folder) / "evidence"
        self._evidence = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def reach(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1

    def note(self, *words: object) -> None:
        os.write(self._evidence, (" ".join(map(str, words)) + "\n").encode())


class DeadlyStream:
    """The real stream, with a point after each message that was sent."""

    def __init__(self, stream: Stream, life: Life) -> None:
        self._stream, self._life = stream, life
        self.peer, self.end = stream.peer, stream.end

    async def send(self, message: bytes) -> None:
        self._note("out", message)
        await self._stream.send(message)
        self._life.reach()

    async def receive(self) -> bytes | None:
        message = await self._stream.receive()
        if message is not None:
            self._note("in", message)
        return message

    def _note(self, way: str, data: bytes) -> None:
        match decode_stream(data):
            case VoucherMessage(signed=signed):
                self._life.note(way, "voucher", signed.voucher.amount_micros)
            case Tokens(request_id=request_id, position=position, ids=ids):
                self._life.note(way, "tokens", request_id.hex(), position + len(ids))
            case WorkAsked(terms=terms, salt=salt):
                self._life.note(way, "salt", terms.request_id.hex(), salt.hex())
            case AckGiven(request_id=request_id, signed=signed_ack):
                ack = signed_ack.ack
                self._life.note(way, "ack", request_id.hex(), ack.tokens_out, ack.output_root.hex())
            case ReceiptGiven(signed=signed):
                self._life.note(way, "receipt", signed.receipt.request_id.hex(), receipt_hash(signed).hex())


class DeadlyPayer(Payer):
    """With a point before each effect. is_hasty: signs before the ledger has counted it."""

    life: Life
    is_hasty = False

    async def _perform(self, effect: Effect) -> None:
        self.life.reach()
        if self.is_hasty and isinstance(effect, Authorise):
            total = self.end.channel.tally.authorised_micros + effect.delta_micros
            self.end.answer(Authorised(request_id=effect.request_id, total_micros=total))
            assert self._nursery is not None
            self._nursery.start_soon(self._late, effect)
            return
        await super()._perform(effect)

    async def _late(self, effect: Effect) -> None:
        await trio.sleep(LATE_S)
        await super()._perform(effect)


class DeadlyPayee(Payee):
    """With a point before each effect. is_hasty: gives tokens before the book has the voucher."""

    life: Life
    is_hasty = False

    async def _perform(self, effect: Effect) -> None:
        self.life.reach()
        if isinstance(effect, ReleaseTokens):
            self.life.note("answered", "voucher", self.end.channel.tally.authorised_micros)
        if self.is_hasty and isinstance(effect, StoreVoucher):
            self.end.answer(VoucherStored(amount_micros=effect.amount_micros))
            assert self._nursery is not None
            self._nursery.start_soon(self._late, effect)
            return
        await super()._perform(effect)

    async def _late(self, effect: Effect) -> None:
        await trio.sleep(LATE_S)
        await super()._perform(effect)
