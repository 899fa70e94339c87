"""The command line as a whole: help, usage, exit codes, pipes, completion, settings."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node.cli.conftest import Unhosted
from unhosted.node.cli import main, output
from unhosted.node.core.errors import LocalFault, Refused

HEAVY = {
    *("trio", "numpy", "httpx", "fastapi", "pydantic", "rich", "tomlkit", "jinja2", "llama_cpp", "ctypes"),
    *("libp2p", "multiaddr", "zeroconf", "segno", "psutil", "spake2", "cryptography"),
}


def python(*args: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    return subprocess.run(
        [sys.executable, *args], env=environ, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['unhosted', '--help']\n"
        "from unhosted.node.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('\\n', *sys.modules)"
    )
    done = python("-c", code)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "Commands:" in done.stdout
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("command", main.COMMANDS)
def test_each_command_has_help_that_says_what_it_does(unhosted: Unhosted, command: str) -> None:
    result = unhosted(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: unhosted {command}")


def test_no_command_shows_the_help(unhosted: Unhosted) -> None:
    assert unhosted().out == unhosted("--help").out


def test_a_wrong_command_suggests_the_right_one(unhosted: Unhosted) -> None:
    result = unhosted("lst")
    assert result.code == 2
    assert result.err == "error: no such command 'lst'; did you mean 'list'?\nhint: see `unhosted --help`\n"


def test_a_wrong_option_is_usage(unhosted: Unhosted) -> None:
    result = unhosted("list", "--jason")
    assert result.code == 2 and "hint: see `unhosted list --help`" in result.err


def test_versions_agree(unhosted: Unhosted) -> None:
    plain = unhosted("version").out
    assert unhosted("--version").out == plain
    assert json.loads(unhosted("version", "--json").out)["version"] in plain


def test_one_refusal_among_tasks_is_one_line(unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise BaseExceptionGroup("", [ExceptionGroup("", [Refused("disk_full", "1 byte short")])])

    monkeypatch.setattr(main.cli, "invoke", fail)
    result = unhosted("list")
    assert (result.code, result.err) == (1, "error: 1 byte short\n")


@pytest.mark.parametrize("kind", ["plain", "grouped"])
def test_a_full_disk_is_one_line_and_not_a_traceback(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/models/x")

    def fail(*args: object, **options: object) -> None:
        raise full if kind == "plain" else ExceptionGroup("", [full])

    monkeypatch.setattr(main.cli, "invoke", fail)
    result = unhosted("list")
    assert result.code == 1
    assert result.err.startswith("error: /models/x: No space left on device; `unhosted doctor`")


@pytest.mark.parametrize("fault", [LocalFault("broken"), ZeroDivisionError()])
def test_a_defect_of_ours_is_not_hidden(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ExceptionGroup("", [fault, Refused("overloaded", "also")])

    monkeypatch.setattr(main.cli, "invoke", fail)
    with pytest.raises(ExceptionGroup):
        unhosted("list")


@pytest.mark.parametrize(
    ("raised", "code"), [(KeyboardInterrupt(), 130), (BrokenPipeError(), 141)], ids=["ctrl-c", "pipe"]
)
def test_a_stop_has_its_own_exit_code_and_no_words(
    unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int
) -> None:
    for error in (raised, BaseExceptionGroup("", [raised])):

        def fail(*args: object, error: BaseException = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(main.cli, "invoke", fail)
        result = unhosted("list")
        assert (result.code, result.out, result.err) == (code, "", "")


@pytest.mark.slow
def test_a_closed_pipe_is_silent(home: Path) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(
        [sys.executable, "-m", "unhosted.node", "config", "list", "--json"],
        env=environ,
        stdout=write_end,
        stderr=subprocess.PIPE,
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(unhosted: Unhosted, shell: str) -> None:
    result = unhosted("completion", shell)
    assert result.code == 0
    assert f"_UNHOSTED_COMPLETE={shell}_complete" in result.out


@pytest.mark.slow
def test_the_shell_is_told_commands_and_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_UNHOSTED_COMPLETE", "bash_complete")
    for words, expected in (("unhosted ser", "plain,serve"), ("unhosted config get sl", "plain,slots")):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
        assert python("-m", "unhosted.node").stdout.split() == [expected]


def test_config_set_get_list_go_together(unhosted: Unhosted, home: Path) -> None:
    assert unhosted("config", "set", "public.max-usd-per-month", "5").code == 0
    assert unhosted("config", "get", "public.max-usd-per-month").out == "5.00\n"
    shown = json.loads(unhosted("config", "get", "public.max-usd-per-month", "--json").out)
    assert shown == {"key": "public.max-usd-per-month", "value": "5.00", "origin": "file"}
    listed = json.loads(unhosted("config", "list", "--json").out)
    assert listed["values"]["public.max-usd-per-month"] == "5.00"
    assert listed["origins"]["port"] == "environment"
    assert "public.max-usd-per-month 5.00" in " ".join(unhosted("config", "list").out.split())
    assert (home / "config.toml").read_text() == '[public]\nmax-usd-per-month = "5.00"\n'


def test_config_says_when_the_environment_wins(unhosted: Unhosted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNHOSTED_SLOTS", "3")
    result = unhosted("config", "set", "slots", "2")
    assert result.code == 0 and "UNHOSTED_SLOTS is set and wins" in result.err
    assert unhosted("config", "get", "slots").out == "3\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [(("get", "slot"), "did you mean slots"), (("set", "port", "x"), "0 to 65535")],
)
def test_config_refuses_in_one_line(unhosted: Unhosted, args: tuple[str, ...], said: str) -> None:
    result = unhosted("config", *args)
    assert result.code == 1
    assert result.err.startswith("error: ") and said in result.err and result.err.count("\n") == 1


def test_names_from_files_cannot_steer_the_terminal() -> None:
    assert output.printable("a\x1b[31mb\nc") == "a�[31mb�c"
    assert output.printable_answer("a\x1b]0;x\x07\n\tb") == "a�]0;x�\n\tb"


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (98_362_432, "98.4 MB")]
)
def test_sizes_are_shown_in_decimal_units(size_bytes: int, text: str) -> None:
    assert output.human_size(size_bytes) == text


def test_counts_and_durations_are_short() -> None:
    assert [output.human_count(n) for n in (None, 999, 134_515_008, 8_030_000_000)] == [
        "?",
        "999",
        "135M",
        "8.0B",
    ]
    assert [output.human_duration(s) for s in (5, 65, 3700)] == ["5 s", "1 min 05 s", "1 h 01 min"]


def test_ps_without_a_node_says_how_to_start_one(unhosted: Unhosted) -> None:
    result = unhosted("ps")
    assert result.code == 1 and "start one with `unhosted serve`" in result.err
