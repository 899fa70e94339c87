"""The fields that the dialects share, and how they become `Options`: one reading of each for all of them."""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from unhosted.node.core.inference import Constraint
from unhosted.node.core.model_ref import REF_CHARS_MAX
from unhosted.node.core.service import ANY_PROVIDER, Options, ProviderChoice, Radius, Tool
from unhosted.node.http.parsing import Body, invalid, not_supported
from unhosted.verify.params import SEED_BYTES, ParameterError, SamplingParams

STOP_MAX = 16
"""Each stop string is searched for after every token."""

STOP_CHARACTERS_MAX = 256
"""A stop string holds back as much output as it is long."""

SAMPLES_MAX = 16
"""Samples of one request: each takes a slot or a place in the queue of the engine."""

LOGPROBS_MAX = 20
"""OpenAI's own limit; the engine ranks that many for each token."""

TOOLS_MAX = 128
"""OpenAI's own limit; each tool's schema goes into the prompt."""

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_RADII: tuple[str, ...] = get_args(Radius)

MaxTokens = Annotated[int, Field(ge=-1)] | None
StopStrings = str | list[str] | None


FLOW_CHARS_MAX = 64
"""OpenAI's own bound on what names a user; a longer name is cut, for it only decides whose turn it is."""


PROVIDERS_MAX = 64
"""More machines than a household pairs; each name is compared with each of them."""

PROVIDER_CHARS_MAX = 128
"""A peer id has 52 characters, a name at most 64."""

ProviderName = Annotated[str, Field(min_length=1, max_length=PROVIDER_CHARS_MAX)]
ProviderNames = Annotated[list[ProviderName], Field(max_length=PROVIDERS_MAX)]


class Provider(Body):
    """Names or ids of paired machines, `local` for this one. max_price binds paid answers alone."""

    order: ProviderNames | None = None
    allow: ProviderNames | None = None
    ignore: ProviderNames | None = None


class Extension(Body):
    """The `unhosted` object of a request. max_cost_usd and check bind paid answers alone."""

    radius: Literal["local", "trusted", "public"] | None = None
    provider: Provider | None = None


class SamplingBody(Body):
    """OpenAI's sampling fields, and llama-server's names for the ones that OpenAI does not have."""

    temperature: float | None = None
    top_k: int | None = Field(default=None, ge=-1)
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    repeat_last_n: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | list[tuple[int, float]] | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None
    user: str | None = None
    unhosted: Extension | None = None


def sampling_params(body: SamplingBody) -> SamplingParams:
    """What the body asks of the sampler; absent fields take `SamplingParams`' defaults.

    top_k -1 is 0, as in llama-server. Without a seed (or with -1) the draw is fresh.
    Raises: Refused (invalid_request) naming the field.
    """
    given: dict[str, Any] = {
        "temperature": body.temperature,
        "top_k": None if body.top_k is None else max(0, body.top_k),
        "top_p": body.top_p,
        "min_p": body.min_p,
        "repeat_penalty": body.repeat_penalty,
        "repeat_last_tokens": body.repeat_last_n,
        "frequency_penalty": body.frequency_penalty,
        "presence_penalty": body.presence_penalty,
    }
    try:
        return SamplingParams(
            logit_bias=_logit_bias(body.logit_bias),
            seed=seed_bytes(body.seed),
            **{name: value for name, value in given.items() if value is not None},
        )
    except ParameterError as error:
        field = "repeat_last_n" if error.field == "repeat_last_tokens" else error.field
        raise invalid(field, error.rule) from None


def seed_bytes(seed: int | None) -> bytes:
    """32 bytes for a seed: BLAKE2b-256 of `unhosted/seed/v1:` and its decimal digits; None and -1 are fresh.

    Part of what repeats: the same number gives the same draw on every node and in every version.
    """
    if seed is None or seed == -1:
        return secrets.token_bytes(SEED_BYTES)
    return hashlib.blake2b(f"unhosted/seed/v1:{seed}".encode(), digest_size=SEED_BYTES).digest()


