"""What `serve` says when it is up; tests/node/cli/test_commands.py starts it for real."""

import json
from dataclasses import replace

import pytest

from unhosted.node.app import ServeInfo
from unhosted.node.cli import serve
from unhosted.node.config import load

INFO = ServeInfo(
    host="127.0.0.1",
    port=8642,
    offline=False,
    token=None,
    models=("m:1b",),
    library="native 1",
    sandbox="network-namespace",
    peer="12D3KooWOwnMachine4kQz7v",
    peer_addresses=("/ip4/192.0.2.9/tcp/8643", "/ip6/2001:db8::9/tcp/8643"),
)


def test_a_person_sees_who_this_machine_is_and_how_to_pair(
    home: object, capsys: pytest.CaptureFixture[str]
) -> None:
    serve._tell(INFO, load(), as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "OPENAI_BASE_URL=http://127.0.0.1:8642/v1"
    assert lines[-2:] == [
        "peers     this machine is …4kQz7v, at 192.0.2.9:8643, [2001:db8::9]:8643",
        "          pair another machine: unhosted pair",
    ]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({}, "peers     off: the log says why"),
        ({"radius": "local"}, "peers     off: the radius is local; `unhosted config set radius trusted`"),
    ],
)
def test_without_peers_the_reason_is_said(
    home: object, capsys: pytest.CaptureFixture[str], flags: dict[str, object], line: str
) -> None:
    serve._tell(replace(INFO, peer=None), load(flags), as_json=False)
    assert capsys.readouterr().out.splitlines()[-1] == line


def test_the_shape_for_programs(home: object, capsys: pytest.CaptureFixture[str]) -> None:
    serve._tell(INFO, load(), as_json=True)
    assert list(json.loads(capsys.readouterr().out)) == [
        "host",
        "port",
        "offline",
        "models",
        "library",
        "sandbox",
        "peer",
        "peer_addresses",
        "url",
        "key_file",
    ]
