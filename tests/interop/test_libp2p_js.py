"""js-libp2p, whose client of our protocols was written from docs/protocol.md alone, against the real node."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.interop.libp2p.ring import DIRECTORY, TIMEOUT_S, Faulty, JsPeers, Ring, serving, started
from unhosted.market.cbor import encode
from unhosted.node.config import locate
from unhosted.node.core.peering import PairedPeer
from unhosted.node.shell.trusted.book import PeerBook

pytestmark = pytest.mark.slow

INSTALL_TIMEOUT_S = 300
INFER = "/unhosted/infer/1"
PAIR = "/unhosted/pair/1"

WORDS = (" from", " another", " language")
JS_MODEL = {
    "name": "js:1b",
    "aliases": [],
    "blake3": "ab" * 32,
    "size_bytes": 1000,
    "architecture": "llama",
    "parameters": None,
    "quantization": "Q4_0",
    "context_tokens": 4096,
    "generates": True,
    "is_loaded": True,
    "slots": 4,
    "slots_free": 4,
    "queued": 0,
    "prefill_tokens_per_s": 0,
    "decode_tokens_per_s": 0,
}


@pytest.fixture(scope="module")
def js_modules() -> Path:
    """The packages of package.json, and the Node.js that they need, if this checkout has none yet."""
    if not (DIRECTORY / "node_modules" / ".bin" / "node").exists():
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=DIRECTORY,
            check=True,
            capture_output=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    return DIRECTORY


@pytest.fixture(scope="module")
def ring(js_modules: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    home = tmp_path_factory.mktemp("home")
    with started(["node_modules/.bin/node", "peer.mjs"], js_modules, home / "js.log") as process:
        js = JsPeers(process)
        answers = {"model": JS_MODEL, "words": WORDS}
        made = {
            "friend": js.do("create", "friend", seed=1, listens=False),
            "server": js.do("create", "server", seed=2, listens=True, answers=answers),
            "stranger": js.do("create", "stranger", seed=3, listens=False),
        }
        paths = locate({"UNHOSTED_HOME": str(home)})
        paths.state_dir.mkdir(mode=0o700)
        book = PeerBook(paths.peers_file)
        for name in ("friend", "server"):
            peer = made[name]["peer"]
            book.put(PairedPeer(peer=peer, name=f"js-{name}", state="paired", paired_unix_s=1))
            for address in made[name]["addresses"]:
                book.note_address(peer, address, source="told", unix_s=1)
        book.close()
        with serving(home, tiny_model) as info:
            ring = Ring(
                url=info["url"],
                peer=info["peer"],
                address=f"{info['peer_addresses'][0]}/p2p/{info['peer']}",
                js=js,
            )
            for who in ("friend", "stranger"):
                js.do("dial", who, address=ring.address)
            yield ring


@pytest.fixture(scope="module")
def model(ring: Ring) -> str:
    """The tiny model's BLAKE3, as the node tells its peers."""
    facts = ring.do("facts", "friend")
    assert (facts["accepting"], len(facts["models"])) == (True, 1)
    return str(facts["models"][0]["blake3"])


@pytest.fixture
def ask(model: str) -> Callable[..., dict[str, Any]]:
    """The fields of an ask with the tiny model, greedy."""

    def build(id: int, text: str = "Once", **fields: object) -> dict[str, Any]:
        return {"id": id, "model": model, "text": text, "max": 8, "sampling": {"temperature": 0}, **fields}

    return build


