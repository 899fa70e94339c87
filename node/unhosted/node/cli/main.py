"""`unhosted`: finds the command, and turns whatever it raises into one line and an exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C. A reader that closes the pipe ends the
command in silence with 141, as a shell reports SIGPIPE.
"""

import importlib
import os
import sys
from collections.abc import Iterator
from typing import NoReturn

import click

from unhosted.node.core.errors import Refused

COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run:run", "Answer one prompt; the answer goes to stdout as it is made."),
    "chat": ("chat:chat", "Talk with a model in this terminal."),
    "serve": ("serve:serve", "Run the node: an OpenAI- and Anthropic-compatible API on this machine."),
    "pull": ("pull:pull", "Get a model."),
    "list": ("models:list_models", "List the models on this machine, or those there are to pull."),
    "show": ("models:show", "Show a model: facts, licence, whether and how fast it runs here."),
    "rm": ("models:remove", "Remove models and free their space."),
    "export": ("export:export", "Copy a model to a file, for a stick or another machine."),
    "ps": ("ps:ps", "Show the models that the running node has loaded."),
    "pair": ("pair:pair", "Pair this machine with another one of yours."),
    "peers": ("peers:peers", "Show paired machines, and say what each may do here."),
    "drain": ("peers:drain", "Take no new requests of paired machines."),
    "receipts": ("receipts:receipts", "List what was paid for, and whether it was checked."),
    "check": ("check:check", "Read paid answers again, and show what is known of sellers."),
    "wallet": ("wallet:wallet", "Keys, deposits, channels, and what was paid and earned."),
    "verify": ("verify:verify", "Run evidence against a seller again, and say whether it convicts."),
    "devnet": ("devnet:devnet", "Run a local chain with test money and the contracts."),
    "doctor": ("doctor:doctor", "Check what works here; with --offline, prove that nothing leaves."),
    "config": ("settings:config", "Read and change settings."),
    "calibrate": (
        "calibrate:calibrate",
        "Measure how honest engines differ, so that sellers can be checked.",
    ),
    "bench": ("bench:bench", "Measure the speed of a model on this machine."),
    "completion": ("completion:completion", "Print a script that completes commands and model names."),
    "version": ("version:version", "Print the version."),
}
"""By name: where it is, as module:attribute in this package, and its line in the help."""

COMPLETION_VARIABLE = "_UNHOSTED_COMPLETE"
"""Set by the script of `unhosted completion` when it asks what could come next."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

CAUSES_MAX = 64
"""How many leaves of an exception group are looked at for the one to show."""


class LazyGroup(click.Group):
    """A group that knows names and help of its commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(f"unhosted.node.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise click.UsageError(f"no such command {args[0]!r}{_suggestion(args[0])}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@click.option("--version", "wants_version", is_flag=True, help="Print the version.")
@click.pass_context
def cli(context: click.Context, wants_version: bool) -> None:
    """AI that lives where its user does: models on this machine behind one API.

    Start with `unhosted run "Why is the sky blue?"`, then `unhosted serve` for other programs.
    """
    if wants_version:
        from unhosted.node.cli.version import version

        context.invoke(version)
    elif context.invoked_subcommand is None:
        click.echo(context.get_help())


def main() -> NoReturn:
    """Run the command line and exit."""
    _exit(run_command(sys.argv[1:]))


def run_command(args: list[str]) -> int:
    """Run one command line and give its exit code; only a defect of ours raises."""
    try:
        if COMPLETION_VARIABLE in os.environ:
            cli.main(args, prog_name="unhosted", complete_var=COMPLETION_VARIABLE)
        # Not `cli.main`: it has its own ideas about broken pipes.
        with cli.make_context("unhosted", args) as context:
            result = cli.invoke(context)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as done:
        return int(done.exit_code)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "unhosted"
        _complain(error.format_message(), hint=f"see `{where} --help`")
        return EXIT_USAGE
    except click.ClickException as error:
        _complain(error.format_message())
        return EXIT_FAILED
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except Refused as refused:
        _complain(refused.message)
        return EXIT_FAILED
    except OSError as error:
        _complain(_words_of(error))
        return EXIT_FAILED
    except BaseExceptionGroup as group:
        return _exit_code_of_group(group)


def _exit_code_of_group(group: BaseExceptionGroup[BaseException]) -> int:
    """Tasks that end together raise together; one reason is shown, and a defect of ours is never hidden."""
    leaves = [leaf for leaf, _ in zip(_leaves(group), range(CAUSES_MAX), strict=False)]
    expected = (Refused, KeyboardInterrupt, OSError)
    if not all(isinstance(leaf, expected) for leaf in leaves):
        raise group
    for leaf in leaves:
        if isinstance(leaf, Refused):
            _complain(leaf.message)
            return EXIT_FAILED
        if isinstance(leaf, OSError) and not isinstance(leaf, BrokenPipeError):
            _complain(_words_of(leaf))
            return EXIT_FAILED
    return EXIT_INTERRUPTED if isinstance(leaves[0], KeyboardInterrupt) else EXIT_BROKEN_PIPE


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _words_of(error: OSError) -> str:
    """A full disk, a folder of somebody else, a device that fails: the machine's fault, in its own words."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; `unhosted doctor` checks disk, memory, ports and settings"


def _complain(message: str, *, hint: str | None = None) -> None:
    line = " ".join(message.split())
    click.echo(f"error: {line}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


def _suggestion(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, COMMANDS, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _exit(code: int) -> NoReturn:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = EXIT_BROKEN_PIPE
    if code == EXIT_BROKEN_PIPE:
        # The interpreter flushes once more while it ends and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


if __name__ == "__main__":
    main()
