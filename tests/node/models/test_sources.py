"""Which of a repository's files a REF means, and rules of the web that need no server."""

import pytest

from unhosted.node.core.errors import Refused
from unhosted.node.core.model_ref import HubRef
from unhosted.node.shell.models.sources import HubFile, choose_file
from unhosted.node.shell.models.web import public


def files(*paths: str) -> list[HubFile]:
    return [HubFile(path=path, size_bytes=1, sha256=None) for path in paths]


USUAL = files(
    "README.md",
    "mmproj-F16.gguf",
    "x-imatrix.gguf",
    "x-Q4_K_M.gguf",
    "x-Q4_K_S.gguf",
    "x-UD-Q4_K_XL.gguf",
    "old/x-Q4_K_M.gguf",
    "x.q8_0.gguf",
    "x-IQ4_XS.gguf",
    "x-BF16-00001-of-00002.gguf",
    "x-BF16-00002-of-00002.gguf",
)


@pytest.mark.parametrize(
    ("quant", "path"),
    [
        ("Q4_K_M", "x-Q4_K_M.gguf"),
        ("Q4_K_S", "x-Q4_K_S.gguf"),
        ("Q4_K_XL", "x-UD-Q4_K_XL.gguf"),
        ("UD-Q4_K_XL", "x-UD-Q4_K_XL.gguf"),
        ("Q8_0", "x.q8_0.gguf"),
        ("IQ4_XS", "x-IQ4_XS.gguf"),
        (None, "x-Q4_K_M.gguf"),
    ],
)
def test_quantization_picks_the_file(quant: str | None, path: str) -> None:
    assert choose_file(HubRef(repo="o/r", quant=quant), USUAL).path == path


def test_path_picks_exactly_that_file() -> None:
    assert choose_file(HubRef(repo="o/r", file="old/x-Q4_K_M.gguf"), USUAL).path == "old/x-Q4_K_M.gguf"


def test_single_file_of_any_name_is_the_model() -> None:
    assert choose_file(HubRef(repo="o/r"), files("weights.gguf", "README.md")).path == "weights.gguf"


def test_absent_quantization_names_those_there_are() -> None:
    with pytest.raises(Refused, match=r"BF16, IQ4_XS, Q4_K_M, Q4_K_S, Q4_K_XL, Q8_0"):
        choose_file(HubRef(repo="o/r", quant="Q4_K"), USUAL)


def test_split_model_is_refused_with_a_way_out() -> None:
    with pytest.raises(Refused, match="split into 2 files") as refusal:
        choose_file(HubRef(repo="o/r", quant="BF16"), USUAL)
    assert refusal.value.code == "not_supported"


def test_repository_without_models_says_so() -> None:
    with pytest.raises(Refused, match="it has: none"):
        choose_file(HubRef(repo="o/r"), files("README.md"))


def test_addresses_in_messages_carry_no_secret() -> None:
    assert public("https://user:pass@host:8443/a.gguf?sig=secret") == "https://host:8443/a.gguf"
