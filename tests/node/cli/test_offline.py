"""The offline guard, door by door, each test in a process of its own: the guard cannot be taken off."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

PRELUDE = """
import _socket, json, socket, sys, types
from unhosted.node.shell import offline
before = set(sys.modules)
offline.install(True)
raw = socket.socket.__mro__[1]  # the C type, as it was before the guard
def attempt(door):
    try:
        door()
    except OSError as error:
        return [type(error).__name__, isinstance(error, PermissionError), str(error)]
    except ImportError as error:
        return [type(error).__name__, True, str(error)]
    return ["ok", False, ""]
def tcp(): return socket.socket(socket.AF_INET, socket.SOCK_STREAM)
def udp(): return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
def six(): return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
"""

REFUSED = {
    "connect to an address": "tcp().connect(('192.0.2.1', 80))",
    "connect_ex": "tcp().connect_ex(('192.0.2.1', 80))",
    "connect to a name": "tcp().connect(('name.example', 80))",
    "connect over IPv6": "six().connect(('2001:db8::1', 80))",
    "connect to a mapped address": "six().connect(('::ffff:192.0.2.1', 80))",
    "connect to a number for an address": "tcp().connect(('3221225985', 80))",
    "connect low level": "_socket.socket().connect(('name.example', 80))",
    "connect by the C type": "raw().connect(('192.0.2.1', 80))",
    "connect by the C type's method": "raw.connect(tcp(), ('192.0.2.1', 80))",
    "create_connection": "socket.create_connection(('name.example', 80))",
    "bind to every interface": "tcp().bind(('0.0.0.0', 0))",
    "bind to the empty host": "tcp().bind(('', 0))",
    "bind to every IPv6 interface": "six().bind(('::', 0))",
    "bind low level": "_socket.socket().bind(('0.0.0.0', 0))",
    "bind by the C type": "raw().bind(('0.0.0.0', 0))",
    "listen without a bind": "tcp().listen()",
    "listen low level": "_socket.socket().listen()",
    "sendto": "udp().sendto(b'x', ('192.0.2.1', 53))",
    "sendto with flags": "udp().sendto(b'x', 0, ('192.0.2.1', 53))",
    "sendto a name": "udp().sendto(b'x', ('name.example', 53))",
    "sendto low level": "_socket.socket(2, 2).sendto(b'x', ('name.example', 53))",
    "sendto by the C type": "raw(2, 2).sendto(b'x', ('192.0.2.1', 53))",
    "sendmsg": "udp().sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
    "sendmsg by the C type": "raw(2, 2).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))",
    "broadcast": "udp().sendto(b'x', ('255.255.255.255', 9))",
    "multicast": "udp().sendto(b'x', ('224.0.0.251', 5353))",
    "multicast join": "udp().setsockopt(0, socket.IP_ADD_MEMBERSHIP, bytes([224, 0, 0, 251, 0, 0, 0, 0]))",
    "getaddrinfo": "socket.getaddrinfo('name.example', 80)",
    "getaddrinfo low level": "_socket.getaddrinfo('name.example', 80)",
    "getaddrinfo of bytes": "socket.getaddrinfo(b'name.example', 80)",
    "gethostbyname": "socket.gethostbyname('name.example')",
    "gethostbyname_ex": "_socket.gethostbyname_ex('name.example')",
    "gethostbyaddr": "socket.gethostbyaddr('192.0.2.1')",
    "getnameinfo": "socket.getnameinfo(('192.0.2.1', 80), 0)",
    "raw socket": "socket.socket(socket.AF_INET, socket.SOCK_RAW)",
    "packet socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "netlink socket": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "vsock": "socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)",
    "bluetooth": "socket.socket(31, socket.SOCK_STREAM, 3)",
    "import of a client": "__import__('httpx')",
    "import of our downloads": "__import__('unhosted.node.shell.models.download')",
    "import of libp2p": "__import__('libp2p')",
    "import of web3": "__import__('web3')",
    "import of zeroconf": "__import__('zeroconf')",
}
ALLOWED = {
    "serve and connect on loopback": """
        server = socket.create_server(('127.0.0.1', 0))
        client = socket.create_connection(server.getsockname())
        server.accept()[0].sendall(b'x')
        assert client.recv(1) == b'x'""",
    "serve on IPv6 loopback": "socket.create_server(('::1', 0), family=socket.AF_INET6)",
    "datagrams on loopback": """
        a = udp(); a.bind(('127.0.0.1', 0))
        udp().sendto(b'x', a.getsockname())""",
    "another loopback address": "udp().sendto(b'x', ('127.1.2.3', 9))",
    "socketpair": "[end.sendall(b'x') for end in socket.socketpair()]",
    "unix socket by name": "s = socket.socket(socket.AF_UNIX); s.bind(b'\\0unhosted-test'); s.listen()",
    "descriptor as a socket": "a, b = socket.socketpair(); socket.socket(fileno=a.detach()).send(b'x')",
    "look up localhost": "socket.getaddrinfo('localhost', 80)",
    "look up an address": "socket.getaddrinfo('127.0.0.1', 80)",
    "options": "tcp().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)",
    "connected send": """
        a = udp(); a.bind(('127.0.0.1', 0)); b = udp(); b.connect(a.getsockname())
        b.send(b'x'); b.sendmsg([b'y'])""",
}


def python(code: str) -> Any:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PRELUDE + code], env=environ, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def attempts() -> dict[str, list[Any]]:
    """What became of each door in REFUSED, all tried in one process."""
    doors = ", ".join(f"{name!r}: lambda: {door}" for name, door in REFUSED.items())
    found: dict[str, list[Any]] = python(
        f"doors = {{{doors}}}\n"
        "count = lambda: offline.refusals().count\n"
        "print(json.dumps({name: [*attempt(door), count()] for name, door in doors.items()}))"
    )
    return found


@pytest.mark.parametrize("name", REFUSED)
def test_a_door_to_the_outside_is_refused(attempts: dict[str, list[Any]], name: str) -> None:
    kind, is_refusal, message, _ = attempts[name]
    assert kind != "ok" and is_refusal, (kind, message)
    assert message.startswith(("offline: ", "[Errno 1] offline: "))


def test_each_refusal_counts_once(attempts: dict[str, list[Any]]) -> None:
    assert [count for *_, count in attempts.values()] == list(range(1, len(REFUSED) + 1))


@pytest.mark.parametrize("name", ALLOWED)
def test_loopback_works_as_before(name: str) -> None:
    body = ALLOWED[name]
    indented = body if body.startswith("\n") else "        " + body
    found = python(f"def door():\n{indented}\ndoor()\nprint(json.dumps(offline.refusals().count))")
    assert found == 0


@pytest.mark.slow
def test_trio_works_on_loopback() -> None:
    found = python(
        "import trio\n"
        "async def main():\n"
        "    listeners = await trio.open_tcp_listeners(0, host='127.0.0.1')\n"
        "    await trio.open_tcp_stream(*listeners[0].socket.getsockname())\n"
        "trio.run(main)\n"
        "print(json.dumps(offline.refusals().count))"
    )
    assert found == 0


def test_the_log_names_door_host_port_and_caller() -> None:
    found = python(
        "spy = types.ModuleType('some.tracker')\n"
        "exec('def phone(make): make().connect((\"home.example\", 443))', vars(spy))\n"
        "attempt(lambda: spy.phone(tcp))\n"
        "last = offline.refusals().last[-1]\n"
        "print(json.dumps([last.door, last.host, last.port, last.caller]))"
    )
    assert found == ["connect", "home.example", 443, "some.tracker"]


def test_the_log_is_bounded_and_the_count_goes_on() -> None:
    found = python(
        "for port in range(250): attempt(lambda: tcp().connect(('192.0.2.1', port)))\n"
        "seen = offline.refusals()\n"
        "print(json.dumps([seen.count, len(seen.last), seen.last[0].port, seen.last[-1].port]))"
    )
    assert found == [250, 100, 150, 249]


def test_a_thread_is_not_a_way_out() -> None:
    found = python(
        "import threading; out = []\n"
        "def work(): out.append(attempt(lambda: tcp().connect(('192.0.2.1', 1))))\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "print(json.dumps(out[0]))"
    )
    assert found[0] == "OfflineRefused"


def test_where_the_hosts_file_does_not_know_localhost_it_is_not_looked_up() -> None:
    found = python(
        "offline._state.is_localhost_local = False\n"
        "print(json.dumps(attempt(lambda: socket.getaddrinfo('localhost', 80))))"
    )
    assert found[0] == "OfflineRefused"


def test_without_offline_nothing_is_installed() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    code = (
        "import _socket, socket; before = _socket.socket, socket.socket.connect\n"
        "from unhosted.node.shell import offline; offline.install(False)\n"
        "assert (_socket.socket, socket.socket.connect) == before and not offline.is_installed()"
    )
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)


def test_the_guard_imports_nothing_of_ours_and_no_framework() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    code = (
        "import sys; from unhosted.node.app_offline import install; install(True)\n"
        "print(*sorted(n for n in sys.modules if n.startswith(('unhosted.', 'trio', 'click', 'numpy'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    ours = {
        "unhosted.node",
        "unhosted.node.app_offline",
        "unhosted.node.shell",
        "unhosted.node.shell.offline",
    }
    assert set(done.stdout.split()) == ours


@pytest.mark.slow
def test_an_offline_node_has_imported_nothing_that_exists_for_the_network() -> None:
    # What the guard would refuse must not be in the process already when it comes.
    found = python(
        "from unhosted.node.cli import common, serve, run, chat\n"
        "from unhosted.node import app, app_node\n"
        "import unhosted.node.http.server\n"
        "print(json.dumps([offline.loaded_refused_modules(), offline.refusals().count]))"
    )
    assert found == [[], 0]


def test_the_command_line_puts_the_guard_first() -> None:
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    code = (
        "import sys\n"
        "from unhosted.node.cli import serve\n"
        "from unhosted.node.cli.common import load_config\n"
        "before = set(sys.modules)\n"
        "load_config(offline=True)\n"
        "from unhosted.node import app_offline\n"
        "print(app_offline.loaded_refused_modules(), 'trio' in before, 'unhosted.node.app' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "() False False\n"
