"""`unhosted serve`: the node in the foreground, until it is told to stop."""

import logging
import os
import signal
from typing import TYPE_CHECKING

import click

from unhosted.node.cli.common import json_option, load_config, offline_option
from unhosted.node.cli.output import is_terminal, note, write_json
from unhosted.node.cli.pair import tail, why_no_peers
from unhosted.node.cli.remote import Server, is_loopback, key_path, reachable
from unhosted.node.config import Config
from unhosted.node.core.addresses import show_endpoint
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app import ServeInfo

SANDBOX_WORDS = {
    "network-namespace": "none, in an empty network namespace",
    "audit-hook": "refused in Python; this kernel gives no empty network namespace",
}


@click.command()
@click.option("--host", help="Address to listen on; another one than loopback needs a bearer token.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port of the API and the page; 0 takes a free one."
)
@click.option(
    "--no-peers", is_flag=True, help="Start nothing that other machines could reach or be found by."
)
@click.option(
    "--peers-port", type=click.IntRange(0, 65535), help="Port for paired machines; 0 takes a free one."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Default: info.")
@json_option
@offline_option
def serve(
    host: str | None,
    port: int | None,
    no_peers: bool,
    peers_port: int | None,
    log_level: str | None,
    as_json: bool,
    offline: bool | None,
) -> None:
    """Run the node: an OpenAI- and Anthropic-compatible API on this machine.

    Ctrl-C or SIGTERM ends it when the answers under way are done; a second one ends it at once.
    """
    config = load_config(
        host=host,
        port=port,
        peers_enabled=False if no_peers else None,
        peers_port=peers_port,
        log_level=log_level,
        offline=offline,
    )
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    _silence_others()
    _hide_keys()
    if config.offline and not is_loopback(config.host):
        raise Refused(
            "offline",
            f"--offline allows loopback only and the host is {config.host}; leave out --host or --offline",
            field="host",
        )
    import trio

    trio.run(_serve, config, as_json)


async def _serve(config: Config, as_json: bool) -> None:
    import trio

    from unhosted.node import app

    def tell(info: "ServeInfo") -> None:
        _tell(info, config, as_json)

    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                count = 0
                async for _ in signals:
                    count += 1
                    if count > 1:
                        os._exit(130)  # asked twice: at once, whatever still runs
                    note("stopping; once more to stop at once")
                    serving.cancel()

            serving = trio.CancelScope()
            nursery.start_soon(stop)
            with serving:
                await app.serve(config, on_started=tell)
            nursery.cancel_scope.cancel()


def _tell(info: "ServeInfo", config: Config, as_json: bool) -> None:
    url = Server(host=reachable(info.host), port=info.port).url
    key_file = str(key_path(config)) if info.token else None
    if as_json:
        import dataclasses

        shown = {name: value for name, value in dataclasses.asdict(info).items() if name != "token"}
        write_json(shown | {"url": url, "key_file": key_file})
        return
    lines = [
        f"OPENAI_BASE_URL={url}/v1",
        f"ANTHROPIC_BASE_URL={url}",
        "",
        f"page      {url}/",
        f"listens   on {info.host} port {info.port}",
        f"key       {_key_words(info.token, key_file)}",
        f"models    {', '.join(info.models) or f'none yet: unhosted pull {config.default_model}'}",
        f"offline   {'yes: every connection outside this machine is refused' if info.offline else 'no'}",
        f"engine    {info.library}",
        f"network   of the engine: {SANDBOX_WORDS.get(info.sandbox, info.sandbox)}",
        *_peer_lines(info, config),
    ]
    for line in lines:
        click.echo(line)


def _peer_lines(info: "ServeInfo", config: Config) -> list[str]:
    """How other machines of the owner come in."""
    if info.peer is None:
        why = "the log says why" if config.has_peers else why_no_peers(config)
        return [f"peers     off: {why}"]
    addresses = [show_endpoint(one) for one in info.peer_addresses]
    return [
        f"peers     this machine is {tail(info.peer)}, at {', '.join(addresses) or 'no address yet'}",
        "          pair another machine: unhosted pair",
    ]


def _key_words(token: str | None, key_file: str | None) -> str:
    """What to send as the key. It is shown on a terminal alone: elsewhere this text ends up in a log."""
    if token is None:
        return "none needed on this machine; any is accepted"
    return f"{token} (in {key_file})" if is_terminal() else f"needed, in {key_file}"


def _hide_keys() -> None:
    from unhosted.node import app_wallet

    app_wallet.hide_keys()


def _silence_others() -> None:
    """Lines of libraries say little and some quote what they carry; ours say what happened."""
    for name in ("hypercorn", "httpx", "httpcore", "h11", "libp2p", "zeroconf"):
        logging.getLogger(name).setLevel(logging.WARNING)
