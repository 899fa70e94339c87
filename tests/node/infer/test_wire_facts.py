"""What a peer says of its models: what nobody could use is refused, what nobody could read is mended."""

from dataclasses import replace

import pytest

from tests.node.infer.fake_engine import FACTS
from unhosted.market.cbor import encode
from unhosted.node.core.peering import PeerFacts
from unhosted.node.shell.trusted import wire_replies
from unhosted.node.shell.trusted.wire_fields import WireError


@pytest.mark.parametrize("blake3", ["", "zz", "A" * 64, "a" * 63])
def test_a_model_without_a_hash_is_none(blake3: str) -> None:
    with pytest.raises(WireError, match="blake3"):
        wire_replies.decode_reply(encode({"k": "facts", "models": [{"name": "llama", "blake3": blake3}]}))


def test_names_that_no_peer_could_read_are_cut_and_mended() -> None:
    model = replace(FACTS.models[0], name="half \udc80", aliases=("x" * 1000,))
    facts = wire_replies.decode_reply(wire_replies.encode_facts(replace(FACTS, models=(model,))))
    assert isinstance(facts, PeerFacts)
    assert (facts.models[0].name, facts.models[0].aliases) == ("half ?", ("x" * 256,))
