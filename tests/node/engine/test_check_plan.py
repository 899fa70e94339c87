"""Which rows a checker reads next: each once, in order, within the bounds and in the asked shape."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.inference import CheckRequest
from unhosted.node.shell.engine.check_plan import (
    OUTPUT_BYTES_MAX,
    ROWS_MAX,
    ROWS_MIN,
    SEQUENCES_MAX,
    Piece,
    Reading,
    cells_of,
    next_pieces,
    outputs_max,
    rows_at_once,
    rows_of,
    sequences_of,
)
from unhosted.verify.params import SamplingParams


def asked(prompt: int, output: int) -> CheckRequest:
    return CheckRequest(
        prompt_ids=tuple(range(prompt)), output_ids=tuple(range(output)), sampling=SamplingParams()
    )


def read_all(
    sizes: list[tuple[int, int]], replay: Replay, *, rows_max: int = 512, most: int = 512
) -> list[list[Piece]]:
    """Every computation until all is read."""
    readings = [Reading(asked(*size), slot) for slot, size in enumerate(sizes)]
    computations = []
    while pieces := next_pieces(readings, replay, rows_max=rows_max, outputs_max=most):
        computations.append(pieces)
        for piece in pieces:
            assert piece.start == piece.reading.rows_read < piece.stop
            piece.reading.scored += piece.outputs
            piece.reading.rows_read = piece.stop
    assert [one.scored for one in readings] == [output for _, output in sizes]
    assert all(one.rows_left == 0 for one in readings)
    return computations


SIZES = st.lists(st.tuples(st.integers(1, 700), st.integers(1, 300)), min_size=1, max_size=SEQUENCES_MAX)


@settings(max_examples=40, deadline=None)
@given(
    sizes=SIZES,
    ubatch=st.sampled_from([32, 63, 512]),
    piece=st.sampled_from([1, 16, 63, 512]),
    most=st.sampled_from([32, 128, 682]),
    halved=st.booleans(),
)
@example(sizes=[(1, 60), (50, 10), (50, 10)], ubatch=512, piece=512, most=32, halved=False)
def test_everything_is_read_once_within_the_bounds(
    sizes: list[tuple[int, int]], ubatch: int, piece: int, most: int, halved: bool
) -> None:
    rows_max = ROWS_MIN if halved else ubatch
    replay = Replay(ubatch_tokens=ubatch, output_piece_tokens=piece)
    for pieces in read_all(sizes, replay, rows_max=rows_max, most=most):
        lengths = {one.stop - one.start for one in pieces}
        assert len(lengths) == 1
        assert sum(one.outputs for one in pieces) <= most
        is_prompt = any(one.start < len(one.reading.request.prompt_ids) for one in pieces)
        if piece < ubatch and is_prompt:
            (alone,) = pieces
            assert alone.stop <= len(alone.reading.request.prompt_ids)
            assert alone.stop - alone.start <= ubatch
        else:
            assert sum(one.stop - one.start for one in pieces) <= rows_max
        if piece < ubatch and not is_prompt:
            assert max(lengths) <= piece


def test_a_bound_prompt_is_cut_as_the_seller_cut_it() -> None:
    replay = Replay(ubatch_tokens=100, output_piece_tokens=63)
    prompts = [pieces for pieces in read_all([(250, 10)], replay) if pieces[0].start < 250]
    assert [(one.start, one.stop) for (one,) in prompts] == [(0, 100), (100, 200), (200, 250)]


def test_many_answers_share_a_computation_where_each_may_have_one_row_of_it() -> None:
    replay = Replay(ubatch_tokens=512, output_piece_tokens=1)
    outputs = [pieces for pieces in read_all([(5, 40)] * 32, replay) if pieces[0].start >= 5]
    assert [len(pieces) for pieces in outputs] == [32] * 39


def test_short_answers_fill_a_computation_together() -> None:
    first = read_all([(60, 200)] * 8, Replay())[0]
    assert sum(piece.stop - piece.start for piece in first) > 500


def test_no_row_is_left_to_come_alone() -> None:
    for replay in (Replay(ubatch_tokens=64), Replay(ubatch_tokens=512, output_piece_tokens=63)):
        for output in range(60, 70):
            computations = read_all([(4, output)], replay, rows_max=replay.ubatch_tokens)
            assert all(piece.stop - piece.start > 1 for (piece,) in computations), output


def test_how_many_are_read_at_once_follows_from_the_longest() -> None:
    requests = [asked(10, 20), asked(200, 57), asked(300, 1)]
    assert [rows_of(one) for one in requests] == [29, 256, 300]
    assert cells_of(requests[:2]) == 256 and cells_of(requests) == 512
    assert sequences_of(requests, 1023) == 1 and sequences_of(requests, 1024) == 2
    assert sequences_of(requests, 511) == 0
    assert sequences_of(requests * 20, 1 << 20) == SEQUENCES_MAX


@pytest.mark.parametrize("n_vocab", [512, 49_152, 262_144, 10_000_000])
def test_logits_of_one_computation_are_bounded(n_vocab: int) -> None:
    rows = outputs_max(n_vocab)
    assert rows >= SEQUENCES_MAX  # the library wants room for one row of each sequence
    assert rows == SEQUENCES_MAX or rows * n_vocab * 4 <= OUTPUT_BYTES_MAX


def test_a_computation_is_short_enough_to_wait_for() -> None:
    assert [rows_at_once(n) for n in (1_000, 135_000_000, 500_000_000, 8_000_000_000)] == [
        ROWS_MAX,
        128,
        32,
        ROWS_MIN,
    ]
