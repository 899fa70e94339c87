"""The sampler `gumbel-v1`: every draw is a pure function of (logits, parameters, key, position, history).

The noise of a token depends on the request's key, the output position and the token's own id, on nothing
else: not on the order of the vocabulary, on which other tokens survive the filters, or on earlier draws.
So anyone with the key can compute it again, a broken stream goes on elsewhere with the same noise, and a
candidate that numeric noise pushes over a filter's edge shifts nobody else's. docs/sampler.md specifies
it for other implementations; tests/vectors/gumbel_v1.json holds values to compare with.

Not handled: mirostat, XTC, typical-p, DRY. They are stateful or not keyed per token.
"""

import struct
from hashlib import blake2b
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unhosted.verify.history import History
from unhosted.verify.params import SEED_BYTES, TOP_K_MAX, SamplingParams

Ids = NDArray[np.int64]
Scores = NDArray[np.float64]

CORE_HASH_BYTES = 32
_PERSON = b"p2p/gumbel-v1"
_X_BYTES = 8

MASK_WIDTHS = (512, 8192)
"""How many of the best candidates a grammar is asked about before it is asked about all: the check costs
about 0.6 us per id, and one of the best 512 is nearly always allowed."""

_TABLE_ROWS_MAX = 64
"""Taller tables leave fewer columns to sort out, but each that reaches the edge costs more to look into."""


class SamplerError(ValueError):
    """A draw is not defined: the logits are not finite, or an id lies outside the vocabulary."""


class DeadEnd(SamplerError):
    """The grammar allows no token at all here."""


