"""`/unhosted/infer/1`, the answering side: its messages and their limits; docs/protocol.md says the same.

`deltas` is what costs: one message carries what one engine step gave every request of the channel.
"""

import json
import math
from collections.abc import Callable, Iterable
from struct import pack, unpack
from typing import Any, cast, get_args

from unhosted.market.cbor import CborError, decode, encode
from unhosted.node.core.errors import Code, Refused
from unhosted.node.core.inference import Delta, Embeddings, FinishReason, TokenLogprob, Usage
from unhosted.node.core.peering import MODELS_MAX, ModelFacts, PeerFacts
from unhosted.node.shell.trusted.wire import (
    EMBED_INPUTS_MAX,
    LOGPROBS_MAX,
    NAME_CHARS_MAX,
    REQUEST_ID_MAX,
    TOKEN_COUNT_MAX,
    VERSION_CHARS_MAX,
    unpack_blake3,
    unpack_hello,
)
from unhosted.node.shell.trusted.wire_fields import FieldError, Fields, WireError, is_token_ids, printable
from unhosted.node.shell.trusted.wire_messages import Accepted, Counted, Deltas, Embedded, RefusedReply, Reply

REPLY_BYTES_MAX = 8 << 20
"""64 vectors of 32,768 floats, or a step's deltas with all their alternatives: a tenth of it is usual."""

REPLY_ITEMS_MAX = 262_144
DEPTH_MAX = 8
"""message > d > entry > logprobs > logprob > top > alternative."""

ENTRIES_MAX = 1024
"""Deltas in one message: four for each request of a full channel."""

DELTA_IDS_MAX = 1024
DELTA_CHARS_MAX = 65_536
"""A step gives a token; only what a stop text or a half character held back comes with it."""

PIECE_BYTES_MAX = 1024
"""The longest pieces of known vocabularies have some hundred bytes."""

KIND_CHARS_MAX = 32
WHY_CHARS_MAX = 240
MESSAGE_CHARS_MAX = 2048
MODEL_NAME_CHARS_MAX = 256
ALIASES_MAX = 32
DETAIL_BYTES_MAX = 4096
VECTOR_FLOATS_MAX = 32_768
BYTES_MAX_OF_A_FILE = 1 << 50
SLOTS_MAX = 4096
RETRY_S_MAX = 86_400

_CODES = frozenset(get_args(Code))
_FINISHES = frozenset({None, *get_args(FinishReason)})


ALIVE = encode({"k": "alive"})


def encode_accepted(request_id: int) -> bytes:
    return encode({"k": "accepted", "id": request_id})


def encode_counted(request_id: int, tokens: int) -> bytes:
    return encode({"k": "counted", "id": request_id, "tokens": tokens})


def encode_embedded(request_id: int, embeddings: Embeddings) -> bytes:
    """Vectors cross as 32-bit floats, which is what engines compute them in."""
    vectors = [pack(f"<{len(vector)}f", *vector) for vector in embeddings.vectors]
    message = {"k": "embedded", "id": request_id, "vectors": vectors}
    return encode(message | {"prompt_tokens": embeddings.prompt_tokens})


def encode_refused(request_id: int, refusal: Refused) -> bytes:
    message: dict[str, object] = {
        "k": "refused",
        "id": request_id,
        "code": refusal.code,
        "message": _sendable(refusal.message[:MESSAGE_CHARS_MAX]),
    }
    if refusal.field is not None:
        message["field"] = _sendable(refusal.field[:MODEL_NAME_CHARS_MAX])
    if refusal.retry_after_s is not None:
        message["retry_after_s"] = max(0, min(refusal.retry_after_s, RETRY_S_MAX))
    if refusal.details:
        try:
            details = encode(dict(refusal.details))
            decode(details, bytes_max=DETAIL_BYTES_MAX, depth_max=DEPTH_MAX - 1)
        except CborError:
            pass  # details help a program; the message says it all
        else:
            message["details"] = dict(refusal.details)
    return encode(message)


def encode_facts(facts: PeerFacts) -> bytes:
    return encode(
        {
            "k": "facts",
            "name": _sendable(facts.name[:NAME_CHARS_MAX]),
            "version": facts.version[:VERSION_CHARS_MAX],
            "accepting": facts.accepting,
            "why_not": _sendable(facts.why_not[:WHY_CHARS_MAX]),
            "models": [_pack_model(model) for model in facts.models[:MODELS_MAX]],
        }
    )


