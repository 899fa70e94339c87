"""Evidence as a file: what must agree, what a change to any part of it does, and what stays shut."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.evidence.stage import BONDS, FACTS, SEED, Channel, ids, signed_by
from unhosted.market.faults import RemoteFault
from unhosted.market.ids import Address, PeerText
from unhosted.market.money import Micros
from unhosted.market.requests import encode_request, request_bytes_to_sign, request_hash
from unhosted.market.roots import _block_salt, open_prefix
from unhosted.market.signed import Signed
from unhosted.node.core.engine_facts import Replay, encode_facts
from unhosted.node.core.errors import Refused
from unhosted.node.core.evidence import ANSWERS_MAX, Evidence, OpenedAnswer, Report, Reported
from unhosted.node.core.evidence_checks import chain_of
from unhosted.node.core.evidence_verdict import gross_table
from unhosted.node.core.evidence_wire import EVIDENCE_BYTES_MAX, decode_evidence, encode_evidence
from unhosted.node.core.noise_words import decode_table, encode_table
from unhosted.node.shell.evidence.files import read_evidence, write_evidence
from unhosted.node.shell.evidence.making import make_evidence
from unhosted.node.shell.evidence.signatures import faults_of
from unhosted.node.shell.keys.identity import new_identity
from unhosted.node.shell.keys.signer import KeySigner
from unhosted.verify.observations import Observations
from unhosted.verify.params import SamplingParams

PROMPT = ids(0, 70)
OUTPUT = ids(100, 150)
TABLE = gross_table(b"\x0d" * 32, seller_class="a", checker_class="b", library="llama.cpp b1")


def _report() -> Report:
    return Report(
        engine=FACTS,
        check="statistical",
        replay=Replay(),
        calibration=b"\x0e" * 32,
        table=TABLE,
        log10_e_milli=-1_234,
        made_unix_s=1_700_000_000,
    )


def _seen(tokens: int) -> Observations:
    return Observations(
        gap_mlogit=tuple(range(tokens)),
        margin_mlogit=tuple(range(1, tokens + 1)),
        is_match=(False,) * tokens,
        logprob_mnat=(-1,) * tokens,
        rank=(1,) * tokens,
    )


def _evidence(prefix_tokens: int | None = None) -> Evidence:
    channel = Channel()
    kept = [channel.sell(PROMPT, OUTPUT[:tokens]) for tokens in (150, 20, 90)]
    return make_evidence(
        [kept[2], kept[0]],
        chain=channel.receipts,
        draws={kept[0].request_id: ("drawn", 20_000)},
        seen={kept[0].request_id: _seen(150)},
        report=_report(),
        prefix_tokens=prefix_tokens,
    )


def _faults(evidence: Evidence) -> str:
    return "; ".join(map(str, faults_of(evidence)))


def test_a_file_comes_out_as_it_went_in() -> None:
    evidence = _evidence()
    assert decode_evidence(encode_evidence(evidence)) == evidence
    assert decode_table(encode_table(TABLE)) == TABLE


def test_what_was_sold_and_signed_has_no_fault() -> None:
    assert not _faults(_evidence())
    assert not _faults(_evidence(prefix_tokens=64))


def test_the_receipts_of_the_channel_show_whether_one_is_left_out() -> None:
    evidence = _evidence()
    chain = chain_of(evidence)
    assert (chain.requests, chain.linked, chain.is_from_start) == (3, 3, True)
    hidden = chain_of(replace(evidence, others=()))
    assert (hidden.requests, hidden.linked, hidden.is_from_start) == (3, 1, False)


def test_a_cut_stream_is_evidence_by_its_last_acknowledgement() -> None:
    evidence = make_evidence([Channel().sell(PROMPT, OUTPUT, is_cut=True)])
    assert not _faults(evidence)
    assert evidence.answers[0].output.ids == OUTPUT[:128]
    assert evidence.answers[0].finish is None


def test_an_acknowledgement_of_other_tokens_or_another_request_is_found() -> None:
    channel = Channel()
    first, second = (channel.sell(PROMPT, OUTPUT[start:], is_cut=True) for start in (0, 1))
    evidence = make_evidence([first])
    swapped = replace(evidence.answers[0], word=make_evidence([second]).answers[0].word)
    assert "of another request" in _faults(replace(evidence, answers=(swapped,)))
    output = open_prefix("output", OUTPUT[:64], salt=first.salt, count=64)
    fewer = replace(evidence.answers[0], output=output)
    assert "of other tokens" in _faults(replace(evidence, answers=(fewer,)))


def test_answers_of_two_models_are_not_one_case() -> None:
    channel = Channel()
    one = make_evidence([channel.sell(PROMPT, OUTPUT[:9])])
    channel.model = b"\x0e" * 32
    other = make_evidence([channel.sell(PROMPT, OUTPUT[:9])])
    mixed = replace(one, answers=one.answers + other.answers)
    assert "several models" in _faults(mixed)


def test_without_a_signature_of_the_seller_there_is_no_evidence() -> None:
    with pytest.raises(Refused, match="signed no token"):
        make_evidence([Channel().sell(PROMPT, OUTPUT[:20], is_cut=True)])


def test_a_receipt_that_contradicts_what_came_leaves_the_acknowledgement() -> None:
    kept = replace(Channel().sell(PROMPT, OUTPUT), fault="a receipt over other tokens")
    evidence = make_evidence([kept])
    assert evidence.answers[0].receipt is None
    assert not _faults(evidence)


@pytest.mark.parametrize("name", ["payee", "bonds"])
def test_answers_of_two_sellers_are_two_files(name: str) -> None:
    channel = Channel()
    kept = [channel.sell(PROMPT, OUTPUT[:9]), channel.sell(PROMPT, OUTPUT[:9])]
    other: Any = {"payee": b"\x22" * 20, "bonds": replace(BONDS, contract=Address(b"\xee" * 20))}[name]
    with pytest.raises(Refused, match=f"differ in {name}"):
        make_evidence([kept[0], replace(kept[1], **{name: other})])


def _changed_request(answer: OpenedAnswer, **fields: Any) -> OpenedAnswer:
    """As a buyer would frame: another request, under a right signature of its own."""
    buyer = new_identity()
    request = replace(answer.asked, buyer=PeerText(buyer.peer), **fields)
    body = encode_request(request)
    return replace(answer, request=Signed(body=body, signature=buyer.sign(request_bytes_to_sign(body))))


def _stranger_receipt(answer: OpenedAnswer) -> OpenedAnswer:
    assert answer.receipt is not None
    word = signed_by(KeySigner(b"\x33" * 32), answer.receipt.receipt, answer.receipt.response)
    return replace(answer, word=word)


def _other_amount(answer: OpenedAnswer) -> OpenedAnswer:
    assert answer.receipt is not None
    receipt = replace(answer.receipt.receipt, amount_micros=Micros(1))
    return replace(answer, word=signed_by(KeySigner(b"\x11" * 32), receipt, answer.receipt.response))


def _fabricated_output(answer: OpenedAnswer) -> OpenedAnswer:
    salt = b"\x01" * 32
    return replace(answer, output=open_prefix("output", ids(7, 150), salt=salt, count=150), reported=None)


FRAMINGS: dict[str, tuple[Callable[[OpenedAnswer], OpenedAnswer], str]] = {
    "another seed": (lambda one: _changed_request(one, seed=b"\x06" * 32), "another request"),
    "another model": (lambda one: _changed_request(one, model=b"\x07" * 32), "another request"),
    "another number": (lambda one: _changed_request(one, channel_sequence=2), "another request"),
    "another prompt": (
        lambda one: replace(one, prompt=open_prefix("prompt", ids(9, 70), salt=b"\x01" * 32, count=70)),
        "not the one that the request was signed over",
    ),
    "part of the prompt": (
        lambda one: replace(one, prompt=open_prefix("prompt", PROMPT, salt=b"\x01" * 32, count=64)),
        "opened for 64 of 70",
    ),
    "another output": (_fabricated_output, "root of the output"),
    "another engine": (
        lambda one: replace(one, facts=encode_facts(replace(FACTS, kv_type="q4_0"))),
        "engine's facts",
    ),
    "a receipt of another key": (_stranger_receipt, "accused key"),
    "another amount": (_other_amount, "are due"),
    "a request that the buyer did not sign": (
        lambda one: replace(one, request=replace(one.request, signature=bytes(64))),
        "not signed by the buyer",
    ),
}


@pytest.mark.parametrize("name", FRAMINGS)
def test_a_buyer_who_changes_something_afterwards_is_found(name: str) -> None:
    change, why = FRAMINGS[name]
    evidence = _evidence()
    framed = replace(evidence, answers=(change(evidence.answers[0]), evidence.answers[1]))
    assert why in _faults(framed)


def test_one_answer_cannot_count_twice() -> None:
    evidence = _evidence()
    twice = replace(evidence, answers=(evidence.answers[0], evidence.answers[0]))
    assert "each once" in _faults(twice)
    assert "in the order" in _faults(replace(evidence, answers=evidence.answers[::-1]))


def test_two_receipts_for_one_request_are_named_as_the_proof_that_they_are() -> None:
    evidence = _evidence()
    signed = evidence.others[0]
    second = signed_by(
        KeySigner(b"\x11" * 32), replace(signed.receipt, amount_micros=Micros(1)), signed.response
    )
    assert "proof by itself" in _faults(replace(evidence, others=(signed, second)))


def test_a_shut_receipt_of_anybody_else_is_found() -> None:
    evidence = _evidence()
    signed = signed_by(KeySigner(b"\x33" * 32), evidence.others[0].receipt, evidence.others[0].response)
    assert "not signed by the accused" in _faults(replace(evidence, others=(signed,)))


def test_a_prefix_gives_nothing_else_away() -> None:
    channel = Channel()
    kept = channel.sell(PROMPT, OUTPUT)
    data = encode_evidence(make_evidence([kept], prefix_tokens=64))
    shut = pack(f"<{len(OUTPUT) - 64}I", *OUTPUT[64:])
    assert pack("<64I", *OUTPUT[:64]) in data
    assert not any(shut[at : at + 4] in data for at in range(0, len(shut), 4))
    assert kept.salt not in data
    assert _block_salt("output", kept.salt, 0) in data
    assert _block_salt("output", kept.salt, 1) not in data


def test_a_shut_block_opened_with_other_ids_is_found() -> None:
    evidence = _evidence(prefix_tokens=64)
    output = evidence.answers[0].output
    changed = replace(output, ids=(*output.ids[:-1], output.ids[-1] + 1))
    framed = replace(evidence, answers=(replace(evidence.answers[0], output=changed, reported=None),))
    assert "root of the output" in _faults(framed)


def _what_decides(evidence: Evidence) -> object:
    """All that a reader's own verdict rests on."""
    return (
        evidence.bonds,
        evidence.accused,
        [(one.request, one.word, one.facts, one.prompt, one.output) for one in evidence.answers],
    )


