"""Whole nodes: paired at home, then apart behind a router each, and one still answers the other."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.netns.lab import PUBLIC, Lab
from tests.netns.node import Node
from tests.tiny import write_tiny

pytestmark = pytest.mark.slow

PATIENCE_S = 60
TICK_S = 0.1


def wait(what: str, look: Any) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, what
        time.sleep(TICK_S)
    return found


def pair(offerer: Node, joiner: Node) -> None:
    """As two users do it, with the code that has the address in it."""
    offered = offerer.post("/api/pair", {})
    joined = joiner.post("/api/pair", {"code": offered["address_code"]})
    views = ((offerer, offered["pairing_id"]), (joiner, joined["pairing_id"]))
    for node, pairing_id in views:
        wait("confirm", lambda node=node, key=pairing_id: node.get(f"/api/pair/{key}")["state"] == "confirm")
    for node, pairing_id in views:
        node.post(f"/api/pair/{pairing_id}/confirm", {"accept": True})
    for node, pairing_id in views:
        wait("paired", lambda node=node, key=pairing_id: node.get(f"/api/pair/{key}")["state"] == "paired")


def test_machines_that_were_paired_at_home_answer_each_other_through_a_third(tmp_path: Path) -> None:
    with Lab() as lab:
        hosts = {name: lab.host(name) for name in ("laptop", "desktop")}
        hosts["server"] = lab.host("server", segment=PUBLIC)
        nodes = {
            name: Node(host, tmp_path / name, env={"UNHOSTED_PEERS_NAME": name})
            for name, host in hosts.items()
        }
        nodes["desktop"].cli("pull", str(write_tiny(tmp_path / "tiny.gguf", context=512)))
        laptop, desktop, server = (nodes[name].start() for name in ("laptop", "desktop", "server"))
        pair(desktop, laptop)
        for name in ("laptop", "desktop"):
            lab.nat(f"{name[0]}nat", behind=[hosts[name]], kind="random")
        pair(server, laptop)
        pair(server, desktop)

        def path() -> str:
            peers = laptop.get("/api/peers")["peers"]
            [line] = [one for one in peers if one["name"] == "desktop"]
            return str(line["path"]) if line["facts"] else ""

        assert wait("the relay", path).startswith("relay via")
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}
        answer = laptop.post("/v1/chat/completions", body)
        assert answer["unhosted"]["ring"] == "trusted"
        assert answer["usage"]["completion_tokens"] > 0
