"""Engine facts: their bytes, their classes, and how a checker reads an answer again."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.cbor import decode, encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.node.core.engine_facts import (
    CLASS_CHARS_MAX,
    DEVICE_CHARS_MAX,
    EXACT_CACHE,
    FACTS_BYTES_MAX,
    KERNELS_MIXED,
    KERNELS_PLAIN,
    LIBRARY_CHARS_MAX,
    WEIGHTS_CHARS_MAX,
    WORD_CHARS_MAX,
    EngineFacts,
    Replay,
    decode_facts,
    encode_facts,
    engine_class,
    exact_class,
    facts_hash,
    replay_for,
)

EXACT = EngineFacts(
    library="llama.cpp 0.6.0-dev, ggml 0.26.0",
    build="ab" * 32,
    device="cpu:x86-64:avx,avx2,f16c,fma:glibc-2.36",
    weights="q4_1,q8_0",
    kv_type="bf16/f16",
    slots=4,
)
USUAL = replace(EXACT, kv_type="f16")

texts = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=WORD_CHARS_MAX)
counts = st.integers(1, 1 << 20)
all_facts = st.builds(
    EngineFacts,
    library=texts,
    build=texts,
    device=texts,
    weights=texts,
    kv_type=texts,
    flash_attention=st.booleans(),
    is_split=st.booleans(),
    slots=counts,
    ubatch_tokens=counts,
    speculation=texts,
    gpu_layers=counts,
    kernels=texts,
)


@settings(max_examples=50)
@given(all_facts)
def test_facts_survive_the_wire(facts: EngineFacts) -> None:
    assert decode_facts(encode_facts(facts)) == facts


def test_hash_is_the_one_in_the_documentation() -> None:
    assert encode_facts(EXACT)[:3].hex() == "ad6176"
    assert facts_hash(EXACT).hex() == "99cd2f7ca1d3e23a5dcf1242d85c44505bda6dbb2f5a6e904249cfcff1bc7057"
    assert facts_hash(EXACT) != facts_hash(USUAL)


def test_longest_facts_fit_the_bound() -> None:
    longest = EngineFacts(
        library="l" * LIBRARY_CHARS_MAX,
        build="b" * 64,
        device="d" * DEVICE_CHARS_MAX,
        weights="w" * WEIGHTS_CHARS_MAX,
        kv_type="k" * WORD_CHARS_MAX,
        speculation="s" * WORD_CHARS_MAX,
        kernels="p" * WORD_CHARS_MAX,
        slots=1 << 20,
        ubatch_tokens=1 << 20,
        gpu_layers=1 << 20,
    )
    assert len(encode_facts(longest)) <= FACTS_BYTES_MAX
    assert len(engine_class(longest)) == CLASS_CHARS_MAX


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slots": 0}, "slots"),
        ({"gpu_layers": -1}, "gpu_layers"),
        ({"gpu_layers": (1 << 20) + 1}, "gpu_layers"),
        ({"device": "d" * (DEVICE_CHARS_MAX + 1)}, "device"),
        ({"device": "a\nb"}, "device"),
        ({"library": "é"}, "library"),
        ({"weights": 3}, "weights"),
        ({"is_split": 1}, "is_split"),
        ({"kernels": None}, "kernels"),
    ],
)
def test_field_outside_its_rule_is_the_sellers_fault(change: dict[str, object], said: str) -> None:
    values = decode(encode_facts(EXACT), bytes_max=FACTS_BYTES_MAX)
    with pytest.raises(RemoteFault) as caught:
        decode_facts(encode({**values, **change}))
    assert caught.value.reason == Reason.MALFORMED
    assert said in caught.value.message


def test_unknown_fields_are_passed_over_and_unknown_versions_refused() -> None:
    values = decode(encode_facts(EXACT), bytes_max=FACTS_BYTES_MAX)
    assert decode_facts(encode({**values, "colour": "red"})) == EXACT
    with pytest.raises(RemoteFault) as caught:
        decode_facts(encode({**values, "v": 2}))
    assert caught.value.reason == Reason.WRONG_VERSION


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_fault(data: bytes) -> None:
    with pytest.raises(RemoteFault):
        decode_facts(data)


def test_equal_builds_with_a_rowwise_cache_are_read_exactly() -> None:
    own = replace(USUAL, slots=1, ubatch_tokens=64)
    assert replay_for(EXACT, own) == ("exact", Replay(kv_type="bf16/f16"))
    assert replay_for(replace(EXACT, kv_type="q8_0"), own) == ("exact", Replay(kv_type="q8_0"))
    assert exact_class(replace(EXACT, kv_type=EXACT_CACHE)) is not None


@pytest.mark.parametrize(
    "change",
    [
        {"kv_type": "f16"},
        {"kv_type": "q4_0"},
        {"weights": "f16"},
        {"weights": "q4_1,f32"},
        {"weights": "q4_k,q6_k"},
        {"weights": "experts,q4_0"},
        {"weights": ""},
        {"flash_attention": False},
        {"is_split": False},
        {"speculation": "draft"},
        {"gpu_layers": 3},
        {"device": "cuda:RTX 4090*1"},
        {"device": "cpu:arm64:dotprod,neon:glibc-2.36"},
        {"device": "cpu:x86-64+blas:avx,avx2,fma:glibc-2.36"},
        {"device": "cpu:x86-64:avx,fma:avx2"},
        {"device": "cuda:cpu:x86-64:avx2"},
        {"build": ""},
        {"kernels": KERNELS_MIXED},
    ],
)
def test_nothing_is_exact_that_was_not_measured_so(change: dict[str, object]) -> None:
    seller = replace(EXACT, **change)  # type: ignore[arg-type]
    assert exact_class(seller) is None
    assert replay_for(seller, seller) == ("statistical", Replay(flash_attention=seller.flash_attention))


@pytest.mark.parametrize(
    "change",
    [
        {"build": "cd" * 32},
        {"device": "cpu:x86-64:avx,avx2,avx512,f16c,fma:glibc-2.36"},
        {"device": "cpu:x86-64:avx,avx2,f16c,fma:glibc-2.41"},
        {"weights": "q4_1"},
    ],
)
def test_another_build_or_processor_is_read_statistically(change: dict[str, object]) -> None:
    own = replace(USUAL, **change)  # type: ignore[arg-type]
    assert exact_class(EXACT) is not None
    assert replay_for(EXACT, own)[0] == "statistical"


def test_mixed_quantizations_are_exact_between_plain_engines_alone() -> None:
    plain = replace(EXACT, weights="q4_k,q6_k", kernels=KERNELS_PLAIN)
    assert replay_for(plain, plain)[0] == "exact"
    assert exact_class(replace(plain, weights="iq4_nl,q4_k")) is None  # rowwise only as it is repacked
    assert replay_for(plain, replace(plain, kernels="usual"))[0] == "statistical"
    # Where plain kernels change nothing, they do not part two engines.
    assert exact_class(replace(EXACT, kernels=KERNELS_PLAIN)) == exact_class(EXACT)


@pytest.mark.parametrize(
    "change", [{"slots": 1}, {"ubatch_tokens": 63}, {"build": "cd" * 32}, {"kv_type": "f16"}]
)
def test_class_of_noise_leaves_out_what_only_moves_it(change: dict[str, object]) -> None:
    assert engine_class(EXACT) == "cpu:x86-64 q4_1,q8_0 kv-f16 flash split llama.cpp 0.6.0-dev, ggml 0.26.0"
    assert engine_class(replace(EXACT, **change)) == engine_class(EXACT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"kv_type": "q8_0"},
        {"weights": "q8_0"},
        {"flash_attention": False},
        {"is_split": False},
        {"library": "llama.cpp 0.7.0"},
        {"speculation": "draft"},
        {"device": "cuda:RTX 4090*1"},
    ],
)
def test_class_of_noise_keeps_what_changes_its_size(change: dict[str, object]) -> None:
    assert engine_class(replace(EXACT, **change)) != engine_class(EXACT)  # type: ignore[arg-type]


def test_long_classes_stay_apart() -> None:
    one = replace(EXACT, device="d" * 200, library="l" * 80)
    other = replace(one, library="l" * 79 + "m")
    assert len(engine_class(one)) == CLASS_CHARS_MAX
    assert engine_class(one) != engine_class(other)
