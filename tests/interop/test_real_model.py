"""The default model, served by the program itself: answers that mean something."""

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.interop.conftest import serving
from tests.interop.test_openai_sdk import SCHEMA, WEATHER

pytestmark = pytest.mark.slow


def test_smollm2_answers_in_every_dialect(tmp_path: Path, smollm2_model: Path) -> None:
    with (
        serving(tmp_path, smollm2_model) as (url, model),
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60) as client,
        anthropic.Anthropic(base_url=url, api_key="any", max_retries=0, timeout=60) as other,
    ):
        ask: Any = client.chat.completions.create
        question = "What is gravity?"
        chat = ask(
            model=model, messages=[{"role": "user", "content": question}], temperature=0, max_tokens=24
        )
        assert "Gravity" in (chat.choices[0].message.content or "")
        message = other.messages.create(
            model=model,
            max_tokens=24,
            messages=[{"role": "user", "content": question}],
            extra_body={"temperature": 0},
        )
        assert message.content[0].type == "text" and "Gravity" in message.content[0].text
        response = client.responses.create(model=model, input=question, temperature=0, max_output_tokens=24)
        assert "Gravity" in response.output_text
        person = ask(
            model=model,
            messages=[{"role": "user", "content": "Describe Ada, who is 36, as JSON."}],
            response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}},
            max_tokens=64,
        )
        assert set(json.loads(person.choices[0].message.content or "")) == {"name", "age"}
        forced = ask(
            model=model,
            messages=[{"role": "user", "content": "How is the weather in Rome?"}],
            tools=[WEATHER],
            tool_choice={"type": "function", "function": {"name": "weather"}},
            max_tokens=64,
        )
        calls = forced.choices[0].message.tool_calls
        assert calls is not None and len(calls) == 1 and calls[0].type == "function"
        assert json.loads(calls[0].function.arguments)["city"] in ("Oslo", "Rome")
