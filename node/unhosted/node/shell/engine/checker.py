"""Reads answers again on the model that a process has loaded, and scores each token that they claim.

One pass over prompt and output per answer instead of one step per token, which is what makes checking
cheaper than generating. Logits are scored as they come out of each computation; those of a whole answer
never exist together. The checker has its own context beside the one that serves users, only while there is
something to check, and works in steps between which the process looks for messages. A message that comes in
the middle of a computation ends it: that step is done again later.
"""

import time
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Constraint
from unhosted.node.core.text import TextAssembler
from unhosted.node.core.thread_choice import ThreadChoice
from unhosted.node.shell.engine.check_plan import (
    ROWS_MAX,
    ROWS_MIN,
    Piece,
    Reading,
    cells_of,
    next_pieces,
    outputs_max,
    rows_of,
    sequences_of,
)
from unhosted.node.shell.engine.llama import GGML_TYPES, Context, EngineError, Model
from unhosted.node.shell.engine.sequence import LOCAL_CORE_HASH, AcceptingMask, Vocabulary
from unhosted.verify.history import History
from unhosted.verify.sampler import SamplerError, request_key
from unhosted.verify.scoring import Score, Scorer, as_observations

SCORED_AT_ONCE = 32
"""Rows between two looks at the messages: about 5 ms at a vocabulary of 49,152."""

ABORTED = 2
"""`llama_decode`'s word for a computation that the abort callback ended."""

Checked = Generator[None, None, list[CheckedAnswer]]
"""One short step at each `next`; the answers, in the requests' order, are its value at the end."""
MaskMaker = Callable[[Constraint], AcceptingMask]


class Answer:
    """One answer's claims, scored in order."""

    def __init__(self, request: CheckRequest, make_mask: MaskMaker) -> None:
        self.scores: list[Score] = []
        self._request = request
        self._history = History(request.sampling, request.prompt_ids)
        self._scorer = Scorer(request.sampling, request_key(LOCAL_CORE_HASH, request.sampling.seed))
        self._mask = None if request.constraint is None else make_mask(request.constraint)

    def score(self, row: NDArray[np.float32]) -> None:
        """row: (n_vocab,) logits from which the next token was drawn. Raises: SamplerError."""
        position = len(self.scores)
        claimed_id = self._request.output_ids[position]
        self.scores.append(self._scorer.score(row, claimed_id, position, self._history, self._mask))
        self._history.push(claimed_id)
        if self._mask is not None:
            try:
                self._mask.accept(claimed_id)
            except Refused:
                # The claim has its margin. What follows cannot be walked along with: it counts as free.
                self.close()

    def close(self) -> None:
        if self._mask is not None:
            self._mask.close()
            self._mask = None

    def checked(self, vocabulary: Vocabulary) -> CheckedAnswer:
        ids = self._request.output_ids
        text = TextAssembler()
        return CheckedAnswer(
            seen=as_observations(self.scores),
            text="".join([text.push(vocabulary.piece(token_id)) for token_id in ids]) + text.finish(),
            end_positions=tuple(at for at, token_id in enumerate(ids) if token_id in vocabulary.end_ids),
            drawn_ids=tuple(one.drawn_id for one in self.scores),
        )


