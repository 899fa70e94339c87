"""REFs: what a user may type for a model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node.core.errors import Refused
from unhosted.node.core.model_ref import (
    AliasRef,
    HashRef,
    HubRef,
    ModelRef,
    PathRef,
    PypiRef,
    UrlRef,
    parse_ref,
    split_radius,
)

HASH = "5f4fa13bfc6dd4a91fd00e22974a9c4e9ed628fd7d7f307398ddf30260d6b2c3"


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("smollm2:135m", AliasRef(name="smollm2:135m")),
        ("phi4", AliasRef(name="phi4")),
        ("hf.co/org/repo:Q4_K_M", HubRef(repo="org/repo", quant="Q4_K_M")),
        ("hf.co/org/repo:q4_k_m", HubRef(repo="org/repo", quant="Q4_K_M")),
        ("hf.co/org/repo", HubRef(repo="org/repo")),
        ("hf://org/repo:Q8_0", HubRef(repo="org/repo", quant="Q8_0")),
        ("huggingface.co/org/repo.v1-GGUF", HubRef(repo="org/repo.v1-GGUF")),
        ("https://huggingface.co/org/repo:Q8_0", HubRef(repo="org/repo", quant="Q8_0")),
        ("hf.co/org/repo@v2:Q8_0", HubRef(repo="org/repo", quant="Q8_0", revision="v2")),
        ("hf.co/org/repo:Q8_0@v2", HubRef(repo="org/repo", quant="Q8_0", revision="v2")),
        ("hf.co/org/repo/sub/x.gguf", HubRef(repo="org/repo", file="sub/x.gguf")),
        ("hf.co/org/repo/x.gguf@abc", HubRef(repo="org/repo", file="x.gguf", revision="abc")),
        (
            "https://huggingface.co/org/repo/resolve/main/a/x.gguf?download=true",
            HubRef(repo="org/repo", file="a/x.gguf", revision="main"),
        ),
        ("https://example.org/a/b.gguf", UrlRef(url="https://example.org/a/b.gguf")),
        ("http://127.0.0.1:8000/b.gguf", UrlRef(url="http://127.0.0.1:8000/b.gguf")),
        ("http://[::1]/b.gguf", UrlRef(url="http://[::1]/b.gguf")),
        ("pypi:a_B.c==0.1.2#x.gguf", PypiRef(package="a-b-c", version="0.1.2", file="x.gguf")),
        ("./x.gguf", PathRef(path="./x.gguf")),
        ("/models/x", PathRef(path="/models/x")),
        ("~/x.gguf", PathRef(path="~/x.gguf")),
        ("x.GGUF", PathRef(path="x.GGUF")),
        (f"b3:{HASH}", HashRef(blake3=HASH)),
        ("b3:5F4FA13B", HashRef(blake3="5f4fa13b")),
    ],
)
def test_forms_are_recognised_and_print_as_themselves(text: str, ref: ModelRef) -> None:
    assert parse_ref(text) == ref
    assert parse_ref(str(ref)) == ref


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a" * 3000, "at most 2048"),
        ("a\nb", "control character"),
        ("org/repo", "hf.co/org/repo"),
        ("hf.co/org", "ORG/REPO"),
        ("hf.co/../..", "ORG/REPO"),
        ("hf.co/org/repo/../x.gguf", "no GGUF file"),
        ("hf.co/org/repo@a/../b", "revision"),
        ("http://example.org/x.gguf", "use https"),
        ("http://127.0.0.1.example.org/x.gguf", "use https"),
        ("https:///x.gguf", "no host"),
        ("https://example.org:99999/x.gguf", "no URL"),
        ("https://example.org/x.bin", "does not end in .gguf"),
        ("pypi:package#x.gguf", "PACKAGE==VERSION#FILE"),
        ("pypi:package==1#../x.gguf", "no GGUF file"),
        ("b3:xyz", "hexadecimal"),
        ("b3:5f4", "8 to 64"),
        ("ftp://example.org/x", "no model name"),
        ("two words", "no model name"),
    ],
)
def test_other_texts_are_refused_with_what_to_do(text: str, message: str) -> None:
    with pytest.raises(Refused, match=message) as refusal:
        parse_ref(text)
    assert refusal.value.code == "invalid_request"
    assert refusal.value.field == "model"


def test_radius_is_split_off_only_if_it_is_one() -> None:
    assert split_radius("llama3.1:8b@public") == ("llama3.1:8b", "public")
    assert split_radius("hf.co/org/repo@v2:Q8_0@trusted") == ("hf.co/org/repo@v2:Q8_0", "trusted")
    assert split_radius("hf.co/org/repo@v2") == ("hf.co/org/repo@v2", None)
    assert split_radius("plain") == ("plain", None)
    assert split_radius("@local") == ("@local", None)


@pytest.mark.slow
@given(st.text(max_size=60) | st.text(alphabet="hfpyi.co:/@#=b3Qgu-_~ ", max_size=60))
def test_any_text_is_a_ref_that_prints_as_itself_or_refused(text: str) -> None:
    try:
        ref = parse_ref(text)
    except Refused:
        return
    assert parse_ref(str(ref)) == ref
