"""Settings of the node: defaults, then `config.toml`, then `UNHOSTED_*`, then flags; the last one wins.

Every key is known, typed and ranged. A key that is not known is an error that names the closest one: a
setting with a typing error in it must not be ignored in silence. An environment variable is the key in upper
case behind `UNHOSTED_`; other `UNHOSTED_*` variables are left alone (container platforms invent some), and
`unhosted doctor` lists those that look like a mistake.
"""

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from unhosted.node.config_file import flatten, read_text, read_toml, write_atomically
from unhosted.node.config_paths import Paths as Paths
from unhosted.node.config_values import (
    Bad,
    address,
    choice,
    endpoints,
    flag,
    hidden_urls,
    hours,
    integer,
    is_like_key,
    names,
    optional_text,
    short_name,
    show_usd,
    size,
    text,
    urls,
    usd,
)
from unhosted.node.core.errors import Refused
from unhosted.node.core.service import Radius

Origin = Literal["default", "file", "environment", "flag"]
LogLevel = Literal["debug", "info", "warning", "error"]
KvType = Literal["f16", "q8_0"]

OTHER_VARIABLES = frozenset(
    {
        "UNHOSTED_HOME",
        "UNHOSTED_LLAMA_LIB",
        "UNHOSTED_ANVIL",
        "UNHOSTED_PRIVATE_KEY",
        "UNHOSTED_OWNER_KEY",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the node runs with. 0 in context_tokens, threads and memory_budget_bytes means: choose.

    idle_unload_s: 0 keeps models loaded. max_micros_per_month: the public cap, micro-USDC. allowed_hosts and
    allowed_origins: names beside loopback and the bound host that a request may carry.

    peers_host: empty for every interface. peers_interfaces: empty for all. peers_name: empty for the host's.
    peers_announce: host:port texts under which others reach this machine. peers_quiet_hours: HH:MM-HH:MM,
    local time, or empty.

    chain_rpc_urls: empty for the chain's own; they can hold a key, so they are never shown whole.
    wallet_owner, wallet_payee: addresses as text, or empty.
    """

    paths: Paths
    host: str = "127.0.0.1"
    port: int = 8642
    offline: bool = False
    default_model: str = "smollm2:135m"
    slots: int = 4
    context_tokens: int = 0
    threads: int = 0
    batch_tokens: int = 512
    ubatch_tokens: int = 512
    kv_type: KvType = "f16"
    exact: bool = False
    idle_unload_s: int = 900
    memory_budget_bytes: int = 0
    queue_max: int = 256
    radius: Radius = "trusted"
    max_micros_per_month: int = 0
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    log_level: LogLevel = "info"
    peers_enabled: bool = True
    peers_port: int = 8643
    peers_bulk_port: int = 8644
    peers_host: str = ""
    peers_interfaces: tuple[str, ...] = ()
    peers_mdns: bool = True
    peers_name: str = ""
    peers_announce: tuple[str, ...] = ()
    peers_port_mapping: bool = False
    peers_relay: bool = True
    peers_quiet_hours: str = ""
    peers_pause_when_busy: bool = False
    check_for_peers: bool = False
    chain_name: str = "base"
    chain_rpc_urls: tuple[str, ...] = field(default=(), repr=False)
    wallet_keystore: str = ""
    wallet_password_file: str = ""
    wallet_owner: str = ""
    wallet_payee: str = ""
    wallet_accept_unaudited_contracts: bool = False
    wallet_max_total_deposit_micros: int = 100_000_000
    origins: Mapping[str, Origin] = field(default_factory=dict, compare=False)

    @property
    def has_peers(self) -> bool:
        """Whether anything of the trusted ring is started: no listener, no mDNS and no import without it."""
        return self.peers_enabled and not self.offline and self.radius != "local"


def _flat(name: str) -> str:
    return name.replace("-", "_").replace(".", "_").lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A setting. name: as in the file, dots for tables. parse: from text or a TOML value, raises Bad.

    show: as the file holds it. hide: as people are shown it, where it can hold a secret. short: a second name
    in the environment.
    """

    name: str
    field: str
    parse: Callable[[object], object]
    show: Callable[[Any], object]
    help: str
    hide: Callable[[Any], object] | None = None
    short: str = ""

    @property
    def variable(self) -> str:
        return "UNHOSTED_" + _flat(self.name).upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Names in the environment; the last one that is set wins."""
        return (self.variable, self.short) if self.short else (self.variable,)


def _same(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _key(name: str, parse: Callable[[object], object], help: str) -> Key:
    return Key(name=name, field=name, parse=parse, show=_same, help=help)


def _within(table: str, name: str, parse: Callable[[object], object], help: str, *, short: str = "") -> Key:
    field_name = f"{table}_{name}".replace("-", "_")
    return Key(name=f"{table}.{name}", field=field_name, parse=parse, show=_same, help=help, short=short)


_peers = partial(_within, "peers")
_wallet = partial(_within, "wallet")


KEYS: tuple[Key, ...] = (
    _key("host", text, "address to listen on; another one than loopback needs a bearer token"),
    _key("port", integer(0, 65535), "port of the API and the page; 0 takes a free one"),
    _key("offline", flag, "make no connection outside this machine"),
    _key("default_model", text, "the model of `run` and `chat` when none is named"),
    _key("slots", integer(1, 256), "requests that one model answers at once"),
    _key("context_tokens", integer(0, 1 << 24), "context of one request in tokens; 0: what fits"),
    _key("threads", integer(0, 1024), "threads of the engine; 0: it chooses"),
    _key("batch_tokens", integer(32, 65536), "tokens that one engine step takes at most"),
    _key("ubatch_tokens", integer(32, 65536), "tokens that one pass over the weights takes at most"),
    _key("kv_type", choice("f16", "q8_0"), "format of the KV cache; q8_0 takes half the memory"),
    _key("exact", flag, "answers that a checker can repeat bit for bit; long prompts are read more slowly"),
    _key("idle_unload_s", integer(0, 31_536_000), "unload a model after so many idle seconds; 0: never"),
    _key("memory_budget_bytes", size, "memory for all models, such as 8GB; 0: what is free"),
    _key("queue_max", integer(0, 65536), "requests that may wait per model before 503"),
    _key("radius", choice("local", "trusted", "public"), "how far a request may go by default"),
    Key(
        name="public.max-usd-per-month",
        field="max_micros_per_month",
        parse=usd,
        show=show_usd,
        help="most that may be spent in a calendar month (UTC); 0: nothing is ever paid",
    ),
    _within("chain", "name", text, "chain that money is on, such as base, base-sepolia or local"),
    Key(
        name="chain.rpc-urls",
        field="chain_rpc_urls",
        parse=urls,
        show=_same,
        hide=hidden_urls,
        help="endpoints of that chain, better two than one, with commas between; empty: public ones",
    ),
    _wallet(
        "keystore", optional_text, "file of this node's key; empty: the usual", short="UNHOSTED_KEYSTORE"
    ),
    _wallet(
        "password-file", optional_text, "file with its password, mode 0600", short="UNHOSTED_PASSWORD_FILE"
    ),
    _wallet("owner", address, "address whose USDC pays; its key stays elsewhere"),
    _wallet("payee", address, "address that earnings go to; its key may stay elsewhere"),
    _wallet("accept-unaudited-contracts", flag, "use the contracts with real money before an audit"),
    Key(
        name="wallet.max-total-deposit-usd",
        field="wallet_max_total_deposit_micros",
        parse=usd,
        show=show_usd,
        help="most that may lie in the contract at once",
    ),
    _key("allowed_origins", names, "web origins that may call the API, such as https://app.example"),
    _key("allowed_hosts", names, "Host names that are accepted beside loopback and the bound one"),
    _peers("enabled", flag, "pair with other machines of yours; off: nothing of it is started"),
    _peers("port", integer(0, 65535), "port that other machines reach this one at; 0 takes a free one"),
    _peers("bulk-port", integer(0, 65535), "port that models are sent over; 0 takes a free one"),
    _peers("host", optional_text, "address to listen on for other machines; empty: all"),
    _peers("interfaces", names, "network interfaces to listen and look on, such as eth0; empty: all"),
    _peers("mdns", flag, "be found, and find others, on the local network"),
    _peers("name", short_name, "what others see this machine as; empty: its host name"),
    _peers("announce", endpoints, "host:port under which others reach this machine from elsewhere"),
    _peers("port-mapping", flag, "ask the router to let others in (UPnP, NAT-PMP)"),
    _peers("relay", flag, "carry encrypted traffic between machines that are paired with this one"),
    _peers("quiet-hours", hours, "local time without work for others, such as 22:00-07:00"),
    _peers("pause-when-busy", flag, "no work for others while this machine is used"),
    _within("check", "for-peers", flag, "read evidence again for paired machines, and sign what that shows"),
    _key("log_level", choice("debug", "info", "warning", "error"), "how much `serve` writes to stderr"),
)
KEY_BY_FLAT_NAME = {_flat(key.name): key for key in KEYS}


def locate(environ: Mapping[str, str] | None = None) -> Paths:
    """Folders of this user. Nothing is created."""
    home = (os.environ if environ is None else environ).get("UNHOSTED_HOME")
    if home:
        root = Path(home).expanduser().absolute()
        return Paths(config_dir=root, data_dir=root / "data", state_dir=root / "state")
    import platformdirs

    dirs = platformdirs.PlatformDirs("unhosted", appauthor=False)
    return Paths(
        config_dir=dirs.user_config_path, data_dir=dirs.user_data_path, state_dir=dirs.user_state_path
    )


def load(flags: Mapping[str, object] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """The settings in force. flags: by key name, None where the flag was not given.

    Raises: Refused (invalid_request) that names the file or variable, the key and what it may be.
    """
    environ = os.environ if environ is None else environ
    paths = locate(environ)
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}

    def take(key: Key, value: object, origin: Origin, source: str) -> None:
        values[key.field] = parse_value(key, value, source=source)
        origins[key.field] = origin

    for name, value in flatten(read_toml(paths.config_file)).items():
        take(find_key(name, source=str(paths.config_file)), value, "file", str(paths.config_file))
    for key in KEYS:
        for variable in key.variables:
            if variable in environ:
                take(key, environ[variable], "environment", variable)
    for name, value in (flags or {}).items():
        if value is not None:
            take(find_key(name, source="flag"), value, "flag", "flag --" + name.replace("_", "-"))
    config = Config(paths=paths, **values, origins=origins)
    if config.ubatch_tokens > config.batch_tokens:
        if "ubatch_tokens" in origins:
            raise Refused(
                "invalid_request",
                f"ubatch_tokens {config.ubatch_tokens} is above batch_tokens {config.batch_tokens};"
                " lower it or raise batch_tokens",
                field="ubatch_tokens",
            )
        config = replace(config, ubatch_tokens=config.batch_tokens)
    return config


def find_key(name: str, *, source: str) -> Key:
    """Raises: Refused that names the closest key."""
    key = KEY_BY_FLAT_NAME.get(_flat(name))
    if key is None:
        close = difflib.get_close_matches(_flat(name), KEY_BY_FLAT_NAME, n=1, cutoff=0.5)
        hint = f"did you mean {KEY_BY_FLAT_NAME[close[0]].name}?" if close else "see `unhosted config list`"
        raise Refused("invalid_request", f"{source}: unknown key {name!r}; {hint}", field=name)
    return key


def parse_value(key: Key, value: object, *, source: str) -> object:
    """Raises: Refused that names the source, the key, the value and what it may be."""
    try:
        return key.parse(value)
    except Bad as bad:
        shown = "the value given" if key.hide or is_like_key(value) else repr(value)
        message = f"{source}: {key.name} = {shown} is not allowed; it must be {bad}"
        raise Refused("invalid_request", message, field=key.name) from None


def show_value(config: Config, key: Key) -> object:
    """The value as people are shown it: JSON-ready, without what could be a secret."""
    return (key.hide or key.show)(getattr(config, key.field))


def set_value(paths: Paths, name: str, text: str) -> Key:
    """Write one key to the file, atomically, with its comments and order kept.

    Raises: Refused for a key or value that is not allowed, or for a file that is not TOML.
    """
    import tomlkit

    key = find_key(name, source="config")
    value = parse_value(key, text, source="config")
    read_toml(paths.config_file)  # a broken file is refused in the same words as by every other command
    document = tomlkit.parse(read_text(paths.config_file))
    *tables, last = key.name.split(".")
    table: Any = document
    for part in tables:
        if part not in table:
            table[part] = tomlkit.table()
        table = table[part]
    spelled = next((entry for entry in table if _flat(entry) == _flat(last)), last)
    table[spelled] = key.show(value)
    write_atomically(paths.config_file, tomlkit.dumps(document))
    return key


def strange_variables(environ: Mapping[str, str]) -> tuple[str, ...]:
    """UNHOSTED_* variables that no key and no other part of the program reads."""
    known = OTHER_VARIABLES | {variable for key in KEYS for variable in key.variables}
    return tuple(sorted(name for name in environ if name.startswith("UNHOSTED_") and name not in known))
