"""Text from token bytes: any cut gives the same text, and a stop string never shows."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.core.errors import Refused
from unhosted.node.core.text import STOP_CHARS_MAX, STOPS_MAX, TextAssembler


def assembled(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, str | None]:
    assembler = TextAssembler(stop)
    text = "".join([assembler.push(piece) for piece in pieces])
    return text + assembler.finish(), assembler.stopped_by


def cut_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


CUTS = st.lists(st.integers(0, 1000))
STOPS = st.lists(st.text("abc\u20ac\U0001f600", min_size=1, max_size=4), min_size=1, max_size=4).map(tuple)


@given(data=st.binary(max_size=60), cuts=CUTS)
def test_any_cut_of_any_bytes_gives_the_same_text(data: bytes, cuts: list[int]) -> None:
    assert assembled(cut_at(data, cuts)) == (data.decode("utf-8", "replace"), None)


@given(text=st.text("abc\u20ac\U0001f600", max_size=40), stop=STOPS, cuts=CUTS)
def test_text_ends_before_the_first_complete_stop_string(
    text: str, stop: tuple[str, ...], cuts: list[int]
) -> None:
    expected, matched = text, None
    for end in range(1, len(text) + 1):
        ending = sorted((s for s in stop if text[:end].endswith(s)), key=len)
        if ending:
            matched = ending[-1]
            expected = text[: end - len(matched)]
            break
    assert assembled(cut_at(text.encode(), cuts), stop) == (expected, matched)
    if matched is None:
        assert not any(s in expected for s in stop)


@given(data=st.binary(max_size=40), cuts=CUTS, resume_after=st.integers(0, 40), stop=STOPS)
def test_a_resumed_run_continues_the_text_where_it_was(
    data: bytes, cuts: list[int], resume_after: int, stop: tuple[str, ...]
) -> None:
    pieces = cut_at(data, cuts)
    first, second = TextAssembler(stop), TextAssembler(stop)
    shown = "".join([first.push(piece) for piece in pieces[:resume_after]])
    for piece in pieces[:resume_after]:
        second.push(piece)
    rest = "".join([second.push(piece) for piece in pieces[resume_after:]]) + second.finish()
    assert (shown + rest, second.stopped_by) == assembled(pieces, stop)


def test_half_a_character_is_held_until_it_is_whole() -> None:
    assembler = TextAssembler()
    smile = "\U0001f600".encode()
    assert [assembler.push(smile[i : i + 1]) for i in range(4)] == ["", "", "", "\U0001f600"]
    assert assembler.finish() == ""


def test_what_may_become_a_stop_string_is_held_and_given_back() -> None:
    assembler = TextAssembler(("\n\nUser:",))
    assert assembler.push(b"Hello\n") == "Hello"
    assert assembler.push(b"\nUs") == ""
    assert assembler.push(b"eless") == "\n\nUseless"
    assert assembler.push(b"!\n\nUser: hi") == "!"
    assert assembler.stopped_by == "\n\nUser:"
    assert assembler.push(b"more") == ""
    assert assembler.finish() == ""


def test_limits_on_stop_strings_name_the_field() -> None:
    for stop in (("",), ("x" * (STOP_CHARS_MAX + 1),), ("x",) * (STOPS_MAX + 1)):
        with pytest.raises(Refused) as caught:
            TextAssembler(stop)
        assert caught.value.field == "stop"
