"""The engine's loop in a model's process: messages in, one step at a time, one message out per step.

It joins the pure scheduler, the runner and the sequences; the process around it (`child.py`) only moves
bytes.

Messages in: submit [id, request], cancel [id or call], tokenize [call, text, add_special],
embed [call, inputs], check [call, cells_max, answers].
Messages out: accepted [id, prompt tokens], refused [id, code, message, field, retry_after_s, details],
admitted [ids], step [[delta…], [refused…], [slots busy, queued, counters…]], reply [call, value].
"""

import time
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.batching import Drawn, Job, Limits, Plan
from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import CheckedAnswer, CheckRequest, Constraint, Delta, GenerateRequest
from unhosted.node.core.scheduler import Scheduler
from unhosted.node.shell.engine.check_wire import pack_checked, unpack_check
from unhosted.node.shell.engine.runner import Runner
from unhosted.node.shell.engine.sequence import AcceptingMask, Sequence, Vocabulary
from unhosted.node.shell.engine.wire import Message, pack_delta, unpack_request
from unhosted.verify.sampler import DeadEnd, SamplerError

MaskMaker = Callable[[Constraint], AcceptingMask]
EmbeddingSteps = Generator[None, None, NDArray[np.float32]]
"""One batch through the model at each step; the vectors, (inputs, n_embd), are its value at the end."""
Embedder = Callable[[list[list[int]]], EmbeddingSteps]
CheckSteps = Generator[None, None, list[CheckedAnswer]]
"""A short piece of work at each step; the answers are its value at the end."""
AnswerChecker = Callable[[list[CheckRequest], int], CheckSteps]


