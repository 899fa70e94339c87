"""Messages between the node and a model's process."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.core.engine_facts import Replay
from unhosted.node.core.inference import (
    CheckedAnswer,
    CheckRequest,
    Constraint,
    Delta,
    GenerateRequest,
    Priority,
    TokenLogprob,
    Usage,
)
from unhosted.node.shell.engine.check_wire import pack_check, pack_checked, unpack_check, unpack_checked
from unhosted.node.shell.engine.child import _serve
from unhosted.node.shell.engine.wire import (
    MESSAGE_BYTES_MAX,
    Decoder,
    Message,
    WireError,
    encode,
    pack_delta,
    pack_request,
    unpack_delta,
    unpack_request,
)
from unhosted.verify.observations import Observations
from unhosted.verify.params import SamplingParams

REQUEST = GenerateRequest(
    request_id="r",
    prompt=(1, 2, 3),
    add_special=True,
    max_tokens=5,
    sampling=SamplingParams(temperature=0.5, logit_bias=((3, -1.0),), seed=bytes(range(32))),
    stop=("a", "b"),
    constraint=Constraint(kind="json_schema", source="{}", trigger="<t>"),
    logprobs=3,
    ignore_eos=True,
    use_prefix_cache=False,
    priority=Priority.CHECK,
    flow="somebody",
    resume_ids=(7, 8),
)
DELTA = Delta(
    token_ids=(4,),
    text="é",
    logprobs=(TokenLogprob(4, b"\xc3", -0.5, (TokenLogprob(4, b"\xc3", -0.5),)),),
    finish="stop",
    stop_text="x",
    usage=Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2),
)


@given(cut=st.integers(0, 10_000), again=st.integers(0, 10_000))
def test_messages_arrive_whole_however_their_bytes_are_cut(cut: int, again: int) -> None:
    data = encode(["submit", "r", pack_request(REQUEST)]) + encode(["step", [pack_delta("r", DELTA)]])
    first, second = sorted((cut % len(data), again % len(data)))
    decoder = Decoder()
    messages = [m for part in (data[:first], data[first:second], data[second:]) for m in decoder.feed(part)]
    assert unpack_request("r", messages[0][2]) == REQUEST
    assert unpack_delta(messages[1][1][0]) == ("r", DELTA)
    assert len(messages) == 2


@given(junk=st.binary(min_size=1, max_size=64))
def test_junk_is_an_error_of_its_own_or_a_message(junk: bytes) -> None:
    try:
        (message,) = Decoder().feed(struct.pack("<I", len(junk)) + junk)
    except WireError:
        return
    assert isinstance(message, list) and len(message) >= 2


def test_a_length_above_the_bound_is_refused_before_it_is_awaited() -> None:
    with pytest.raises(WireError, match=str(MESSAGE_BYTES_MAX)):
        Decoder().feed(struct.pack("<I", MESSAGE_BYTES_MAX + 1))


@given(cut=st.integers(1, 100))
def test_checks_and_what_came_of_them_cross_unchanged(cut: int) -> None:
    request = CheckRequest(
        prompt_ids=(1, 2),
        output_ids=tuple(range(cut)),
        sampling=REQUEST.sampling,
        constraint=REQUEST.constraint,
        ignore_eos=True,
        replay=Replay(ubatch_tokens=63, output_piece_tokens=cut, kv_type="f16/q8_0", flash_attention=False),
    )
    seen = Observations(
        gap_mlogit=(5,) * cut,
        margin_mlogit=tuple(range(cut)),
        is_match=(True, *(False,) * (cut - 1)),
        logprob_mnat=(-7,) * cut,
        rank=tuple(range(cut)),
    )
    answer = CheckedAnswer(
        seen=seen, text="é", end_positions=(cut,), out_of_range=None, drawn_ids=tuple(range(cut))
    )
    messages = Decoder().feed(encode(["check", "c", pack_check(request), pack_checked(answer)]))
    assert unpack_check(messages[0][2]) == request
    assert unpack_checked(messages[0][3]) == answer


class TalkingLoop:
    """Has one thing to say of a step, and looks in its check's step whether that has been said."""

    is_idle = True

    def __init__(self, node: socket.socket) -> None:
        self.node = node
        self.heard = b""

    def plan_step(self) -> Message | None:
        return None

    def run_step(self) -> Message | None:
        return ["step", "the last token"]

    def run_embedding_step(self) -> Message | None:
        return None

    def run_check_step(self) -> Message | None:
        self.heard = self.node.recv(1000)
        return None

    def check_integrity(self) -> None:
        self.node.close()  # which ends the process's loop


def test_a_user_has_the_last_token_before_a_check_goes_on() -> None:
    node, ours = socket.socketpair()
    node.setblocking(False)
    loop = TalkingLoop(node)
    with ours:
        _serve(ours, Decoder(), loop, [])
    assert loop.heard == encode(["step", "the last token"])