def options(
    body: SamplingBody,
    *,
    radius: Radius | None,
    max_tokens: int | None,
    stop: StopStrings,
    stop_field: str = "stop",
    logprobs: int | None = None,
    n: int = 1,
    constraint: Constraint | None = None,
) -> Options:
    """Shared fields as `Options`. max_tokens -1 means to the end of the context, as in llama-server."""
    if max_tokens == 0:
        raise invalid("max_tokens", "0 is below 1")
    return Options(
        sampling=sampling_params(body),
        max_tokens=None if max_tokens == -1 else max_tokens,
        stop=stop_strings(stop, stop_field),
        logprobs=logprobs,
        n=n,
        ignore_eos=bool(body.ignore_eos),
        use_prefix_cache=body.cache_prompt is not False,
        constraint=constraint,
        radius=radius,
        provider=provider_choice(body.unhosted),
        flow=(body.user or "")[:FLOW_CHARS_MAX],
    )


def provider_choice(extension: Extension | None) -> ProviderChoice:
    """Raises: Refused (invalid_request) naming the field when nobody is left who could answer."""
    given = extension.provider if extension else None
    if given is None:
        return ANY_PROVIDER
    if given.allow is not None and not set(given.allow) - set(given.ignore or ()):
        raise invalid("unhosted.provider.allow", "leaves nobody who may answer; name one, or leave it out")
    return ProviderChoice(
        order=tuple(given.order or ()),
        allow=None if given.allow is None else tuple(given.allow),
        ignore=tuple(given.ignore or ()),
    )


def model_and_radius(model: str, extension: Extension | None) -> tuple[str, Radius | None]:
    """The model's name without its radius suffix, and the radius: from the suffix, the body, or None.

    Raises: Refused (invalid_request) for an empty or overlong name, or when suffix and body contradict each
    other.
    """
    if not model.strip():
        raise invalid("model", "must not be empty; GET /v1/models lists the models that are here")
    if len(model) > REF_CHARS_MAX:
        raise invalid(
            "model", f"{len(model)} characters, at most {REF_CHARS_MAX}; GET /v1/models lists names"
        )
    name, at, suffix = model.rpartition("@")
    asked = extension.radius if extension else None
    if not at or suffix not in _RADII:
        return model, asked
    named: Radius = suffix  # type: ignore[assignment]  # narrowed by membership in the literal's own values
    if asked is not None and asked != named:
        raise invalid("unhosted.radius", f"{asked} contradicts the model name's @{named}; give one of them")
    return name, named


