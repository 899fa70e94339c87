"""A ledger in a folder, its channels, and a clock that tests turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from unhosted.market.channels import ChainId, ChannelConfig, Deployment, channel_id
from unhosted.market.ids import Address, ChannelId, RequestId
from unhosted.node.shell.money.ledger import Ledger, open_ledger
from unhosted.node.shell.money.ledger_words import FoundChannel

NOW_UNIX_S = 1_795_996_800
"""2026-11-30 00:00:00 UTC."""
DAY_S = 86_400
NS = 1_000_000_000
DEPLOYMENT = Deployment(chain_id=ChainId(31337), contract=Address(b"\xcc" * 20))
SIGNER = Address(b"\x02" * 20)


class Clock:
    def __init__(self, unix_s: int = NOW_UNIX_S) -> None:
        self.unix_s = unix_s

    def __call__(self) -> int:
        return self.unix_s * NS


def config(number: int) -> ChannelConfig:
    return ChannelConfig(
        payer=Address(b"\x01" * 20),
        signer=SIGNER,
        payee=Address(bytes([number + 1]) * 20),
        delay_s=DAY_S,
        salt=bytes(32),
    )


def of(number: int) -> ChannelId:
    return channel_id(DEPLOYMENT, config(number))


def request(number: int) -> RequestId:
    return RequestId(number.to_bytes(32, "big"))


def found(
    number: int, deposit_micros: int, claimed_micros: int = 0, *, is_closed: bool = False
) -> FoundChannel:
    return FoundChannel(
        deployment=DEPLOYMENT,
        config=config(number),
        deposit_micros=deposit_micros,
        claimed_micros=claimed_micros,
        is_closed=is_closed,
    )


def files(folder: Path) -> tuple[Path, Path]:
    """The ledger and its seal, in two folders."""
    return folder / "data" / "ledger.db", folder / "state" / "ledger.seal"


@asynccontextmanager
async def ledger_in(folder: Path, *, cap: int = 1000, clock: Clock | None = None) -> AsyncIterator[Ledger]:
    """The ledger of `folder` as a node would open it."""
    path, seal = files(folder)
    async with open_ledger(path, seal, cap_micros=cap, clock_ns=clock or Clock()) as ledger:
        yield ledger


@asynccontextmanager
async def ready_ledger(
    folder: Path, *, cap: int = 1000, deposit: int = 500, clock: Clock | None = None
) -> AsyncIterator[Ledger]:
    """The same with the chain's time and channels 1 and 2 noted."""
    async with ledger_in(folder, cap=cap, clock=clock) as ledger:
        await ledger.note_chain_time(NOW_UNIX_S)
        for number in (1, 2):
            await ledger.note_channel(DEPLOYMENT, config(number), deposit)
        yield ledger