class TokenMask(Protocol):
    """What a grammar allows next; a pure function of the tokens accepted so far."""

    def allows(self, token_id: int) -> bool: ...

    def mask_ids(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        """For each id, whether it is allowed. Shape as `ids`."""
        ...


def request_key(core_hash: bytes, seed: bytes) -> bytes:
    """The key K of a request: 32 bytes from its core hash (32 zero bytes in the local ring) and its seed."""
    if len(core_hash) != CORE_HASH_BYTES or len(seed) != SEED_BYTES:
        raise SamplerError(f"core hash of {len(core_hash)} and seed of {len(seed)} bytes: both must be 32")
    return blake2b(core_hash + seed, digest_size=32, person=_PERSON).digest()


def uniform(key: bytes, position: int, ids: Ids) -> Scores:
    """u(t, i): one number strictly between 0 and 1 for each id at this output position."""
    start = blake2b(struct.pack("<I", position), key=key, digest_size=_X_BYTES)
    digests = []
    for four_bytes in ids.astype("<u4").view("V4").tolist():
        hasher = start.copy()
        hasher.update(four_bytes)
        digests.append(hasher.digest())
    x = np.frombuffer(b"".join(digests), "<u8")
    # 52 bits and a half: 53 would round the greatest value up to 1.0, whose Gumbel is infinite.
    return ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def gumbel(key: bytes, position: int, ids: Ids) -> Scores:
    """g(t, i) = -ln(-ln u): standard Gumbel noise."""
    noise: Scores = -np.log(-np.log(uniform(key, position, ids)))
    return noise


def ranked(logits_row: NDArray[np.float32], history: History, count: int) -> tuple[Ids, Scores]:
    """The `count` best ids by adjusted logit z', best first and lowest id first among equals, with their z'.

    The row is only read. Ids at minus infinity are never among them.
    Raises: SamplerError if the row has no finite maximum.
    """
    peak = float(logits_row.max())
    if not np.isfinite(peak):
        raise SamplerError(f"the greatest logit is {peak}: the model's output is not usable")
    own_ids, own_z = _adjusted(logits_row, history)
    n_vocab = logits_row.shape[0]
    # So many more that enough remain when the adjusted ids, which may have fallen, are taken out.
    wanted = count + len(own_ids)
    ids: Ids = np.arange(n_vocab) if wanted >= n_vocab else _at_least(logits_row, wanted)
    if own_ids.size:
        ids = ids[~history.members(n_vocab)[ids]]
    z = logits_row[ids].astype(np.float64)
    if own_ids.size:
        ids, z = np.concatenate([ids, own_ids]), np.concatenate([z, own_z])
    possible = z > -np.inf
    if not possible.all():
        ids, z = ids[possible], z[possible]
    return _largest(ids, z, count)


def survivors(ids: Ids, z: Scores, params: SamplingParams) -> tuple[Ids, Scores]:
    """What top_k, then top_p, then min_p leave of candidates that are sorted best first."""
    keep, _ = surviving(z, params)
    return ids[:keep], z[:keep]


def surviving(z: Scores, params: SamplingParams) -> tuple[int, Scores]:
    """How many of the candidates survive, which are sorted best first: the first so many, at least one.

    Also the mass of the first, the first two, … of what top_k leaves, as multiples of the best one's
    probability; empty if no filter asks for it.
    """
    keep = min(top_k(params), len(z))
    if params.top_p >= 1.0 and params.min_p <= 0.0:
        return keep, _NO_SCORES
    p = np.exp(z[:keep] - z[0])
    mass: Scores = np.cumsum(p)
    if params.top_p < 1.0:
        keep = int(mass.searchsorted(params.top_p * mass[-1])) + 1
    if params.min_p > 0.0:
        # p falls along the list and p[0] is 1, so what passes is a prefix, and never empty.
        keep = min(keep, int(np.count_nonzero(p >= params.min_p)))
    return keep, mass


def top_k(params: SamplingParams) -> int:
    """The cap on survivors that this request means."""
    return min(params.top_k, TOP_K_MAX) if params.top_k > 0 else TOP_K_MAX


def winner(ids: Ids, scores: Scores) -> int:
    """The id with the greatest score, the lowest one among equals."""
    best = int(scores.argmax())
    is_best = scores == scores[best]
    return int(ids[best]) if np.count_nonzero(is_best) == 1 else int(ids[is_best].min())


def allowed_best(logits_row: NDArray[np.float32], history: History, mask: TokenMask) -> tuple[Ids, Scores]:
    """What a redraw is made of: the allowed part of the best 512, of the best 8192, of all, whichever is
    first not empty; best first, with their z'.

    Raises: DeadEnd if nothing is allowed; SamplerError if the logits are not usable.
    """
    n_vocab = logits_row.shape[0]
    for width in (*(width for width in MASK_WIDTHS if width < n_vocab), n_vocab):
        ids, z = ranked(logits_row, history, width)
        allowed = mask.mask_ids(ids.astype(np.int32))
        if allowed.any():
            return ids[allowed], z[allowed]
    raise DeadEnd(f"the grammar allows none of {n_vocab} tokens")


class Sampler:
    """Draws the tokens of one sequence. It has no state: any position can be drawn at any time."""

    __slots__ = ("_key", "params")

    def __init__(self, params: SamplingParams, key: bytes) -> None:
        self.params = params
        self._key = key

    def draw(
        self,
        logits_row: NDArray[np.float32],
        position: int,
        history: History,
        mask: TokenMask | None = None,
    ) -> int:
        """The token at output `position` (counted from 0, on over a resume).

        logits_row: shape (n_vocab,), only read. With a mask: the free draw if it is allowed, else a draw
        among `allowed_best`.
        Raises: DeadEnd if nothing is allowed; SamplerError if the logits are not usable.
        """
        token_id = self._draw_free(logits_row, position, history)
        if mask is None or mask.allows(token_id):
            return token_id
        return self._pick(*allowed_best(logits_row, history, mask), position)

    def _draw_free(self, logits_row: NDArray[np.float32], position: int, history: History) -> int:
        if self.params.temperature == 0.0:
            if history.is_empty:
                best = int(logits_row.argmax())
                if np.isfinite(logits_row[best]):
                    return best
            return int(ranked(logits_row, history, 1)[0][0])
        return self._pick(*ranked(logits_row, history, top_k(self.params)), position)

    def _pick(self, ids: Ids, z: Scores, position: int) -> int:
        if self.params.temperature == 0.0:
            return int(ids[0])
        ids, z = survivors(ids, z, self.params)
        if len(ids) == 1:
            return int(ids[0])
        return winner(ids, z + self.params.temperature * gumbel(self._key, position, ids))


def logprobs(
    logits_row: NDArray[np.float32], token_id: int, top_n: int
) -> tuple[float, list[tuple[int, float]]]:
    """Natural-log probability of a token and of the `top_n` likeliest, by the model's own softmax.

    At temperature 1, before bias, penalties, grammar and filters. The exponentials are float32 and their
    sum is float64: good to about 1e-6.
    """
    peak = logits_row.max()
    powers = logits_row - peak
    np.exp(powers, out=powers)
    total = float(peak) + float(np.log(powers.sum(dtype=np.float64)))
    if not np.isfinite(total):
        raise SamplerError("the logits have no finite sum: the model's output is not usable")
    own = float(logits_row[token_id]) - total
    if top_n <= 0:
        return own, []
    ids, z = ranked(logits_row, _NO_HISTORY, top_n)
    return own, [(int(i), float(value) - total) for i, value in zip(ids, z, strict=True)]


_NO_HISTORY = History(SamplingParams())
_NO_IDS: Ids = np.zeros(0, np.int64)
_NO_SCORES: Scores = np.zeros(0, np.float64)


def _adjusted(logits_row: NDArray[np.float32], history: History) -> tuple[Ids, Scores]:
    if history.is_empty:
        return _NO_IDS, _NO_SCORES
    try:
        ids, z = history.adjusted(logits_row)
    except IndexError as outside:
        raise SamplerError(f"a biased or seen id is outside the vocabulary: {outside}") from outside
    return ids, z


def _at_least(logits_row: NDArray[np.float32], count: int) -> Ids:
    """Ids that hold the `count` greatest of the row and all their equals, and few others.

    The row is read as a table of which each column's greatest value is taken. If `count` columns reach a
    value, so do at least `count` logits: the count-th greatest column is a safe edge, found among far
    fewer numbers, and only the columns that reach it are looked into (35 us at 49,152 ids).
    """
    n_vocab = logits_row.shape[0]
    rows = min(_TABLE_ROWS_MAX, n_vocab // (4 * count))
    if rows < 2:
        edge = np.partition(logits_row, n_vocab - count)[n_vocab - count]
        return np.flatnonzero(logits_row >= edge)
    columns = n_vocab // rows
    table = logits_row[: rows * columns].reshape(rows, columns)
    greatest = table.max(axis=0)
    edge = np.partition(greatest, columns - count)[columns - count]
    reaching = np.flatnonzero(greatest >= edge)
    row_index, column_index = np.nonzero(table[:, reaching] >= edge)
    ids: Ids = row_index * columns + reaching[column_index]
    rest = logits_row[rows * columns :]
    if rest.size and (rest >= edge).any():
        ids = np.concatenate([ids, np.flatnonzero(rest >= edge) + rows * columns])
    return ids


def _largest(ids: Ids, z: Scores, count: int) -> tuple[Ids, Scores]:
    if len(ids) > count:
        # Everything equal to the last one stays until the ids have decided among equals.
        edge = np.partition(z, len(z) - count)[len(z) - count]
        best = z >= edge
        ids, z = ids[best], z[best]
    order = np.lexsort((ids, -z))[:count]
    return ids[order], z[order]
