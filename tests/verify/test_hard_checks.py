"""Faults that need no statistics: each is found, and an honest answer of every kind has none."""

from dataclasses import replace

import pytest

from unhosted.verify.hard_checks import END_MARGIN_MLOGIT_MAX, TOKEN_CHARS_MAX, Answer, check_answer, proofs

ENDED = Answer(
    output_tokens=5,
    finish="stop",
    tokens_counted=5,
    tokens_max=10,
    room_tokens=100,
    text_delivered="a b c d",
    text_spelled="a b c d",
    end_positions=(4,),
    margin_mlogit=(0, 0, 30, 0, 0),
)
FULL = replace(ENDED, finish="length", tokens_max=5, end_positions=())
STOPPED = replace(
    ENDED,
    end_positions=(),
    stop=("END", "D\n"),
    text_spelled="a b END",
    text_delivered="a b ",
    text_before_last="a b EN",
)


@pytest.mark.parametrize(
    "honest",
    [
        ENDED,
        FULL,
        STOPPED,
        replace(STOPPED, text_before_last=None),
        replace(STOPPED, text_spelled="a b ENDING", text_before_last=None),  # the last id went beyond it
        replace(ENDED, tokens_max=None),
        replace(ENDED, tokens_max=5),
        replace(ENDED, finish="length", tokens_max=5),  # an end id in the last place that was left
        replace(FULL, tokens_max=None),
        replace(FULL, tokens_max=6, room_tokens=5),  # the context was full
        replace(ENDED, end_positions=(), room_tokens=5),
        replace(FULL, finish="length", ignore_eos=True, end_positions=(1, 3)),
        replace(ENDED, is_constrained=True, ignore_eos=True),
        replace(ENDED, finish="cancelled", end_positions=(), tokens_max=None, text_delivered="a b c "),
        replace(ENDED, finish="cut", end_positions=(), text_delivered="a b"),
        replace(ENDED, text_delivered=None),
        replace(ENDED, margin_mlogit=()),
        replace(ENDED, margin_mlogit=(0, 0, 0, 0, END_MARGIN_MLOGIT_MAX)),
        replace(ENDED, margin_mlogit=(0, 0, 90_000, 0, 0)),
        Answer(output_tokens=0, finish="cancelled", tokens_counted=0, tokens_max=9, text_delivered=""),
        Answer(output_tokens=0, finish="cut", tokens_counted=0, tokens_max=9, text_delivered=""),
        Answer(output_tokens=0, finish="length", tokens_counted=0, tokens_max=0),
    ],
)
def test_an_honest_answer_has_no_fault(honest: Answer) -> None:
    assert check_answer(honest) == ()


