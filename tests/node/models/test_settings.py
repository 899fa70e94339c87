"""Settings that other tools' users have already made."""

from pathlib import Path

import pytest

from unhosted.node.shell.models.settings import PullSettings, settings_from_environment


@pytest.fixture(autouse=True)
def no_pip_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """This machine's own pip configuration stays out of the tests."""
    monkeypatch.setattr("unhosted.node.shell.models.settings.SYSTEM_PIP_CONFIGS", ())
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))


def test_defaults_are_the_public_services(tmp_path: Path) -> None:
    settings = settings_from_environment({}, home=tmp_path)
    assert settings.hub_endpoint == "https://huggingface.co"
    assert settings.index_urls == ("https://pypi.org/simple",)
    assert (settings.hub_token, settings.ca_file, settings.hub_offline) == (None, None, False)


def test_hub_variables_and_token_file_are_honoured(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_file\n")
    environ = {"HF_HOME": str(tmp_path / "hf"), "HF_ENDPOINT": "https://mirror/", "HF_HUB_OFFLINE": "1"}
    settings = settings_from_environment(environ, home=tmp_path)
    assert (settings.hub_token, settings.hub_endpoint, settings.hub_offline) == (
        "hf_file",
        "https://mirror",
        True,
    )
    assert settings_from_environment({**environ, "HF_TOKEN": "hf_env"}, home=tmp_path).hub_token == "hf_env"


@pytest.mark.parametrize(
    ("environ", "urls"),
    [
        ({}, ("https://conf/simple", "https://extra/simple")),
        ({"PIP_INDEX_URL": "https://a/simple"}, ("https://a/simple", "https://extra/simple")),
        ({"UV_INDEX_URL": "https://b/simple"}, ("https://b/simple", "https://extra/simple")),
        ({"UV_DEFAULT_INDEX": "https://c/simple"}, ("https://c/simple", "https://extra/simple")),
        ({"PIP_INDEX_URL": "http://localhost:1/s"}, ("http://localhost:1/s", "https://extra/simple")),
        ({"PIP_INDEX_URL": "file:///wheels"}, ("https://extra/simple",)),
        (
            {"PIP_EXTRA_INDEX_URL": "https://d/simple file:///wheels http://other/simple"},
            ("https://conf/simple", "https://d/simple"),
        ),
    ],
)
def test_indexes_come_from_environment_then_pip_conf(
    tmp_path: Path, environ: dict[str, str], urls: tuple[str, ...]
) -> None:
    config = tmp_path / ".config/pip/pip.conf"
    config.parent.mkdir(parents=True)
    config.write_text(
        "[global]\nindex-url = https://conf/simple\nextra-index-url = https://extra/simple\ncert = /ca.pem\n"
    )
    settings = settings_from_environment(environ, home=tmp_path)
    assert settings.index_urls == urls
    assert settings.ca_file == "/ca.pem"


def test_certificates_of_the_environment_come_first(tmp_path: Path) -> None:
    environ = {"REQUESTS_CA_BUNDLE": "/r.pem", "PIP_CERT": "/p.pem"}
    assert settings_from_environment(environ, home=tmp_path).ca_file == "/r.pem"


def test_broken_pip_conf_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip/pip.conf").write_text("no section\n")
    assert settings_from_environment({}, home=tmp_path).index_urls == ("https://pypi.org/simple",)


def test_secrets_are_not_in_the_representation() -> None:
    settings = PullSettings(hub_token="hf_secret", index_urls=("https://user:pass@x/simple",))
    assert "hf_secret" not in repr(settings)
    assert "pass" not in repr(settings)


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="1 to 16"):
        PullSettings(connections=0)
    with pytest.raises(ValueError, match="at least 1"):
        PullSettings(chunk_bytes=0)
