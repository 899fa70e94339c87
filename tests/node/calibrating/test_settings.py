"""Settings differ from the usual one in one thing each, and what is claimed of cheats is another thing."""

from dataclasses import fields, replace
from pathlib import Path

import pytest

from unhosted.node.shell.calibrating.measuring import cooler, honest, other_seed
from unhosted.node.shell.calibrating.settings import (
    Setting,
    checker_settings,
    poor_cache,
    seller_settings,
    setting_of,
)
from unhosted.node.shell.engine.fit import EngineSettings
from unhosted.verify.params import SamplingParams

LIBRARY = Path("/somewhere/libllama.so")


def differences(setting: Setting, usual: Setting) -> set[str]:
    names = [one.name for one in fields(Setting) if one.name != "name"]
    return {name for name in names if getattr(setting, name) != getattr(usual, name)}


@pytest.mark.parametrize(
    "usual", [Setting(name="usual"), Setting(name="usual", is_exact=True, slots=2, threads=1)]
)
def test_sellers_differ_from_the_usual_one_in_what_their_name_says(usual: Setting) -> None:
    sellers = {one.name: one for one in seller_settings([LIBRARY], usual=usual)}
    assert differences(sellers["usual"], usual) == set()
    assert differences(sellers["one slot"], usual) == {"slots"}
    assert differences(sellers["warm prefix"], usual) == {"warms_prefix"}
    assert differences(sellers["cache q8_0"], usual) == {"kv_type"}
    assert differences(sellers["other library 1"], usual) == {"library"}
    assert "flash_attention" in differences(sellers["no flash attention"], usual)
    assert {one.is_exact for one in sellers.values()} == {True, False}
    assert not any(one.kv_type == "q4_0" for one in sellers.values())
    assert len({replace(one, name="") for one in sellers.values()}) == len(sellers)
    assert poor_cache(usual).kv_type == "q4_0"


def test_a_setting_reaches_the_engine_as_an_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_CPP_LIB_PATH", "/the/usual/one")
    node = EngineSettings(slots=3, threads=2, batch_tokens=64, ubatch_tokens=128, is_exact=True)
    setting = setting_of(node)
    order = setting.order(tmp_path, context_tokens=256)
    assert (order.slots, order.threads, order.ubatch_tokens, order.is_exact) == (3, 2, 64, True)
    assert setting.environment()["LLAMA_CPP_LIB_PATH"] == "/the/usual/one"
    other = seller_settings([LIBRARY], usual=setting)[-1].environment()
    assert other["UNHOSTED_LLAMA_LIB"] == str(LIBRARY) and "LLAMA_CPP_LIB_PATH" not in other


def test_checkers_read_in_other_shapes() -> None:
    found = {one.name: one for one in checker_settings([LIBRARY])}
    assert found["small ubatch"].replay.ubatch_tokens < found["usual"].replay.ubatch_tokens
    assert not found["no flash attention"].replay.flash_attention
    assert found["other library 1"].engine.library == str(LIBRARY)


def test_a_claim_is_another_one_or_none() -> None:
    warm, greedy = SamplingParams(temperature=0.8), SamplingParams(temperature=0.0)
    assert honest(warm) == warm
    claimed = other_seed(warm)
    assert claimed is not None and claimed.seed != warm.seed and claimed.temperature == 0.8
    cooled = cooler(warm)
    assert cooled is not None and cooled.temperature == 0.6 and cooled.seed == warm.seed
    assert other_seed(greedy) is None and cooler(greedy) is None
