"""The engine's loop with a fake engine: what it says of each step, and whose trouble is whose."""

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.node.core.fake_runner import FakeRunner as FakeMemory
from unhosted.node.core.batching import Limits, Plan
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Constraint, Delta, GenerateRequest
from unhosted.node.shell.engine.check_wire import pack_check, unpack_checked
from unhosted.node.shell.engine.loop import EngineLoop
from unhosted.node.shell.engine.wire import Message, pack_request, unpack_delta
from unhosted.verify.params import SamplingParams
from unhosted.verify.scoring import as_observations

N_VOCAB = 300
END_ID = 299
BROKEN_ID = 298
"""A prompt that holds it gets logits that are not numbers."""


class FakeVocabulary:
    """One token per byte, and one that ends."""

    n_vocab = N_VOCAB
    end_ids = frozenset({END_ID})

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool = True) -> list[int]:
        return list(text.encode())

    def piece(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else b""


class FakeRunner:
    """Says the letter after the last one; checks every plan as llama.cpp's memory would."""

    def __init__(self, limits: Limits) -> None:
        self.decode_ns = self.python_cpu_ns = 0
        self.has_space = True
        self._memory = FakeMemory(limits)

    def forget_cpu(self) -> None:
        self.python_cpu_ns += 1  # a fake's way of telling that it was asked to

    def execute(self, plan: Plan) -> NDArray[np.float32] | None:
        if not self.has_space:
            self.has_space = True
            return None
        self._memory.execute(plan)
        rows = []
        for feed in plan.feeds:
            if feed.draws:
                row = np.zeros(N_VOCAB, np.float32)
                row[(feed.tokens[-1] + 1) % 256] = 9.0
                if BROKEN_ID in self._memory.slots[feed.slot]:
                    row[:] = np.nan
                rows.append(row)
        return np.array(rows, np.float32).reshape(len(rows), N_VOCAB)


class Driven:
    """A loop and all it said."""

    def __init__(self, *, slots: int = 2) -> None:
        limits = Limits(slots=slots, context_tokens=64, batch_tokens=32, queue_max=2, cells_total=64 * slots)
        self.runner = FakeRunner(limits)
        self.loop = EngineLoop(
            vocabulary=FakeVocabulary(),
            runner=self.runner,
            limits=limits,
            make_mask=_no_grammar,
            embed=_embed,
            check=self._check,
        )
        self.checks_left: list[int] = []
        self.said: list[Message] = []

    def submit(self, name: str, prompt: str | tuple[int, ...] = "a", **fields: Any) -> Message:
        settings: dict[str, Any] = {"max_tokens": 4, "sampling": SamplingParams(temperature=0.0), **fields}
        request = GenerateRequest(request_id=name, prompt=prompt, **settings)
        (answer,) = self.loop.handle(["submit", name, pack_request(request)])
        return answer

    def run(self, steps: int = 100) -> None:
        for _ in range(steps):
            for message in (
                self.loop.plan_step(),
                self.loop.run_step(),
                self.loop.run_embedding_step(),
                self.loop.run_check_step(),
            ):
                if message is not None:
                    self.said.append(message)
            if self.loop.is_idle:
                self.loop.check_integrity()
                return

    def check(self, name: str, answers: int = 1) -> None:
        """Ask for a check of answers of one token, each of which takes three steps."""
        packed = [pack_check(CheckRequest(prompt_ids=(1,), output_ids=(2,), sampling=SamplingParams()))]
        assert self.loop.handle(["check", name, 1000, packed * answers]) == []

    def _check(
        self, requests: list[CheckRequest], cells_max: int
    ) -> Generator[None, None, list[CheckedAnswer]]:
        if cells_max < 1000:
            raise Refused("context_length_exceeded", f"{cells_max} cells")
        return self._steps(len(requests))

    def _steps(self, answers: int) -> Generator[None, None, list[CheckedAnswer]]:
        try:
            for left in range(3 * answers, 0, -1):
                self.checks_left.append(left)
                yield
            return [CheckedAnswer(seen=as_observations([]), text=f"{at}") for at in range(answers)]
        finally:
            self.checks_left.append(0)

    def deltas(self, name: str) -> list[Delta]:
        unpacked = [
            unpack_delta(parts) for message in self.said if message[0] == "step" for parts in message[1]
        ]
        return [delta for request_id, delta in unpacked if request_id == name]

    def text(self, name: str) -> str:
        return "".join(delta.text for delta in self.deltas(name))


def _no_grammar(constraint: Constraint) -> Any:
    raise AssertionError("no request here has a grammar")


def _embed(inputs: list[list[int]]) -> Generator[None, None, NDArray[np.float32]]:
    for _ in inputs:
        yield
    return np.array([[float(len(one))] for one in inputs], np.float32)


def test_a_request_is_accepted_then_admitted_before_the_step_that_could_kill_the_child() -> None:
    driven = Driven()
    assert driven.submit("r") == ["accepted", "r", 1]
    driven.run()
    assert driven.said[0] == ["admitted", "", ["r"]]
    assert driven.text("r") == "bcde"
    last = driven.deltas("r")[-1]
    assert last.finish == "length" and last.usage is not None and last.usage.completion_tokens == 4


def test_a_stop_string_ends_the_answer_and_frees_the_slot() -> None:
    driven = Driven(slots=1)
    driven.submit("stops", max_tokens=40, stop=("de",))
    driven.submit("next")
    driven.run()
    assert driven.text("stops") == "bc" and driven.deltas("stops")[-1].stop_text == "de"
    assert driven.text("next") == "bcde"


def test_logits_that_are_not_numbers_end_their_own_request_only() -> None:
    driven = Driven()
    driven.submit("broken", (97, BROKEN_ID, 97))
    driven.submit("well")
    driven.run()
    failures = [failure for message in driven.said if message[0] == "step" for failure in message[2]]
    assert [(failure[1], failure[2]) for failure in failures] == [("broken", "engine_failed")]
    assert driven.text("well") == "bcde" and driven.deltas("broken") == []


def test_a_cancelled_request_says_no_more_and_the_counts_say_that_nobody_is_busy() -> None:
    driven = Driven(slots=1)
    driven.submit("gone", max_tokens=40)
    driven.run(steps=3)
    before = len(driven.deltas("gone"))
    ((kind, _, _, (busy, queued, *_)),) = driven.loop.handle(["cancel", "gone"])
    assert (kind, busy, queued) == ("step", 0, 0)
    driven.run()
    assert len(driven.deltas("gone")) == before and driven.loop.is_idle


def test_a_step_without_space_is_taken_again() -> None:
    driven = Driven()
    driven.submit("one")
    driven.submit("two")
    driven.run(steps=1)
    driven.runner.has_space = False
    driven.run()
    assert driven.text("one") == driven.text("two") == "bcde"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": (N_VOCAB,)}, "prompt"),
        ({"resume_ids": (-1,)}, "resume_ids"),
        ({"sampling": SamplingParams(logit_bias=((N_VOCAB, 1.0),))}, "logit_bias"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_a_request_that_breaks_a_rule_is_refused_by_name_and_leaves_nothing(
    fields: dict[str, Any], field: str
) -> None:
    driven = Driven()
    kind, name, code, _, named, *_ = driven.submit("bad", **fields)
    assert (kind, name, code, named) == ("refused", "bad", "invalid_request", field)
    assert driven.loop.is_idle
    driven.loop.check_integrity()


def test_an_embedding_and_an_answer_take_turns() -> None:
    driven = Driven()
    driven.submit("r")
    assert driven.loop.handle(["embed", "call", ["abc", [1, 2]]]) == []
    driven.run()
    assert ["reply", "call", [[[3.0], [2.0]], 5]] in driven.said
    assert driven.text("r") == "bcde"


def test_a_check_is_answered_when_it_is_done() -> None:
    driven = Driven()
    driven.check("call", answers=2)
    assert not driven.loop.is_idle
    driven.run()
    ((kind, name, answers),) = driven.said
    assert (kind, name) == ("reply", "call")
    assert [unpack_checked(one).text for one in answers] == ["0", "1"]
    assert driven.loop.is_idle


def test_a_check_rests_while_anybody_is_served() -> None:
    driven = Driven()
    driven.check("call")
    driven.run(1)
    assert driven.checks_left == [3]
    driven.submit("r")
    driven.loop.handle(["embed", "vectors", ["abc"]])
    driven.run(3)
    assert driven.checks_left == [3]
    driven.run()
    assert driven.deltas("r")[-1].finish == "length"
    assert driven.checks_left == [3, 2, 1, 0]
    assert driven.runner.python_cpu_ns == 3
    assert [message[1] for message in driven.said if message[0] == "reply"] == ["vectors", "call"]


def test_a_cancelled_check_gives_back_what_it_holds() -> None:
    driven = Driven()
    driven.check("call")
    driven.run(1)
    driven.loop.handle(["cancel", "call"])
    assert driven.checks_left == [3, 0] and driven.loop.is_idle


def test_a_check_that_cannot_be_made_is_refused_alone() -> None:
    driven = Driven()
    driven.check("good")
    ((kind, name, code, *_),) = driven.loop.handle(["check", "bad", 10, []])
    assert (kind, name, code) == ("refused", "bad", "context_length_exceeded")
    driven.run()
    assert driven.said[-1][:2] == ["reply", "good"]


def test_checks_are_made_one_after_the_other() -> None:
    driven = Driven()
    driven.check("first")
    driven.check("second")
    driven.run()
    assert [message[1] for message in driven.said] == ["first", "second"]
    assert driven.checks_left == [3, 2, 1, 0] * 2