def test_js_dials_pings_and_identifies(ring: Ring) -> None:
    made = ring.do("dial", "friend", address=ring.address)
    assert made == {"direction": "outbound", "encryption": "/noise", "muxer": "/yamux/1.0.0"}
    assert ring.do("ping", "friend") >= 0
    seen = ring.do("identify", "friend")
    assert seen["peer"] == ring.peer
    assert seen["agent"].startswith("unhosted")
    assert f"{seen['addresses'][0]}/p2p/{ring.peer}" == ring.address
    assert seen["observed"].startswith("/ip4/127.0.0.1/tcp/")
    assert {INFER, PAIR, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(seen["protocols"])


def test_js_is_dialled_where_the_book_says(ring: Ring) -> None:
    assert ring.do("dialled", "server") == {"direction": "inbound"}
    assert ring.do("ping", "server") >= 0
    assert ring.do("identify", "server")["peer"] == ring.peer


def test_an_answer_to_js_is_the_one_over_http(ring: Ring, ask: Callable[..., dict[str, Any]]) -> None:
    answer = ring.ask(ask(1))[0]
    body = ring.complete(model="tiny", prompt="Once").json()
    assert answer["accepted"] and answer["text"] == body["choices"][0]["text"]
    assert (answer["finish"], len(answer["ids"])) == ("length", 8)
    assert answer["usage"][0] == body["usage"]["prompt_tokens"]
    assert answer["usage"][2] == 8


def test_many_requests_share_a_channel_or_have_one_each(
    ring: Ring, ask: Callable[..., dict[str, Any]]
) -> None:
    texts = [f"Number {number} of" for number in range(12)]
    requests = [ask(id, text) for id, text in enumerate(texts, start=1)]
    alone = [ring.ask(request)[0]["ids"] for request in requests]
    assert len({tuple(ids) for ids in alone}) > 1
    assert [one["ids"] for one in ring.ask(*requests)] == alone
    assert [one["ids"] for one in ring.ask(*requests, apart=True)] == alone
    assert [one["ids"] for one in ring.ask(*requests, ends_first=True)] == alone


def test_a_request_cancelled_in_mid_stream_leaves_the_others(
    ring: Ring, ask: Callable[..., dict[str, Any]]
) -> None:
    endless = ask(1, max=1_900, ignore_eos=True, cancelAfter=3)
    cancelled, other = ring.ask(endless, ask(2, max=40, ignore_eos=True))
    assert cancelled["cancelled"] and 3 <= len(cancelled["ids"]) < 1_900
    assert (other["finish"], len(other["ids"])) == ("length", 40)


def test_a_cancelled_request_has_no_last_entry(ring: Ring, model: str) -> None:
    request = _message(k="ask", id=1, text="Once", model=model, ignore_eos=True)
    parts = [HELLO, request, _message(k="cancel", id=1), {"bytes": "00000000"}]
    seen = ring.do("raw", "friend", protocol=INFER, parts=parts)
    assert seen["last"] == "end"
    entries = [entry for one in seen["messages"] if one["k"] == "deltas" for entry in one["d"]]
    assert all(len(entry) == 3 or entry[4] is None for entry in entries)


def test_a_resumed_request_goes_on_with_the_same_tokens(
    ring: Ring, ask: Callable[..., dict[str, Any]]
) -> None:
    sampling = {"temperature": 1.5, "top_p": 1, "seed": "5eed" * 16}
    sampled: dict[str, Any] = {"sampling": sampling, "max": 16, "ignore_eos": True}
    whole = ring.ask(ask(1, **sampled))[0]
    rest = ring.ask(ask(1, **sampled, resume=whole["ids"][:6]))[0]
    assert rest["ids"] == whole["ids"][6:]
    assert rest["usage"][2] == whole["usage"][2] == 16
    other = sampled | {"sampling": sampling | {"seed": "0bad" * 16}}
    assert ring.ask(ask(1, **other))[0]["ids"] != whole["ids"]


def test_chat_constraint_stop_logprobs_count_and_embed(
    ring: Ring, ask: Callable[..., dict[str, Any]], model: str
) -> None:
    schema = '{"enum":["Oslo","Rome"]}'
    chat = ask(1, chat={"messages": [{"role": "user", "content": "Where?"}]}, max=40)
    del chat["text"]
    whole = ring.ask(ask(1))[0]
    stop = whole["text"][2:5]
    requests = [
        chat | {"constraint": {"kind": "json_schema", "source": schema}},
        ask(2, stop=[stop]),
        ask(3, logprobs=2),
        {"k": "count", "id": 4, "model": model, "text": "Once"},
        {"k": "embed", "id": 5, "model": model, "inputs": ["one", [5, 6]]},
    ]
    told, stopped, known, counted, embedded = ring.ask(*requests)
    assert json.loads(told["text"]) in ("Oslo", "Rome")
    assert (stopped["finish"], stopped["stopText"]) == ("stop", stop)
    assert whole["text"].startswith(stopped["text"]) and stop not in stopped["text"]
    assert [one[0] for one in known["logprobs"]] == known["ids"] == whole["ids"]
    assert all(len(one[3]) == 2 for one in known["logprobs"])
    assert counted["reply"]["tokens"] == whole["usage"][0]
    assert len(embedded["reply"]["vectors"]) == 2


def test_what_breaks_a_rule_is_refused_by_name_and_the_others_go_on(
    ring: Ring, ask: Callable[..., dict[str, Any]]
) -> None:
    odd, unknown, good = ring.ask(ask(1, logprobs=21), ask(2, model="cd" * 32), ask(3, surprise=[1]))
    assert (odd["refused"]["code"], odd["refused"]["field"]) == ("invalid_request", "logprobs")
    assert unknown["refused"]["code"] == "model_not_found"
    assert good["finish"] == "length"


def _message(**fields: object) -> dict[str, str]:
    """A part of a stream: the fields as one message."""
    return {"message": encode(fields).hex()}


HELLO = _message(k="hello", v=1)
NO_MESSAGES = {
    "no CBOR": "ff",
    "an indefinite map": "bf616b64636f6d65ff",
    "keys out of order": "a262696401616b6473696e67",
    "a number in a longer form": "a2616b6663616e63656c6269641801",
    "a key twice": "a2616b6473696e67616b6473696e67",
    "NaN": "a26161f97e00616b6473696e67",
    "a tag": "c0a1616b6161",
    "no map": "80",
    "a request without an id": encode({"k": "ask", "text": "Once"}).hex(),
    "an id of zero": encode({"k": "ask", "id": 0, "text": "Once"}).hex(),
}
MALFORMED = {name: [HELLO, {"message": message}] for name, message in NO_MESSAGES.items()} | {
    "a length above the limit": [HELLO, {"bytes": "7fffffff"}],
    "no hello": [_message(k="count", id=1, text="Once")],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_messages_reset_their_channel_alone(
    ring: Ring, ask: Callable[..., dict[str, Any]], name: str
) -> None:
    assert ring.do("raw", "friend", protocol=INFER, parts=MALFORMED[name])["last"] == "broken"
    assert ring.ask(ask(1))[0]["finish"] == "length"


def test_an_id_under_way_again_resets_the_channel(ring: Ring, model: str) -> None:
    request = _message(k="ask", id=1, text="Once", model=model, ignore_eos=True)
    parts = [HELLO, request, request]
    assert ring.do("raw", "friend", protocol=INFER, parts=parts)["last"] == "broken"


def test_another_version_is_told_so(ring: Ring) -> None:
    seen = ring.do("raw", "friend", protocol=INFER, parts=[_message(k="hello", v=2)])
    refused = seen["messages"][-1]
    assert (refused["k"], refused["id"], refused["code"]) == ("refused", 0, "not_supported")
    assert seen["last"] == "end"


def test_a_second_hello_and_kinds_and_keys_of_later_versions_are_ignored(ring: Ring) -> None:
    later = [_message(k="sing", id=7), _message(k="cancel", id=9, why="later")]
    parts = [HELLO, HELLO, *later, {"bytes": "00000000"}]
    seen = ring.do("raw", "friend", protocol=INFER, parts=parts)
    assert ([one["k"] for one in seen["messages"]], seen["last"]) == (["hello", "facts"], "end")


@pytest.mark.parametrize("rest", ["", "000000ff61"], ids=["between", "within"])
def test_an_end_that_is_not_said_is_no_end(ring: Ring, rest: str) -> None:
    parts = [HELLO, {"bytes": rest}]
    assert ring.do("raw", "friend", protocol=INFER, parts=parts, fin=True)["last"] == "broken"


def test_a_request_that_is_on_its_way_is_shown_to_be_awaited(ring: Ring) -> None:
    parts = [HELLO, _message(k="coming", id=1)]
    seen = ring.do("raw", "friend", protocol=INFER, parts=parts, until="alive")
    assert [one["k"] for one in seen["messages"]] == ["hello", "facts", "alive"]


def test_a_stranger_may_ping_and_nothing_else(ring: Ring) -> None:
    assert ring.do("ping", "stranger") >= 0
    assert INFER not in ring.do("identify", "stranger")["protocols"]
    for protocol in (INFER, "/unhosted/no-such/1"):
        with pytest.raises(Faulty, match="UnsupportedProtocolError"):
            ring.do("raw", "stranger", protocol=protocol, parts=[])
    assert ring.do("resolve", "stranger", standing="paired") == {"k": "resolved", "standing": "none"}
    assert ring.do("resolve", "friend", standing="paired") == {"k": "resolved", "standing": "paired"}


def test_js_answers_what_our_clients_ask(ring: Ring) -> None:
    _wait_until_model(ring, JS_MODEL["name"])
    answer = ring.complete(model=JS_MODEL["name"], prompt="Once", temperature=0.5, seed=7, max_tokens=20)
    assert answer.json()["choices"][0]["text"] == "".join(WORDS)
    assert answer.headers["x-unhosted-ring"] == "trusted"
    assert "js-server" in answer.headers["x-unhosted-served-by"]
    asked = ring.do("asked", "server")[-1]
    assert (asked["model"], asked["text"], asked["max"]) == (JS_MODEL["blake3"], "Once", 20)
    assert (asked["sampling"]["temperature"], len(asked["sampling"]["seed"])) == (0.5, 64)


def _wait_until_model(ring: Ring, name: object) -> None:
    """Until the node has heard of a peer's model; each change of its peers is an event."""
    with httpx.stream("GET", f"{ring.url}/api/events", timeout=TIMEOUT_S) as events:
        for line in events.iter_lines():
            if line.startswith("data:") and json.dumps(name) in line:
                return


def test_js_pairs_by_a_code_and_is_let_go(ring: Ring) -> None:
    newcomer = ring.js.do("create", "newcomer", seed=4, listens=False)["peer"]
    ring.do("dial", "newcomer", address=ring.address)
    offer = httpx.post(f"{ring.url}/api/pair", json={}, timeout=TIMEOUT_S).json()
    wrong = ring.do("join", "newcomer", code=_mistaken(offer["code"]))
    assert (wrong["k"], wrong["why"], wrong["tries"]) == ("decline", "wrong-code", 2)
    with pytest.raises(Faulty, match="UnsupportedProtocolError"):
        ring.do("facts", "newcomer")

    introduction = ring.do("join", "newcomer", code=offer["code"].lower())
    assert ring.address.startswith(introduction["addresses"][0])
    view = _pairing_when(ring, offer["pairing_id"], "confirm")
    assert (view["other_peer"], view["other_name"]) == (newcomer, "newcomer")
    confirmed = httpx.post(
        f"{ring.url}/api/pair/{offer['pairing_id']}/confirm", json={"accept": True}, timeout=TIMEOUT_S
    )
    assert confirmed.status_code == 200, confirmed.text
    assert ring.do("accept", "newcomer") == {"k": "commit"}
    assert ring.do("facts", "newcomer")["models"]

    gone = httpx.delete(f"{ring.url}/api/peers/{newcomer}", timeout=TIMEOUT_S)
    assert gone.status_code == 200, gone.text
    ring.do("heard", "newcomer", kind="unpaired")
    ring.do("left", "newcomer")
    ring.do("dial", "newcomer", address=ring.address)
    with pytest.raises(Faulty, match="UnsupportedProtocolError"):
        ring.do("facts", "newcomer")


def _mistaken(code: str) -> str:
    """Another secret with a right check: two characters changed by one bit, the later one behind by x."""
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    values = [alphabet.index(one) for one in code.replace("-", "")]
    values[4] ^= 1
    values[5] ^= 2
    return "".join(alphabet[one] for one in values)


def _pairing_when(ring: Ring, pairing_id: str, state: str) -> dict[str, Any]:
    """The pairing as soon as it is in `state`; each change of it is an event."""
    with httpx.stream("GET", f"{ring.url}/api/events", timeout=TIMEOUT_S) as events:
        for line in events.iter_lines():
            if not line.startswith("data:"):
                continue
            view = httpx.get(f"{ring.url}/api/pair/{pairing_id}", timeout=TIMEOUT_S).json()
            if view["state"] == state:
                return dict(view)
    raise AssertionError(f"the pairing never was {state}")