@pytest.mark.slow
def test_a_flipped_bit_is_refused_or_changes_nothing() -> None:
    evidence = _evidence()
    data = encode_evidence(evidence)
    draw = random.Random(5)
    refused = 0
    for at in sorted(draw.sample(range(len(data)), 300)):
        flipped = bytearray(data)
        flipped[at] ^= 1 << draw.randrange(8)
        try:
            read = decode_evidence(bytes(flipped))
        except RemoteFault:
            refused += 1
            continue
        if faults_of(read):
            refused += 1
            continue
        assert _what_decides(read) == _what_decides(evidence), f"byte {at} of {len(data)}"
    assert refused > 100


@given(st.binary(max_size=300))
def test_whatever_the_bytes_are_there_is_one_kind_of_error(data: bytes) -> None:
    with pytest.raises(RemoteFault):
        decode_evidence(data)


def test_a_file_is_for_its_owner_and_never_replaces_another(tmp_path: Path) -> None:
    place = tmp_path / "seller.evidence"
    evidence = _evidence()
    size_bytes = write_evidence(place, evidence)
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_size == size_bytes
    assert read_evidence(place)[0] == evidence
    with pytest.raises(Refused, match="is there already"):
        write_evidence(place, evidence)
    assert [one.name for one in tmp_path.iterdir()] == [place.name]


