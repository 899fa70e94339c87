"""`unhosted wallet deploy`: the check-list, the question, the deployment."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import note, write_json
from unhosted.node.cli.wallet import chain_option, password_prompt, wallet_config
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app_deploy import Checklist, PartInfo

USD_PER_COIN = 3_000
"""For the estimate in dollars, which names it: the program asks nobody what a coin costs."""

WEI_PER_COIN = 10**18


@click.command()
@chain_option
@click.option("--dry-run", is_flag=True, help="Check everything, send nothing.")
@click.option(
    "--bonds",
    "bonds_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file: deploy Bonds too.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--i-understand-this-is-unaudited",
    "is_acknowledged",
    is_flag=True,
    help="Deploy on a chain with real money although nobody outside the project audited the contracts.",
)
@json_option
def deploy(
    chain: str | None, dry_run: bool, bonds_file: Path | None, yes: bool, is_acknowledged: bool, as_json: bool
) -> None:
    """Bring the contracts onto a chain, at their known addresses.

    The address follows from the code, so it does not matter who deploys, and a second run finds what the
    first one did. This node's key pays the fee. A check-list comes first.
    """
    import trio

    config = wallet_config(chain)
    if is_acknowledged:
        config = dataclasses.replace(config, wallet_accept_unaudited_contracts=True)
    trio.run(_deploy, config, dry_run, bonds_file, yes, as_json)


async def _deploy(config: Config, dry_run: bool, bonds_file: Path | None, yes: bool, as_json: bool) -> None:
    from unhosted.node import app_deploy, app_wallet

    terms = None if bonds_file is None else app_deploy.read_terms(bonds_file)
    if not dry_run:
        app_wallet.check_acknowledged(config)
    async with app_deploy.open_deployment(config, prompt=password_prompt()) as deployment:
        checklist = await deployment.checklist(terms)
        if not as_json:
            _tell(checklist)
        done: list[PartInfo] = []
        if checklist.is_done:
            note("everything stands already, byte for byte; nothing was sent")
        elif dry_run:
            note("a dry run: nothing was sent")
        else:
            _check_affordable(checklist)
            _ask(checklist, yes)
            await deployment.run(lambda part: _report(part, done))
    if as_json:
        write_json(dataclasses.asdict(checklist) | {"is_done": checklist.is_done or bool(done)})
    if checklist.is_done or done:
        _tell_next(checklist)


def _tell(checklist: "Checklist") -> None:
    audit = "yes" if checklist.is_audited else "NO: nobody outside the project has audited these contracts"
    lines = [
        f"chain      {checklist.title}: the endpoint says {checklist.chain_id}, as it must",
        f"money      {'test money' if checklist.is_test else 'REAL MONEY'}",
        f"USDC       {checklist.token}: its EIP-712 domain is {checklist.token_domain}, as it must be",
    ]
    for part in checklist.parts:
        state = "stands already, byte for byte" if part.is_deployed else f"to be deployed, {part.gas:,} gas"
        lines += [
            f"{part.name.ljust(10)} {part.address}: {state}",
            f"           {part.runtime_bytes} bytes; keccak-256 of the init code {part.code_hash}",
        ]
    lines += [
        f"rebuild    solc {checklist.compiler}, optimizer runs {checklist.optimizer_runs}: `make contracts`"
        " in a checkout builds it again and compares",
        f"audited    {audit}",
        f"key        {checklist.sender} holds {_coins(checklist.balance_wei)} {checklist.coin}",
    ]
    if not checklist.is_done:
        lines.append(f"cost       about {checklist.gas:,} gas, {_cost(checklist)}")
    for line in lines:
        click.echo(line)


def _cost(checklist: "Checklist") -> str:
    text = f"{_coins(checklist.cost_wei)} {checklist.coin} at {checklist.price_wei / 1e9:.4f} gwei"
    if checklist.coin == "ETH":
        dollars = checklist.cost_wei * USD_PER_COIN / WEI_PER_COIN
        text += f" (USD {dollars:.2f} if ETH is at {USD_PER_COIN:,}); a rollup adds a fee for the data"
    return text


def _check_affordable(checklist: "Checklist") -> None:
    if not checklist.is_affordable:
        raise Refused(
            "no_gas",
            f"the deployment costs about {_coins(checklist.cost_wei)} {checklist.coin}, {checklist.sender}"
            f" holds {_coins(checklist.balance_wei)}: send some there on {checklist.title}, then repeat this",
        )


def _ask(checklist: "Checklist", yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused("invalid_request", "nobody can be asked here: read the check-list, then add --yes")
    if not click.confirm(f"Deploy on {checklist.title} now?", err=True):
        raise Refused("invalid_request", "nothing was sent")


def _report(part: "PartInfo", done: "list[PartInfo]") -> None:
    done.append(part)
    note(f"{part.name} stands at {part.address}, compared byte for byte")


def _tell_next(checklist: "Checklist") -> None:
    for part in checklist.parts:
        if part.name == "Bonds":
            note(f'bonds = "{part.address}"  # for [{checklist.chain}] in chains.toml')
    note("every node knows the address of Channels by itself, it follows from the code")
    note(f"next: unhosted config set chain.name {checklist.chain}")


def _coins(wei: int) -> str:
    whole, part = divmod(wei, WEI_PER_COIN)
    return f"{whole}.{part:018d}".rstrip("0").rstrip(".")
