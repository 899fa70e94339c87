"""/v1/completions: plain continuation of one or several prompts, text or token ids."""

import json
import secrets
import time
from typing import Annotated, Any

from pydantic import Field

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import TokenLogprob, Usage
from unhosted.node.core.service import AnswerDelta, CompletionRequest, Provenance
from unhosted.node.http.answering import answer
from unhosted.node.http.chat import StreamOptions
from unhosted.node.http.collected import Choice, event, finite, openai_usage, token_text, total_usage
from unhosted.node.http.errors import error_body, fault_of
from unhosted.node.http.exchange import Exchange, provenance_body
from unhosted.node.http.fields import (
    LOGPROBS_MAX,
    SAMPLES_MAX,
    MaxTokens,
    SamplingBody,
    StopStrings,
    model_and_radius,
    options,
    output_constraint,
)
from unhosted.node.http.parsing import invalid, parse

PROMPTS_MAX = 32
"""Prompts of one request: each is a request to the engine, and all are open at once."""

TokenIds = list[Annotated[int, Field(ge=0)]]


class CompletionBody(SamplingBody):
    """OpenAI's completion request, with llama-server's grammar and json_schema."""

    model: str
    prompt: str | list[str] | TokenIds | list[TokenIds]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: MaxTokens = None
    n_predict: MaxTokens = None
    n: int | None = Field(default=None, ge=1, le=SAMPLES_MAX)
    stop: StopStrings = None
    logprobs: int | None = Field(default=None, ge=0, le=LOGPROBS_MAX)
    response_format: dict[str, Any] | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None


