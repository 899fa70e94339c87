"""`unhosted devnet`: the local chain as the command line shows it, without naming the shell."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unhosted.market.ids import address_text
from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet.accounts import ACCOUNTS, CHAIN_ID
from unhosted.node.shell.devnet.devnet import running_devnet
from unhosted.node.shell.devnet.engines import (
    GET_ANVIL,
    GET_MACHINE,
    EngineChoice,
    RunningChain,
    choose_engine,
    has_machine,
)
from unhosted.node.shell.devnet.find_anvil import find_anvil

VERSION_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DevAccountInfo:
    """An account of the local chain, as text. eth and usdc: what a fresh chain gives it."""

    name: str
    role: str
    address: str
    key: str
    has_eth: bool
    usdc_micros: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DevnetInfo:
    """What a person or a program needs to use the chain."""

    rpc_url: str
    chain_id: int
    engine: str
    token: str
    channels: str
    bonds: str
    state_dir: str
    is_fresh: bool
    blocks: int
    accounts: tuple[DevAccountInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningDevnet:
    info: DevnetInfo
    check: Callable[[], None]
    """Raises Refused when the chain has ended by itself."""


@contextmanager
def open_devnet(
    *, engine: EngineChoice, port: int, state_dir: Path, block_time_s: int, reset: bool
) -> Iterator[RunningDevnet]:
    """The chain, until the end of the block. Raises: Refused."""
    with running_devnet(
        choice=engine, port=port, state_dir=state_dir, block_time_s=block_time_s, reset=reset
    ) as devnet:
        info = DevnetInfo(
            rpc_url=devnet.chain.url,
            chain_id=CHAIN_ID,
            engine=devnet.engine,
            token=address_text(devnet.contracts.token),
            channels=address_text(devnet.contracts.channels),
            bonds=address_text(devnet.contracts.bonds),
            state_dir=str(state_dir),
            is_fresh=devnet.is_fresh,
            blocks=devnet.blocks,
            accounts=tuple(
                DevAccountInfo(
                    name=one.name,
                    role=one.role,
                    address=address_text(one.address),
                    key="0x" + one.key.hex(),
                    has_eth=one.eth_wei > 0,
                    usdc_micros=one.usdc_micros,
                    text=one.text,
                )
                for one in ACCOUNTS
            ),
        )
        yield RunningDevnet(info=info, check=lambda: _check(devnet.chain))


def _check(chain: RunningChain) -> None:
    if not chain.is_running:
        words = chain.last_words()
        raise Refused("chain_unavailable", f"the local chain has ended by itself ({words}); start it again")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What can run a local chain here. anvil: its path, or None; fault: why none can, with the command."""

    anvil: str | None
    anvil_version: str | None
    has_machine: bool
    fault: str | None


def engine_facts() -> EngineFacts:
    """For `unhosted doctor`; runs `anvil --version`."""
    try:
        anvil = find_anvil()
        choose_engine("auto")
        fault = None
    except Refused as refused:
        anvil, fault = None, refused.message
    return EngineFacts(
        anvil=None if anvil is None else str(anvil),
        anvil_version=None if anvil is None else _version(anvil),
        has_machine=has_machine(),
        fault=fault,
    )


def _version(anvil: Path) -> str | None:
    try:
        done = subprocess.run([anvil, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = done.stdout.splitlines()[:1]
    return first[0].rpartition(" ")[2] if done.returncode == 0 and first else None


def install_commands() -> tuple[str, ...]:
    """How to get an engine, the one that works everywhere first."""
    return (GET_MACHINE, *((GET_ANVIL,) if shutil.which("npm") else ()))
