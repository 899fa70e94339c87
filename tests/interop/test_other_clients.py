"""Clients that are programs of their own: openai from npm, LiteLLM, and simonw's llm."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.interop.conftest import Endpoint

pytestmark = pytest.mark.slow

NPM = Path(__file__).parent / "npm"
TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 300

LITELLM = """
import json, sys
import litellm
base, model = sys.argv[1:]
ask = dict(
    model=f"openai/{model}", api_base=base, api_key="any", max_tokens=6, seed=7, num_retries=0,
    messages=[{"role": "user", "content": "Hi"}],
)
whole = litellm.completion(**ask)
chunks = list(litellm.completion(**ask, stream=True))
try:
    litellm.completion(**ask | {"model": "openai/no:such"})
    error = ""
except litellm.NotFoundError as caught:
    error = type(caught).__name__
print(json.dumps({
    "whole": whole.choices[0].message.content,
    "tokens": whole.usage.completion_tokens,
    "streamed": "".join(chunk.choices[0].delta.content or "" for chunk in chunks),
    "error": error,
}))
"""


@pytest.fixture(scope="session")
def npm_modules() -> Path:
    """The packages of package.json, installed if this checkout has none yet."""
    if not (NPM / "node_modules" / "openai").is_dir():
        subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"],
            cwd=NPM,
            check=True,
            capture_output=True,
            timeout=INSTALL_TIMEOUT_S,
        )
    return NPM


def test_openai_from_npm(endpoint: Endpoint, npm_modules: Path) -> None:
    seen = _json(["node", "client.mjs", f"{endpoint.url}/v1", endpoint.model], cwd=npm_modules)
    assert seen["streamed"] == seen["whole"]
    assert (seen["completionTokens"], seen["ring"]) == (6, "local")
    assert (seen["embeddings"], seen["isNumber"], seen["response"]) == (2, True, True)
    assert endpoint.model in seen["models"]
    assert seen["error"] == [404, "model_not_found"]
    assert seen["aborted"]


def test_litellm(endpoint: Endpoint) -> None:
    # Its own list of prices, instead of one fetched from elsewhere at import.
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-c", LITELLM, f"{endpoint.url}/v1", endpoint.model]
    seen = _json(command, environment=environment)
    assert seen["streamed"] == seen["whole"]
    assert (seen["tokens"], seen["error"]) == (6, "NotFoundError")


def test_llm_command_line(endpoint: Endpoint, tmp_path: Path) -> None:
    models = [{"model_id": "here", "model_name": endpoint.model, "api_base": f"{endpoint.url}/v1"}]
    # JSON is YAML.
    (tmp_path / "extra-openai-models.yaml").write_text(json.dumps(models))
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path), "LLM_LOAD_PLUGINS": ""}
    for flags in (["--no-stream"], []):
        command = [sys.executable, "-m", "llm", "-m", "here", "--key", "any", "-o", "max_tokens", "6", "Hi"]
        done = subprocess.run(
            [*command, *flags], env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.strip()


def _json(
    command: list[str], *, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    seen = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(seen, dict)
    return seen
