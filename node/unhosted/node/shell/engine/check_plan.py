"""Which rows of which answers the checker reads next. Pure: no engine here.

Reading an answer again takes one row per token of prompt and output but the last; a row whose successor is an
output token gives the logits to score it by. Several answers are read at once, each in its own sequence, and
pieces of one computation are of one length: llama.cpp cuts a batch over split sequences into parts in which
all are equally long, and uneven ones would leave it parts of a few rows.

Two shapes. Free: as many rows as the computation takes, prompt and output alike. Bound, where
`output_piece_tokens` is below `ubatch_tokens`: as the seller computed it, since its rounding depends on that;
a prompt alone and in the largest pieces, outputs in pieces of at most that length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.inference import CheckRequest

SEQUENCES_MAX = 32
"""Answers read at once. More rows than this in one computation make no processor faster; each takes cells."""

OUTPUT_BYTES_MAX = 128 << 20
"""Of logits in one computation, and the library holds them twice: 682 rows of 49,152, 128 of 262,144."""

ROWS_MIN = 16
"""A computation that is interrupted again and again is halved, not below this."""

ROWS_MAX = 4096
"""Of one computation, whatever anybody asks for; its buffers grow with them."""

STEP_PRODUCTS = 18_000_000_000
"""Weights times rows of one computation on a processor: about half a second of one core. A message ends a
computation between two matrices, and the largest is a fifth of it; 128 rows of 135 million weights, 16 of a
thousand million, and rows come no cheaper by the hundred there."""

CELLS_STEP = 256
"""llama.cpp rounds a sequence's cells up to a multiple of this."""


@dataclass(slots=True, eq=False)
class Reading:
    """How far one answer is read. rows: to read in all. scored: output tokens that are done with."""

    request: CheckRequest
    slot: int
    rows_read: int = 0
    scored: int = 0

    @property
    def rows(self) -> int:
        return rows_of(self.request)

    @property
    def rows_left(self) -> int:
        return self.rows - self.rows_read

    @property
    def prompt_left(self) -> int:
        return len(self.request.prompt_ids) - self.rows_read

    @property
    def first_output_row(self) -> int:
        """The row whose logits the next token that is not scored yet was drawn from."""
        return len(self.request.prompt_ids) - 1 + self.scored


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows `start` up to `stop` of one answer."""

    reading: Reading
    start: int
    stop: int

    @property
    def outputs(self) -> int:
        return max(0, self.stop - max(self.start, self.reading.first_output_row))


def rows_of(request: CheckRequest) -> int:
    """Rows to read: nothing follows the last output token."""
    return len(request.prompt_ids) + len(request.output_ids) - 1


def cells_of(requests: Sequence[CheckRequest]) -> int:
    """Cells that the longest of them needs."""
    longest = max(map(rows_of, requests), default=1)
    return -(-longest // CELLS_STEP) * CELLS_STEP


def sequences_of(requests: Sequence[CheckRequest], cells_max: int) -> int:
    """How many are read at once within `cells_max` cells; 0 if the longest alone does not fit."""
    return min(len(requests), SEQUENCES_MAX, cells_max // cells_of(requests))


def rows_at_once(weights: int) -> int:
    """Rows of one computation of a model with so many weights, on a processor."""
    return max(ROWS_MIN, min(ROWS_MAX, STEP_PRODUCTS // weights) // ROWS_MIN * ROWS_MIN)


def outputs_max(n_vocab: int) -> int:
    """Rows of logits that one computation may give."""
    return max(SEQUENCES_MAX, OUTPUT_BYTES_MAX // (4 * n_vocab))


def next_pieces(
    readings: Sequence[Reading], replay: Replay, *, rows_max: int, outputs_max: int
) -> list[Piece]:
    """The next computation's pieces, all of one length; empty when everything is read.

    rows_max: in all, at least `ROWS_MIN`; a bound prompt is not cut by it.
    """
    left = [one for one in readings if one.rows_left]
    if replay.output_piece_tokens >= replay.ubatch_tokens:
        return _equal_pieces(left, rows_max, rows_max, outputs_max)
    for one in left:
        if one.prompt_left > 0:
            return [Piece(one, one.rows_read, one.rows_read + min(one.prompt_left, replay.ubatch_tokens))]
    return _equal_pieces(left, replay.output_piece_tokens, rows_max, outputs_max)


def _equal_pieces(left: list[Reading], piece_max: int, rows_max: int, outputs_max: int) -> list[Piece]:
    """As many rows as can be had with pieces of one length; of equal ones the fewest answers."""
    by_length = sorted(left, key=lambda one: -one.rows_left)
    best: list[Piece] = []
    for count in range(1, min(len(by_length), rows_max) + 1):
        size = min(by_length[count - 1].rows_left, piece_max, rows_max // count)
        pieces = _pieces(by_length[:count], size)
        # Each row less takes at most one output from each answer, and none from one that is in its prompt.
        while (too_many := sum(piece.outputs for piece in pieces) - outputs_max) > 0:
            size -= -(-too_many // count)
            pieces = _pieces(by_length[:count], size)
        if size * count > sum(piece.stop - piece.start for piece in best):
            best = pieces
    if len(best) == 1 and best[0].stop - best[0].start > 2 and best[0].reading.rows - best[0].stop == 1:
        # A lone last row would be computed by another kernel than all others.
        best = [Piece(best[0].reading, best[0].start, best[0].stop - 1)]
    return best


def _pieces(readings: Sequence[Reading], size: int) -> list[Piece]:
    return [Piece(one, one.rows_read, one.rows_read + size) for one in readings]
