"""The whole local chain: engine, contracts, test money, and a folder for one process at a time."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet.contracts import DevContracts, deploy
from unhosted.node.shell.devnet.engines import (
    EngineChoice,
    EngineName,
    RunningChain,
    choose_engine,
    start_engine,
)
from unhosted.node.shell.devnet.ports import require_free
from unhosted.node.shell.devnet.rpc import LocalRpc, RpcFault

STATE_FILES = (
    "anvil.json",
    "anvil.json.before",
    "anvil.json.before.new",
    "python.db",
    "python.db-wal",
    "python.db-shm",
)
"""What `--reset` removes, and nothing else: the folder may have been chosen by hand."""

LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Devnet:
    """A running chain with everything on it. blocks: its length when it was ready."""

    engine: EngineName
    chain: RunningChain
    contracts: DevContracts
    state_dir: Path
    is_fresh: bool
    blocks: int


@contextmanager
def running_devnet(
    *, choice: EngineChoice, port: int, state_dir: Path, block_time_s: int = 0, reset: bool = False
) -> Iterator[Devnet]:
    """Start it, bring contracts and money onto it, and stop it at the end of the block. Blocking.

    port: 0 takes a free one. reset: begin a new chain instead of going on with the one in `state_dir`.
    Raises: Refused that says what is in the way and what to do.
    """
    engine = choose_engine(choice)
    if port:
        require_free(port)
    with _owned(state_dir):
        if reset:
            for name in STATE_FILES:
                (state_dir / name).unlink(missing_ok=True)
        is_fresh = not any((state_dir / name).exists() for name in _files_of(engine))
        chain = start_engine(engine, port=port, state_dir=state_dir, block_time_s=block_time_s)
        try:
            with LocalRpc(chain.port) as rpc:
                try:
                    contracts = deploy(rpc, mines_at_once=block_time_s == 0)
                    blocks = int(rpc.call("eth_blockNumber"), 16)
                except RpcFault as fault:
                    message = f"the local chain refused its own set-up: {fault}; try --reset"
                    raise Refused("chain_mismatch", message) from None
            yield Devnet(
                engine=engine,
                chain=chain,
                contracts=contracts,
                state_dir=state_dir,
                is_fresh=is_fresh,
                blocks=blocks,
            )
        finally:
            chain.stop()


def _files_of(engine: EngineName) -> tuple[str, ...]:
    prefix = "anvil" if engine == "anvil" else "python"
    return tuple(name for name in STATE_FILES if name.startswith(prefix))


@contextmanager
def _owned(state_dir: Path) -> Iterator[None]:
    """The folder for this process alone: two chains on one file would each lose what the other writes.

    Raises: Refused that names the other process.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / LOCK_FILE
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = "another process"
            with contextlib.suppress(ValueError, KeyError, TypeError):
                owner = f"process {int(json.loads(file.read(200))['pid'])}"
            raise Refused(
                "invalid_request",
                f"the chain in {state_dir} is running already ({owner}); use it, stop it, or choose another"
                " folder with --state",
                field="state",
            ) from None
        file.truncate(0)
        file.write(json.dumps({"pid": os.getpid()}))
        file.flush()
        yield