class Checker:
    """Makes checks of one model. Not for use from two threads."""

    def __init__(
        self,
        model: Model,
        *,
        threads: int,
        rows_max: int,
        make_mask: MaskMaker,
        is_wanted: Callable[[], bool],
    ) -> None:
        """rows_max: of one computation, where its shape is free. is_wanted: whether somebody waits for the
        process; asked some hundred times a computation."""
        self._model = model
        self._make_mask = make_mask
        self._is_wanted = is_wanted
        self._threads = threads
        self._rows_max = rows_max

    def check(self, requests: Sequence[CheckRequest], cells_max: int) -> Checked:
        """cells_max: of the checker's context, over all answers that it reads at once.

        Raises: Refused if one is too long for that, has no prompt, or names ids that this model lacks; then
        before anything is computed.
        """
        for index, request in enumerate(requests):
            self._check_request(index, request, cells_max)
        return self._check_all(requests, cells_max)

    def _check_request(self, index: int, request: CheckRequest, cells_max: int) -> None:
        prompt, n_vocab = request.prompt_ids, self._model.n_vocab
        if not prompt:
            raise Refused("invalid_request", f"answer {index} has no prompt: a first token follows nothing")
        for token_id in (*prompt, *(token_id for token_id, _ in request.sampling.logit_bias)):
            if not 0 <= token_id < n_vocab:
                raise Refused(
                    "invalid_request",
                    f"answer {index} was asked for with token id {token_id}, outside this model's "
                    f"vocabulary, 0 to {n_vocab - 1}: was it another model that was asked?",
                )
        _check_replay(index, request.replay)
        most = min(cells_max, self._model.context_tokens_trained)
        if (tokens := len(prompt) + len(request.output_ids)) > most:
            raise Refused(
                "context_length_exceeded",
                f"answer {index} has {tokens} tokens with its prompt; {most} can be checked: check a prefix",
                details={"prompt_tokens": tokens, "context_tokens": most},
            )

    def _check_all(self, requests: Sequence[CheckRequest], cells_max: int) -> Checked:
        checked: dict[int, CheckedAnswer] = {}
        groups: dict[Replay, list[int]] = {}
        for index, request in enumerate(requests):
            strange = _first_outside(request.output_ids, self._model.n_vocab)
            if strange is None and request.output_ids:
                groups.setdefault(request.replay, []).append(index)
            else:
                checked[index] = CheckedAnswer(seen=as_observations([]), text="", out_of_range=strange)
        for replay, indices in groups.items():
            group = [requests[index] for index in indices]
            answers = yield from self._read_group(replay, group, cells_max)
            checked.update(zip(indices, answers, strict=True))
        return [checked[index] for index in range(len(requests))]

    def _read_group(self, replay: Replay, requests: list[CheckRequest], cells_max: int) -> Checked:
        answers: list[Answer] = []
        reader = _Reader(
            self._model,
            replay,
            requests,
            cells_max,
            threads=self._threads,
            rows_max=min(self._rows_max, replay.ubatch_tokens),
            is_wanted=self._is_wanted,
        )
        try:
            for request in requests:
                answers.append(Answer(request, self._make_mask))
            yield from reader.steps(requests, answers)
            return [answer.checked(self._model) for answer in answers]
        except SamplerError as fault:
            raise Refused("engine_failed", f"an answer could not be scored: {fault}") from fault
        finally:
            for answer in answers:
                answer.close()
            reader.close()


