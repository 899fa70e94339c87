"""Proofs that a side knows the one-time code: MACs under the key that SPAKE2 gave, over all that was said.

Both ids are in there as the connection proved them. So somebody in the middle, who must have a key of its
own on each side, gets two keys that differ, and can pass on neither proof.
"""

import hashlib
import hmac
from collections.abc import Sequence

from unhosted.node.core.pairing_words import Handshake, Role
from unhosted.node.core.peering import PeerId

MAC_BYTES = 32
_PERSON = b"unhosted/pair/1"


def prove(handshake: Handshake, own: PeerId, sender: Role) -> bytes:
    """The joiner's first proof: the key alone."""
    return _mac(handshake, own, [sender, "proof"])


def prove_introduction(
    handshake: Handshake, own: PeerId, sender: Role, *, name: str, addresses: Sequence[str]
) -> bytes:
    """The proof that goes with a name and addresses."""
    return _mac(handshake, own, [sender, "introduction", name, *addresses])


def is_same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)


def _mac(handshake: Handshake, own: PeerId, said: Sequence[str]) -> bytes:
    assert handshake.key is not None  # asked for only once both messages are here
    if handshake.role == "join":
        ids, pake = (own, handshake.peer), (handshake.mine, handshake.theirs)
    else:
        ids, pake = (handshake.peer, own), (handshake.theirs, handshake.mine)
    fields = [*(text.encode() for text in ids), *pake, *(text.encode() for text in said)]
    # Each field with its length before it: no two lists of fields give the same bytes.
    data = b"".join(len(field).to_bytes(4) + field for field in fields)
    return hashlib.blake2b(data, key=handshake.key, person=_PERSON, digest_size=MAC_BYTES).digest()
