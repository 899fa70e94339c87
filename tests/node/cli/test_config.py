"""Settings: precedence, types, ranges, and edits that keep what people wrote."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unhosted.node import config
from unhosted.node.core.errors import Refused


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"UNHOSTED_HOME": str(tmp_path)}


def write(home: dict[str, str], text: str) -> Path:
    path = Path(home["UNHOSTED_HOME"]) / "config.toml"
    path.write_text(text, "utf-8")
    return path


def test_without_a_file_the_defaults_hold(home: dict[str, str]) -> None:
    loaded = config.load(environ=home)
    assert (loaded.host, loaded.port, loaded.offline) == ("127.0.0.1", 8642, False)
    assert loaded.radius == "trusted"
    assert loaded.max_micros_per_month == 0


def test_every_key_has_its_field_and_takes_its_own_default(home: dict[str, str]) -> None:
    loaded = config.load(environ=home)
    for key in config.KEYS:
        value = getattr(loaded, key.field)
        assert config.parse_value(key, key.show(value), source="test") == value


def test_flags_win_over_environment_and_environment_over_file(home: dict[str, str]) -> None:
    write(home, "port = 1001\nslots = 2\nthreads = 3\n")
    environ = home | {"UNHOSTED_PORT": "1002", "UNHOSTED_SLOTS": "5"}
    loaded = config.load({"port": 1003, "slots": None}, environ)
    assert (loaded.port, loaded.slots, loaded.threads) == (1003, 5, 3)
    assert loaded.origins == {"port": "flag", "slots": "environment", "threads": "file"}


def test_an_unknown_key_names_file_key_and_the_closest_one(home: dict[str, str]) -> None:
    path = write(home, "slot = 3\n")
    with pytest.raises(Refused) as caught:
        config.load(environ=home)
    assert str(path) in caught.value.message
    assert "'slot'" in caught.value.message and "slots" in caught.value.message


def test_a_wrong_table_is_an_unknown_key(home: dict[str, str]) -> None:
    write(home, "[public]\nmax-usd-a-month = 5\n")
    with pytest.raises(Refused, match=r"did you mean public\.max-usd-per-month"):
        config.load(environ=home)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 65536", "0 to 65535"),
        ("port = -1", "0 to 65535"),
        ("port = true", "0 to 65535"),
        ("port = 80.5", "0 to 65535"),
        ('kv_type = "q4_0"', "f16, q8_0"),
        ("slots = 0", "1 to 256"),
        ('memory_budget_bytes = "8 gigs"', "8GB"),
        ("memory_budget_bytes = -1", "8GB"),
        ('offline = "maybe"', "true or false"),
        ("host = 7", "text"),
        ("allowed_hosts = [1]", "text"),
        ('public.max-usd-per-month = "5,00"', "USD"),
        ("public.max-usd-per-month = -5", "USD"),
        ("public.max-usd-per-month = 1e3", "USD"),
        ("public.max-usd-per-month = nan", "USD"),
        ("public.max-usd-per-month = 0.0000001", "USD"),
        ("port = [1]", "0 to 65535"),
        ('peers.announce = "pc.example.org"', "host:port"),
        ('peers.announce = "pc.example.org:0"', "host:port"),
        ('peers.quiet-hours = "22-07"', "22:00-07:00"),
        ('peers.quiet-hours = "24:00-07:00"', "22:00-07:00"),
        ('peers.quiet-hours = "07:00-07:00"', "two different times"),
        ('peers.name = "local"', "means this machine"),
        ('peers.name = "12345678901234567890123456789012345678901234567890"', "at most 48"),
        ("peers.port = 65536", "0 to 65535"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_it_may_be(
    home: dict[str, str], text: str, said: str
) -> None:
    write(home, text)
    with pytest.raises(Refused) as caught:
        config.load(environ=home)
    assert said in caught.value.message
    assert text.partition(" ")[0] in caught.value.message


def test_a_variable_out_of_range_is_named(home: dict[str, str]) -> None:
    with pytest.raises(Refused, match="UNHOSTED_PORT"):
        config.load(environ=home | {"UNHOSTED_PORT": "tcp://10.0.0.1:8642"})


def test_a_file_that_is_not_toml_is_named(home: dict[str, str]) -> None:
    path = write(home, "port =")
    with pytest.raises(Refused) as caught:
        config.load(environ=home)
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("8GB", 8_000_000_000),
        ("8 gb", 8_000_000_000),
        ("7.5GiB", 8_053_063_680),
        ("512M", 512_000_000),
        ("1024", 1024),
        ("0", 0),
    ],
)
def test_sizes_are_read_as_people_write_them(home: dict[str, str], text: str, size_bytes: int) -> None:
    assert config.load({"memory_budget_bytes": text}, home).memory_budget_bytes == size_bytes


@pytest.mark.parametrize(
    ("text", "micros"),
    [("5", 5_000_000), ('"5.00"', 5_000_000), ("5.1", 5_100_000), ('"$0.000001"', 1), ("0.3", 300_000)],
)
def test_the_cap_is_exact_micros(home: dict[str, str], text: str, micros: int) -> None:
    write(home, f"[public]\nmax-usd-per-month = {text}\n")
    assert config.load(environ=home).max_micros_per_month == micros


@given(st.integers(min_value=0, max_value=1_000_000 * 1_000_000))
def test_a_shown_cap_reads_back_as_itself(micros: int) -> None:
    key = config.find_key("public.max-usd-per-month", source="test")
    assert config.parse_value(key, key.show(micros), source="test") == micros


def test_ubatch_above_batch_is_refused_where_it_was_asked_for(home: dict[str, str]) -> None:
    with pytest.raises(Refused, match="ubatch_tokens 512 is above batch_tokens 256"):
        config.load({"batch_tokens": 256, "ubatch_tokens": 512}, home)
    assert config.load({"batch_tokens": 256}, home).ubatch_tokens == 256


def test_set_keeps_comments_order_and_mode(home: dict[str, str]) -> None:
    path = write(home, "# mine\nport = 1 # low\n\n[public]\n# the cap\nmax-usd-per-month = 1\n")
    path.chmod(0o640)
    config.set_value(config.locate(home), "port", "9000")
    config.set_value(config.locate(home), "public.max_usd_per_month", "5")
    config.set_value(config.locate(home), "memory-budget-bytes", "8GB")
    text = path.read_text()
    assert "# mine" in text and "# low" in text and "# the cap" in text
    assert text.count("max") == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    loaded = config.load(environ=home)
    assert (loaded.port, loaded.max_micros_per_month) == (9000, 5_000_000)
    assert loaded.memory_budget_bytes == 8_000_000_000


def test_set_makes_the_file_for_its_owner_alone(tmp_path: Path) -> None:
    home = {"UNHOSTED_HOME": str(tmp_path / "new" / "home")}
    config.set_value(config.locate(home), "public.max-usd-per-month", "5.50")
    path = config.locate(home).config_file
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert config.load(environ=home).max_micros_per_month == 5_500_000
    assert os.listdir(path.parent) == ["config.toml"]


def test_set_refuses_a_wrong_value_and_leaves_the_file(home: dict[str, str]) -> None:
    path = write(home, "port = 1\n")
    with pytest.raises(Refused):
        config.set_value(config.locate(home), "port", "many")
    assert path.read_text() == "port = 1\n"


def test_set_writes_through_a_link(home: dict[str, str], tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.toml"
    real.write_text("port = 1\n")
    link = config.locate(home).config_file
    link.symlink_to(real)
    config.set_value(config.locate(home), "port", "2")
    assert link.is_symlink() and real.read_text() == "port = 2\n"


def test_lists_come_with_commas_or_as_toml(home: dict[str, str]) -> None:
    write(home, 'allowed_hosts = ["a.example", "b.example"]\n')
    environ = home | {"UNHOSTED_ALLOWED_ORIGINS": "https://a.example,https://b.example"}
    loaded = config.load(environ=environ)
    assert loaded.allowed_hosts == ("a.example", "b.example")
    assert loaded.allowed_origins == ("https://a.example", "https://b.example")


def test_peers_are_set_in_their_table_or_by_variable(home: dict[str, str]) -> None:
    write(home, '[peers]\nname = "pc"\nbulk-port = 0\nquiet-hours = "22:00-07:00"\ninterfaces = ["eth0"]\n')
    environ = home | {"UNHOSTED_PEERS_ANNOUNCE": "pc.example.org:8643,[2001:db8::5]:8643"}
    loaded = config.load({"peers_port": 9000}, environ)
    assert (loaded.peers_name, loaded.peers_port, loaded.peers_bulk_port) == ("pc", 9000, 0)
    assert loaded.peers_quiet_hours == "22:00-07:00" and loaded.peers_interfaces == ("eth0",)
    assert loaded.peers_announce == ("pc.example.org:8643", "[2001:db8::5]:8643")
    config.set_value(config.locate(home), "peers.quiet-hours", "")
    assert config.load(environ=home).peers_quiet_hours == ""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [({}, True), ({"offline": True}, False), ({"radius": "local"}, False), ({"peers_enabled": False}, False)],
)
def test_peers_are_on_unless_something_keeps_this_machine_alone(
    home: dict[str, str], flags: dict[str, object], expected: bool
) -> None:
    assert config.load(flags, home).has_peers is expected


def test_variables_that_nothing_reads_are_found() -> None:
    environ = {"UNHOSTED_PORT": "1", "UNHOSTED_HOME": "x", "UNHOSTED_SLOT": "2", "PATH": ""}
    assert config.strange_variables(environ) == ("UNHOSTED_SLOT",)


def test_without_a_home_the_folders_are_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "c"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "d"))
    paths = config.locate({})
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert paths.config_file == tmp_path / "c" / "unhosted" / "config.toml"
        assert paths.models_dir == tmp_path / "d" / "unhosted" / "models"
