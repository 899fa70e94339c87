"""`unhosted wallet`: this node's key, deposits, withdrawals, closes, and what was paid."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from unhosted.node.cli.common import json_option, load_config
from unhosted.node.cli.output import note, write_facts, write_json
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

COMMANDS: dict[str, tuple[str, str]] = {
    "new": ("wallet:new", "Make this node's key."),
    "show": ("wallet_show:show", "Show addresses, balances, channels and the month's cap."),
    "fund": ("wallet_fund:fund", "Deposit USDC, signed with the owner's key elsewhere."),
    "relay": ("wallet_fund:relay", "Send a file that somebody without gas prepared."),
    "withdraw": ("wallet_fund:withdraw", "Take back what is free, from the owner's own wallet."),
    "close": ("wallet_fund:close", "Close channels, so that what is left in them comes back."),
    "history": ("wallet_show:history", "Show everything that was paid, earned and moved."),
    "export": ("wallet_show:export", "Write the history as CSV or JSON, for a year."),
    "deploy": ("deploy:deploy", "Bring the contracts onto a chain, at their known addresses."),
}
"""By name: module:attribute in this package, and its line in the help."""


class WalletGroup(click.Group):
    """Knows names and help of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"unhosted.node.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(cls=WalletGroup)
def wallet() -> None:
    """Money: this node's key, deposits and channels.

    The owner's key, whose USDC pays, is never on this machine. Here is an operator's key, which can commit
    at most the monthly limit that the owner signed, and can withdraw nothing.
    """


@click.command()
@click.option("--keystore", type=click.Path(path_type=Path, dir_okay=False), help="File to make.")
@click.option(
    "--password-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the password, mode 0600; without it you are asked twice.",
)
@json_option
def new(keystore: Path | None, password_file: Path | None, as_json: bool) -> None:
    """Make this node's key, encrypted under a password. A file that exists is never overwritten."""
    import trio

    from unhosted.node import app_wallet

    config = wallet_config()
    path = app_wallet.check_new_key(config, keystore=keystore)
    password = app_wallet.password_from(password_file) if password_file else _ask_twice(path)
    app_wallet.check_new_password(password)
    made = trio.run(lambda: app_wallet.new_key(config, password, keystore=path))
    if as_json:
        write_json({"address": made.address, "keystore": made.path})
    else:
        write_facts([("address", made.address), ("key", f"{made.path} (encrypted, mode 0600)")])
    note("back up that file and the password, each in a place of its own: nobody can restore either")
    note("it can commit what you deposit, month by month, and sign vouchers; it cannot withdraw")
    if keystore is not None and str(keystore) != config.wallet_keystore:
        note(f"to use it: unhosted config set wallet.keystore {path.absolute()}")
    note("next: unhosted config set public.max-usd-per-month 5, then unhosted wallet fund 5 --owner 0x…")


def chain_option(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Chain, such as base-sepolia or local; else the setting chain.name."
    return click.option("--chain", "chain", help=text)(command)


def wallet_config(chain: str | None = None) -> Config:
    """The settings; from here on no key shows in a log line or a traceback of this command."""
    from unhosted.node import app_wallet

    config = load_config(chain_name=chain)
    app_wallet.hide_keys()
    return config


def password_prompt() -> Callable[[str], str] | None:
    """Asks at the keyboard, without showing what is typed; None where nobody is there."""
    import sys

    return _ask if sys.stdin.isatty() else None


def _ask(question: str) -> str:
    return str(click.prompt(question, hide_input=True, err=True))


def _ask_twice(path: Path) -> str:
    prompt = password_prompt()
    if prompt is None:
        raise Refused(
            "wallet_locked",
            "nobody can be asked for a password here: write one into a file of mode 0600 and give it with "
            "--password-file",
        )
    password = prompt(f"New password for {path}")
    if password != prompt("The same once more"):
        raise Refused("wallet_locked", "the two passwords differ; nothing was made, try again")
    return password
