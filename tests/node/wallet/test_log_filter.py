"""No key in a log or a traceback, however it got there."""

import base64
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.node.wallet.test_keystore import child_environment
from unhosted.node.shell.keys import log_filter
from unhosted.node.shell.keys.log_filter import CONCEALED, KeyFilter, conceal, redact

SECRET = bytes(range(7, 39))
FORMS = {
    "hex": SECRET.hex(),
    "hex in capitals": SECRET.hex().upper(),
    "0x": "0x" + SECRET.hex(),
    "bytes": repr(SECRET),
    "bytearray": repr(bytearray(SECRET)),
    "number": str(int.from_bytes(SECRET, "big")),
    "hex number": hex(int.from_bytes(SECRET, "big")),
    "base64": base64.b64encode(SECRET).decode(),
    "list": str(list(SECRET)),
    "inside more hex": "ab" + SECRET.hex() + "cd",
}
CORES = [form.strip("b'\"[]()=").removeprefix("0x") for form in FORMS.values()]


@pytest.fixture(autouse=True)
def loaded() -> Iterator[None]:
    conceal(SECRET)
    yield
    log_filter._concealers.clear()


def written(record: logging.LogRecord) -> str:
    assert KeyFilter().filter(record)
    return logging.Formatter("%(message)s").format(record)


def record(message: object, *args: object, exc_info: object = None) -> logging.LogRecord:
    return logging.LogRecord("a", logging.INFO, "a.py", 1, message, args, exc_info)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMS.values(), ids=list(FORMS))
def test_a_key_is_concealed_in_message_arguments_and_tracebacks(form: str) -> None:
    assert redact(f"before {form} after").startswith("before ")
    try:
        raise ValueError(f"bad key {form}")
    except ValueError:
        with_trace = record("failed", exc_info=sys.exc_info())
    for text in (
        written(record(f"key={form}")),
        written(record("key=%s", form)),
        written(record("%s and %d", {"key": form}, 5)),
        written(with_trace),
    ):
        assert CONCEALED in text
        assert not any(core in text for core in CORES)


def test_an_object_whose_text_is_a_key_is_concealed() -> None:
    class Careless:
        def __repr__(self) -> str:
            return f"Careless(key={SECRET!r})"

    assert written(record("%r", Careless())) == f"Careless(key=b{chr(39)}{CONCEALED}{chr(39)})"


def test_a_key_that_was_never_loaded_is_concealed_as_hex() -> None:
    assert redact("11" * 32) == CONCEALED
    assert redact("0x" + "ab" * 32 + ".") == f"{CONCEALED}."


def test_what_is_no_key_stays(caplog: pytest.LogCaptureFixture) -> None:
    for text in ("channel=12345678", "ab" * 31, "address 0x" + "11" * 20, "peer …5b2f", "100 %"):
        assert redact(text) == text
    untouched = record("served in %d ms", 12)
    KeyFilter().filter(untouched)
    assert (untouched.msg, untouched.args) == ("served in %d ms", (12,))


def test_a_line_with_wrong_arguments_is_written_without_them() -> None:
    assert written(record("three %s %s %s", SECRET.hex())) == "three %s %s %s"


def test_a_small_test_key_does_not_conceal_every_digit() -> None:
    conceal((1).to_bytes(32, "big"))
    assert redact("1 request in 11 ms") == "1 request in 11 ms"


PROGRAM = """
import logging, sys
from unhosted.node.shell.keys import log_filter
log_filter.install()
log_filter.install()
key = "ab" * 32
early = logging.getLogger("early")
late = logging.StreamHandler(sys.stdout)
logging.getLogger("deep.down").addHandler(late)
logging.getLogger("deep.down").warning("to a handler of its own: %s", key)
early.warning("to the last resort: %s", key)
logging.basicConfig()
early.warning("to the root: %s", key)
try:
    raise ValueError(key)
except ValueError:
    early.exception("caught")
def f(secret):
    raise RuntimeError("uncaught " + secret)
f(key)
"""


def test_installed_it_covers_every_handler_and_uncaught_errors() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=child_environment(), timeout=30
    )
    assert done.returncode == 1
    assert "ab" * 16 not in done.stdout + done.stderr
    assert done.stdout.count(CONCEALED) == 1
    assert done.stderr.count(CONCEALED) >= 4
    assert "RuntimeError: uncaught [concealed]" in done.stderr