def test_what_is_no_file_of_evidence_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such file"):
        read_evidence(tmp_path / "missing")
    with pytest.raises(Refused, match="no regular file"):
        read_evidence(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(Refused, match="no regular file"):
        read_evidence(pipe)
    large = tmp_path / "large"
    with open(large, "wb") as file:
        file.truncate(EVIDENCE_BYTES_MAX + 1)
    with pytest.raises(Refused, match=f"at most {EVIDENCE_BYTES_MAX}"):
        read_evidence(large)
    text = tmp_path / "text"
    text.write_text("convicted!")
    with pytest.raises(Refused, match="no evidence that this program reads"):
        read_evidence(text)


def test_more_than_a_reader_takes_is_refused_before_it_is_written() -> None:
    kept = [Channel().sell(PROMPT, OUTPUT[:3])]
    with pytest.raises(Refused, match="evidence opens 1 to"):
        make_evidence(kept * (ANSWERS_MAX + 1))
    with pytest.raises(Refused, match="evidence opens 1 to"):
        make_evidence([])


def test_a_report_on_other_tokens_than_are_opened_is_refused() -> None:
    answer = _evidence().answers[1]
    with pytest.raises(ValueError, match="a report of 3 tokens"):
        replace(answer, reported=Reported(gap_mlogit=(1,) * 3, margin_mlogit=(1,) * 3, is_match=(True,) * 3))


def test_the_request_fixes_seed_and_sampler() -> None:
    channel = Channel()
    one = channel.sell(PROMPT, OUTPUT[:3], params=SamplingParams(seed=SEED, temperature=0.7))
    other = channel.sell(PROMPT, OUTPUT[:3], params=SamplingParams(seed=SEED, temperature=1.0))
    assert request_hash(one.signed_request.body) != request_hash(other.signed_request.body)
    assert one.sampling.params == SamplingParams(seed=SEED, temperature=0.7)