class _Reader:
    """A context of one shape, and what is read in it."""

    def __init__(
        self,
        model: Model,
        replay: Replay,
        requests: Sequence[CheckRequest],
        cells_max: int,
        *,
        threads: int,
        rows_max: int,
        is_wanted: Callable[[], bool],
    ) -> None:
        """Raises: Refused if the library cannot make such a context."""
        self._replay = replay
        self._slots = sequences_of(requests, cells_max)
        self._outputs_max = outputs_max(model.n_vocab)
        self._rows_max = self._rows_now = rows_max
        self._thread_choice = ThreadChoice(threads)
        self._threads_now = threads
        cells = self._slots * cells_of(requests)
        try:
            self._context = Context(
                model,
                context_tokens=cells,
                sequences=self._slots,
                batch_tokens=replay.ubatch_tokens,
                ubatch_tokens=replay.ubatch_tokens,
                threads=threads,
                kv_type=replay.kv_type,
                flash_attention=replay.flash_attention,
                outputs_max=self._outputs_max,
            )
        except EngineError as fault:
            raise Refused(
                "engine_failed",
                f"{cells} cells of {replay.kv_type} to check answers in: {fault}; check fewer at once",
            ) from fault
        L = self._context.L
        # Kept here: the library holds a bare pointer to it.
        self._callback = L.ggml_abort_callback(lambda data: is_wanted())
        L.llama_set_abort_callback(self._context.ptr, self._callback, None)

    def close(self) -> None:
        self._context.close()

    def steps(self, requests: Sequence[CheckRequest], answers: Sequence[Answer]) -> Generator[None]:
        """Read and score them all."""
        # Long ones first: those read together then end together, and few rows are left to come alone.
        waiting = sorted(range(len(requests)), key=lambda index: rows_of(requests[index]))
        free = list(range(self._slots))
        active: dict[int, Reading] = {}
        while waiting or active:
            while waiting and free:
                index, slot = waiting.pop(), free.pop()
                self._context.keep_cells(slot, 0)
                active[index] = Reading(requests[index], slot)
            index_by_slot = {reading.slot: index for index, reading in active.items()}
            pieces = next_pieces(
                list(active.values()), self._replay, rows_max=self._rows_now, outputs_max=self._outputs_max
            )
            is_done = self._compute(pieces)
            yield
            if not is_done:
                self._rows_now = max(min(ROWS_MIN, self._rows_max), self._rows_now // 2)
                continue
            self._rows_now = min(self._rows_max, self._rows_now * 2)
            yield from self._score(pieces, [answers[index_by_slot[piece.reading.slot]] for piece in pieces])
            for index in [index for index, reading in active.items() if not reading.rows_left]:
                free.append(active.pop(index).slot)

    def _compute(self, pieces: Sequence[Piece]) -> bool:
        """One computation; False if somebody came and it was given up, with nothing changed."""
        batch, count = self._context.batch, 0
        for piece in pieces:
            request, first_output_row = piece.reading.request, piece.reading.first_output_row
            stop = count + piece.stop - piece.start
            rows = np.arange(piece.start, piece.stop, dtype=np.int32)
            batch.token[count:stop] = _tokens(request, piece.start, piece.stop)
            batch.position[count:stop] = rows
            batch.sequence[count:stop] = piece.reading.slot
            batch.output[count:stop] = rows >= first_output_row
            count = stop
        code = self._decode(count)
        if code not in (0, ABORTED):
            raise Refused("engine_failed", f"llama_decode answered {code} for {count} rows of a check")
        for piece in pieces:
            if code == 0:
                piece.reading.rows_read = piece.stop
            elif not self._context.keep_cells(piece.reading.slot, piece.start):
                # A recurrent state cannot be taken back by some rows: from the start then.
                self._context.keep_cells(piece.reading.slot, 0)
                piece.reading.rows_read = 0
        return code == 0

    def _decode(self, rows: int) -> int:
        started_ns = time.monotonic_ns()
        threads = self._thread_choice.choose(rows, started_ns)
        if threads != self._threads_now:
            self._context.set_threads(threads)
            self._threads_now = threads
        code = self._context.decode(rows)
        ended_ns = time.monotonic_ns()
        if code == 0:
            self._thread_choice.observe(rows, threads, ended_ns - started_ns, ended_ns)
        return code

    def _score(self, pieces: Sequence[Piece], answers: Sequence[Answer]) -> Generator[None]:
        counts = [piece.outputs for piece in pieces]
        if not sum(counts):
            return
        logits, row = self._context.logits(sum(counts)), 0
        for piece, answer, count in zip(pieces, answers, counts, strict=True):
            for _ in range(count):
                answer.score(logits[row])
                piece.reading.scored += 1
                row += 1
                if row % SCORED_AT_ONCE == 0:
                    yield


def _check_replay(index: int, replay: Replay) -> None:
    """A seller states how it computed; it must not be able to end this process with that."""
    for name, tokens in (
        ("ubatch_tokens", replay.ubatch_tokens),
        ("output_piece_tokens", replay.output_piece_tokens),
    ):
        if not 1 <= tokens <= ROWS_MAX:
            raise Refused(
                "not_supported",
                f"answer {index} is to be read with {name} {tokens}, outside 1 to {ROWS_MAX}",
            )
    key_type, _, value_type = replay.kv_type.partition("/")
    if key_type not in GGML_TYPES or (value_type or key_type) not in GGML_TYPES:
        raise Refused(
            "not_supported",
            f"answer {index} is to be read with a KV cache of {replay.kv_type[:20]!r}; this engine has "
            f"{', '.join(GGML_TYPES)}",
        )


def _tokens(request: CheckRequest, start: int, stop: int) -> tuple[int, ...]:
    prompt = len(request.prompt_ids)
    return request.prompt_ids[start:stop] + request.output_ids[max(0, start - prompt) : max(0, stop - prompt)]


def _first_outside(ids: Sequence[int], n_vocab: int) -> int | None:
    return next((at for at, token_id in enumerate(ids) if not 0 <= token_id < n_vocab), None)