def stop_strings(stop: StopStrings, field: str) -> tuple[str, ...]:
    """Raises: Refused (invalid_request) for too many, too long or empty strings."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(strings) > STOP_MAX:
        raise invalid(field, f"{len(strings)} strings, at most {STOP_MAX}")
    for string in strings:
        if not string:
            raise invalid(field, "an empty string would stop at once; leave it out")
        if len(string) > STOP_CHARACTERS_MAX:
            raise invalid(field, f"a string of {len(string)} characters, at most {STOP_CHARACTERS_MAX}")
    return strings


def schema_constraint(schema: object, field: str) -> Constraint:
    if not isinstance(schema, dict):
        raise invalid(field, "must be a JSON schema, an object")
    return Constraint(kind="json_schema", source=json.dumps(schema))


def format_constraint(form: Mapping[str, Any] | None, field: str) -> Constraint | None:
    """OpenAI's response_format, and llama-server's `schema` beside a type; None for plain text."""
    if form is None:
        return None
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            if form.get("schema") is None:
                return Constraint(kind="json_object")
            return schema_constraint(form["schema"], f"{field}.schema")
        case "json_schema":
            # Chat nests the schema in an object with its name, llama-server and Responses do not.
            nested = form.get("json_schema")
            if isinstance(nested, dict):
                return schema_constraint(nested.get("schema"), f"{field}.json_schema.schema")
            return schema_constraint(form.get("schema"), f"{field}.schema")
        case other:
            raise invalid(f"{field}.type", f"{other!r} is not text, json_object or json_schema")


def output_constraint(
    form: Mapping[str, Any] | None, schema: Mapping[str, Any] | None, grammar: str | None
) -> Constraint | None:
    """OpenAI's response_format, or llama-server's `json_schema` or `grammar`: one rule for the output.

    Raises: Refused (invalid_request) naming the field when two of them are given.
    """
    constraint = format_constraint(form, "response_format")
    if schema is not None:
        if constraint is not None:
            raise invalid("json_schema", "cannot be combined with response_format; give one of them")
        constraint = schema_constraint(schema, "json_schema")
    if not grammar:
        return constraint
    if constraint is not None:
        raise invalid("grammar", "cannot be combined with a response format or schema; give one of them")
    return Constraint(kind="gbnf", source=grammar)


def tool(*, name: object, description: object, parameters: object, field: str, parameters_field: str) -> Tool:
    """One checked tool; a missing description is empty, missing parameters are an object without any."""
    if not isinstance(name, str) or not _TOOL_NAME.fullmatch(name):
        raise invalid(f"{field}.name", "must be 1 to 64 letters, digits, underscores or hyphens")
    if not isinstance(description, str | None):
        raise invalid(f"{field}.description", "must be a string")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise invalid(f"{field}.{parameters_field}", "must be a JSON schema, an object")
    return Tool(name=name, description=description or "", parameters=parameters)


def check_tools(tools: Sequence[Tool], forced: str | None, choice_field: str) -> None:
    """Raises: Refused (invalid_request) for too many tools, one name twice, or a forced one that is none."""
    names = [one.name for one in tools]
    if len(names) > TOOLS_MAX:
        raise invalid("tools", f"{len(names)} tools, at most {TOOLS_MAX}")
    if len(set(names)) < len(names):
        raise invalid("tools", "two tools have the same name")
    if forced is not None and forced not in names:
        raise invalid(choice_field, f"{forced!r} is not the name of one of the tools")


def allows_parallel(asked: bool | None, forced: str | None) -> bool:
    """Whether several calls may follow one another; a tool forced by its name is meant to be called once."""
    return forced is None if asked is None else asked


def text_of(content: object, field: str) -> str:
    """A message's content as text: a string, or its parts as lines, in order.

    Raises: Refused (not_supported) for images, audio and files: an answer that ignored them would be a lie.
    """
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise invalid(field, "must be a string or a list of content parts")
    texts: list[str] = []
    for index, part in enumerate(content):
        where = f"{field}.{index}"
        if not isinstance(part, dict):
            raise invalid(where, "must be a content part, an object with a type")
        texts.append(part_text(part, where))
    return "\n".join(texts)


def part_text(part: Mapping[str, Any], field: str) -> str:
    """One content part's text. Raises: Refused naming the field, for every other kind of part."""
    kind = part.get("type")
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("refusal" if kind == "refusal" else "text")
        if not isinstance(text, str):
            raise invalid(f"{field}.text", "must be a string")
        return text
    if isinstance(kind, str):
        raise not_supported(f"{field}.type", f"{kind!r} cannot be read here; send text parts only")
    raise invalid(f"{field}.type", "must name the kind of part, such as text")


def _logit_bias(bias: dict[str, float] | list[tuple[int, float]] | None) -> tuple[tuple[int, float], ...]:
    pairs: dict[int, float] = {}
    for key, value in bias.items() if isinstance(bias, dict) else bias or ():
        try:
            token_id = int(key)
        except ValueError:
            raise invalid("logit_bias", f"{key!r} is not a token id") from None
        if token_id < 0:
            raise invalid("logit_bias", f"{token_id} is not a token id: it is below 0")
        pairs[token_id] = value
    return tuple(sorted(pairs.items()))
