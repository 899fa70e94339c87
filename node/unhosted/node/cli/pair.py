"""`unhosted pair`: two machines become one endpoint, when both their users say so."""

import contextlib
import dataclasses
import io
import json
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import click

from unhosted.node.cli.common import json_option, load_config
from unhosted.node.cli.output import is_error_terminal, is_terminal, note, printable
from unhosted.node.cli.remote import Server, fetch, find_server
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Node, PairingView

if TYPE_CHECKING:
    from unhosted.node.cli.local import LocalBackend

LOOK_EVERY_S = 0.3
"""How often a pairing is looked at while it waits: people see no delay, the node no load."""

TAIL_CHARS = 6
"""Of a peer id, shown beside a name: two machines of one name are told apart, nobody reads it all."""


class Control(Protocol):
    """The pairings of a node, wherever it runs. All raise Refused."""

    def begin(self, code: str | None) -> PairingView: ...

    def look(self, pairing_id: str) -> PairingView: ...

    def confirm(self, pairing_id: str, accept: bool) -> PairingView: ...

    def cancel(self, pairing_id: str) -> None: ...


@click.command()
@click.argument("code", required=False)
@click.option("--yes", is_flag=True, help="Say yes to whoever knows the code, without asking.")
@click.option("--qr/--no-qr", default=None, help="Show the code as a picture; by default on a terminal.")
@json_option
def pair(code: str | None, yes: bool, qr: bool | None, as_json: bool) -> None:
    """Pair this machine with another one of yours.

    Without CODE: show one, and wait until it is used on the other machine. With the CODE that the other
    machine shows: use it. Both users are asked, with the other machine's name before them.

    With --json every step is a line: waiting (with the code), confirm, then paired. Ctrl-C cancels.
    """
    config = load_config()
    if not config.has_peers:
        raise Refused("not_supported", f"pairing is off: {why_no_peers(config)}")
    if not yes and not can_ask():
        raise click.UsageError("nobody can be asked here; --yes pairs with whoever knows the code")
    with open_control(config) as control:
        pairing = Pairing(control, yes=yes, as_json=as_json)
        pairing.run(code, wants_qr=is_terminal() if qr is None else qr)


def can_ask() -> bool:
    """Whether somebody is at the keyboard."""
    return sys.stdin.isatty()


def why_no_peers(config: Config) -> str:
    """Which setting keeps this node to itself."""
    if config.offline:
        return "the node is offline; leave out --offline, or `unhosted config set offline false`"
    if not config.peers_enabled:
        return "peers.enabled is false; `unhosted config set peers.enabled true`"
    return "the radius is local; `unhosted config set radius trusted`"


def tail(peer: str) -> str:
    return f"…{peer[-TAIL_CHARS:]}"


@contextlib.contextmanager
def open_control(config: Config) -> Iterator[Control]:
    """The running node's pairings if there is one, else those of a node in this process until the exit."""
    server = find_server(config)
    if server is not None:
        yield RemoteControl(server)
        return
    from unhosted.node.cli.local import LocalBackend

    note("no node is running here: one runs in this process until the pairing is done")
    with LocalBackend(config, with_peers=True) as backend:
        yield LocalControl(backend)


class RemoteControl:
    def __init__(self, server: Server) -> None:
        self._server = server

    def begin(self, code: str | None) -> PairingView:
        return self._ask("/api/pair", "POST", {} if code is None else {"code": code})

    def look(self, pairing_id: str) -> PairingView:
        return self._ask(f"/api/pair/{pairing_id}", "GET", None)

    def confirm(self, pairing_id: str, accept: bool) -> PairingView:
        return self._ask(f"/api/pair/{pairing_id}/confirm", "POST", {"accept": accept})

    def cancel(self, pairing_id: str) -> None:
        fetch(self._server, f"/api/pair/{pairing_id}", method="DELETE")

    def _ask(self, path: str, method: str, value: object) -> PairingView:
        told = fetch(self._server, path, method=method, value=value)
        names = [field.name for field in dataclasses.fields(PairingView)]
        return PairingView(**{name: told[name] for name in names})


class LocalControl:
    """The same over a node in this process: `backend.call` runs a function where the node lives."""

    def __init__(self, backend: "LocalBackend") -> None:
        self._backend = backend

    def begin(self, code: str | None) -> PairingView:
        async def work(node: Node) -> PairingView:
            return await (node.offer_pairing() if code is None else node.join_pairing(code))

        return self._backend.call(work)

    def look(self, pairing_id: str) -> PairingView:
        async def work(node: Node) -> PairingView:
            return node.pairing(pairing_id)

        return self._backend.call(work)

    def confirm(self, pairing_id: str, accept: bool) -> PairingView:
        async def work(node: Node) -> PairingView:
            return await node.confirm_pairing(pairing_id, accept=accept)

        return self._backend.call(work)

    def cancel(self, pairing_id: str) -> None:
        async def work(node: Node) -> None:
            await node.cancel_pairing(pairing_id)

        self._backend.call(work)


