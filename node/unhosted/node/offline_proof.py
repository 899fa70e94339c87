"""Proof that an offline node sends nothing: it runs where every packet that leaves is counted.

A network namespace of its own gets an interface with a default route, which takes whatever is not for
loopback, and a name server at an address of the namespace, which takes every lookup. In there a real node is
started with --offline and answers a real request. Before and after, the counters of every interface but
loopback are read, the lookups counted, and the sockets of the node and all its processes listed.

Then the same counters watch a program that does send: a proof that could not fail would prove nothing.

Run as `python -m unhosted.node.offline_proof inside ...` this module is the part inside the namespace; it
writes its evidence as JSON. `offline_namespace` has what it counts with.
"""

import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from unhosted.node.core.errors import Refused
from unhosted.node.offline_namespace import (
    Sent,
    count_lookups,
    default_route,
    describe,
    family,
    interfaces,
    lay_network,
    look,
    send_for_control,
    since,
    sockets,
    wait_moved,
)

PORT = 8642
START_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 300.0
WHOLE_TIMEOUT_S = 600.0
"""A large model loads from a slow disk twice as long as anybody would wait; then the proof gives up."""

_PR_SET_PDEATHSIG = 1
OUTPUT_BYTES_MAX = 1 << 20
ANSWER_TOKENS = 16
NOT_HERE = "install it and try again: apt install {package}, dnf install {package} or apk add {package}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The proof. control: the same counters while a program sends. open_sockets: of the node and its
    processes, other than loopback and unix ones. processes: pid, role, and whether it has its own namespace.
    """

    model: str
    answer_tokens: int
    sent: Sent
    control: Sent
    refused_count: int
    open_sockets: tuple[str, ...]
    processes: tuple[str, ...]
    listening: tuple[str, ...]
    route: str
    counters_before: str
    counters_after: str

    @property
    def holds(self) -> bool:
        """Whether nothing left, and the counters would have shown it."""
        control_moved = self.control.packets > 0 and self.control.lookups > 0
        return self.sent.is_nothing and control_moved and not self.open_sockets and self.answer_tokens > 0


def run_proof(model: str) -> Evidence:
    """Make the namespace, run the node in it and give the evidence. Takes as long as loading and one answer.

    Raises: Refused (not_supported) that says what this machine lacks; engine_failed with the node's words.
    """
    command = [*namespace_command(), sys.executable, "-m", __name__, "inside", model]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    # A session of its own, so that whatever is left inside can be ended with it.
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    try:
        output, complaint = process.communicate(timeout=WHOLE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise Refused("engine_failed", f"the proof did not end within {WHOLE_TIMEOUT_S:.0f} s") from None
    finally:
        if process.poll() is None:
            process.terminate()  # the part inside ends the node before it goes
            process.communicate()
    if process.returncode != 0:
        words = complaint.decode("utf-8", "replace").strip().splitlines()
        reason = words[-1] if words else f"status {process.returncode}"
        raise Refused("not_supported", f"the proof could not be run here: {reason}")
    return _decode(json.loads(output))


def namespace_command() -> list[str]:
    """The command that puts another one into new network and mount namespaces, unprivileged if need be."""
    if sys.platform != "linux":
        raise Refused("not_supported", f"network namespaces are Linux's; this is {sys.platform}")
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux")):
        if shutil.which(tool) is None:
            advice = NOT_HERE.format(package=package)
            raise Refused("not_supported", f"the proof needs `{tool}`, which is not here; {advice}")
    for flags in (["--net", "--mount"], ["--user", "--map-root-user", "--net", "--mount"]):
        command = ["unshare", *flags]
        # More than `true`: some kernels give the namespace and then forbid to use it.
        if subprocess.run([*command, "ip", "link", "set", "lo", "up"], capture_output=True).returncode == 0:
            return command
    raise Refused(
        "not_supported",
        "this kernel lets only root make network namespaces; run `sudo unhosted doctor --offline`,"
        " or allow user namespaces (sysctl kernel.unprivileged_userns_clone=1 or"
        " kernel.apparmor_restrict_unprivileged_userns=0)",
    )


def _decode(fields: dict[str, Any]) -> Evidence:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    values["sent"], values["control"] = Sent(**fields["sent"]), Sent(**fields["control"])
    return Evidence(**values)


def prove_inside(model: str) -> Evidence:
    """The part inside the namespace: everything here is gone when this process is."""
    lay_network()
    with count_lookups() as lookups, _node() as node:
        before, counters_before = look(lookups), interfaces()
        _wait_healthy(node)
        answer_tokens = _ask(model)
        refused_count = _refused_count()
        pids = family(node.pid)
        open_sockets, listening = sockets(pids)
        processes = tuple(describe(pid) for pid in pids)
        after, counters_after = look(lookups), interfaces()
        sent = since(before, after)
        before = look(lookups)
        send_for_control()
        control = since(before, wait_moved(lookups, before))
    return Evidence(
        model=model,
        answer_tokens=answer_tokens,
        sent=sent,
        control=control,
        refused_count=refused_count,
        open_sockets=open_sockets,
        listening=listening,
        processes=processes,
        route=default_route(),
        counters_before=counters_before,
        counters_after=counters_after,
    )


@contextlib.contextmanager
def _node() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "unhosted.node", "serve", "--offline", "--port", str(PORT)]
    # Its log goes to a file, which cannot fill up and block it like a pipe that nobody reads.
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            yield process
        except Refused as refused:
            log.seek(0)
            words = log.read(OUTPUT_BYTES_MAX).decode("utf-8", "replace").strip().splitlines()
            raise Refused(
                refused.code, f"{refused.message}; the node said: {' | '.join(words[-3:])}"
            ) from None
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_healthy(node: subprocess.Popen[bytes]) -> None:
    deadline_ns = time.monotonic_ns() + int(START_TIMEOUT_S * 1e9)
    while time.monotonic_ns() < deadline_ns:
        if node.poll() is not None:
            raise Refused("engine_failed", f"the node ended with status {node.returncode} while it started")
        with contextlib.suppress(OSError):
            _get("/health")
            return
        time.sleep(0.05)
    raise Refused("engine_failed", f"the node was not up after {START_TIMEOUT_S:.0f} s")


def _ask(model: str) -> int:
    """Tokens of a real answer over HTTP."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "Name three colours."}],
        "max_tokens": ANSWER_TOKENS,
    }
    answer = _get("/v1/chat/completions", body=json.dumps(body))
    if "error" in answer:
        raise Refused("engine_failed", f"the node refused to answer: {answer['error'].get('message')}")
    return int(answer["usage"]["completion_tokens"])


def _refused_count() -> int:
    count = _get("/api/status").get("refused_connections")
    if not isinstance(count, int):
        raise Refused("engine_failed", "the node did not tell at /api/status how many attempts it refused")
    return count


def _get(path: str, *, body: str | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=ANSWER_TIMEOUT_S)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("GET" if body is None else "POST", path, body, headers)
        value = json.loads(connection.getresponse().read(OUTPUT_BYTES_MAX))
        return value if isinstance(value, dict) else {}
    finally:
        connection.close()


def _leave(number: int, frame: object) -> None:
    """End the node on the way out, even one that is being started this moment and has no name here yet."""
    for pid in family(os.getpid())[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    sys.exit("stopped")


def main() -> None:
    signal.signal(signal.SIGTERM, _leave)
    # Also when whoever started this has died.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    try:
        evidence = prove_inside(sys.argv[2])
    except Refused as refused:
        sys.exit(refused.message)
    sys.stdout.write(json.dumps(asdict(evidence)))


if __name__ == "__main__":
    main()
