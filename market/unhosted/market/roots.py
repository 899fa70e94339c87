"""Roots over token ids: a commitment to all of them that can be opened for a prefix without the rest.

Checking an answer up to a token needs only the ids before it (a model is causal), so a Merkle tree over
blocks of 64 ids is enough, and a proof opens whole blocks from the front. Every block is hashed with a salt
of its own, drawn from one secret salt: an opened prefix tells nothing about the blocks that stay shut, though
prompts are easy to guess. The tree splits n leaves at the largest power of two below n, and the root binds
the count and whether the ids are a prompt or an output: one list has one root, and one root one list.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Literal

from unhosted.market.hashing import blake3_of
from unhosted.market.ids import ID_BYTES
from unhosted.market.terms import OUTPUT_TOKENS_MAX, check_size

Side = Literal["prompt", "output"]

BLOCK_IDS = 64
IDS_MAX = OUTPUT_TOKENS_MAX
SALT_BYTES = 32
TOKEN_ID_MAX = (1 << 31) - 1
SIBLINGS_MAX = 32
"""A tree over IDS_MAX has 14 levels; no proof is deeper."""

_SALT_DOMAINS: dict[Side, bytes] = {
    "prompt": b"unhosted/prompt-salt/v1",
    "output": b"unhosted/output-salt/v1",
}
_ROOT_DOMAINS: dict[Side, bytes] = {
    "prompt": b"unhosted/prompt-root/v1",
    "output": b"unhosted/output-root/v1",
}
_LEAF_DOMAIN = b"unhosted/ids-leaf/v1"
_NODE_DOMAIN = b"unhosted/ids-node/v1"
_COUNT = Struct("<Q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The first blocks of a list, opened. ids: of those blocks; salts: of each of them, 32 bytes.

    siblings: the hashes of the shut subtrees to the right, from the innermost out. count: of all ids.
    """

    side: Side
    count: int
    ids: tuple[int, ...]
    salts: tuple[bytes, ...]
    siblings: tuple[bytes, ...]


def ids_root(side: Side, ids: Sequence[int], *, salt: bytes) -> bytes:
    """32 bytes. salt: 32 secret bytes of the request, the same for both sides.

    Raises: ValueError for ids outside 0 to TOKEN_ID_MAX, more than IDS_MAX of them, or another size of salt.
    """
    leaves = _leaves(side, ids, salt)
    return _root(side, len(ids), _node(leaves, 0, len(leaves)))


