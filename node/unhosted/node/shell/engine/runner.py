"""Executes the scheduler's plans on llama.cpp, and embeds texts. As thin as it can be: no decisions here."""

import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.batching import CopyCells, Plan
from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.thread_choice import ThreadChoice
from unhosted.node.shell.engine.llama import Context, EngineError, Model

EMBEDDING_SEQUENCES_MAX = 16
"""Texts per embedding batch; more would not make a CPU faster, and each reserves state."""
EMBEDDING_TOKENS_MAX = 8192
"""An embedding batch is one ubatch, whose buffers grow with its square in some models."""


class Runner(Protocol):
    """What the engine's loop needs of an engine; a fake one drives the loop in tests."""

    decode_ns: int
    python_cpu_ns: int

    def execute(self, plan: Plan) -> NDArray[np.float32] | None:
        """Run one step. Gives (draws, n_vocab) logits in the order of the plan's drawing feeds, or None
        when there was no space: then nothing changed. Raises EngineError when the step failed."""
        ...

    def clear(self) -> None: ...


class LlamaRunner:
    """The one sequence per slot runner over a split KV cache."""

    def __init__(
        self,
        model: Model,
        *,
        slots: int,
        context_tokens: int,
        batch_tokens: int,
        ubatch_tokens: int,
        threads: int,
        kv_type: str,
    ) -> None:
        self.model = model
        self.threads = threads
        self.ubatch_tokens = ubatch_tokens
        self.decode_ns = 0
        self.python_cpu_ns = 0
        self._left_decode_at_cpu_ns = time.thread_time_ns()
        self._thread_choice = ThreadChoice(threads)
        self._threads_now = threads
        self._context = Context(
            model,
            context_tokens=slots * context_tokens,
            sequences=slots,
            batch_tokens=max(batch_tokens, slots),
            ubatch_tokens=ubatch_tokens,
            threads=threads,
            kv_type=kv_type,
        )
        self._embedder: Context | None = None
        if self._context.cells_per_sequence < context_tokens:
            raise EngineError(
                f"llama.cpp gives {self._context.cells_per_sequence} cells a slot, not {context_tokens}"
            )

    def execute(self, plan: Plan) -> NDArray[np.float32] | None:
        context = self._context
        for operation in plan.operations:
            if isinstance(operation, CopyCells):
                done = context.copy_cells(operation.from_slot, operation.to_slot, operation.tokens)
            else:
                done = context.keep_cells(operation.slot, operation.tokens)
            if not done:
                raise EngineError(f"the model's memory cannot do {operation}")
        batch, count, rows = context.batch, 0, 0
        for feed in plan.feeds:
            size = len(feed.tokens)
            stop = count + size
            if size == 1:
                batch.token[count] = feed.tokens[0]
                batch.position[count] = feed.start
                batch.sequence[count] = feed.slot
                batch.output[count] = feed.draws
            else:
                batch.token[count:stop] = feed.tokens
                batch.position[count:stop] = np.arange(feed.start, feed.start + size, dtype=np.int32)
                batch.sequence[count:stop] = feed.slot
                batch.output[count:stop] = 0
                batch.output[stop - 1] = feed.draws
            rows += feed.draws
            count = stop
        code = self._decode(count)
        if code == 1:
            return None
        if code != 0:
            raise EngineError(f"llama_decode answered {code} for a batch of {count} tokens")
        if rows == 0:
            return np.empty((0, self.model.n_vocab), np.float32)
        return context.logits(rows)

    def _decode(self, tokens: int) -> int:
        # Two readings of this thread's CPU clock a step: each is a system call.
        self.python_cpu_ns += time.thread_time_ns() - self._left_decode_at_cpu_ns
        started_ns = time.monotonic_ns()
        threads = self._thread_choice.choose(tokens, started_ns)
        if threads != self._threads_now:
            self._context.set_threads(threads)
            self._threads_now = threads
        code = self._context.decode(tokens)
        ended_ns = time.monotonic_ns()
        self.decode_ns += ended_ns - started_ns
        self._left_decode_at_cpu_ns = time.thread_time_ns()
        self._thread_choice.observe(tokens, threads, ended_ns - started_ns, ended_ns)
        return code

    def clear(self) -> None:
        self._context.clear()

    def embed(self, inputs: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(inputs, n_embd) vectors, L2-normalised. Raises Refused when an input is too long."""
        context = self._embedding_context()
        limit = context.batch_tokens
        for index, tokens in enumerate(inputs):
            if not 0 < len(tokens) <= limit:
                raise Refused(
                    "context_length_exceeded",
                    f"input {index} has {len(tokens)} tokens; an embedding takes 1 to {limit}",
                    field="input",
                    details={"prompt_tokens": len(tokens), "context_tokens": limit},
                )
        vectors: list[NDArray[np.float32]] = []
        group: list[Sequence[int]] = []
        size = 0
        for tokens in inputs:
            if group and (size + len(tokens) > limit or len(group) >= EMBEDDING_SEQUENCES_MAX):
                vectors += self._embed_group(context, group)
                group, size = [], 0
            group.append(tokens)
            size += len(tokens)
        if group:
            vectors += self._embed_group(context, group)
        stacked = np.stack(vectors)
        norms = np.linalg.norm(stacked, axis=1, keepdims=True)
        return np.asarray(stacked / np.where(norms > 0, norms, 1), np.float32)

    def _embedding_context(self) -> Context:
        if self._embedder is None:
            tokens = min(self.model.context_tokens_trained, EMBEDDING_TOKENS_MAX)
            self._embedder = Context(
                self.model,
                context_tokens=tokens,
                sequences=EMBEDDING_SEQUENCES_MAX,
                batch_tokens=tokens,
                ubatch_tokens=tokens,
                threads=self.threads,
                split=False,
                embeddings=True,
            )
        return self._embedder

    def _embed_group(self, context: Context, group: list[Sequence[int]]) -> list[NDArray[np.float32]]:
        L, batch, count = context.L, context.batch, 0
        ends: list[int] = []
        for index, tokens in enumerate(group):
            stop = count + len(tokens)
            batch.token[count:stop] = tokens
            batch.position[count:stop] = np.arange(len(tokens), dtype=np.int32)
            batch.sequence[count:stop] = index
            batch.output[count:stop] = 1
            ends.append(stop)
            count = stop
        context.clear()
        code = context.decode(count)
        if code != 0:
            raise EngineError(f"llama_decode answered {code} for {len(group)} inputs of {count} tokens")
        width = int(L.llama_model_n_embd(self.model.ptr))
        result: list[NDArray[np.float32]] = []
        start = 0
        for index, stop in enumerate(ends):
            if context.pooling > 0:
                pointer = L.llama_get_embeddings_seq(context.ptr, index)
                vector = np.array(np.ctypeslib.as_array(pointer, shape=(width,)), np.float32)
            else:  # the model names no pooling: the mean of its token vectors
                rows = [
                    np.ctypeslib.as_array(L.llama_get_embeddings_ith(context.ptr, i), shape=(width,))
                    for i in range(start, stop)
                ]
                vector = np.asarray(np.mean(rows, axis=0), np.float32)
            result.append(vector)
            start = stop
        if len(result) != len(group):
            raise LocalFault(f"{len(result)} vectors for {len(group)} inputs")
        return result
