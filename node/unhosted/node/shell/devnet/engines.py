"""The two machines that can run the local chain, behind one face."""

from pathlib import Path
from typing import Literal, Protocol

from unhosted.node.core.errors import Refused
from unhosted.node.shell.devnet.anvil import start_anvil
from unhosted.node.shell.devnet.find_anvil import find_anvil

EngineName = Literal["anvil", "python"]
EngineChoice = Literal["auto", "anvil", "python"]

GET_ANVIL = "npm install --ignore-scripts @foundry-rs/anvil@1.7.1"
GET_MACHINE = "pip install 'unhosted[devnet]'"

MISSING_ANVIL = (
    f"there is no anvil: not in UNHOSTED_ANVIL, on the PATH or in node_modules; run `{GET_ANVIL}`,"
    " or take the machine in Python with --engine python"
)
MISSING_MACHINE = f"the Ethereum machine in Python is not installed; run `{GET_MACHINE}`"
MISSING_BOTH = (
    "nothing here can run a chain: there is no anvil (UNHOSTED_ANVIL, PATH, node_modules) and no Ethereum"
    f" machine in Python; run `{GET_MACHINE}` or, which is faster, `{GET_ANVIL}`"
)


class RunningChain(Protocol):
    """A chain that answers at `url`. Blocking; for one thread at a time."""

    @property
    def port(self) -> int: ...

    @property
    def url(self) -> str: ...

    @property
    def is_running(self) -> bool: ...

    def last_words(self) -> str:
        """Why it ended by itself, in one line."""
        ...

    def stop(self) -> None:
        """Write the state and end; again does nothing."""
        ...


def choose_engine(choice: EngineChoice) -> EngineName:
    """anvil where there is one: it is many times faster.

    Raises: Refused with the command that installs what is missing.
    """
    if choice != "python" and find_anvil() is not None:
        return "anvil"
    if choice == "anvil":
        raise Refused("not_supported", MISSING_ANVIL)
    if not has_machine():
        raise Refused("not_supported", MISSING_MACHINE if choice == "python" else MISSING_BOTH)
    return "python"


def has_machine() -> bool:
    """Whether the extra `devnet` is installed; nothing is imported."""
    from importlib.util import find_spec

    return find_spec("eth") is not None


def start_engine(
    engine: EngineName,
    *,
    port: int = 0,
    state_dir: Path | None = None,
    block_time_s: int = 0,
    epoch_slots: int = 0,
) -> RunningChain:
    """A running chain without contracts, or with what `state_dir` holds.

    port: 0 takes a free one. state_dir: None forgets everything at the end. block_time_s: 0 mines a block for
    each transaction at once. epoch_slots: `safe` is so many blocks behind `latest`.
    Raises: Refused with what is missing or failed.
    """
    if engine == "anvil":
        program = find_anvil()
        if program is None:
            raise Refused("not_supported", MISSING_ANVIL)
        return start_anvil(
            program,
            port=port,
            state_file=None if state_dir is None else state_dir / "anvil.json",
            block_time_s=block_time_s,
            epoch_slots=epoch_slots,
        )
    if not has_machine():
        raise Refused("not_supported", MISSING_MACHINE)
    from unhosted.node.shell.devnet.embedded import start_embedded

    return start_embedded(
        port=port,
        state_file=None if state_dir is None else state_dir / "python.db",
        block_time_s=block_time_s,
        epoch_slots=epoch_slots,
    )