class GrowingIds:
    """A list of ids that only grows, and the root of any of its prefixes for a few hashes more.

    It keeps the hashes of whole blocks and of the perfect subtrees over them, so that an answer's root at
    every 64 tokens does not cost its whole length each time.
    """

    def __init__(self, side: Side, *, salt: bytes) -> None:
        check_size("salt", salt, SALT_BYTES)
        self._side, self._salt = side, salt
        self.ids: list[int] = []
        self._levels: list[list[bytes]] = [[]]

    def __len__(self) -> int:
        return len(self.ids)

    def extend(self, ids: Sequence[int]) -> None:
        """Raises: ValueError above IDS_MAX, or for a block with an id out of range."""
        if len(self.ids) + len(ids) > IDS_MAX:
            raise ValueError(f"{len(self.ids) + len(ids)} ids, at most {IDS_MAX}")
        self.ids.extend(ids)
        for index in range(len(self._levels[0]), len(self.ids) // BLOCK_IDS):
            self._levels[0].append(self._leaf(index, (index + 1) * BLOCK_IDS))
            self._join_up()

    def root(self, count: int) -> bytes:
        """`ids_root` of the first `count` ids. Raises: ValueError unless there are so many."""
        if not 0 <= count <= len(self.ids):
            raise ValueError(f"the root of {count} ids was asked of {len(self.ids)}")
        return _root(self._side, count, self._top(0, max(1, -(-count // BLOCK_IDS)), count))

    def _join_up(self) -> None:
        """Whatever the newest leaf completed."""
        level = 0
        while len(self._levels[level]) % 2 == 0:
            if level + 1 == len(self._levels):
                self._levels.append([])
            left, right = self._levels[level][-2:]
            self._levels[level + 1].append(blake3_of(_NODE_DOMAIN, left, right))
            level += 1

    def _top(self, start: int, end: int, count: int) -> bytes:
        size = end - start
        if end * BLOCK_IDS <= count and size & (size - 1) == 0:
            level = size.bit_length() - 1
            return self._levels[level][start >> level]
        if size == 1:
            return self._leaf(start, count)
        middle = _split(start, end)
        return blake3_of(_NODE_DOMAIN, self._top(start, middle, count), self._top(middle, end, count))

    def _leaf(self, index: int, end: int) -> bytes:
        return _leaf(_block_salt(self._side, self._salt, index), self.ids[index * BLOCK_IDS : end])


def open_prefix(side: Side, ids: Sequence[int], *, salt: bytes, count: int) -> Prefix:
    """A proof of the first `count` ids, rounded up to whole blocks.

    Raises: ValueError, also for a count outside 0 to all.
    """
    if not 0 <= count <= len(ids):
        raise ValueError(f"a prefix of {count} ids was asked of {len(ids)}")
    leaves = _leaves(side, ids, salt)
    opened = max(1, -(-count // BLOCK_IDS))
    siblings: list[bytes] = []
    _shut(leaves, 0, len(leaves), opened, siblings)
    return Prefix(
        side=side,
        count=len(ids),
        ids=tuple(ids[: opened * BLOCK_IDS]),
        salts=tuple(_block_salt(side, salt, index) for index in range(opened)),
        siblings=tuple(siblings),
    )


def prefix_root(prefix: Prefix) -> bytes:
    """The root that the proof leads to: equal to the signed one, or the prefix is not of that list.

    Raises: ValueError for a proof of the wrong shape.
    """
    blocks = max(1, -(-prefix.count // BLOCK_IDS))
    opened = len(prefix.salts)
    if not 0 <= prefix.count <= IDS_MAX or not 1 <= opened <= blocks:
        raise ValueError(f"a proof of {opened} blocks out of {prefix.count} ids")
    if len(prefix.ids) != min(prefix.count, opened * BLOCK_IDS):
        raise ValueError(f"a proof of {opened} blocks with {len(prefix.ids)} ids")
    if len(prefix.siblings) > SIBLINGS_MAX:
        raise ValueError(f"{len(prefix.siblings)} siblings, at most {SIBLINGS_MAX}")
    for one in (*prefix.salts, *prefix.siblings):
        check_size("salt or sibling", one, ID_BYTES)
    leaves = [
        _leaf(prefix.salts[index], prefix.ids[index * BLOCK_IDS : (index + 1) * BLOCK_IDS])
        for index in range(opened)
    ]
    siblings = list(prefix.siblings)
    top = _rebuild(leaves, 0, blocks, siblings)
    if siblings:
        raise ValueError(f"{len(siblings)} siblings too many")
    return _root(prefix.side, prefix.count, top)


def _leaves(side: Side, ids: Sequence[int], salt: bytes) -> list[bytes]:
    check_size("salt", salt, SALT_BYTES)
    if len(ids) > IDS_MAX:
        raise ValueError(f"{len(ids)} ids, at most {IDS_MAX}")
    return [
        _leaf(_block_salt(side, salt, index), ids[index * BLOCK_IDS : (index + 1) * BLOCK_IDS])
        for index in range(max(1, -(-len(ids) // BLOCK_IDS)))
    ]


def _block_salt(side: Side, salt: bytes, index: int) -> bytes:
    return blake3_of(_SALT_DOMAINS[side], salt, _COUNT.pack(index))


def _leaf(salt: bytes, ids: Sequence[int]) -> bytes:
    if any(not 0 <= one <= TOKEN_ID_MAX for one in ids):
        raise ValueError(f"a token id is outside 0 to {TOKEN_ID_MAX}")
    return blake3_of(_LEAF_DOMAIN, salt, b"".join([one.to_bytes(4, "little") for one in ids]))


def _root(side: Side, count: int, top: bytes) -> bytes:
    return blake3_of(_ROOT_DOMAINS[side], _COUNT.pack(count), top)


def _node(leaves: list[bytes], start: int, end: int) -> bytes:
    if end - start == 1:
        return leaves[start]
    middle = _split(start, end)
    return blake3_of(_NODE_DOMAIN, _node(leaves, start, middle), _node(leaves, middle, end))


def _split(start: int, end: int) -> int:
    """Where a subtree parts: after the largest power of two of leaves that is less than all of them."""
    return start + (1 << (end - start - 1).bit_length() - 1)


def _shut(leaves: list[bytes], start: int, end: int, opened: int, siblings: list[bytes]) -> None:
    if end <= opened:
        return
    if start >= opened:
        siblings.append(_node(leaves, start, end))
        return
    middle = _split(start, end)
    _shut(leaves, start, middle, opened, siblings)
    _shut(leaves, middle, end, opened, siblings)


def _rebuild(leaves: list[bytes], start: int, end: int, siblings: list[bytes]) -> bytes:
    if start >= len(leaves):
        if not siblings:
            raise ValueError("a sibling is missing")
        return siblings.pop(0)
    if end <= len(leaves):
        return _node(leaves, start, end)
    middle = _split(start, end)
    left = _rebuild(leaves, start, middle, siblings)
    return blake3_of(_NODE_DOMAIN, left, _rebuild(leaves, middle, end, siblings))
