"""Messages between the node and a model's process: CBOR, each behind its length, over a socketpair.

Both ends are ours and of one version, so a message is a list: its kind, then its parts in a fixed order.
The bound protects the node from a child gone mad, and the other way round.
"""

import struct
from typing import Any

import cbor2

from unhosted.node.core.errors import LocalFault, Refused
from unhosted.node.core.inference import (
    Constraint,
    Delta,
    GenerateRequest,
    Priority,
    TokenLogprob,
    Usage,
)
from unhosted.verify.params import SamplingParams

MESSAGE_BYTES_MAX = 256 << 20
"""A batch of embeddings is the largest message: 2,048 inputs of 8,192 floats as CBOR doubles."""
_HEADER = struct.Struct("<I")
_SAMPLING_NUMBERS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repeat_penalty",
    "repeat_last_tokens",
    "frequency_penalty",
    "presence_penalty",
)

Message = list[Any]


def encode(message: Message) -> bytes:
    """Raises: Refused (invalid_request) for a text that is not Unicode; LocalFault above the bound."""
    try:
        body = cbor2.dumps(message)
    except UnicodeEncodeError as fault:
        raise Refused(
            "invalid_request",
            f"half a surrogate pair stands in a text of the request, at character {fault.start}: send the "
            "whole character, or leave it out",
        ) from None
    if len(body) > MESSAGE_BYTES_MAX:
        raise LocalFault(f"a message of {len(body)} bytes is above {MESSAGE_BYTES_MAX}")
    return _HEADER.pack(len(body)) + body


class WireError(Exception):
    """What came is no message of ours."""


class Decoder:
    """Feed bytes, take whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        buffer = self._buffer
        buffer += data
        messages: list[Message] = []
        start = 0
        while len(buffer) - start >= _HEADER.size:
            (size,) = _HEADER.unpack_from(buffer, start)
            if size > MESSAGE_BYTES_MAX:
                raise WireError(f"a message of {size} bytes is above {MESSAGE_BYTES_MAX}")
            stop = start + _HEADER.size + size
            if len(buffer) < stop:
                break
            messages.append(_loads(bytes(buffer[start + _HEADER.size : stop])))
            start = stop
        del buffer[:start]
        return messages


def _loads(body: bytes) -> Message:
    try:
        message = cbor2.loads(body)
    except (cbor2.CBORDecodeError, ValueError, EOFError) as error:
        raise WireError(f"{len(body)} bytes are no CBOR: {type(error).__name__}") from error
    if not isinstance(message, list) or len(message) < 2:
        raise WireError(f"a {type(message).__name__} is no message")
    return message


def pack_sampling(sampling: SamplingParams) -> list[Any]:
    return [
        *(getattr(sampling, name) for name in _SAMPLING_NUMBERS),
        [list(pair) for pair in sampling.logit_bias],
        sampling.seed,
    ]


def unpack_sampling(parts: list[Any]) -> SamplingParams:
    *numbers, logit_bias, seed = parts
    return SamplingParams(
        **dict(zip(_SAMPLING_NUMBERS, numbers, strict=True)),
        logit_bias=tuple((int(i), float(b)) for i, b in logit_bias),
        seed=seed,
    )


def pack_constraint(constraint: Constraint | None) -> list[Any] | None:
    return None if constraint is None else [constraint.kind, constraint.source, constraint.trigger]


def unpack_constraint(parts: list[Any] | None) -> Constraint | None:
    return None if parts is None else Constraint(kind=parts[0], source=parts[1], trigger=parts[2])


def pack_request(request: GenerateRequest) -> list[Any]:
    return [
        request.prompt,
        request.add_special,
        request.max_tokens,
        pack_sampling(request.sampling),
        list(request.stop),
        pack_constraint(request.constraint),
        request.logprobs,
        request.ignore_eos,
        request.use_prefix_cache,
        int(request.priority),
        request.flow,
        list(request.resume_ids),
    ]


def unpack_request(request_id: str, parts: list[Any]) -> GenerateRequest:
    (
        prompt,
        add_special,
        max_tokens,
        sampling,
        stop,
        constraint,
        logprobs,
        ignore_eos,
        use_prefix_cache,
        priority,
        flow,
        resume_ids,
    ) = parts
    return GenerateRequest(
        request_id=request_id,
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        add_special=add_special,
        max_tokens=max_tokens,
        sampling=unpack_sampling(sampling),
        stop=tuple(stop),
        constraint=unpack_constraint(constraint),
        logprobs=logprobs,
        ignore_eos=ignore_eos,
        use_prefix_cache=use_prefix_cache,
        priority=Priority(priority),
        flow=flow,
        resume_ids=tuple(resume_ids),
    )


def pack_logprobs(logprobs: tuple[TokenLogprob, ...]) -> list[Any]:
    return [
        [one.token_id, one.text, one.logprob, [[top.token_id, top.text, top.logprob] for top in one.top]]
        for one in logprobs
    ]


def unpack_logprobs(parts: list[Any]) -> tuple[TokenLogprob, ...]:
    return tuple(
        TokenLogprob(token_id, text, logprob, tuple(TokenLogprob(*top) for top in tops))
        for token_id, text, logprob, tops in parts
    )


def pack_delta(request_id: str, delta: Delta) -> list[Any]:
    usage = delta.usage
    return [
        request_id,
        list(delta.token_ids),
        delta.text,
        pack_logprobs(delta.logprobs) if delta.logprobs else None,
        delta.finish,
        delta.stop_text,
        None if usage is None else [usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens],
    ]


def unpack_delta(parts: list[Any]) -> tuple[str, Delta]:
    request_id, token_ids, text, scores, finish, stop_text, usage = parts
    return request_id, Delta(
        token_ids=tuple(token_ids),
        text=text,
        logprobs=unpack_logprobs(scores) if scores else (),
        finish=finish,
        stop_text=stop_text,
        usage=(
            None
            if usage is None
            else Usage(prompt_tokens=usage[0], cached_tokens=usage[1], completion_tokens=usage[2])
        ),
    )
