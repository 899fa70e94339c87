"""`unhosted doctor`: the report, and the proof that an offline node sends nothing."""

import dataclasses
from typing import TYPE_CHECKING

import click

from unhosted.node import config as settings
from unhosted.node.cli.common import json_option
from unhosted.node.cli.output import is_terminal, note, printable, write_facts, write_json
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from unhosted.node.finding import Finding
    from unhosted.node.offline_proof import Evidence

COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option(
    "--offline", "wants_proof", is_flag=True, help="Run the proof that an offline node sends nothing."
)
@json_option
def doctor(wants_proof: bool, as_json: bool) -> int:
    """Check what works here, what does not, and what to do next.

    With --offline: start a node in a network namespace with a default route, let it answer a request, and
    show the packet counters before and after. Exit code 1 if a check fails or the proof does not hold.
    """
    # The flag means the proof; the process that runs it has to be free to make the namespace.
    if wants_proof:
        return _prove(settings.load({"offline": False}), as_json)
    return _report(settings.load(), as_json)


def _report(config: Config, as_json: bool) -> int:
    from unhosted.node.doctor import examine

    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            _show(finding)
    if as_json:
        write_json([dataclasses.asdict(finding) for finding in findings])
    return 1 if any(finding.status == "fail" for finding in findings) else 0


def _show(finding: "Finding") -> None:
    status = finding.status.ljust(4)
    if is_terminal():
        status = click.style(status, fg=COLOURS[finding.status])
    click.echo(f"{status}  {finding.check.ljust(9)}  {printable(finding.text)}")
    if finding.next is not None:
        click.echo(f"{' ' * 17}next: {finding.next}")


def _prove(config: Config, as_json: bool) -> int:
    from unhosted.node.offline_proof import run_proof

    model = _some_model(config)
    note(f"starting a node with {model} where every packet is counted; this takes as long as loading it")
    evidence = run_proof(model)
    if as_json:
        write_json(dataclasses.asdict(evidence) | {"holds": evidence.holds})
    else:
        _show_evidence(evidence)
    return 0 if evidence.holds else 1


def _some_model(config: Config) -> str:
    from unhosted.node import app

    entries = app.model_store(config).entries()
    names = [entry.name for entry in entries]
    if config.default_model in names:
        return config.default_model
    if not names:
        message = f"the proof needs a model to answer with; run `unhosted pull {config.default_model}` first"
        raise Refused("model_not_found", message)
    return min(entries, key=lambda entry: entry.size_bytes).name


def _show_evidence(evidence: "Evidence") -> None:
    sent, control = evidence.sent, evidence.control
    write_facts(
        [
            ("namespace", evidence.route),
            (
                "answered",
                f"{evidence.answer_tokens} tokens of {evidence.model} over HTTP, node started offline",
            ),
            ("before", evidence.counters_before),
            ("after", evidence.counters_after),
            ("left", f"{sent.packets} packets, {sent.lookups} name lookups, {sent.no_route} IPv6 attempts"),
            ("refused", f"{evidence.refused_count} attempts by the node's own guard"),
            ("sockets", "; ".join(evidence.open_sockets) or "none that reaches beyond loopback"),
            ("listening", "; ".join(evidence.listening)),
            *(("process", process) for process in evidence.processes),
            (
                "control",
                f"a program that does send: {control.packets} packets, {control.lookups} name lookups",
            ),
        ]
    )
    if evidence.holds:
        click.echo("Nothing left this machine, and the counters do move when something does.")
    else:
        click.echo("The proof does not hold: see the lines above.")
