"""Answers of /v1/responses: one response object of output items, or the events that build it."""

import json
import secrets
import time
from collections.abc import Mapping

from unhosted.node.core.errors import Refused
from unhosted.node.core.inference import TokenLogprob
from unhosted.node.core.service import AnswerDelta, Provenance, ToolCall, ToolCallDelta
from unhosted.node.http.collected import Choice, event, token_logprobs, total_usage
from unhosted.node.http.errors import fault_of
from unhosted.node.http.exchange import provenance_body

Item = dict[str, object]


class ResponseReply:
    """Items are output one after another: a message for text, a function_call for each call."""

    silence = b": waiting for the next token\n\n"

    def __init__(self, echo: Mapping[str, object]) -> None:
        self._echo = echo
        self._id = f"resp_{secrets.token_hex(12)}"
        self._created_unix_s = int(time.time())
        self._model = ""
        self._choice = Choice()
        self._is_whole = True
        self._sequence = 0
        self._done: list[Item] = []
        self._open: _OpenItem | None = None

    def begin(self, model: str, provenance: Provenance) -> bytes:
        self._is_whole = False
        self._model = model
        started = self._response("in_progress", [])
        return self._event("response.created", response=started) + self._event(
            "response.in_progress", response=started
        )

    def delta(self, source: int, delta: AnswerDelta) -> bytes:
        if self._is_whole:
            self._choice.add(delta)
            return b""
        parts: list[bytes] = []
        if delta.text or delta.logprobs:
            parts.append(self._text_part(delta.text, delta.logprobs))
        parts.extend(self._call_part(part) for part in delta.tool_calls)
        if delta.finish is not None:
            self._choice.add(AnswerDelta(finish=delta.finish, stop_text=delta.stop_text, usage=delta.usage))
        return b"".join(parts)

    def end(self, provenance: Provenance) -> bytes:
        closed = self._close_item()
        status = self._status()
        response = self._response(status, self._done) | {"unhosted": provenance_body(provenance)}
        return closed + self._event(f"response.{status}", response=response)

    def fault(self, refused: Refused) -> bytes:
        fault = fault_of(refused)
        error = {
            "code": "server_error" if fault.status >= 500 else "invalid_prompt",
            "message": fault.message,
        }
        response = self._response("failed", self._done) | {"error": error}
        return self._event("response.failed", response=response) + self._event(
            "error", code=fault.code, message=fault.message, param=fault.field
        )

    def whole(self, model: str, provenance: Provenance) -> dict[str, object]:
        self._model = model
        status = self._status()
        calls = self._choice.tool_calls
        output: list[Item] = []
        if self._choice.text or not calls:
            output.append(_message(_id("msg"), self._choice.text, self._choice.logprobs, status))
        output.extend(_call(_id("fc"), call, status) for call in calls)
        return self._response(status, output) | {"unhosted": provenance_body(provenance)}

    def _text_part(self, text: str, logprobs: tuple[TokenLogprob, ...]) -> bytes:
        opened = b""
        item = self._open
        if item is None or item.call is not None:
            opened = self._close_item()
            item = self._open = _OpenItem(_id("msg"))
            message = {**_message(item.item_id, "", [], "in_progress"), "content": []}
            opened += self._item_event("added", message)
            opened += self._part_event("added", item, "")
        item.texts.append(text)
        item.logprobs.extend(logprobs)
        sequence = self._next_sequence()
        shown = json.dumps(token_logprobs(logprobs)) if logprobs else "[]"
        return (
            opened
            + (
                'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
                f'"sequence_number":{sequence},"item_id":"{item.item_id}","output_index":{len(self._done)},'
                f'"content_index":0,"delta":{json.dumps(text)},"logprobs":{shown}}}\n\n'
            ).encode()
        )

    def _call_part(self, part: ToolCallDelta) -> bytes:
        opened = b""
        item = self._open
        if item is None or item.call is None or item.index != part.index:
            opened = self._close_item()
            call = ToolCall(call_id=part.call_id or "", name=part.name or "", arguments="")
            item = self._open = _OpenItem(_id("fc"), call=call, index=part.index)
            opened += self._item_event("added", _call(item.item_id, call, "in_progress"))
        if not part.arguments:
            return opened
        item.texts.append(part.arguments)
        return opened + self._event(
            "response.function_call_arguments.delta",
            item_id=item.item_id,
            output_index=len(self._done),
            delta=part.arguments,
        )

    def _close_item(self) -> bytes:
        item, self._open = self._open, None
        if item is None:
            return b""
        text, at = "".join(item.texts), {"item_id": item.item_id, "output_index": len(self._done)}
        if item.call is None:
            whole = _message(item.item_id, text, item.logprobs, self._status())
            data = self._event(
                "response.output_text.done",
                content_index=0,
                text=text,
                logprobs=token_logprobs(item.logprobs),
                **at,
            )
            data += self._part_event("done", item, text)
        else:
            call = ToolCall(call_id=item.call.call_id, name=item.call.name, arguments=text)
            whole = _call(item.item_id, call, self._status())
            data = self._event("response.function_call_arguments.done", name=call.name, arguments=text, **at)
        data += self._item_event("done", whole)
        self._done.append(whole)
        return data

    def _item_event(self, what: str, item: Item) -> bytes:
        return self._event(f"response.output_item.{what}", output_index=len(self._done), item=item)

    def _part_event(self, what: str, item: "_OpenItem", text: str) -> bytes:
        return self._event(
            f"response.content_part.{what}",
            item_id=item.item_id,
            output_index=len(self._done),
            content_index=0,
            part=_text(text, item.logprobs),
        )

    def _event(self, kind: str, **fields: object) -> bytes:
        return event({"type": kind, "sequence_number": self._next_sequence(), **fields}, kind)

    def _next_sequence(self) -> int:
        self._sequence += 1
        return self._sequence - 1

    def _status(self) -> str:
        return "incomplete" if self._choice.finish == "length" else "completed"

    def _response(self, status: str, output: list[Item]) -> dict[str, object]:
        is_over = status in ("completed", "incomplete")
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created_unix_s,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self._model,
            "output": list(output),
            **self._echo,
            "usage": self._usage() if is_over else None,
        }

    def _usage(self) -> dict[str, object]:
        usage = total_usage([[self._choice.usage]])
        return {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }


class _OpenItem:
    """The output item that is growing: a message, or the function call with this index."""

    __slots__ = ("call", "index", "item_id", "logprobs", "texts")

    def __init__(self, item_id: str, *, call: ToolCall | None = None, index: int = 0) -> None:
        self.item_id = item_id
        self.call = call
        self.index = index
        self.texts: list[str] = []
        self.logprobs: list[TokenLogprob] = []


def _id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _text(text: str, logprobs: list[TokenLogprob]) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": token_logprobs(logprobs)}


def _message(item_id: str, text: str, logprobs: list[TokenLogprob], status: str) -> Item:
    content = [_text(text, logprobs)]
    return {"type": "message", "id": item_id, "status": status, "role": "assistant", "content": content}


def _call(item_id: str, call: ToolCall, status: str) -> Item:
    return {
        "type": "function_call",
        "id": item_id,
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
        "status": status,
    }