def encode_deltas(entries: Iterable[tuple[int, Delta]]) -> bytes:
    rows = []
    for request_id, delta in entries:
        row: list[object] = [request_id, delta.token_ids, delta.text]
        if delta.finish is not None or delta.logprobs or delta.usage is not None:
            usage = delta.usage
            row += (
                _pack_logprobs(delta.logprobs),
                delta.finish,
                delta.stop_text,
                usage and (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens),
            )
        rows.append(row)
    return encode({"k": "deltas", "d": rows})


def decode_reply(data: bytes) -> Reply:
    """Raises: WireError."""
    try:
        value = decode(data, bytes_max=REPLY_BYTES_MAX, depth_max=DEPTH_MAX, items_max=REPLY_ITEMS_MAX)
        fields = Fields(value)
        kind = fields.text("k", chars_max=KIND_CHARS_MAX)
        if kind == "deltas":
            return Deltas([_unpack_delta(row) for row in fields.items("d", most=ENTRIES_MAX)])
        unpack_kind = _UNPACK.get(kind)
        return None if unpack_kind is None else unpack_kind(fields)
    except (CborError, FieldError) as error:
        raise WireError(str(error)) from None


def _pack_logprobs(logprobs: tuple[TokenLogprob, ...]) -> list[object] | None:
    if not logprobs:
        return None
    return [
        [one.token_id, one.text, one.logprob, [[top.token_id, top.text, top.logprob] for top in one.top]]
        for one in logprobs
    ]


def _unpack_delta(row: Any) -> tuple[int, Delta]:
    if type(row) is not list or len(row) < 3:
        raise FieldError("d", "every entry must be a list of an id, token ids, a text, and more or nothing")
    request_id, token_ids, text = row[:3]
    if (
        type(request_id) is not int
        or type(token_ids) is not list
        or len(token_ids) > DELTA_IDS_MAX
        or not is_token_ids(token_ids)
        or type(text) is not str
        or len(text) > DELTA_CHARS_MAX
    ):
        raise FieldError("d", f"entry of request {str(request_id)[:20]}: wrong id, token ids or text")
    if len(row) == 3:
        return request_id, Delta(token_ids=tuple(token_ids), text=text)
    logprobs, finish, stop_text, usage = (*row[3:7], None, None, None)[:4]
    if finish is not None and (type(finish) is not str or finish not in _FINISHES):
        raise FieldError("d", "finish must be stop, length or cancelled")
    if stop_text is not None and (type(stop_text) is not str or len(stop_text) > DELTA_CHARS_MAX):
        raise FieldError("d", "stop_text must be a text")
    return request_id, Delta(
        token_ids=tuple(token_ids),
        text=text,
        logprobs=() if logprobs is None else _unpack_logprobs(logprobs),
        finish=cast(FinishReason | None, finish),
        stop_text=stop_text,
        usage=None if usage is None else _unpack_usage(usage),
    )


def _unpack_usage(parts: Any) -> Usage:
    if type(parts) is not list or len(parts) != 3 or not is_token_ids(parts):
        raise FieldError("d", "usage must be three counts")
    return Usage(prompt_tokens=parts[0], cached_tokens=parts[1], completion_tokens=parts[2])


def _unpack_logprobs(parts: Any) -> tuple[TokenLogprob, ...]:
    if type(parts) is not list or len(parts) > DELTA_IDS_MAX:
        raise FieldError("d", "logprobs must be a list")
    scores = []
    for one in parts:
        if type(one) is not list or len(one) != 4 or type(one[3]) is not list or len(one[3]) > LOGPROBS_MAX:
            raise FieldError("d", "a logprob must be a token id, bytes, a number and its alternatives")
        scores.append(_logprob(one[:3], tuple(_logprob(top, ()) for top in one[3])))
    return tuple(scores)


def _logprob(parts: Any, top: tuple[TokenLogprob, ...]) -> TokenLogprob:
    if type(parts) is not list or len(parts) != 3:
        raise FieldError("d", "a logprob must be a token id, bytes and a number")
    token_id, text, logprob = parts
    if type(token_id) is not int or type(text) is not bytes or len(text) > PIECE_BYTES_MAX:
        raise FieldError("d", "a logprob must be a token id, bytes and a number")
    if type(logprob) is not float and type(logprob) is not int:
        raise FieldError("d", "a logprob must be a token id, bytes and a number")
    return TokenLogprob(token_id, text, float(logprob), top)


def _pack_model(model: ModelFacts) -> dict[str, object]:
    packed: dict[str, object] = {name: getattr(model, name) for name in ModelFacts.__slots__}
    for name in ("name", "architecture", "quantization"):
        packed[name] = _sendable(getattr(model, name)[:MODEL_NAME_CHARS_MAX])
    packed["aliases"] = [_sendable(alias[:MODEL_NAME_CHARS_MAX]) for alias in model.aliases[:ALIASES_MAX]]
    return packed


