"""From a JSON body to a checked model, and from a validation error to a refusal that names the field."""

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from unhosted.node.core.errors import Refused

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Body(BaseModel):
    """Strict types, and unknown fields kept aside for `refuse_unsupported`, then dropped."""

    model_config = ConfigDict(strict=True, extra="allow", protected_namespaces=())


AnyBody = TypeVar("AnyBody", bound=Body)

UNSUPPORTED_FIELDS: dict[str, tuple[object, ...]] = {
    "adaptive_target": (None, -1),
    "audio": (None,),
    "background": (None, False),
    "best_of": (None, 1),
    "conversation": (None,),
    "dry_multiplier": (None, 0),
    "dynatemp_range": (None, 0),
    "echo": (None, False),
    "function_call": (None, "none"),
    "functions": (None, []),
    "image_data": (None, []),
    "length_penalty": (None, 1),
    "lora": (None, []),
    "mcp_servers": (None, []),
    "min_tokens": (None, 0),
    "mirostat": (None, 0),
    "modalities": (None, ["text"]),
    "previous_response_id": (None,),
    "prompt_template": (None,),
    "store": (None, False),
    "suffix": (None, ""),
    "top_n_sigma": (None, -1, 0),
    "typical_p": (None, 1),
    "use_beam_search": (None, False),
    "web_search_options": (None,),
    "xtc_probability": (None, 0),
}
"""Fields that change what the answer means, with the values that ask for nothing. Dropping one would lie."""

_HINTS = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "echo": "prepend the prompt on your side",
    "modalities": "only text is generated here",
    "previous_response_id": "nothing is stored here; send the whole conversation as input",
    "conversation": "nothing is stored here; send the whole conversation as input",
    "store": "nothing is stored here; leave it out or send false",
}


def parse(model: type[AnyBody], body: bytes, *, ignore: frozenset[str] = frozenset()) -> AnyBody:
    """Validate a body. ignore: names of `UNSUPPORTED_FIELDS` that mean nothing in this dialect.

    Raises: Refused (invalid_request, not_supported) naming the field.
    """
    try:
        value = model.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, body) from None
    refuse_unsupported(value.model_extra or {}, ignore)
    return value


def refuse_unsupported(extra: dict[str, Any], ignore: frozenset[str]) -> None:
    for name, neutral in UNSUPPORTED_FIELDS.items():
        if name in extra and name not in ignore and extra[name] not in neutral:
            raise not_supported(name, _HINTS.get(name, "leave it out"))


def invalid(field: str, rule: str) -> Refused:
    return Refused("invalid_request", f"{field}: {rule}", field=field)


def not_supported(field: str, hint: str) -> Refused:
    return Refused("not_supported", f"{field} is not supported: {hint}", field=field)


def _refusal(error: ValidationError, body: bytes) -> Refused:
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    first = errors[0]
    if first["type"] == "json_invalid":
        return Refused("invalid_request", f"the body is not JSON: {first['msg']}; send a JSON object")
    data = json.loads(body)
    # The arms of a union fail one by one. The deepest failure is nearest to what the client meant; where
    # several arms fail at one place, all are said, since any would do.
    fields = [_field(one, data) for one in errors if one["loc"][:1] == first["loc"][:1]]
    field = max(fields, key=lambda path: path.count("."))
    rules = [one["msg"] for one in errors if _field(one, data) == field]
    rule = " or ".join(dict.fromkeys(rules))
    if not field:
        return Refused("invalid_request", f"the body must be a JSON object: {rule}")
    return Refused("invalid_request", f"{field}: {rule}", field=field)


def _field(error: "ErrorDetails", data: Any) -> str:
    """The path as the client wrote it: parts of the location that name an arm of a union are dropped."""
    path: list[str] = []
    location = error["loc"]
    for index, part in enumerate(location):
        is_absent_field = error["type"] == "missing" and index == len(location) - 1
        if isinstance(data, dict) and (part in data or is_absent_field):
            path.append(str(part))
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            path.append(str(part))
            data = data[part]
    return ".".join(path)
