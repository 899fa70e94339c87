"""An answer gathered from its deltas, and the pieces of JSON that several dialects share."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from unhosted.node.core.inference import TokenLogprob, Usage
from unhosted.node.core.service import AnswerDelta, ToolCall

LOGPROB_LEAST = -9999.0


@dataclass(slots=True)
class _OpenCall:
    call_id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Choice:
    """What one sample has said so far. Mutable: it belongs to the one request that fills it."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: str | None = None
    stop_text: str | None = None
    usage: Usage | None = None
    _calls: dict[int, _OpenCall] = field(default_factory=dict)

    def add(self, delta: AnswerDelta) -> None:
        if delta.text:
            self.texts.append(delta.text)
        self.logprobs.extend(delta.logprobs)
        for part in delta.tool_calls:
            call = self._calls.setdefault(part.index, _OpenCall())
            call.call_id = part.call_id or call.call_id
            call.name = part.name or call.name
            call.arguments.append(part.arguments)
        if delta.finish is not None:
            self.finish, self.stop_text, self.usage = delta.finish, delta.stop_text, delta.usage

    @property
    def text(self) -> str:
        return "".join(self.texts)

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [
            ToolCall(call_id=call.call_id, name=call.name, arguments="".join(call.arguments))
            for _, call in sorted(self._calls.items())
        ]


def total_usage(usages: Sequence[Sequence[Usage | None]]) -> Usage:
    """The sum over prompts (outer) and their samples (inner), which share one prompt each."""
    prompt = cached = completion = 0
    for samples in usages:
        known = [usage for usage in samples if usage is not None]
        prompt += max((usage.prompt_tokens for usage in known), default=0)
        # The first sample pays for the prefill; the others find it in the cache, which is no saving to show.
        cached += min((usage.cached_tokens for usage in known), default=0)
        completion += sum(usage.completion_tokens for usage in known)
    return Usage(prompt_tokens=prompt, cached_tokens=cached, completion_tokens=completion)


def openai_usage(usage: Usage) -> dict[str, object]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def token_logprobs(logprobs: Sequence[TokenLogprob]) -> list[dict[str, object]]:
    """Chat's and Responses' `logprobs.content`: bytes are exact, text is lossy for half a character."""
    return [{**_token(one), "top_logprobs": [_token(other) for other in one.top]} for one in logprobs]


def _token(one: TokenLogprob) -> dict[str, object]:
    return {"token": token_text(one), "logprob": finite(one.logprob), "bytes": list(one.text)}


def finite(logprob: float) -> float:
    """JSON has no infinity: a masked token's logprob is shown as OpenAI shows the very unlikely."""
    return max(logprob, LOGPROB_LEAST)


def token_text(one: TokenLogprob) -> str:
    return one.text.decode("utf-8", "replace")


def event(value: object, name: str | None = None) -> bytes:
    """One server-sent event. ASCII escapes keep any text, half surrogates too, valid on the wire."""
    data = json.dumps(value, separators=(",", ":"))
    return f"event: {name}\ndata: {data}\n\n".encode() if name else f"data: {data}\n\n".encode()
