"""A second reader is asked by command only after a yes to what it would see."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.node.cli.conftest import Unhosted, home, unhosted  # noqa: F401 - fixtures
from tests.node.evidence.stage import Channel, ids
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import PeerText
from unhosted.market.signed import Signed
from unhosted.node import config
from unhosted.node.app_checks import CheckDesk
from unhosted.node.app_verify import open_evidence
from unhosted.node.cli import remote
from unhosted.node.cli.verify_ask import ask, disclosed
from unhosted.node.core.confirmations import Vote
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence_wire import EvidenceHash
from unhosted.node.shell.checking.third_party import Answered
from unhosted.node.shell.evidence.files import write_evidence
from unhosted.node.shell.evidence.making import make_evidence
from unhosted.node.shell.keys.identity import new_identity

READER = PeerText(new_identity().peer)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "seller.cbor"
    write_evidence(path, make_evidence([Channel().sell(ids(1, 20), ids(50, 200))], prefix_tokens=64))
    return path


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, file: Path) -> list[Any]:
    """What the command sends to a node that is there."""
    calls: list[Any] = []

    def fetch(server: object, path: str, **asked: Any) -> object:
        calls.append((path, asked["value"]))
        return {
            "word": {
                "reader": READER,
                "verdict": "convicts",
                "left_log10_e_milli": 7_250,
                "engine_class": "cpu q4_1",
            }
        }

    monkeypatch.setattr(remote, "find_server", lambda config: SimpleNamespace())
    monkeypatch.setattr(remote, "fetch", fetch)
    return calls


def test_nothing_is_sent_before_the_user_has_seen_what_and_agreed(
    unhosted: Unhosted,  # noqa: F811
    file: Path,
    sent: list[Any],
) -> None:
    said_no = unhosted("verify", str(file), "--ask", "laptop", stdin="n\n")
    assert said_no.code == 1
    assert not sent
    assert "20 tokens" in said_no.err
    assert "nothing was sent" in said_no.err
    said_yes = unhosted("verify", str(file), "--ask", "laptop", stdin="y\n")
    assert said_yes.code == 0
    assert "7.2" in said_yes.out
    value = {"peer": "laptop", "file": str(file), "evidence": open_evidence(file).hash}
    assert sent == [("/api/checks/words", value)]


def test_a_script_agrees_by_a_flag_and_offline_asks_nobody(
    unhosted: Unhosted,  # noqa: F811
    file: Path,
    sent: list[Any],
) -> None:
    offline = replace(config.load({}), offline=True)
    with pytest.raises(Refused, match="nobody is asked with --offline"):
        ask(offline, open_evidence(file), "laptop", is_agreed=True, as_json=False)
    assert not sent
    assert unhosted("verify", str(file), "--ask", "laptop", "--yes").code == 0
    assert len(sent) == 1


def test_what_is_shown_names_who_learns_what(file: Path) -> None:
    words = " ".join(disclosed(open_evidence(file), "laptop"))
    for part in ("laptop", "1 prompts, whole (20 tokens)", "64 tokens of the answers", "136 tokens"):
        assert part in words


def desk(home: Path, answer: Callable[[bytes, EvidenceHash], Answered]) -> CheckDesk:  # noqa: F811
    made = CheckDesk(config.load({}))

    async def ask_for_word(peer: str, data: bytes, evidence: EvidenceHash) -> Answered:
        return answer(data, evidence)

    made.ask_for_word = ask_for_word
    return made


def test_a_file_that_changed_since_the_yes_is_not_sent(home: Path, file: Path) -> None:  # noqa: F811
    seen: list[EvidenceHash] = []

    def answer(data: bytes, evidence: EvidenceHash) -> Answered:
        seen.append(evidence)
        vote = Vote(
            evidence=evidence,
            reader=READER,
            host="there",
            engine_class="cpu",
            check="statistical",
            convicts=False,
            left_milli=-10,
        )
        return Answered(vote=vote, signed=Signed(body=b"body", signature=bytes(64)))

    made, agreed = desk(home, answer), open_evidence(file).hash

    async def main() -> None:
        word = await made.ask_peer("laptop", str(file), evidence=agreed)
        assert (word["verdict"], word["evidence"], word["host"]) == ("clear", agreed, "there")
        with pytest.raises(Refused, match="another file by now"):
            await made.ask_peer("laptop", str(file), evidence="00" * 32)

    trio.run(main)
    assert len(seen) == 1


def test_a_reader_that_breaks_the_rules_is_said_to(home: Path, file: Path) -> None:  # noqa: F811
    def lie(data: bytes, evidence: EvidenceHash) -> Answered:
        raise RemoteFault(Reason.WRONG_SIGNATURE, "signed by somebody else")

    async def main() -> None:
        with pytest.raises(Refused, match="somebody else"):
            await desk(home, lie).ask_peer("laptop", str(file), evidence=open_evidence(file).hash)
        with pytest.raises(Refused, match="unhosted serve"):
            await CheckDesk(config.load({})).ask_peer("laptop", str(file), evidence="00" * 32)

    trio.run(main)
