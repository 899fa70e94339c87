"""The anthropic Python SDK, unchanged, against the node."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from tests.fakes import DYING
from tests.interop.conftest import Endpoint

pytestmark = pytest.mark.slow

HI: Any = [{"role": "user", "content": "Hi"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=endpoint.url, api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_message_whole(client: Any, endpoint: Endpoint) -> None:
    message = client.messages.create(model=endpoint.model, max_tokens=6, messages=HI, system="Be brief")
    assert message.content[0].type == "text"
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 6)
    assert message.usage.input_tokens > 0


def test_message_streamed(client: Any, endpoint: Endpoint) -> None:
    with client.messages.stream(model=endpoint.model, max_tokens=6, messages=HI) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert final.content[0].type == "text" and final.content[0].text == text
    assert (final.stop_reason, final.usage.output_tokens) == ("max_tokens", 6)
    assert final.usage.input_tokens > 0


def test_forced_tool_gives_an_object_streamed_or_not(client: Any, endpoint: Endpoint) -> None:
    ask: Any = {
        "model": endpoint.model,
        "max_tokens": 200,
        "messages": HI,
        "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather"},
    }
    whole = client.messages.create(**ask)
    with client.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for message in (whole, streamed):
        block = message.content[-1]
        assert message.stop_reason == "tool_use"
        assert block.type == "tool_use" and block.name == "weather"
        assert block.input["city"] in ("Oslo", "Rome")


def test_tool_results_are_taken(client: Any, endpoint: Endpoint) -> None:
    use = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "rain"}
    turns: Any = [*HI, {"role": "assistant", "content": [use]}, {"role": "user", "content": [result]}]
    message = client.messages.create(model=endpoint.model, max_tokens=4, messages=turns, tools=[WEATHER])
    assert message.usage.output_tokens == 4


def test_tokens_are_counted(client: Any, endpoint: Endpoint) -> None:
    short = client.messages.count_tokens(model=endpoint.model, messages=HI).input_tokens
    long: Any = [{"role": "user", "content": "Hi there and more words"}]
    assert 0 < short < client.messages.count_tokens(model=endpoint.model, messages=long).input_tokens


def test_models_are_listed(client: Any, endpoint: Endpoint) -> None:
    assert endpoint.model in [model.id for model in client.models.list()]


def test_errors_raise_what_the_sdk_promises(client: Any, endpoint: Endpoint) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="no:such", max_tokens=5, messages=HI)
    with pytest.raises(anthropic.BadRequestError, match="temperature"):
        client.messages.create(
            model=endpoint.model, max_tokens=5, messages=HI, extra_body={"temperature": 99}
        )
    if endpoint.kind == "fake":
        with (
            pytest.raises(anthropic.APIStatusError, match="died twice"),
            client.messages.stream(model=DYING, max_tokens=9, messages=HI) as stream,
        ):
            stream.get_final_message()
