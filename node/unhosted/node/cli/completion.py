"""`unhosted completion`: scripts that complete commands, options and model names."""

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script for SHELL.

    \b
    bash:  eval "$(unhosted completion bash)"               in ~/.bashrc
    zsh:   eval "$(unhosted completion zsh)"                in ~/.zshrc, after compinit
    fish:  unhosted completion fish > ~/.config/fish/completions/unhosted.fish
    """
    from unhosted.node.cli.main import COMPLETION_VARIABLE, cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "unhosted", COMPLETION_VARIABLE).source())
