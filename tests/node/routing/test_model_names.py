"""Which file a name means, here and at the peers."""

import pytest

from tests.node.routing.servers import model_facts
from unhosted.node.core.errors import Refused
from unhosted.node.core.model_names import resolve_model

OURS = model_facts(name="llama3.1:8b", aliases=("llama",), blake3="aa" * 32)
THEIRS = model_facts(name="llama3.1:8b", aliases=("llama",), blake3="bb" * 32)
OTHER = model_facts(name="qwen3:4b", aliases=(), blake3="cc" * 32)


def test_this_machines_own_file_goes_first() -> None:
    found = resolve_model("llama", local=[OURS], peers=[("desktop", [THEIRS])])
    assert (found.blake3, found.is_local, found.reason) == (OURS.blake3, True, "")


def test_a_name_that_only_a_peer_knows_is_its_file() -> None:
    found = resolve_model("Qwen3:4B", local=[OURS], peers=[("desktop", [THEIRS, OTHER])])
    assert (found.name, found.blake3, found.is_local) == ("qwen3:4b", OTHER.blake3, False)


def test_of_several_files_the_one_that_most_peers_have_is_taken_and_said() -> None:
    peers = [("a", [OURS]), ("b", [THEIRS]), ("c", [THEIRS, THEIRS])]
    found = resolve_model("llama3.1:8b", local=[], peers=peers)
    assert found.blake3 == THEIRS.blake3
    assert found.reason == "peers have 2 files called llama3.1:8b; taken: b3:bbbbbbbb, which 2 of them have"
    assert resolve_model("llama", local=[], peers=peers[:2]).blake3 == OURS.blake3  # a tie: alike everywhere


def test_a_hash_is_looked_up_by_its_start() -> None:
    assert resolve_model("b3:" + "CC" * 4, local=[], peers=[("desktop", [OTHER])]).name == "qwen3:4b"
    with pytest.raises(Refused):
        resolve_model("b3:cc", local=[], peers=[("desktop", [OTHER])])


def test_a_name_that_nobody_knows_says_who_has_what() -> None:
    with pytest.raises(Refused) as caught:
        resolve_model("phi4:14b", local=[OURS], peers=[("desktop", [THEIRS, OTHER]), ("pi", [])])
    assert caught.value.code == "model_not_found"
    assert "desktop has llama3.1:8b, qwen3:4b; pi has no model" in caught.value.message
    assert "unhosted pull phi4:14b" in caught.value.message