class Pairing:
    """One pairing as this terminal shows it, from its beginning to its end."""

    def __init__(self, control: Control, *, yes: bool, as_json: bool) -> None:
        self._control = control
        self._yes = yes
        self._as_json = as_json
        self._countdown = Countdown()

    def run(self, code: str | None, *, wants_qr: bool) -> None:
        """Raises: Refused with the reason when it fails; KeyboardInterrupt, once it is cancelled."""
        view = self._control.begin(code)
        try:
            self._tell(view)
            if view.state == "waiting" and not self._as_json:
                show_code(view, wants_qr=wants_qr) if code is None else note("asking the other machine…")
            view = self._wait_while(view, "waiting")
            if view.state == "confirm":
                view = self._control.confirm(view.pairing_id, self._is_wanted(view))
                self._tell(view)
            view = self._wait_while(view, "confirm", "confirmed")
        except BaseException:
            with contextlib.suppress(Refused, OSError):  # a node that is gone has no code open either
                self._control.cancel(view.pairing_id)
            raise
        if view.state == "failed":
            raise Refused("pairing_failed", f"not paired: {view.reason}")
        if not self._as_json:
            click.echo(f"Paired with {name_of(view)}.")
            note("`unhosted peers` shows it; `unhosted peers allow` says what it may do here")

    def _wait_while(self, view: PairingView, *states: str) -> PairingView:
        """Look again and again; what changes is told."""
        with self._countdown:
            while view.state in states:
                self._countdown.show(view)
                time.sleep(LOOK_EVERY_S)
                before, view = view, self._control.look(view.pairing_id)
                if view.tries_left < before.tries_left and not self._as_json:
                    note(f"a wrong code was tried; {view.tries_left} tries are left")
                if view.state != before.state:
                    self._tell(view)
        return view

    def _is_wanted(self, view: PairingView) -> bool:
        if self._yes:
            return True
        return click.confirm(f"Pair with {name_of(view)}?", default=False, err=self._as_json)

    def _tell(self, view: PairingView) -> None:
        if self._as_json:
            click.echo(json.dumps(dataclasses.asdict(view)))
            sys.stdout.flush()


def name_of(view: PairingView) -> str:
    """The name is the other's own claim; the tail of its id is not."""
    return f"{printable(view.other_name or 'unnamed')} ({tail(view.other_peer or '')})"


def show_code(view: PairingView, *, wants_qr: bool) -> None:
    code = view.code or ""
    shown = click.style(code, bold=True) if is_terminal() else code
    click.echo(f"On the other machine:\n\n    unhosted pair {shown}\n")
    if view.address_code:
        click.echo(f"If it is on another network:\n\n    unhosted pair {view.address_code}\n")
        if wants_qr:
            click.echo(qr_lines(view.address_code, in_colour=is_terminal()))
    sys.stdout.flush()


def qr_lines(text: str, *, in_colour: bool) -> str:
    """A QR of half blocks, two rows to a line. in_colour: black on white whatever the terminal's colours."""
    import segno

    drawn = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(drawn, border=2, compact=True)
    lines = drawn.getvalue().splitlines()
    return "\n".join(f"\x1b[40;97m{line}\x1b[0m" for line in lines) if in_colour else "\n".join(lines)


class Countdown:
    """A line on a terminal's stderr that is written over; in a log one line says it."""

    def __init__(self) -> None:
        self._said = ""

    def __enter__(self) -> None:
        self._said = ""

    def __exit__(self, *error: object) -> None:
        if self._said and is_error_terminal():
            click.echo("\r\x1b[K", nl=False, err=True)

    def show(self, view: PairingView) -> None:
        who = f"{printable(view.other_name)} to say yes" if view.other_name else "the other machine"
        minutes, seconds = divmod(max(0, view.expires_in_s), 60)
        if is_error_terminal():
            self._said = f"waiting for {who}, {minutes}:{seconds:02d} left"
            click.echo(f"\r\x1b[K{self._said}", nl=False, err=True)
        elif not self._said:
            self._said = f"waiting for {who}, at most {minutes} min {seconds:02d} s"
            note(self._said)
