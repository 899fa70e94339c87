"""`unhosted devnet`: a chain on this machine with test money, in the foreground until it is stopped."""

import dataclasses
import functools
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
import trio

from unhosted.market.money import format_usd
from unhosted.node import config as settings
from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import note, write_json
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app_devnet import DevnetInfo

PORT_DEFAULT = 8545
"""Where wallets and tools look for a local chain."""

CHECK_S = 0.5
"""How soon it is noticed that the engine has ended by itself."""


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=PORT_DEFAULT,
    show_default=True,
    help="0 takes a free one.",
)
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), help="Folder that keeps the chain."
)
@click.option("--reset", is_flag=True, help="Begin a new chain; the old one is gone.")
@click.option(
    "--engine",
    type=click.Choice(["auto", "anvil", "python"]),
    default="auto",
    help="anvil is faster; python needs nothing but pip. Default: anvil where it is.",
)
@click.option(
    "--block-time",
    "block_time_s",
    type=click.IntRange(0, 3600),
    default=0,
    help="Seconds between blocks; 0 (default) makes one for each transaction at once.",
)
@click.option("--try", "is_trial", is_flag=True, help="Play a paid life on a chain of its own, and end.")
@json_option
def devnet(
    port: int,
    state: Path | None,
    reset: bool,
    engine: Literal["auto", "anvil", "python"],
    block_time_s: int,
    is_trial: bool,
    as_json: bool,
) -> None:
    """Run a local chain with TestUSDC, the contracts and funded test keys.

    Everything on it is worthless. Ctrl-C or SIGTERM ends it; the next start goes on where it was.
    """
    from unhosted.node import app_devnet

    if is_trial:
        _try(engine, as_json=as_json)
        return
    state_dir = (state or settings.load().paths.data_dir / "devnet").absolute()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: _stop(stopping))
    try:
        with app_devnet.open_devnet(
            engine=engine, port=port, state_dir=state_dir, block_time_s=block_time_s, reset=reset
        ) as running:
            if as_json:
                write_json(dataclasses.asdict(running.info))
            else:
                _tell(running.info)
            while not stopping.wait(CHECK_S):
                running.check()
            note("stopping; the chain is kept")
    except Refused:
        if not stopping.is_set():  # asked to stop while it started: that is no failure
            raise


def _try(engine: Literal["auto", "anvil", "python"], *, as_json: bool) -> None:
    """Deposit, channel, answers, cap, close, cash: on a fresh chain that is thrown away."""
    from unhosted.node import app_devnet, app_trial
    from unhosted.node.cli.pull import pull_with_progress

    loaded = settings.load()
    if not app_trial.has_model(loaded, loaded.default_model):
        note(f"{loaded.default_model} is not on this machine yet: getting it once")
        pull_with_progress(loaded, loaded.default_model)
    with (
        tempfile.TemporaryDirectory(prefix="unhosted-trial-") as name,
        app_devnet.open_devnet(
            engine=engine, port=0, state_dir=Path(name) / "chain", block_time_s=0, reset=True
        ) as running,
    ):
        note(f"a local chain by {running.info.engine}; nothing of this is worth anything")
        result = trio.run(
            functools.partial(
                app_trial.play,
                loaded,
                rpc_url=running.info.rpc_url,
                folder=Path(name),
                model=loaded.default_model,
                say=note,
            )
        )
    if as_json:
        write_json({**dataclasses.asdict(result), "agrees": result.agrees, "is_caught": result.is_caught})
    else:
        for word, micros in (
            ("asked for in receipts", result.due_micros),
            ("buyer's ledger", result.ledger_spent_micros),
            ("seller's book", result.book_settled_micros),
            ("contract", result.chain_claimed_micros),
            ("seller's wallet", result.seller_received_micros),
        ):
            click.echo(f"{word.ljust(22)} {format_usd(micros)} USD")
    if not result.agrees:
        raise Refused("ledger_damaged", "the accounts above differ: that is a defect, please report it")
    if not result.is_caught:
        raise Refused(
            "engine_failed", "the seller was accused while it was honest, or not caught: please report it"
        )


def _stop(stopping: threading.Event) -> None:
    stopping.set()
    # A second one ends it the hard way, should stopping hang.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _tell(info: "DevnetInfo") -> None:
    begun = "a new chain" if info.is_fresh else f"going on at block {info.blocks}"
    lines = [
        f"RPC       {info.rpc_url}",
        f"chain     {info.chain_id}, {begun}, run by {info.engine}, kept in {info.state_dir}",
        f"TestUSDC  {info.token}",
        f"Channels  {info.channels}",
        f"Bonds     {info.bonds}",
        "",
        "Test accounts. Their keys are published: money sent to them on a real chain is gone.",
    ]
    verifiers = [one for one in info.accounts if one.role == "verifier"]
    for one in (one for one in info.accounts if one not in verifiers):
        money = f"{format_usd(one.usdc_micros)} USDC" if one.usdc_micros else "no USDC"
        lines.append(f"  {one.name.ljust(13)} {one.address}  {'ETH' if one.has_eth else 'no ETH'}, {money}")
        lines.append(f"  {' ' * 13} {one.key}")
        lines.append(f"  {' ' * 13} {one.text}")
    lines.append(f"  {verifiers[0].name} to {verifiers[-1].name}: for the bonds; --json shows them")
    by_name = {one.name: one for one in info.accounts}
    owner, operator = by_name["buyer"], by_name["wallet"]
    lines += [
        "",
        "next, in another terminal: a deposit by the buyer, for a node that works with the wallet's key",
        f"  export UNHOSTED_CHAIN_NAME=local UNHOSTED_CHAIN_RPC_URLS={info.rpc_url}",
        f"  export UNHOSTED_OWNER_KEY={owner.key}",
        f"  export UNHOSTED_PRIVATE_KEY={operator.key}",
        f"  UNHOSTED_PUBLIC_MAX_USD_PER_MONTH=5 unhosted wallet fund 5 --owner {owner.address}",
        "  unhosted wallet show",
        "Ctrl-C stops it; the next start goes on where it was (--reset begins anew).",
    ]
    for line in lines:
        click.echo(line)
