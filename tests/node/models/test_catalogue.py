"""The list of models that ships, and the rules it keeps."""

import pytest

from unhosted.node.core.model_ref import HubRef, PypiRef
from unhosted.node.shell.models.catalogue import DEFAULT_MODEL, load_catalogue, parse_catalogue

ENTRY = """
[[model]]
name = "{name}"
title = "T"
licence = "MIT"
parameters = 1
context_tokens = 1
[[model.build]]
quantization = "Q8_0"
ref = "hf.co/org/repo:Q8_0"
{size}
"""


def test_catalogue_holds_models_smallest_first_with_unique_names() -> None:
    catalogue = load_catalogue()
    assert len(catalogue.models) >= 25
    assert catalogue.models[0].name == DEFAULT_MODEL
    assert {model.kind for model in catalogue.models} == {"chat", "embedding"}
    for model in catalogue.models:
        assert model.licence and model.title
        for build in model.builds:
            assert isinstance(build.ref, HubRef | PypiRef)
            assert catalogue.find(build.name) is build
            assert catalogue.find_ref(build.ref) is not None


def test_default_model_is_pinned_by_size_and_both_digests() -> None:
    build = load_catalogue().find("smollm2")
    assert build is load_catalogue().find(DEFAULT_MODEL)
    assert build is not None
    assert (build.size_exact, build.size_bytes) == (True, 98_362_432)
    assert build.sha256 and len(build.sha256) == 64
    assert build.blake3 and len(build.blake3) == 64


def test_digest_stands_only_beside_an_exact_size() -> None:
    for build in load_catalogue().build_by_name.values():
        assert build.size_exact or (build.sha256, build.blake3) == (None, None)


def test_quantization_names_another_build_of_a_model() -> None:
    catalogue = load_catalogue()
    small, large = catalogue.find("qwen3:4b"), catalogue.find("Qwen3:4B-Q8_0")
    assert small is not None and large is not None
    assert (small.quantization, large.quantization) == ("Q4_K_M", "Q8_0")
    assert catalogue.aliases("qwen3:4b") == ("qwen3:4b-q4_k_m",)
    model = catalogue.find_model("qwen3:4b-q8_0")
    assert model is not None and model.name == "qwen3:4b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ENTRY.format(name="a", size=""), "size_bytes or size_about_bytes"),
        (ENTRY.format(name="A", size="size_bytes = 1"), "lower case"),
        (ENTRY.format(name="a", size="size_bytes = 1") * 2, "twice"),
        (
            ENTRY.format(name="a", size="size_bytes = 2") + ENTRY.format(name="b", size="size_bytes = 1"),
            "not sorted",
        ),
    ],
)
def test_catalogue_that_breaks_a_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_catalogue(text)
