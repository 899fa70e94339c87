"""One generation that any machine with the model can answer, and go on with where another one stopped.

The prompt stays as the client gave it: whoever answers renders the chat with the model's own template, so a
machine without the model can ask. All that the output hangs on is in here, the seed and the date included:
two machines with the same file give the same tokens, within numeric noise.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from unhosted.node.core.inference import Constraint, Delta, Embeddings
from unhosted.node.core.service import Message, Tool
from unhosted.verify.params import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """Messages for the model's template. date: local ISO 8601 time, for templates that tell it."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    date: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """model: BLAKE3 of the file, hex. prompt: a chat, text, or token ids.

    resume_ids: output that was delivered already, by anyone. flow: whom it is for, in the asker's own words.
    """

    ask_id: str
    model: str
    prompt: ChatPrompt | str | tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    logprobs: int | None = None
    ignore_eos: bool = False
    use_prefix_cache: bool = True
    flow: str = ""
    resume_ids: tuple[int, ...] = ()


class Answering(Protocol):
    """Whoever can answer asks: this machine's engines, or a paired peer over its link."""

    def open_ask(self, ask: Ask) -> AbstractAsyncContextManager[AsyncIterator[Delta]]:
        """Entered once the ask is accepted; leaving cancels. The deltas end with one that has `finish`.

        Raises: Refused, on entering or in mid-stream, if the answerer says no; PeerUnreachable or
        ChannelBroken (`core.peering`) when it is gone: then the ask may go on elsewhere.
        """
        ...

    async def count_tokens(self, ask: Ask) -> int: ...

    async def embed(self, model: str, inputs: Sequence[str | tuple[int, ...]]) -> Embeddings:
        """model: BLAKE3, hex."""
        ...
