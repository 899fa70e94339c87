"""/v1/embeddings."""

import base64
import struct
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from unhosted.node.http.answering import unless_gone
from unhosted.node.http.completions import TokenIds, prompts_of
from unhosted.node.http.exchange import Exchange, send_json
from unhosted.node.http.fields import Extension, model_and_radius, provider_choice
from unhosted.node.http.parsing import Body, not_supported, parse

INPUTS_MAX = 2048
"""OpenAI's own limit; the vectors of one answer are held at once."""


class EmbeddingBody(Body):
    model: str
    input: str | list[str] | TokenIds | list[TokenIds]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    unhosted: Extension | None = None


async def embeddings(exchange: Exchange) -> None:
    body = parse(EmbeddingBody, exchange.body)
    if body.dimensions is not None:
        raise not_supported(
            "dimensions", "vectors have the model's own length; cut and normalise them yourself"
        )
    model, radius = model_and_radius(body.model, body.unhosted)
    provider = provider_choice(body.unhosted)
    inputs = prompts_of(body.input, "input", at_most=INPUTS_MAX)
    embed = partial(exchange.node.embed, model, inputs, radius=radius, provider=provider)
    result = await unless_gone(exchange, embed)
    if result is None:
        return
    encode = _base64 if body.encoding_format == "base64" else list
    data = [
        {"object": "embedding", "index": index, "embedding": encode(vector)}
        for index, vector in enumerate(result.vectors)
    ]
    usage = {"prompt_tokens": result.prompt_tokens, "total_tokens": result.prompt_tokens}
    await send_json(exchange.send, {"object": "list", "data": data, "model": model, "usage": usage})


def _base64(vector: Sequence[float]) -> str:
    """Little-endian float32, as the SDKs decode it."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