def _unpack_model(fields: Fields) -> ModelFacts:
    def text(key: str) -> str:
        return printable(fields.text_or_empty(key, chars_max=MODEL_NAME_CHARS_MAX))

    def uint(key: str, most: int) -> int:
        return fields.uint(key, most=most) if fields.has(key) else 0

    def speed(key: str) -> float:
        value = fields.number(key) if fields.has(key) else 0.0
        if not 0.0 <= value < math.inf:
            raise fields.wrong(key, f"{value} is no speed")
        return value

    return ModelFacts(
        name=printable(fields.text("name", chars_max=MODEL_NAME_CHARS_MAX)),
        aliases=tuple(
            printable(alias)
            for alias in fields.texts("aliases", most=ALIASES_MAX, chars_max=MODEL_NAME_CHARS_MAX)
        ),
        blake3=unpack_blake3(fields, "blake3"),
        size_bytes=uint("size_bytes", BYTES_MAX_OF_A_FILE),
        architecture=text("architecture"),
        parameters=fields.uint_or_none("parameters", most=BYTES_MAX_OF_A_FILE),
        quantization=text("quantization"),
        context_tokens=uint("context_tokens", TOKEN_COUNT_MAX),
        generates=fields.flag("generates", default=True),
        is_loaded=fields.flag("is_loaded", default=False),
        slots=uint("slots", SLOTS_MAX),
        slots_free=uint("slots_free", SLOTS_MAX),
        queued=uint("queued", TOKEN_COUNT_MAX),
        prefill_tokens_per_s=speed("prefill_tokens_per_s"),
        decode_tokens_per_s=speed("decode_tokens_per_s"),
    )


def _unpack_facts(fields: Fields) -> PeerFacts:
    return PeerFacts(
        name=printable(fields.text_or_empty("name", chars_max=NAME_CHARS_MAX)),
        version=printable(fields.text_or_empty("version", chars_max=VERSION_CHARS_MAX)),
        accepting=fields.flag("accepting", default=True),
        why_not=printable(fields.text_or_empty("why_not", chars_max=WHY_CHARS_MAX)),
        models=tuple(_unpack_model(one) for one in fields.maps("models", most=MODELS_MAX)),
    )


def _unpack_refused(fields: Fields) -> RefusedReply:
    code = fields.text("code", chars_max=KIND_CHARS_MAX)
    details = fields.map("details").values() if fields.has("details") else {}
    try:
        json.dumps(details, allow_nan=False)
    except (ValueError, TypeError):
        details = {}  # bytes or an infinity: they could not be passed on to the client
    refusal = Refused(
        # A code of a later version: whatever it means, this peer does not answer and another one may.
        cast(Code, code) if code in _CODES else "engine_failed",
        printable(fields.text_or_empty("message", chars_max=MESSAGE_CHARS_MAX)),
        field=fields.text_or_none("field", chars_max=MODEL_NAME_CHARS_MAX),
        retry_after_s=fields.uint_or_none("retry_after_s", most=RETRY_S_MAX),
        details=details,
    )
    return RefusedReply(request_id=_id(fields), refusal=refusal)


def _unpack_embedded(fields: Fields) -> Embedded:
    vectors = []
    for data in fields.items("vectors", most=EMBED_INPUTS_MAX):
        if type(data) is not bytes or len(data) % 4 or len(data) > 4 * VECTOR_FLOATS_MAX:
            raise fields.wrong("vectors", "every entry must be 32-bit floats, little-endian")
        vectors.append(unpack(f"<{len(data) // 4}f", data))
    prompt_tokens = fields.uint("prompt_tokens", most=TOKEN_COUNT_MAX)
    return Embedded(
        request_id=_id(fields),
        embeddings=Embeddings(vectors=tuple(vectors), prompt_tokens=prompt_tokens),
    )


def _id(fields: Fields) -> int:
    return fields.uint("id", most=REQUEST_ID_MAX)


_UNPACK: dict[str, Callable[[Fields], Reply]] = {
    "hello": unpack_hello,
    "facts": _unpack_facts,
    "accepted": lambda fields: Accepted(request_id=_id(fields)),
    "refused": _unpack_refused,
    "counted": lambda fields: Counted(
        request_id=_id(fields), tokens=fields.uint("tokens", most=TOKEN_COUNT_MAX)
    ),
    "embedded": _unpack_embedded,
}


def _sendable(text: str) -> str:
    """A message may quote half a surrogate pair of the request that it refuses."""
    return text.encode(errors="replace").decode()
