"""The worked pairing of docs/protocol.md, from its entropy to its bytes."""

import json
from pathlib import Path
from typing import Any

from spake2.parameters.ed25519 import ParamsEd25519

from unhosted.node.core import pairing_words as words
from unhosted.node.core.pairing_code import make_code, parse_code, show_address_code, show_code
from unhosted.node.core.pairing_proof import prove, prove_introduction
from unhosted.node.shell.trusted import pairing_wire
from unhosted.node.shell.trusted.pairing_pake import Pakes

VECTOR: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "vectors" / "pair_1.json").read_text("utf-8")
)
MESSAGES = [pairing_wire.decode(bytes.fromhex(entry["bytes"])) for entry in VECTOR["messages"]]


def entropy(key: str) -> bytes:
    return bytes.fromhex(VECTOR[key])


def test_the_code_comes_from_the_offerers_id_and_four_bytes() -> None:
    code = make_code(VECTOR["offerer"], bytes.fromhex(VECTOR["secret_entropy"]))
    addresses = MESSAGES[3].addresses if isinstance(MESSAGES[3], words.Introduction) else ()
    assert show_code(code) == VECTOR["code"] and code.text == VECTOR["password"]
    assert show_address_code(code, VECTOR["offerer"], addresses) == VECTOR["address_code"]
    assert parse_code(VECTOR["address_code"]).addresses == addresses


def test_the_exchange_and_the_proofs_come_out_as_written() -> None:
    joiner, offerer, code = VECTOR["joiner"], VECTOR["offerer"], VECTOR["password"]
    assert VECTOR["spake2_m"] == ParamsEd25519.M.to_bytes().hex()
    assert VECTOR["spake2_n"] == ParamsEd25519.N.to_bytes().hex()
    start, answer, proof, offerers, joiners, *_ = MESSAGES
    assert isinstance(start, words.Start) and isinstance(answer, words.Answer)
    ours = Pakes(joiner, lambda count: entropy("joiner_scalar_bytes")[:count])
    theirs = Pakes(offerer, lambda count: entropy("offerer_scalar_bytes")[:count])
    made = ours._make(words.MakePake(channel=1, role="join", code=code, peer=offerer, theirs=None))
    assert made == words.PakeReady(channel=1, pake=start.pake, key=None)
    key = bytes.fromhex(VECTOR["key"])
    made = theirs._make(words.MakePake(channel=1, role="offer", code=code, peer=joiner, theirs=start.pake))
    assert made == words.PakeReady(channel=1, pake=answer.pake, key=key)
    finished = ours._finish(words.FinishPake(channel=1, theirs=answer.pake))
    assert finished == words.PakeReady(channel=1, pake=start.pake, key=key)
    handshake = words.Handshake(
        channel=1,
        pairing_id="vector",
        role="join",
        peer=offerer,
        deadline_at_ns=0,
        mine=start.pake,
        theirs=answer.pake,
        key=key,
    )
    assert proof == words.Proof(mac=prove(handshake, joiner, "join"))
    for said, sender in ((offerers, "offer"), (joiners, "join")):
        assert isinstance(said, words.Introduction)
        mac = prove_introduction(
            handshake,
            joiner,
            "offer" if sender == "offer" else "join",
            name=said.name,
            addresses=said.addresses,
        )
        assert said.mac == mac


def test_every_message_has_its_one_encoding() -> None:
    for entry, message in zip(VECTOR["messages"], MESSAGES, strict=True):
        assert pairing_wire.encode(message).hex() == entry["bytes"]
        assert type(message).__name__.lower() == entry["kind"]
    others: dict[str, words.PairingMessage] = {
        "decline": words.Decline(why="wrong-code", tries_left=2),
        "resolve": words.Resolve(standing="pending"),
        "resolved": words.Resolved(standing="paired"),
        "unpaired": words.Unpaired(),
    }
    for kind, message in others.items():
        assert pairing_wire.encode(message).hex() == VECTOR[kind]["bytes"]
