"""Sampling parameters as they are signed: one meaning, one encoding, exactly."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.market.cbor import decode, encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.requests import SAMPLING_BYTES_MAX
from unhosted.node.core.inference import Constraint
from unhosted.node.core.sampling_words import (
    SOURCE_CHARS_MAX,
    STOPS_MAX,
    Sampling,
    check_verifiable,
    decode_sampling,
    encode_sampling,
)
from unhosted.verify.params import TOP_K_MAX, SamplingParams

VECTORS = Path(__file__).parents[2] / "vectors" / "commitments_1.json"
SEED = bytes(range(32))


def within(least: float, most: float) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_nan=False)


BIASES = st.dictionaries(st.integers(0, (1 << 31) - 1), within(-100, 100), max_size=8)
PARAMS = st.builds(
    SamplingParams,
    temperature=within(0, 5),
    top_k=st.integers(1, TOP_K_MAX),
    top_p=within(0, 1),
    min_p=within(0, 1),
    repeat_penalty=within(0.1, 10),
    repeat_last_tokens=st.integers(0, 4096),
    frequency_penalty=within(-2, 2),
    presence_penalty=within(-2, 2),
    logit_bias=BIASES.map(lambda bias: tuple(sorted(bias.items()))),
    seed=st.binary(min_size=32, max_size=32),
)
CONSTRAINTS = st.builds(
    Constraint,
    kind=st.sampled_from(["json_schema", "json_object", "gbnf"]),
    source=st.text(max_size=50),
    trigger=st.none() | st.text(max_size=10),
)
SAMPLINGS = st.builds(
    Sampling,
    params=PARAMS,
    stop=st.lists(st.text(min_size=1, max_size=8), max_size=4).map(tuple),
    constraint=st.none() | CONSTRAINTS,
    ignore_eos=st.booleans(),
)


@given(SAMPLINGS)
def test_it_comes_back_to_the_last_bit(sampling: Sampling) -> None:
    data = encode_sampling(sampling)
    assert decode_sampling(data, seed=sampling.params.seed) == sampling
    assert encode_sampling(decode_sampling(data, seed=SEED)) == data


def test_the_vector_is_what_is_signed() -> None:
    data = bytes.fromhex(json.loads(VECTORS.read_text("utf-8"))["sampling"])
    sampling = decode_sampling(data, seed=SEED)
    assert sampling.params.temperature == 0.7
    assert sampling.params.logit_bias == ((5, -1.5), (70_000, 100.0))
    assert sampling.stop == ("\n\n", "END")
    assert sampling.constraint == Constraint(kind="json_object")
    assert sampling.params.seed == SEED
    assert encode_sampling(sampling) == data


def test_no_limit_of_survivors_is_signed_as_the_limit_that_it_means() -> None:
    sampling = decode_sampling(encode_sampling(Sampling(params=SamplingParams(top_k=0))), seed=SEED)
    assert sampling.params.top_k == TOP_K_MAX


WORDS = decode(encode_sampling(Sampling(constraint=Constraint(kind="gbnf"))), bytes_max=1 << 16)


@pytest.mark.parametrize("key", sorted(WORDS))
def test_each_word_is_needed_and_of_its_kind(key: str) -> None:
    without = {name: value for name, value in WORDS.items() if name != key}
    others: list[dict[str, Any]] = [WORDS | {key: other} for other in (7.5e99, -1, "\n", b"", {"a": 1})]
    if key != "constraint":
        others.append(without)
    for words in others:
        with pytest.raises(RemoteFault):
            decode_sampling(encode(words), seed=SEED)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 1},  # an integer where a real is: another encoding of the same
        {"another": 1.0},
        {"top_k": 0},
        {"top_k": TOP_K_MAX + 1},
        {"top_p": 1.5},
        {"bias": [[5, 1.0], [5, 2.0]]},
        {"bias": [[6, 1.0], [5, 2.0]]},
        {"bias": [[5, 1]]},
        {"stop": [""]},
        {"stop": ["x"] * (STOPS_MAX + 1)},
        {"constraint": {"kind": "gbnf"}},
        {"constraint": {"kind": "regex", "source": ""}},
        {"constraint": {"kind": "gbnf", "source": "", "trigger": 1}},
        {"constraint": {"kind": "gbnf", "source": "", "more": 1}},
    ],
    ids=str,
)
def test_what_has_another_meaning_or_another_form_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(RemoteFault) as caught:
        decode_sampling(encode(WORDS | change), seed=SEED)
    assert caught.value.reason == Reason.MALFORMED


def test_another_sampler_is_no_sampler_of_ours() -> None:
    with pytest.raises(RemoteFault, match="only gumbel-v1") as caught:
        decode_sampling(encode(WORDS | {"sampler": "mirostat"}), seed=SEED)
    assert caught.value.reason == Reason.WRONG_TERMS


def test_what_is_too_long_to_sign_is_said_before_it_is_sent() -> None:
    long = Sampling(constraint=Constraint(kind="gbnf", source="x" * (SOURCE_CHARS_MAX + 1)))
    with pytest.raises(ValueError, match=f"at most {SOURCE_CHARS_MAX} characters"):
        encode_sampling(long)
    wide = Sampling(constraint=Constraint(kind="gbnf", source="\U0001f600" * SOURCE_CHARS_MAX))
    with pytest.raises(ValueError, match=f"at most {SAMPLING_BYTES_MAX}"):
        encode_sampling(wide)


@given(st.binary(max_size=200))
def test_noise_is_refused_in_one_way(data: bytes) -> None:
    with pytest.raises(RemoteFault):
        decode_sampling(data, seed=SEED)


def test_an_answer_that_cannot_end_is_not_sold() -> None:
    assert check_verifiable(Sampling()) is None
    fault = check_verifiable(Sampling(ignore_eos=True))
    assert fault is not None and fault.reason == Reason.WRONG_TERMS


def test_a_penalty_that_multiplies_the_noise_between_engines_is_not_sold() -> None:
    """Divided by 0.1, the noise of an honest engine shows tenfold: a buyer could accuse it of anything."""
    for penalty, is_sold in ((0.1, False), (0.79, False), (0.8, True), (1.3, True)):
        params = SamplingParams(repeat_penalty=penalty)
        assert (check_verifiable(Sampling(params=params)) is None) == is_sold
