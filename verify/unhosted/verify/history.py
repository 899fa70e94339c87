"""What the penalties of `gumbel-v1` look at, kept up to date in constant time per token.

Only ids that were seen or carry a logit bias can differ from the model's own logits. They sit in small
parallel arrays, so that a draw touches those ids and never copies a row of the vocabulary.
"""

from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from unhosted.verify.params import SamplingParams

_FIRST_CAPACITY = 64


class History:
    """The ids one sequence has seen, as its penalties count them.

    Build it from the whole prompt, then `push` each output token, also those of a run that is resumed.
    """

    __slots__ = (
        "_bias",
        "_ids",
        "_in_output",
        "_in_window",
        "_members",
        "_penalised",
        "_slot",
        "_used",
        "_window",
        "params",
    )

    def __init__(self, params: SamplingParams, prompt_ids: Iterable[int] = ()) -> None:
        self.params = params
        self._penalised = params.has_penalties
        self._slot: dict[int, int] = {}
        self._used = 0
        self._ids: NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, np.int64)
        self._bias: NDArray[np.float64] = np.zeros(_FIRST_CAPACITY, np.float64)
        self._in_output: NDArray[np.float64] = np.zeros(_FIRST_CAPACITY, np.float64)
        self._in_window: NDArray[np.int64] = np.zeros(_FIRST_CAPACITY, np.int64)
        self._members: NDArray[np.bool_] = np.zeros(0, np.bool_)
        self._window: deque[int] = deque()
        for token_id, bias in params.logit_bias:
            slot = self._slot_of(token_id)
            self._bias[slot] += bias
        if self._penalised and params.repeat_last_tokens > 0:
            for token_id in deque(prompt_ids, maxlen=params.repeat_last_tokens):
                self._enter_window(token_id)

    def push(self, token_id: int) -> None:
        """Count one output token."""
        if not self._penalised:
            return
        slot = self._slot_of(token_id)  # first, for it may replace the arrays by longer ones
        self._in_output[slot] += 1.0
        if self.params.repeat_last_tokens > 0:
            self._enter_window(token_id)

    @property
    def is_empty(self) -> bool:
        """Whether every adjusted logit equals the model's own."""
        return self._used == 0

    def adjusted(self, logits_row: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The ids that may differ from the row, and their adjusted logits z'.

        Bias first, then the repeat penalty (a factor), then frequency and presence (subtracted), in float64.
        Raises: IndexError if an id lies outside the row.
        """
        used, params = self._used, self.params
        ids = self._ids[:used]
        z = logits_row[ids].astype(np.float64) + self._bias[:used]
        if params.repeat_penalty != 1.0:
            repeated = np.where(z <= 0.0, z * params.repeat_penalty, z / params.repeat_penalty)
            z = np.where(self._in_window[:used] > 0, repeated, z)
        if params.frequency_penalty != 0.0 or params.presence_penalty != 0.0:
            counts = self._in_output[:used]
            z = z - (counts * params.frequency_penalty + (counts > 0.0) * params.presence_penalty)
        return ids, z

    def members(self, n_vocab: int) -> NDArray[np.bool_]:
        """For each id of the vocabulary, whether `adjusted` speaks of it. Not to be written to."""
        if len(self._members) != n_vocab:
            self._members = np.zeros(n_vocab, np.bool_)
            self._members[self._ids[: self._used]] = True
        return self._members

    def _enter_window(self, token_id: int) -> None:
        self._window.append(token_id)
        slot = self._slot_of(token_id)
        self._in_window[slot] += 1
        if len(self._window) > self.params.repeat_last_tokens:
            self._in_window[self._slot[self._window.popleft()]] -= 1

    def _slot_of(self, token_id: int) -> int:
        slot = self._slot.get(token_id)
        if slot is not None:
            return slot
        if token_id < 0:
            raise IndexError(f"token id {token_id} is negative")
        slot = self._used
        if slot == len(self._ids):
            grow = len(self._ids)
            self._ids = np.concatenate([self._ids, np.zeros(grow, np.int64)])
            self._bias = np.concatenate([self._bias, np.zeros(grow, np.float64)])
            self._in_output = np.concatenate([self._in_output, np.zeros(grow, np.float64)])
            self._in_window = np.concatenate([self._in_window, np.zeros(grow, np.int64)])
        self._slot[token_id] = slot
        self._ids[slot] = token_id
        self._used = slot + 1
        if len(self._members):
            self._members[token_id] = True
        return slot
