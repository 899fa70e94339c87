"""The key file: made once, whole or not at all, for its owner's eyes; and ids that cannot be taken."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from unhosted.node.core.errors import Refused
from unhosted.node.shell.peers.identity import Identity, load_identity, new_identity, public_key, verify


def test_the_key_is_made_at_the_first_start_and_kept(tmp_path: Path) -> None:
    place = tmp_path / "config" / "identity"
    first = load_identity(place)
    assert load_identity(place) == first
    assert place.stat().st_mode & 0o777 == 0o600
    assert place.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in place.parent.iterdir()] == ["identity"], "nothing is left beside it"


def test_the_id_is_the_one_that_the_library_would_give() -> None:
    identity = new_identity()
    assert identity.peer == str(ID.from_pubkey(create_new_key_pair(identity.seed).public_key))
    assert public_key(identity.peer) == create_new_key_pair(identity.seed).public_key.to_bytes()


def test_a_signature_belongs_to_one_peer_and_one_message() -> None:
    identity, other = new_identity(), new_identity()
    signature = identity.sign(b"a message")
    assert verify(identity.peer, b"a message", signature)
    assert not verify(identity.peer, b"another", signature)
    assert not verify(other.peer, b"a message", signature)
    assert not verify(identity.peer, b"a message", b"short")


@pytest.mark.parametrize(
    "peer", ["", "12D3KooW", "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG", "0OIl", "1" * 500]
)
def test_what_is_no_peer_id_has_no_key(peer: str) -> None:
    with pytest.raises(ValueError, match=r"peer id|base58"):
        public_key(peer)


def test_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "identity"
    load_identity(place)
    place.chmod(0o640)
    with pytest.raises(Refused, match=f"chmod 600 {place}"):
        load_identity(place)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-----BEGIN UNHOSTED IDENTITY-----",
        "\x00\xff garbage",
        "-----BEGIN UNHOSTED IDENTITY-----\nAAAA\n-----END UNHOSTED IDENTITY-----\n",
    ],
    ids=["empty", "half", "garbage", "short key"],
)
def test_a_damaged_file_is_refused_and_never_replaced(tmp_path: Path, text: str) -> None:
    place = tmp_path / "identity"
    place.write_bytes(text.encode("latin-1"))
    place.chmod(0o600)
    with pytest.raises(Refused, match="holds no identity"):
        load_identity(place)
    assert place.read_bytes() == text.encode("latin-1")


def test_starts_at_the_same_time_agree_on_one_key(tmp_path: Path) -> None:
    place = tmp_path / "identity"
    with ThreadPoolExecutor(8) as pool:
        peers = {one.peer for one in pool.map(lambda _: load_identity(place), range(32))}
    assert len(peers) == 1
    assert os.listdir(tmp_path) == ["identity"]


def test_the_private_key_does_not_show() -> None:
    identity = Identity(peer="x", seed=b"\x07" * 32)
    assert "x07" not in repr(identity) and repr(identity) == "Identity(peer='x')"


@pytest.mark.slow
def test_the_id_is_known_without_the_library(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from unhosted.node.shell.peers.identity import load_identity; "
        f"load_identity(Path({str(tmp_path / 'identity')!r})); "
        "sys.exit(any(name.split('.')[0] in ('libp2p', 'multiaddr') for name in sys.modules))"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    )