@pytest.mark.parametrize(
    ("name", "cheat", "position"),
    [
        ("id_outside_vocabulary", replace(ENDED, out_of_range=3, margin_mlogit=(), text_spelled=""), 3),
        ("ids_after_end", replace(ENDED, end_positions=(2,)), 3),
        ("ids_after_end", replace(ENDED, end_positions=(3,)), 4),
        ("ids_after_end", replace(ENDED, end_positions=(2, 4)), 3),
        ("ids_after_end", replace(FULL, end_positions=(0,)), 1),
        ("ids_after_end", replace(ENDED, finish="cut", end_positions=(2,), text_delivered="a"), 3),
        ("ids_after_end", replace(ENDED, ignore_eos=True, is_constrained=True, end_positions=(1, 4)), 2),
        ("too_many_tokens", replace(ENDED, tokens_max=4), 4),
        ("too_many_tokens", replace(FULL, tokens_max=3), 3),
        ("length_below_limit", replace(FULL, tokens_max=6), None),
        ("length_below_limit", replace(ENDED, finish="length"), None),
        ("stop_without_reason", replace(ENDED, end_positions=()), None),
        ("stop_without_reason", replace(ENDED, ignore_eos=True), None),
        ("stop_without_reason", replace(STOPPED, stop=("XYZ",), text_delivered="a b END"), None),
        (
            "stop_without_reason",
            Answer(output_tokens=0, finish="stop", tokens_counted=0, tokens_max=9, room_tokens=50),
            None,
        ),
        ("went_on_after_stop", replace(STOPPED, text_before_last="a b END"), None),
        ("went_on_after_stop", replace(STOPPED, text_before_last="a b END", finish="cut"), None),
        (
            "went_on_after_stop",
            replace(STOPPED, text_spelled="a b END" + "x" * (TOKEN_CHARS_MAX + 1), text_before_last=None),
            None,
        ),
        ("text_differs", replace(ENDED, text_delivered="a b c e"), None),
        ("text_differs", replace(ENDED, text_delivered="a b c"), None),
        ("text_differs", replace(STOPPED, text_delivered="a b END"), None),
        ("text_differs", replace(ENDED, finish="cut", end_positions=(), text_delivered="a c"), None),
        ("count_differs", replace(ENDED, tokens_counted=6), None),
        ("count_differs", replace(ENDED, tokens_counted=4), None),
    ],
)
def test_a_fault_that_two_readers_always_agree_on_is_proof(
    name: str, cheat: Answer, position: int | None
) -> None:
    (fault,) = check_answer(cheat)
    assert (fault.name, fault.is_proof, fault.position) == (name, True, position)
    assert proofs([fault]) == (fault.sentence,) and fault.sentence.endswith(".")


def test_a_forged_end_is_a_suspicion_and_no_proof() -> None:
    (fault,) = check_answer(replace(ENDED, margin_mlogit=(0, 0, 0, 0, END_MARGIN_MLOGIT_MAX + 1)))
    assert (fault.name, fault.is_proof, fault.position) == ("end_unlikely", False, 4)
    assert proofs([fault]) == ()


def test_an_early_end_proves_nothing_where_the_context_may_have_been_full() -> None:
    for early in (
        replace(FULL, tokens_max=6, room_tokens=None),
        replace(ENDED, end_positions=(), room_tokens=None),
    ):
        (fault,) = check_answer(early)
        assert not fault.is_proof and proofs([fault]) == ()


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("ids_after_end", replace(ENDED, end_positions=(2, 4))),
        ("went_on_after_stop", replace(STOPPED, text_spelled="a b END c", text_before_last="a b END")),
        ("stop_without_reason", replace(ENDED, end_positions=())),
        ("text_differs", replace(ENDED, text_delivered="else")),
    ],
)
def test_what_rests_on_the_library_is_no_proof_against_a_seller_of_another_build(
    name: str, answer: Answer
) -> None:
    """Each version of it knows other ids for ends, and spells some otherwise: an honest seller goes on after
    an id that only the reader's library takes for an end."""
    for is_same in (True, False):
        (fault,) = check_answer(replace(answer, is_same_library=is_same))
        assert (fault.name, fault.is_proof) == (name, is_same)


def test_an_end_id_that_does_not_end_is_a_token_like_any_other() -> None:
    asked = replace(FULL, ignore_eos=True, end_positions=(2,), margin_mlogit=(0, 0, 90_000, 0, 0))
    assert check_answer(asked) == ()


def test_the_stop_text_that_is_complete_first_counts() -> None:
    asked = replace(STOPPED, stop=("b EN", "a b END", "EN"), text_spelled="a b END", text_before_last="a b ")
    assert check_answer(replace(asked, text_delivered="a ")) == ()
    assert [one.name for one in check_answer(replace(asked, text_delivered=""))] == ["text_differs"]


def test_several_faults_are_all_named_proofs_first() -> None:
    cheat = replace(
        ENDED, tokens_counted=9, tokens_max=4, text_delivered="else", margin_mlogit=(0, 0, 0, 0, 50_000)
    )
    names = [one.name for one in check_answer(cheat)]
    assert names == ["count_differs", "too_many_tokens", "text_differs", "end_unlikely"]