async def completions(exchange: Exchange) -> None:
    body = parse(CompletionBody, exchange.body)
    requests = completion_requests(body)
    shared = requests[0].options
    reply = CompletionReply(
        prompts=len(requests),
        samples=shared.n,
        has_logprobs=shared.logprobs is not None,
        has_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    openings = [exchange.node.open_completion(request) for request in requests]
    await answer(exchange, openings, reply, streaming=bool(body.stream))


def completion_requests(body: CompletionBody) -> list[CompletionRequest]:
    """One request per prompt. Raises: Refused (invalid_request) naming the field."""
    model, radius = model_and_radius(body.model, body.unhosted)
    prompts = prompts_of(body.prompt, "prompt", at_most=PROMPTS_MAX)
    shared = options(
        body,
        radius=radius,
        max_tokens=body.n_predict if body.max_tokens is None else body.max_tokens,
        stop=body.stop,
        logprobs=body.logprobs,
        n=body.n or 1,
        constraint=output_constraint(body.response_format, body.json_schema, body.grammar),
    )
    return [CompletionRequest(model=model, prompt=prompt, options=shared) for prompt in prompts]


def prompts_of(
    given: str | list[str] | list[int] | list[list[int]], field: str, *, at_most: int
) -> list[str | tuple[int, ...]]:
    """One text, several texts, one list of token ids or several, as a list of prompts."""
    if isinstance(given, str):
        return [given]
    if given and isinstance(given[0], int):
        return [tuple(one for one in given if isinstance(one, int))]
    if not given or any(isinstance(one, list) and not one for one in given):
        raise invalid(field, "must not be empty")
    if len(given) > at_most:
        raise invalid(field, f"{len(given)} inputs, at most {at_most} in one request")
    return [tuple(one) if isinstance(one, list) else str(one) for one in given]


class CompletionReply:
    """Chunks of `text_completion`, or one. Choice indices run over the prompts' samples in order."""

    silence = b": waiting for the next token\n\n"

    def __init__(self, *, prompts: int, samples: int, has_logprobs: bool, has_usage: bool) -> None:
        self._samples = samples
        self._choices = [Choice() for _ in range(prompts * samples)]
        self._id = f"cmpl-{secrets.token_hex(12)}"
        self._created_unix_s = int(time.time())
        self._has_logprobs = has_logprobs
        self._has_usage = has_usage
        self._unfinished = len(self._choices)
        self._last = b""
        self._is_whole = True
        self._head: dict[str, object] = {}
        self._texts: list[str] = []
        self._offsets = [0] * len(self._choices)

    def begin(self, model: str, provenance: Provenance) -> bytes:
        self._is_whole = False
        self._head = self._envelope(model)
        head = json.dumps(self._head, separators=(",", ":"))[:-1]
        self._texts = [
            f'data: {head},"choices":[{{"index":{index},"text":' for index in range(len(self._choices))
        ]
        return b""

    def delta(self, source: int, delta: AnswerDelta) -> bytes:
        index = source * self._samples + delta.choice
        if self._is_whole:
            self._choices[index].add(delta)
            return b""
        data = b""
        if delta.text or delta.logprobs:
            logprobs = "null"
            if delta.logprobs:
                logprobs = json.dumps(legacy_logprobs(delta.logprobs, self._offsets[index]))
                self._offsets[index] += sum(len(token_text(one)) for one in delta.logprobs)
            tail = f',"logprobs":{logprobs},"finish_reason":null}}]}}\n\n'
            data = f"{self._texts[index]}{json.dumps(delta.text)}{tail}".encode()
        if delta.finish is not None:
            self._choices[index].usage = delta.usage
            self._unfinished -= 1
            choice = {"index": index, "text": "", "logprobs": None, "finish_reason": delta.finish}
            chunk = {**self._head, "choices": [choice]}
            if self._unfinished:
                return data + event(chunk)
            # Held back to the end of the stream, where the provenance is final.
            self._last = json.dumps(chunk, separators=(",", ":")).encode()
        return data

    def end(self, provenance: Provenance) -> bytes:
        unhosted = {"unhosted": provenance_body(provenance)}
        parts: list[bytes] = []
        if self._last:
            last = json.loads(self._last)
            parts.append(event(last if self._has_usage else last | unhosted))
        if self._has_usage:
            usage = {"choices": [], "usage": openai_usage(self._usage())}
            parts.append(event({**self._head, **usage, **unhosted}))
        return b"".join([*parts, b"data: [DONE]\n\n"])

    def fault(self, refused: Refused) -> bytes:
        return event(error_body(fault_of(refused), "openai"))

    def whole(self, model: str, provenance: Provenance) -> dict[str, object]:
        choices = [
            {
                "index": index,
                "text": choice.text,
                "logprobs": legacy_logprobs(choice.logprobs, 0) if self._has_logprobs else None,
                "finish_reason": choice.finish,
            }
            for index, choice in enumerate(self._choices)
        ]
        usage = openai_usage(self._usage())
        unhosted = provenance_body(provenance)
        return {**self._envelope(model), "choices": choices, "usage": usage, "unhosted": unhosted}

    def _envelope(self, model: str) -> dict[str, object]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created_unix_s,
            "model": model,
        }

    def _usage(self) -> Usage:
        usages = [choice.usage for choice in self._choices]
        return total_usage([usages[at : at + self._samples] for at in range(0, len(usages), self._samples)])


def legacy_logprobs(
    logprobs: list[TokenLogprob] | tuple[TokenLogprob, ...], offset: int
) -> dict[str, object]:
    """The four parallel lists of the older API; text_offset counts characters from `offset` on."""
    offsets: list[int] = []
    for one in logprobs:
        offsets.append(offset)
        offset += len(token_text(one))
    tops: list[dict[str, float]] = []
    for one in logprobs:
        top: dict[str, float] = {}
        for other in one.top:
            # Half characters look alike as text: the likelier of two stays.
            top.setdefault(token_text(other), finite(other.logprob))
        tops.append(top)
    return {
        "tokens": [token_text(one) for one in logprobs],
        "token_logprobs": [finite(one.logprob) for one in logprobs],
        "top_logprobs": tops,
        "text_offset": offsets,
    }
