"""The words of one inference: what is asked of an engine and what comes back, as frozen values.

Token ids are the truth; text is what they spell. `Delta` is what one engine step gives one request.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, Protocol

from unhosted.node.core.engine_facts import EngineFacts, Replay
from unhosted.verify.observations import Observations
from unhosted.verify.params import SamplingParams

FinishReason = Literal["stop", "length", "cancelled"]


class Priority(IntEnum):
    """Who is served first when slots are short; a lower one is preempted by a higher one."""

    OWN = 0
    TRUSTED = 1
    PAID = 2
    CHECK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A rule on the output, enforced as a mask that is a pure function of the tokens so far.

    kind: `json_schema` (source is a JSON schema), `json_object` (source is empty), `gbnf` (source is a
    llama.cpp grammar with a rule named root). trigger: when set, everything is allowed until the text
    contains it, and the grammar starts at it (tool calls that the model may or may not make).
    """

    kind: Literal["json_schema", "json_object", "gbnf"]
    source: str = ""
    trigger: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One sequence to generate. `prompt` is text to tokenize, or token ids as they are.

    resume_ids: output already delivered by another run of the same request; the engine goes on after
    them, with the sampler's positions counted on, and delivers only what follows. logprobs: None for none,
    else how many alternatives per token (0 to 20). max_tokens: None means to the end of the context.
    flow: whom the request is for; flows share the engine fairly.
    """

    request_id: str
    prompt: str | tuple[int, ...]
    add_special: bool = False
    max_tokens: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    use_prefix_cache: bool = True
    priority: Priority = Priority.OWN
    flow: str = ""
    resume_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural-log probability of `token_id` under the model's softmax at temperature 1, before filters.

    text: the token's own bytes. top: the most likely alternatives, best first.
    """

    token_id: int
    text: bytes
    logprob: float
    top: tuple["TokenLogprob", ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one sequence; cached_tokens is the part of the prompt found in the prefix cache."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """What one step gave one request. Text may lag behind ids (half a character, half a stop string).

    finish is set on the last delta, and only there; usage likewise.
    """

    token_ids: tuple[int, ...] = ()
    text: str = ""
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | None = None
    stop_text: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """vectors: one per input, L2-normalised, in input order."""

    vectors: tuple[tuple[float, ...], ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """An engine child as `ps` shows it."""

    model: str
    pid: int
    state: Literal["loading", "ready", "restarting"]
    slots: int
    slots_busy: int
    context_tokens: int
    queued: int
    bytes_estimated: int
    restarts: int
    idle_s: float
    sandbox: str
    library: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckRequest:
    """An answer to read again, all at once, to see whether this model draws these tokens.

    output_ids: from the first one on, whole or a prefix. ignore_eos, constraint, sampling: as the answer was
    asked for. replay: how to read it; the exact class needs the seller's own shape.
    """

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]
    sampling: SamplingParams
    constraint: Constraint | None = None
    ignore_eos: bool = False
    replay: Replay = field(default_factory=Replay)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedAnswer:
    """seen: one entry per id of the request. text: what the ids spell, control tokens left out.

    end_positions: where an id stands that ends a generation. out_of_range: the first position with an id
    outside the vocabulary, and then nothing was scored; None is usual. drawn_ids: what this engine draws
    itself at each place, after the claimed ids before it; for people, no verdict reads it.
    """

    seen: Observations
    text: str
    end_positions: tuple[int, ...] = ()
    out_of_range: int | None = None
    drawn_ids: tuple[int, ...] = ()


class Engines(Protocol):
    """The engines of this machine: models are loaded on first use and unloaded when idle."""

    def open_stream(
        self, model: str, request: GenerateRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        """Generate. Leaving the context cancels: the slot is free within one step.

        Raises: Refused (model_not_found, model_too_large, context_length_exceeded, overloaded,
        invalid_request, engine_failed), on entering the context: once it is entered, the request is
        accepted, its prompt counted and its place in the queue taken.
        """
        ...

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings: ...

    async def tokenize(self, model: str, text: str, *, add_special: bool = False) -> tuple[int, ...]: ...

    def loaded(self) -> tuple[LoadedModel, ...]: ...

    async def load(self, model: str) -> LoadedModel: ...

    async def unload(self, model: str) -> bool: ...

    async def check(self, model: str, requests: Sequence[CheckRequest]) -> tuple[CheckedAnswer, ...]:
        """Read answers again, several together, when the engine has nothing else to do.

        A request of a user that comes meanwhile goes first. Raises: Refused, as `open_stream`.
        """
        ...

    async def facts(self, model: str) -> EngineFacts:
        """What decides how this engine rounds; loads the model if it must. Raises: Refused."""
        ...
