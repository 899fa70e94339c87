"""Executes the scheduler's plans on llama.cpp, and embeds texts. As thin as it can be: no decisions here."""

import time
from collections.abc import Generator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from unhosted.node.core.batching import CopyCells, Plan
from unhosted.node.core.errors import Refused
from unhosted.node.core.thread_choice import ThreadChoice
from unhosted.node.shell.engine.llama import Context, EngineError, Model

EMBEDDING_SEQUENCES_MAX = 16
"""Texts per embedding batch; more would not make a CPU faster, and each reserves state."""
EMBEDDING_TOKENS_MAX = 8192
"""An encoder's batch is one ubatch, whose buffers grow with its square in some models."""
POOLING_MEAN, POOLING_FIRST, POOLING_LAST = 1, 2, 3
"""llama.cpp's numbers. A model that names none gets the mean; the fourth, ranking, is no embedding."""


class Runner(Protocol):
    """What the engine's loop needs of an engine to generate."""

    decode_ns: int
    python_cpu_ns: int

    def execute(self, plan: Plan) -> NDArray[np.float32] | None:
        """Run one step. Gives (draws, n_vocab) logits in the order of the plan's drawing feeds, or None
        when there was no space: then nothing changed. Raises EngineError when the step failed."""
        ...

    def forget_cpu(self) -> None:
        """Do not count in `python_cpu_ns` what this thread has done since the last step."""
        ...


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
        flash_attention: bool = True,
        is_split: bool = True,
    ) -> None:
        """is_split: off makes results depend on what else is in the batch; only to measure such sellers."""
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
            # Room for a whole chunk of a prompt beside every slot's token: else a prompt takes a step more.
            batch_tokens=batch_tokens + slots,
            ubatch_tokens=ubatch_tokens,
            threads=threads,
            kv_type=kv_type,
            flash_attention=flash_attention,
            split=is_split,
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

    def forget_cpu(self) -> None:
        self._left_decode_at_cpu_ns = time.thread_time_ns()

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

    def embed(self, inputs: Sequence[Sequence[int]]) -> Generator[None, None, NDArray[np.float32]]:
        """(inputs, n_embd) vectors, L2-normalised, as the generator's value; one batch at each step.

        Raises: Refused if an input is too long, or the model scores texts instead of embedding them.
        """
        pooling = int(self.model.header("pooling_type") or 0) or POOLING_MEAN
        if pooling not in (POOLING_MEAN, POOLING_FIRST, POOLING_LAST):
            raise Refused(
                "not_supported", "this model ranks texts and gives no vectors; use an embedding model"
            )
        limit = self._embedding_tokens
        for index, tokens in enumerate(inputs):
            if not 0 < len(tokens) <= limit:
                raise Refused(
                    "context_length_exceeded",
                    f"input {index} has {len(tokens)} tokens; an embedding takes 1 to {limit}",
                    field="input",
                    details={"prompt_tokens": len(tokens), "context_tokens": limit},
                )
        context = self._embedding_context()
        vectors: list[NDArray[np.float64]] = []
        group: list[Sequence[int]] = []
        size = 0
        for tokens in inputs:
            if size + len(tokens) > limit or len(group) >= EMBEDDING_SEQUENCES_MAX:
                vectors.append((yield from _embed_group(context, group, pooling)))
                group, size = [], 0
            group.append(tokens)
            size += len(tokens)
        vectors.append((yield from _embed_group(context, group, pooling)))
        stacked = np.concatenate(vectors)
        norms = np.linalg.norm(stacked, axis=1, keepdims=True)
        return np.asarray(stacked / np.where(norms > 0, norms, 1), np.float32)

    @property
    def _embedding_tokens(self) -> int:
        return min(self.model.context_tokens_trained, EMBEDDING_TOKENS_MAX)

    def _embedding_context(self) -> Context:
        if self._embedder is None:
            tokens = self._embedding_tokens
            # An encoder must see a text at once. Others read it in pieces: llama.cpp computes the logits of
            # every row, and a row of 262,144 takes 2 MiB.
            is_encoder = self.model.header("attention.causal") == "false"
            piece = tokens if is_encoder else min(tokens, self.ubatch_tokens)
            self._embedder = Context(
                self.model,
                context_tokens=tokens,
                sequences=EMBEDDING_SEQUENCES_MAX,
                batch_tokens=piece,
                ubatch_tokens=piece,
                threads=self.threads,
                split=False,
                embeddings=True,
            )
        return self._embedder


def _embed_group(
    context: Context, group: list[Sequence[int]], pooling: int
) -> Generator[None, None, NDArray[np.float64]]:
    """(texts, n_embd) vectors of some length, of texts that fit the context together."""
    sizes = [len(tokens) for tokens in group]
    token_ids = np.concatenate([np.asarray(tokens, np.int32) for tokens in group])
    positions = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    owners = np.repeat(np.arange(len(group), dtype=np.int32), sizes)
    is_used = np.ones(len(token_ids), np.bool_)
    if pooling == POOLING_FIRST:
        is_used = positions == 0
    elif pooling == POOLING_LAST:
        is_used = positions == np.repeat(sizes, sizes) - 1
    vectors = np.zeros((len(group), context.width), np.float64)
    context.clear()
    batch = context.batch
    for start in range(0, len(token_ids), context.batch_tokens):
        piece = slice(start, start + context.batch_tokens)
        count = len(token_ids[piece])
        batch.token[:count] = token_ids[piece]
        batch.position[:count] = positions[piece]
        batch.sequence[:count] = owners[piece]
        batch.output[:count] = 1
        code = context.decode(count)
        if code != 0:
            raise EngineError(
                f"llama_decode answered {code} for a piece of {count} tokens of {len(group)} inputs"
            )
        used = is_used[piece]
        np.add.at(vectors, owners[piece][used], context.embeddings(count)[used])
        yield
    return vectors
