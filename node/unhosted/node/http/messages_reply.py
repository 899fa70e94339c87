"""Answers of /v1/messages: one message of content blocks, or the events that build it block by block."""

import json
import secrets

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import Usage
from unhosted.node.core.service import AnswerDelta, Provenance, ToolCallDelta
from unhosted.node.http.collected import Choice, event, total_usage
from unhosted.node.http.errors import error_body, fault_of
from unhosted.node.http.exchange import provenance_body

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessageReply:
    """Blocks are opened in the order in which the model speaks; only one is open at a time."""

    silence = b'event: ping\ndata: {"type":"ping"}\n\n'

    def __init__(self) -> None:
        self._id = f"msg_{secrets.token_hex(12)}"
        self._choice = Choice()
        self._is_whole = True
        self._blocks = 0
        self._open: str | int | None = None
        """`text`, the index of the tool call whose block is open, or None."""
        self._text_head = ""

    def begin(self, model: str, provenance: Provenance) -> bytes:
        self._is_whole = False
        # The prompt is counted where it is tokenized; message_delta brings the figures at the end.
        usage = Usage(prompt_tokens=0, cached_tokens=0, completion_tokens=0)
        message = self._message(model, [], usage)
        return event({"type": "message_start", "message": message}, "message_start") + self.silence

    def delta(self, source: int, delta: AnswerDelta) -> bytes:
        if self._is_whole:
            self._choice.add(delta)
            return b""
        if delta.text and self._open == "text" and not (delta.tool_calls or delta.finish):
            return f"{self._text_head}{json.dumps(delta.text)}}}}}\n\n".encode()
        parts: list[bytes] = []
        if delta.text:
            if self._open != "text":
                parts.append(self._open_block("text", {"type": "text", "text": ""}))
            parts.append(f"{self._text_head}{json.dumps(delta.text)}}}}}\n\n".encode())
        parts.extend(self._call_part(part) for part in delta.tool_calls)
        if delta.finish is not None:
            self._choice.add(AnswerDelta(finish=delta.finish, stop_text=delta.stop_text, usage=delta.usage))
        return b"".join(parts)

    def end(self, provenance: Provenance) -> bytes:
        stop = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        usage = _usage(total_usage([[self._choice.usage]]))
        unhosted = provenance_body(provenance)
        last = {"type": "message_delta", "delta": stop, "usage": usage, "unhosted": unhosted}
        return (
            self._close_block()
            + event(last, "message_delta")
            + event({"type": "message_stop"}, "message_stop")
        )

    def fault(self, refused: Refused) -> bytes:
        return event(error_body(fault_of(refused), "anthropic"), "error")

    def whole(self, model: str, provenance: Provenance) -> dict[str, object]:
        blocks: list[dict[str, object]] = []
        if self._choice.text:
            blocks.append({"type": "text", "text": self._choice.text})
        for call in self._choice.tool_calls:
            given = _arguments(call.arguments)
            # A call that the token limit cut in half must not be run: it is left out, stop_reason says why.
            if given is not None:
                blocks.append({"type": "tool_use", "id": call.call_id, "name": call.name, "input": given})
        usage = total_usage([[self._choice.usage]])
        message = self._message(model, blocks, usage)
        stop = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        return {**message, **stop, "unhosted": provenance_body(provenance)}

    def _message(self, model: str, blocks: list[dict[str, object]], usage: Usage) -> dict[str, object]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": blocks,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _call_part(self, part: ToolCallDelta) -> bytes:
        opened = b""
        if self._open != part.index:
            block: dict[str, object] = {
                "type": "tool_use",
                "id": part.call_id,
                "name": part.name,
                "input": {},
            }
            opened = self._open_block(part.index, block)
        if not part.arguments:
            return opened
        said = {"type": "input_json_delta", "partial_json": part.arguments}
        body = {"type": "content_block_delta", "index": self._blocks - 1, "delta": said}
        return opened + event(body, "content_block_delta")

    def _open_block(self, kind: str | int, block: dict[str, object]) -> bytes:
        closed = self._close_block()
        index = self._blocks
        self._open = kind
        self._blocks += 1
        if kind == "text":
            self._text_head = (
                f'event: content_block_delta\ndata: {{"type":"content_block_delta","index":{index},'
                '"delta":{"type":"text_delta","text":'
            )
        start = {"type": "content_block_start", "index": index, "content_block": block}
        return closed + event(start, "content_block_start")

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        stop = {"type": "content_block_stop", "index": self._blocks - 1}
        return event(stop, "content_block_stop")

    def _stop_reason(self) -> str:
        if self._stop_sequence() is not None:
            return "stop_sequence"
        return _STOP_REASONS[self._choice.finish or "stop"]

    def _stop_sequence(self) -> str | None:
        return self._choice.stop_text if self._choice.finish == "stop" else None


def _usage(usage: Usage) -> dict[str, object]:
    """Anthropic counts the cached part of a prompt apart from the rest."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _arguments(text: str) -> dict[str, object] | None:
    try:
        given = json.loads(text or "{}")
    except ValueError:
        return None
    return given if isinstance(given, dict) else None