class EngineLoop:
    """Owns the scheduler and the running sequences of one model."""

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        runner: Runner,
        limits: Limits,
        make_mask: MaskMaker,
        embed: Embedder,
        check: AnswerChecker,
    ) -> None:
        self._vocabulary = vocabulary
        self._runner = runner
        self._scheduler = Scheduler(limits)
        self._make_mask = make_mask
        self._embed = embed
        self._check = check
        self._sequences: dict[str, Sequence] = {}
        self._embeddings: dict[str, tuple[int, EmbeddingSteps]] = {}  # one a call; the node bounds its calls
        self._checks: dict[str, CheckSteps] = {}  # likewise
        self._plan: Plan | None = None
        self._steps = 0
        self._tokens_in = 0
        self._tokens_out = 0
        self._process_cpu_ns = 0

    @property
    def is_idle(self) -> bool:
        return self._scheduler.is_idle and not self._embeddings and not self._checks

    def check_integrity(self) -> None:
        """To be called when idle: a leak shows here, not after a week."""
        self._scheduler.check_integrity()
        if self._sequences:
            raise RuntimeError(f"idle with {len(self._sequences)} sequences left")

    def handle(self, message: Message) -> list[Message]:
        """Take one message; gives the answers to send."""
        kind, request_id, *parts = message
        try:
            match kind:
                case "submit":
                    return [["accepted", request_id, self._submit(request_id, parts[0])]]
                case "cancel":
                    self._cancel(request_id)
                    self._embeddings.pop(request_id, None)
                    if (check := self._checks.pop(request_id, None)) is not None:
                        check.close()
                    return [["step", [], [], self._state()]]  # else the last one would look busy for ever
                case "tokenize":
                    return [["reply", request_id, self._vocabulary.tokenize(parts[0], add_special=parts[1])]]
                case "embed":
                    self._start_embedding(request_id, parts[0])
                    return []
                case "check":
                    cells_max, answers = parts
                    self._checks[request_id] = self._check([unpack_check(one) for one in answers], cells_max)
                    return []
                case _:
                    raise RuntimeError(f"unknown message {kind!r}")
        except Refused as refusal:
            return [refusal_message(request_id, refusal)]

    def plan_step(self) -> Message | None:
        """Decide the next batch. Gives which requests it takes in, to be said before it runs: if the process
        dies in it, the node knows whom that may be due to."""
        self._plan = self._scheduler.plan()
        if self._plan is None or not self._plan.admitted:
            return None
        return ["admitted", "", list(self._plan.admitted)]

    def run_step(self) -> Message | None:
        """The planned batch through the model, and what came of it; None when there is nothing to say."""
        plan = self._plan
        if plan is None:
            return None
        logits = self._runner.execute(plan)
        if logits is None:
            self._scheduler.no_space()
            return None
        self._steps += 1
        self._tokens_in += plan.tokens
        drawn, deltas, failures = self._draw(plan, logits)
        finished = self._scheduler.apply(drawn)
        if finished:
            self._process_cpu_ns = time.process_time_ns()
        for job_id, reason in finished.items():
            sequence = self._sequences.pop(job_id)
            deltas[job_id] = sequence.finish(deltas[job_id], reason)
            sequence.close()
        self._tokens_out += len(drawn)
        if not deltas and not failures:
            return None
        return [
            "step",
            [pack_delta(job_id, delta) for job_id, delta in deltas.items()],
            failures,
            self._state(),
        ]

    def run_embedding_step(self) -> Message | None:
        """One batch for the embedding that came first, between two steps of those who generate: thousands of
        texts take minutes, and neither may wait for the other that long."""
        if not self._embeddings:
            return None
        call_id, (tokens, steps) = next(iter(self._embeddings.items()))
        try:
            next(steps)
        except StopIteration as done:
            answer = ["reply", call_id, [[vector.tolist() for vector in done.value], tokens]]
        except Refused as refusal:
            answer = refusal_message(call_id, refusal)
        else:
            return None
        del self._embeddings[call_id]
        return answer

    def run_check_step(self) -> Message | None:
        """A little of the check that came first, if nobody else wants the engine. The process looks for
        messages after it, and whoever has come then goes first."""
        if not self._checks or self._embeddings or not self._scheduler.is_idle:
            return None
        call_id, steps = next(iter(self._checks.items()))
        try:
            next(steps)
            self._runner.forget_cpu()
        except StopIteration as done:
            answer = ["reply", call_id, [pack_checked(one) for one in done.value]]
        except Refused as refusal:
            answer = refusal_message(call_id, refusal)
        else:
            return None
        del self._checks[call_id]
        return answer

    def _draw(
        self, plan: Plan, logits: NDArray[np.float32]
    ) -> tuple[list[Drawn], dict[str, Delta], list[Message]]:
        drawn: list[Drawn] = []
        deltas: dict[str, Delta] = {}
        failures: list[Message] = []
        row = 0
        for feed in plan.feeds:
            if not feed.draws:
                continue
            sequence = self._sequences[feed.job_id]
            try:
                token_id, ended, delta = sequence.draw(logits[row])
            except SamplerError as fault:  # this request alone ends
                refusal = _no_token(fault)
                failures.append(refusal_message(feed.job_id, refusal))
                self._cancel(feed.job_id)
            else:
                drawn.append(Drawn(feed.job_id, token_id, ended))
                deltas[feed.job_id] = delta
            row += 1
        return drawn, deltas, failures

    def _submit(self, request_id: str, parts: list[Any]) -> int:
        request = unpack_request(request_id, parts)
        prompt = self._prompt_ids(request)
        self._check_ids("resume_ids", request.resume_ids)
        self._check_ids("logit_bias", [token_id for token_id, _ in request.sampling.logit_bias])
        job = Job(
            job_id=request_id,
            prompt=prompt,
            max_tokens=self._scheduler.limits.context_tokens
            if request.max_tokens is None
            else request.max_tokens,
            priority=int(request.priority),
            flow=request.flow,
            use_prefix_cache=request.use_prefix_cache,
            output=list(request.resume_ids),
        )
        constraint = request.constraint
        sequence = Sequence(
            request,
            job,
            self._vocabulary,
            lambda: None if constraint is None else self._make_mask(constraint),
        )
        try:
            self._scheduler.submit(job)
        except Refused:
            sequence.close()
            raise
        self._sequences[request_id] = sequence
        return len(prompt)

    def _prompt_ids(self, request: GenerateRequest) -> tuple[int, ...]:
        if isinstance(request.prompt, str):
            return tuple(self._vocabulary.tokenize(request.prompt, add_special=request.add_special))
        self._check_ids("prompt", request.prompt)
        return request.prompt

    def _check_ids(self, field: str, ids: "tuple[int, ...] | list[int]") -> None:
        for token_id in ids:
            if not 0 <= token_id < self._vocabulary.n_vocab:
                raise Refused(
                    "invalid_request",
                    f"token id {token_id} is outside this model's vocabulary, "
                    f"0 to {self._vocabulary.n_vocab - 1}",
                    field=field,
                )

    def _start_embedding(self, call_id: str, inputs: list[Any]) -> None:
        ids: list[list[int]] = []
        for one in inputs:
            if isinstance(one, str):
                ids.append(self._vocabulary.tokenize(one, add_special=True, parse_special=False))
            else:
                self._check_ids("input", one)
                ids.append(list(one))
        self._embeddings[call_id] = sum(len(one) for one in ids), self._embed(ids)

    def _cancel(self, request_id: str) -> None:
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            sequence.close()
            self._scheduler.cancel(request_id)

    def _state(self) -> list[int]:
        """Slots busy and requests queued, then `counters.COUNTERS`."""
        return [
            self._scheduler.slots_busy,
            self._scheduler.queued,
            self._steps,
            self._tokens_in,
            self._tokens_out,
            self._runner.decode_ns,
            self._runner.python_cpu_ns,
            self._process_cpu_ns,
        ]


def _no_token(fault: SamplerError) -> Refused:
    if isinstance(fault, DeadEnd):
        return Refused(
            "invalid_request",
            f"no token could be drawn: {fault}; let the grammar end there, or go on",
            field="grammar",
        )
    return Refused("engine_failed", f"no token could be drawn: {fault}; the model's file may be damaged")


def refusal_message(request_id: str, refusal: Refused) -> Message:
    return [
        "refused",
        request_id,
        refusal.code,
        refusal.message,
        refusal.field,
        refusal.retry_after_s,
        dict(refusal.details),
    ]
