"""Deterministic CBOR: what is accepted has one encoding, and nothing that comes can hurt."""

import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.cbor import DEPTH_MAX, CborError, decode, encode

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "cbor.json").read_text("utf-8"))
BYTES_MAX = 1 << 20

texts = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.floats(allow_nan=False, width=16)
    | texts
    | st.binary()
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30)


def _plain(value: Any) -> Any:
    """A vector's JSON as the value it stands for."""
    if isinstance(value, dict) and set(value) == {"bytes"}:
        return bytes.fromhex(value["bytes"])
    if isinstance(value, dict) and set(value) == {"float"}:
        return float(value["float"])
    return value


@pytest.mark.parametrize(("value", "encoded"), VECTORS["accepted"], ids=lambda one: str(one)[:24])
def test_a_value_has_the_encoding_of_its_vector(value: object, encoded: str) -> None:
    value = _plain(value)
    assert encode(value).hex() == encoded
    decoded = decode(bytes.fromhex(encoded), bytes_max=BYTES_MAX)
    assert decoded == value and type(decoded) is type(value)


@pytest.mark.parametrize(("encoded", "why"), VECTORS["refused"], ids=lambda one: str(one)[:40])
def test_bytes_of_another_form_are_refused(encoded: str, why: str) -> None:
    with pytest.raises(CborError):
        decode(bytes.fromhex(encoded), bytes_max=BYTES_MAX)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(values)
def test_what_is_encoded_comes_back_and_an_independent_library_agrees(value: object) -> None:
    encoded = encode(value)
    decoded = decode(encoded, bytes_max=BYTES_MAX)
    assert decoded == value and repr(decoded) == repr(_in_order(value))
    assert encoded == cbor2.dumps(value, canonical=True)
    assert cbor2.loads(encoded) == value


def _in_order(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_order(one) for one in value]
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: _in_order(value[key]) for key in keys}
    return value


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.binary(max_size=64))
def test_any_bytes_are_a_value_with_that_encoding_or_an_error(data: bytes) -> None:
    _check_bytes(data)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(values, st.data())
def test_a_mangled_message_is_a_value_with_that_encoding_or_an_error(
    value: object, data: st.DataObject
) -> None:
    mangled = bytearray(encode(value))
    at = data.draw(st.integers(0, len(mangled) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "repeat"])):
        case "flip":
            mangled[at] = data.draw(st.integers(0, 255))
        case "cut":
            del mangled[at:]
        case "repeat":
            mangled[at:at] = mangled[: at + 1]
    _check_bytes(bytes(mangled))


def _check_bytes(data: bytes) -> None:
    try:
        value = decode(data, bytes_max=BYTES_MAX)
    except CborError:
        return
    assert encode(value) == data


@pytest.mark.parametrize("claim", [b"\x9b", b"\xbb", b"\x5b", b"\x7b"])
def test_a_claimed_length_allocates_nothing(claim: bytes) -> None:
    bomb = claim + (1 << 40).to_bytes(8, "big")
    assert _peak_bytes(bomb * 4, items_max=1 << 62) < 100_000


def test_many_empty_lists_cost_no_more_than_the_item_limit_allows() -> None:
    bomb = b"\x9a" + (500_000).to_bytes(4, "big") + b"\x80" * 500_000
    assert _peak_bytes(bomb, items_max=10_000) < 100_000


def test_the_item_limit_counts_all_containers_together() -> None:
    message = [[0] * 10 for _ in range(10)]
    assert decode(encode(message), bytes_max=BYTES_MAX, items_max=111) == message
    with pytest.raises(CborError, match="more values"):
        decode(encode(message), bytes_max=BYTES_MAX, items_max=110)


def _peak_bytes(data: bytes, *, items_max: int) -> int:
    tracemalloc.start()
    try:
        with pytest.raises(CborError):
            decode(data, bytes_max=BYTES_MAX, items_max=items_max)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_depth_is_bounded() -> None:
    deepest = b"\x81" * DEPTH_MAX + b"\x00"
    assert encode(decode(deepest, bytes_max=BYTES_MAX)) == deepest
    for bomb in (b"\x81" + deepest, b"\x81" * 500_000, b"\xa1\x60" * 100_000):
        with pytest.raises(CborError, match="deeper"):
            decode(bomb, bytes_max=BYTES_MAX)


def test_size_is_bounded() -> None:
    with pytest.raises(CborError, match="at most 4"):
        decode(encode("four"), bytes_max=4)


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        1 << 64,
        -(1 << 64) - 1,
        {1: 2},
        {b"a": 1},
        "\ud800",
        {"\ud800": 1},
        object(),
        {1},
        bytearray(),
    ],
    ids=repr,
)
def test_a_value_without_an_encoding_is_refused(value: object) -> None:
    with pytest.raises(CborError):
        encode([value])


def test_a_value_that_holds_itself_is_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(CborError, match="nested"):
        encode(loop)


def test_tuples_are_lists_on_the_wire() -> None:
    assert decode(encode((1, (2,))), bytes_max=BYTES_MAX) == [1, [2]]
