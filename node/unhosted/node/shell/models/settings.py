"""What governs a pull: our own arguments, then what pip, uv and the hub's own tools read."""

import configparser
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from unhosted.node.core.model_ref import is_loopback

HUB_ENDPOINT = "https://huggingface.co"
INDEX_URL = "https://pypi.org/simple"

CONNECTIONS_MAX = 16
"""More than a handful gains nothing and servers answer 429."""

TOKEN_BYTES_MAX = 4096
SYSTEM_PIP_CONFIGS = (Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    """connections: parallel ranges of one file. chunk_bytes: None chooses by the file's size. attempts: tries
    in a row without one byte of progress. backoff_s: the first pause; it doubles. index_urls: package
    indexes in the order they are asked. ca_file: None uses the client's own. refresh: ask the source again
    although the model is here. home: where other programs' model folders are looked for; None looks nowhere.
    """

    connections: int = 4
    chunk_bytes: int | None = None
    attempts: int = 6
    backoff_s: float = 0.5
    timeout_s: float = 30.0
    offline: bool = False
    refresh: bool = False
    hub_endpoint: str = HUB_ENDPOINT
    hub_token: str | None = None
    hub_offline: bool = False
    index_urls: tuple[str, ...] = (INDEX_URL,)
    ca_file: str | None = None
    home: Path | None = None
    user_agent: str = "unhosted"

    def __post_init__(self) -> None:
        if not 1 <= self.connections <= CONNECTIONS_MAX:
            raise ValueError(f"connections is {self.connections}, must be 1 to {CONNECTIONS_MAX}")
        if self.chunk_bytes is not None and self.chunk_bytes < 1:
            raise ValueError(f"chunk_bytes is {self.chunk_bytes}, must be at least 1")

    def __repr__(self) -> str:
        return (
            f"PullSettings(connections={self.connections}, offline={self.offline})"  # no token, no password
        )


def settings_from_environment(
    environ: Mapping[str, str], *, home: Path, offline: bool = False, connections: int = 4
) -> PullSettings:
    """Settings as pip, uv and huggingface_hub would have them on this machine."""
    configs = tuple(_pip_configs(environ, home))
    index = next(
        (environ[key] for key in ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX") if environ.get(key)),
        _last(configs, "index-url") or INDEX_URL,
    )
    extra = [environ[key] for key in ("PIP_EXTRA_INDEX_URL", "UV_EXTRA_INDEX_URL") if environ.get(key)]
    extras = " ".join(extra or [_last(configs, "extra-index-url") or ""]).split()
    ca_file = next(
        (environ[key] for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT") if environ.get(key)),
        _last(configs, "cert"),
    )
    return PullSettings(
        connections=connections,
        offline=offline,
        hub_endpoint=(environ.get("HF_ENDPOINT") or HUB_ENDPOINT).rstrip("/"),
        hub_token=environ.get("HF_TOKEN") or _token_file(environ, home),
        hub_offline=environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
        index_urls=tuple(url for url in dict.fromkeys([index, *extras]) if _is_usable(url)) or (INDEX_URL,),
        ca_file=ca_file,
        home=home,
    )


def hub_home(environ: Mapping[str, str], home: Path) -> Path:
    """The folder of huggingface_hub's cache and token."""
    cache = Path(environ.get("XDG_CACHE_HOME") or home / ".cache")
    return Path(environ.get("HF_HOME") or cache / "huggingface").expanduser()


def _token_file(environ: Mapping[str, str], home: Path) -> str | None:
    path = Path(environ.get("HF_TOKEN_PATH") or hub_home(environ, home) / "token")
    try:
        with open(path, encoding="ascii") as file:
            return file.read(TOKEN_BYTES_MAX).strip() or None
    except (OSError, UnicodeDecodeError):
        return None  # not signed in


def _is_usable(url: str) -> bool:
    """Indexes on the disk, and plain http to other machines, are passed over."""
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
    except ValueError:
        return False


def _pip_configs(environ: Mapping[str, str], home: Path) -> Iterator[configparser.RawConfigParser]:
    """pip's configuration files, the strongest last."""
    paths = [*SYSTEM_PIP_CONFIGS, home / ".pip/pip.conf"]
    paths.append(Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf")
    paths.append(Path(sys.prefix) / "pip.conf")
    if named := environ.get("PIP_CONFIG_FILE"):
        paths.append(Path(named))
    for path in paths:
        parser = configparser.RawConfigParser()
        try:
            if parser.read(path, encoding="utf-8"):
                yield parser
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip's own complaint to make; the default index still works


def _last(configs: tuple[configparser.RawConfigParser, ...], key: str) -> str | None:
    for parser in reversed(configs):
        for section in ("install", "global"):
            if value := parser.get(section, key, fallback=None):
                return value
    return None
