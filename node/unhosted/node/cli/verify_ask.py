"""`unhosted verify FILE --ask PEER`: a second reader's word, after a yes to what that shows it."""

from typing import TYPE_CHECKING, Any

import click

from unhosted.node.cli.output import note, printable, write_facts, write_json
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.app_verify import Opened

WAIT_S = 5 * 3_600.0
"""The reader's own work goes first."""


def ask(config: Config, opened: "Opened", peer: str, *, is_agreed: bool, as_json: bool) -> int:
    """Shows what the peer would learn, and sends it only after a yes. Exit code 1 for a no.

    Raises: Refused.
    """
    from unhosted.node.cli.remote import fetch, find_server

    if config.offline:
        raise Refused("offline", "nobody is asked with --offline; without --ask the file is read here")
    server = find_server(config)
    if server is None:
        raise Refused("not_supported", "peers are asked by the running node: start it with `unhosted serve`")
    for line in disclosed(opened, peer):
        note(line)
    if not is_agreed and not click.confirm("Send it?", default=False, err=True):
        note("nothing was sent")
        return 1
    value = {"peer": peer, "file": str(opened.path.absolute()), "evidence": opened.hash}
    answer = fetch(server, "/api/checks/words", method="POST", value=value, timeout_s=WAIT_S)
    word: dict[str, Any] = answer["word"]
    if as_json:
        write_json(word)
        return 0
    write_facts(
        [
            ("reader", word["reader"]),
            ("verdict", word["verdict"]),
            ("log10 E", f"{word['left_log10_e_milli'] / 1_000:.1f} left after the choice of answers"),
            ("engine", printable(word["engine_class"])),
        ]
    )
    return 0


def disclosed(opened: "Opened", peer: str) -> list[str]:
    """What the peer would learn, for the user who decides."""
    from unhosted.node.core.check_protocol import disclosure

    shown = disclosure(opened.evidence)
    lines = [
        f"{printable(peer)} would get {opened.path.name}: {shown.answers} prompts, whole"
        f" ({shown.prompt_tokens:,} tokens), and {shown.output_tokens:,} tokens of the answers to them;",
        f"also that you bought them from {shown.seller}, when, and at which price.",
    ]
    if shown.shut_tokens:
        lines.append(f"{shown.shut_tokens:,} tokens of the answers stay shut.")
    return [*lines, "Whoever has read it cannot be made to forget it."]
