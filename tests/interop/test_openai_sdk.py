"""The openai Python SDK, unchanged, against the node."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.fakes import DYING, OVERLOADED
from tests.interop.conftest import Endpoint

pytestmark = pytest.mark.slow

SCHEMA: Any = {
    "type": "object",
    "properties": {"name": {"enum": ["Ada", "Bob"]}, "age": {"enum": [36, 41]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture
def client(endpoint: Endpoint) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{endpoint.url}/v1", api_key="any", max_retries=0, timeout=60) as client:
        yield client


def test_chat_streams_the_text_it_gives_whole(client: Any, endpoint: Endpoint) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    whole = client.chat.completions.create(
        model=endpoint.model,
        messages=messages,
        max_tokens=6,
        seed=7,
    )
    stream = client.chat.completions.create(
        model=endpoint.model,
        messages=messages,
        max_tokens=6,
        seed=7,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert whole.usage is not None and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 6
    assert whole.choices[0].finish_reason == "length"
    assert whole.model_extra is not None and whole.model_extra["unhosted"]["ring"] == "local"


def test_json_schema_is_kept(client: Any, endpoint: Endpoint) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Who?"}],
        response_format=form,
        max_tokens=200,
    )
    assert set(json.loads(answer.choices[0].message.content)) == {"name", "age"}


def test_forced_tool_is_called_streamed_or_not(client: Any, endpoint: Endpoint) -> None:
    ask = {
        "model": endpoint.model,
        "messages": [{"role": "user", "content": "Weather?"}],
        "tools": [WEATHER],
        "tool_choice": {"type": "function", "function": {"name": "weather"}},
        "max_tokens": 200,
    }
    answer = client.chat.completions.create(**ask)
    call = answer.choices[0].message.tool_calls[0]
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Oslo", "Rome")
    with client.chat.completions.stream(**ask) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls is not None
    assert json.loads(message.tool_calls[0].function.arguments)["city"] in ("Oslo", "Rome")


def test_logprobs_and_samples(client: Any, endpoint: Endpoint) -> None:
    answer = client.chat.completions.create(
        model=endpoint.model,
        messages=[{"role": "user", "content": "Hi"}],
        logprobs=True,
        top_logprobs=3,
        n=2,
        max_tokens=4,
    )
    assert len(answer.choices) == 2
    for choice in answer.choices:
        assert choice.logprobs is not None and choice.logprobs.content is not None
        assert [len(token.top_logprobs) for token in choice.logprobs.content] == [3] * 4
        assert all(token.logprob <= 0 for token in choice.logprobs.content)


def test_completions_take_text_lists_and_token_ids(client: Any, endpoint: Endpoint) -> None:
    for prompt, count in (("Once", 1), (["Once", "Twice"], 2), ([5, 6, 7], 1), ([[5, 6], [7]], 2)):
        answer = client.completions.create(model=endpoint.model, prompt=prompt, max_tokens=3)
        assert [choice.index for choice in answer.choices] == list(range(count))
    chunks = list(client.completions.create(model=endpoint.model, prompt="Once", max_tokens=3, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_stop_ends_the_answer_before_the_string(client: Any, endpoint: Endpoint) -> None:
    def ask(seed: int, **fields: Any) -> Any:
        return client.completions.create(
            model=endpoint.model, prompt="Once", max_tokens=8, seed=seed, **fields
        )

    # A random model often says half characters: take the first seed that says a plain one.
    texts = ((seed, ask(seed).choices[0].text) for seed in range(50))
    seed, text = next((seed, text) for seed, text in texts if re.search(r"(?<=.)[ -~]", text))
    stop = re.findall(r"(?<=.)[ -~]", text)[0]
    answer = ask(seed, stop=stop)
    assert answer.choices[0].text == text[: text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_embeddings_decode(client: Any, endpoint: Endpoint) -> None:
    answer = client.embeddings.create(model=endpoint.model, input=["one", "two words"])
    assert [one.index for one in answer.data] == [0, 1]
    plain = client.embeddings.create(model=endpoint.model, input="one", encoding_format="float")
    assert answer.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)


def test_responses_whole_streamed_and_with_a_tool(client: Any, endpoint: Endpoint) -> None:
    whole = client.responses.create(model=endpoint.model, input="Hi", max_output_tokens=6)
    assert whole.status == "incomplete" and whole.output_text
    with client.responses.stream(model=endpoint.model, input="Hi", max_output_tokens=6) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete"
    tool = {"type": "function", "strict": True, **WEATHER["function"]}
    called = client.responses.create(
        model=endpoint.model,
        input="Weather?",
        tools=[tool],
        tool_choice={"type": "function", "name": "weather"},
    )
    assert called.output[0].type == "function_call"
    assert json.loads(called.output[0].arguments)["city"] in ("Oslo", "Rome")


def test_models_are_listed_and_found(client: Any, endpoint: Endpoint) -> None:
    assert endpoint.model in [model.id for model in client.models.list()]
    assert client.models.retrieve(endpoint.model).id == endpoint.model


def test_errors_raise_what_the_sdk_promises(client: Any, endpoint: Endpoint) -> None:
    def ask(model: str = endpoint.model, text: str = "Hi", **fields: object) -> None:
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": text}],
            **fields,
        )

    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="no:such")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        ask(temperature=99)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        ask(model=endpoint.small_model, text="word " * 5000)
    assert long.value.code == "context_length_exceeded"
    assert sum(part.strip(".,").isdigit() for part in long.value.message.split()) >= 2
    if endpoint.kind == "fake":
        with pytest.raises(openai.InternalServerError) as busy:
            ask(model=OVERLOADED)
        assert busy.value.response.headers["retry-after"] == "7"
        stream = client.chat.completions.create(
            model=DYING, messages=[{"role": "user", "content": "Hi"}], stream=True
        )
        with pytest.raises(openai.APIError, match="died twice"):
            list(stream)


def test_sixteen_at_once(endpoint: Endpoint) -> None:
    async def main() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{endpoint.url}/v1", api_key="any", max_retries=0) as client:

            async def one() -> str:
                stream = await client.chat.completions.create(
                    model=endpoint.model,
                    messages=[{"role": "user", "content": "Hi"}],
                    max_tokens=8,
                    seed=1,
                    stream=True,
                )
                parts = [chunk.choices[0].delta.content or "" async for chunk in stream]
                return "".join(parts)

            return await asyncio.gather(*(one() for _ in range(16)))

    texts = asyncio.run(main())
    assert len(texts) == 16 and len(set(texts)) == 1
