"""Roots over token ids, against a second, naive implementation, and proofs of prefixes against forgers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from unhosted.market.roots import BLOCK_IDS, TOKEN_ID_MAX, Prefix, Side, ids_root, open_prefix, prefix_root

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "market_1.json"
SALT = bytes(range(32))
IDS = st.lists(st.integers(0, TOKEN_ID_MAX), max_size=700)


def _naive_root(side: str, ids: list[int], salt: bytes) -> bytes:
    blocks = [ids[at : at + 64] for at in range(0, len(ids), 64)] or [[]]
    level = []
    for index, block in enumerate(blocks):
        block_salt = blake3(f"unhosted/{side}-salt/v1".encode() + salt + index.to_bytes(8, "little")).digest()
        words = b"".join(one.to_bytes(4, "little") for one in block)
        level.append(blake3(b"unhosted/ids-leaf/v1" + block_salt + words).digest())
    # Pairing neighbours and carrying an odd one up gives the same tree as splitting at powers of two.
    while len(level) > 1:
        pairs = [level[at : at + 2] for at in range(0, len(level), 2)]
        level = [
            blake3(b"unhosted/ids-node/v1" + pair[0] + pair[1]).digest() if len(pair) == 2 else pair[0]
            for pair in pairs
        ]
    count = len(ids).to_bytes(8, "little")
    return blake3(f"unhosted/{side}-root/v1".encode() + count + level[0]).digest()


@given(IDS, st.sampled_from(["prompt", "output"]))
@settings(max_examples=40)
def test_a_root_is_that_of_the_specification(ids: list[int], side: Side) -> None:
    assert ids_root(side, ids, salt=SALT) == _naive_root(side, ids, SALT)


def test_the_roots_are_those_of_the_vectors() -> None:
    vector = json.loads(VECTORS.read_text("utf-8"))
    salt = bytes.fromhex(vector["salt"])
    assert ids_root("prompt", range(70), salt=salt).hex() == vector["prompt_root"]
    assert ids_root("output", range(1000, 1130), salt=salt).hex() == vector["output_root"]


@given(IDS, st.data())
@settings(max_examples=40)
def test_a_prefix_opens_to_the_root_and_shows_no_more_than_its_blocks(
    ids: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(ids)))
    prefix = open_prefix("output", ids, salt=SALT, count=count)
    assert prefix_root(prefix) == ids_root("output", ids, salt=SALT)
    assert count <= len(prefix.ids) <= max(BLOCK_IDS, count + BLOCK_IDS - 1)
    assert list(prefix.ids) == ids[: len(prefix.ids)]


@given(st.integers(1, 700), st.data())
@settings(max_examples=60)
def test_a_changed_proof_does_not_open_to_the_root(count: int, data: st.DataObject) -> None:
    ids = list(range(count))
    root = ids_root("prompt", ids, salt=SALT)
    prefix = open_prefix("prompt", ids, salt=SALT, count=data.draw(st.integers(0, count)))
    position = data.draw(st.integers(0, len(prefix.ids) - 1))
    forged_ids = (*prefix.ids[:position], prefix.ids[position] + 1, *prefix.ids[position + 1 :])
    forgeries: list[Prefix] = [
        replace(prefix, ids=forged_ids),
        replace(prefix, side="output"),
        replace(prefix, count=prefix.count + 1),
        replace(prefix, ids=prefix.ids[:-1]),
        replace(prefix, salts=(*prefix.salts, bytes(32))),
        replace(prefix, siblings=(*prefix.siblings, bytes(32))),
        replace(prefix, siblings=prefix.siblings[:-1], salts=prefix.salts[:-1]),
        replace(prefix, salts=(bytes(32), *prefix.salts[1:])),
    ]
    for forged in forgeries:
        try:
            assert prefix_root(forged) != root
        except ValueError:
            continue


def test_an_opened_prefix_gives_no_salt_of_a_block_that_stays_shut() -> None:
    ids = list(range(200))
    opened = open_prefix("prompt", ids, salt=SALT, count=64)
    everything = open_prefix("prompt", ids, salt=SALT, count=200)
    assert len(opened.salts) == 1 and len(set(everything.salts)) == 4
    assert SALT not in (*opened.salts, *opened.siblings)


def test_another_salt_gives_another_root() -> None:
    assert ids_root("prompt", [1, 2], salt=SALT) != ids_root("prompt", [1, 2], salt=bytes(32))


@pytest.mark.parametrize("ids", [[-1], [TOKEN_ID_MAX + 1], [0] * 63 + [1 << 32]])
def test_an_id_that_no_vocabulary_has_is_refused(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="token id is outside"):
        ids_root("prompt", ids, salt=SALT)


def test_a_proof_with_too_many_parts_is_refused_before_it_is_hashed() -> None:
    prefix = open_prefix("prompt", list(range(100)), salt=SALT, count=1)
    with pytest.raises(ValueError, match="33 siblings, at most 32"):
        prefix_root(replace(prefix, siblings=(bytes(32),) * 33))
    with pytest.raises(ValueError, match="a proof of"):
        prefix_root(replace(prefix, count=1 << 40))
    with pytest.raises(ValueError, match="31 bytes"):
        prefix_root(replace(prefix, salts=(bytes(31),)))
