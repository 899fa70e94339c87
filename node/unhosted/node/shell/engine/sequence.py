"""One request inside the engine's loop: from drawn token ids to text, log-probabilities and an end."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.batching import Job
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Delta, FinishReason, GenerateRequest, TokenLogprob, Usage
from unhosted.node.core.text import TextAssembler
from unhosted.verify.history import History
from unhosted.verify.sampler import CORE_HASH_BYTES, Sampler, TokenMask, logprobs, request_key

LOCAL_CORE_HASH = bytes(CORE_HASH_BYTES)
"""The local ring signs no request, so the sampler's key hangs on the seed alone."""


class AcceptingMask(TokenMask, Protocol):
    """A grammar that walks along with the output."""

    def accept(self, token_id: int) -> None: ...

    def close(self) -> None: ...


class Vocabulary(Protocol):
    """What the loop needs of a model besides its runner."""

    n_vocab: int

    @property
    def end_ids(self) -> frozenset[int]: ...

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]: ...

    def piece(self, token_id: int) -> bytes: ...


class Sequence:
    """A running request: its sampler, its grammar and its text so far."""

    def __init__(
        self,
        request: GenerateRequest,
        job: Job,
        vocabulary: Vocabulary,
        make_mask: Callable[[], AcceptingMask | None],
    ) -> None:
        self.request = request
        self.job = job
        self._vocabulary = vocabulary
        self._sampler = Sampler(request.sampling, request_key(LOCAL_CORE_HASH, request.sampling.seed))
        self._history = History(request.sampling, job.prompt)
        self._text = TextAssembler(request.stop)
        self._mask = make_mask()  # last of all that may refuse: it holds memory of the library's
        try:
            for token_id in request.resume_ids:
                self._follow(token_id)
        except Refused:
            self.close()
            raise

    def draw(self, row: NDArray[np.float32]) -> tuple[int, bool, Delta]:
        """The next token, whether it ends the output, and what it adds. row: (n_vocab,), only read."""
        token_id = self._sampler.draw(row, len(self.job.output), self._history, self._mask)
        scores = self._logprobs(row, token_id)
        text, ended = self._follow(token_id)
        return token_id, ended, Delta(token_ids=(token_id,), text=text, logprobs=scores)

    def finish(self, delta: Delta, reason: FinishReason) -> Delta:
        """The last delta: what was held back, why it ended, and the counts."""
        return Delta(
            token_ids=delta.token_ids,
            text=delta.text + self._text.finish(),
            logprobs=delta.logprobs,
            finish=reason,
            stop_text=self._text.stopped_by,
            usage=Usage(
                prompt_tokens=len(self.job.prompt),
                cached_tokens=self.job.cached_tokens,
                completion_tokens=len(self.job.output),
            ),
        )

    def close(self) -> None:
        if self._mask is not None:
            self._mask.close()
            self._mask = None

    def _follow(self, token_id: int) -> tuple[str, bool]:
        self._history.push(token_id)
        if token_id in self._vocabulary.end_ids and (self._mask is not None or not self.request.ignore_eos):
            # A finished grammar allows nothing but the end, so there `ignore_eos` cannot be kept.
            return "", True
        if self._mask is not None:
            self._mask.accept(token_id)
        text = self._text.push(self._vocabulary.piece(token_id))
        return text, self._text.stopped_by is not None

    def _logprobs(self, row: NDArray[np.float32], token_id: int) -> tuple[TokenLogprob, ...]:
        if self.request.logprobs is None:
            return ()
        piece = self._vocabulary.piece
        own, top = logprobs(row, token_id, self.request.logprobs)
        alternatives = tuple(TokenLogprob(other, piece(other), score) for other, score in top)
        return (TokenLogprob(token_id, piece(token_id), own, alternatives),)
