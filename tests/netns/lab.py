"""Machines as network namespaces: on a bridge, behind NAT, on slow cables, or with the cable pulled.

    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        a.run(["ping", "-c1", b.address])

Needs Linux with `ip`, `nsenter`, `unshare`, and `nft` for NAT and partitions (Debian: iproute2, util-linux,
nftables); root or user namespaces. Nothing is seen outside: the namespaces live in a mount namespace of their
own, so that parallel runs cannot meet, and go with it. See `holder.py`.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from tests.netns.capture import Capture
from tests.netns.holder import GOODBYE, REQUEST
from tests.netns.talk import Talk

LAN, PUBLIC = "lan", "public"
SEGMENTS = {LAN: ("10.77.0", "fd77:0:0:1"), PUBLIC: ("45.0.0", "2a77:0:0:1")}
"""First three octets, and an IPv6 /64. The public ones are global to any program that asks what they are."""

HERE = Path(__file__).parent
INTERFACE = "eth0"
COMMAND_SECONDS = 20


class Host:
    """A machine. It has one interface, and loopback; `address` is its IPv4 address there."""

    def __init__(self, lab: "Lab", name: str, segment: str, number: int) -> None:
        self.lab, self.name, self.segment, self.number = lab, name, segment, number
        self.port = f"p-{name}"
        self.address, self.address6 = lab.addresses(segment, number)

    def command(self, command: Sequence[str | Path]) -> list[str]:
        """`command` as it is to be run from outside to run inside; it keeps its process id."""
        return [*self.lab.enter(self.name), *map(str, command)]

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        text: bool = True,
        cwd: Path | None = None,
    ) -> "subprocess.Popen[Any]":
        """Start a program here; it is ended with the laboratory at the latest. env: added to ours."""
        process = subprocess.Popen(
            self.command(command),
            env=environment() | dict(env or {}),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=text,
            cwd=cwd,
        )
        self.lab.processes.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout_s: float = COMMAND_SECONDS,
        input_text: str | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a program here to its end; with `check` it must end well."""
        done = subprocess.run(
            self.command(command),
            env=environment() | dict(env or {}),
            input=input_text,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert not check or done.returncode == 0, f"{self.name}: {command} failed: {done.stdout}{done.stderr}"
        return done

    def python(self, program: str, *args: str, env: Mapping[str, str] | None = None) -> Talk:
        """Run Python here: a module by its dotted name, or code. Talk to it in lines of JSON."""
        how = ["-m", program] if re.fullmatch(r"[\w.]+", program) else ["-c", program]
        return Talk(self.popen_piped([sys.executable, *how, *args], env=env), name=self.name)

    def popen_piped(
        self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """As `popen`, with pipes to its standard input and output, and its errors in with the output."""
        return self.popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def socket(
        self,
        family: int = socket.AF_INET,
        kind: int = socket.SOCK_STREAM,
        protocol: int = 0,
        *,
        timeout_s: float | None = 10,
    ) -> socket.socket:
        """A socket of this host that the test holds: what it connects to or binds is in there."""
        made = self.lab.socket(self.name, family, kind, protocol)
        made.settimeout(timeout_s)
        return made

    def capture(self) -> Capture:
        """A record of all that this host's interfaces carry, loopback too, while its context lasts."""
        everything = 3  # ETH_P_ALL
        return Capture(self.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(everything)))

    def ip(self, command: str) -> str:
        return self.lab.ip(f"-n {self.name} {command}")

    def nft(self, rules: str) -> None:
        self.run(["nft", "-f", "-"], input_text=rules)


class Nat(Host):
    """A router: its `address` is the public one. It lets nothing in that was not asked for."""

    def __init__(self, lab: "Lab", name: str, number: int, *, kind: str, unsolicited: str) -> None:
        super().__init__(lab, name, PUBLIC, number)
        self.inside = f"{name}-lan"
        masquerade = {"port_preserving": "masquerade", "random": "masquerade fully-random"}[kind]
        refuse = {"drop": "drop", "reset": "reject with tcp reset"}[unsolicited]
        refused = f'iifname "{INTERFACE}" meta l4proto tcp {refuse}; iifname "{INTERFACE}" drop'
        self._rules = (
            "table ip nat {\n"
            " chain prerouting { type nat hook prerouting priority dstnat; }\n"
            " chain postrouting { type nat hook postrouting priority srcnat;\n"
            f'  oifname "{INTERFACE}" {masquerade}; }}\n'
            "}\ntable ip filter {\n"
            " chain forward { type filter hook forward priority filter;\n"
            f"  ct state established,related accept; ct status dnat accept; {refused}; }}\n"
            " chain input { type filter hook input priority filter;\n"
            f"  ct state established,related accept; {refused}; }}\n"
            "}\n"
        )

    def start(self) -> None:
        self.lab.segment(self.inside)
        prefix, _ = self.lab.prefixes[self.inside]
        self.lab.cable(self.name, "lan0", f"q-{self.name}", self.inside)
        self.ip(f"address add {prefix}.1/24 dev lan0")
        self.ip("link set lan0 up")
        self.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        self.nft(self._rules)

    def forward(self, port: int, host: Host, *, to_port: int | None = None) -> None:
        """What comes to this port of the public address goes to `host`, as a user sets it in the router."""
        self.nft(
            f'add rule ip nat prerouting iifname "{INTERFACE}" tcp dport {port} '
            f"dnat to {host.address}:{to_port or port}\n"
        )


class Lab:
    """A context in which hosts are made; leaving it ends every process in them and all of them."""

    def __init__(self, *, ipv4: bool = True, ipv6: bool = False) -> None:
        self.ipv4, self.ipv6 = ipv4, ipv6
        self.hosts: dict[str, Host] = {}
        self.prefixes: dict[str, tuple[str, str]] = {}
        self.processes: list[subprocess.Popen[Any]] = []
        self._wires: dict[str, subprocess.Popen[Any]] = {}

    def __enter__(self) -> "Lab":
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        apart = ["unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--mount", "--net"]
        with theirs:
            self._holder = subprocess.Popen(
                [*apart, sys.executable, str(HERE / "holder.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment(),
            )
        self._control = mine
        mine.settimeout(COMMAND_SECONDS)
        try:
            assert mine.recv(5, socket.MSG_WAITALL) == b"ready", "unshare gave no namespaces"
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
        for process in self.processes:
            process.wait(COMMAND_SECONDS)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    _close(pipe)
        with contextlib.suppress(OSError):  # it is gone already, and all with it
            self._control.send(GOODBYE)
        self._control.close()  # the holder ends what else there is
        self._holder.wait(COMMAND_SECONDS)

    def host(self, name: str, *, segment: str = LAN, default_route: bool = False) -> Host:
        """A machine on a segment: `lan`, `public`, or `Nat.inside`, with the router as gateway."""
        self.segment(segment)
        number = 2 + sum(host.segment == segment for host in self.hosts.values())
        return self._add(Host(self, name, segment, number), default_route)

    def nat(
        self,
        name: str,
        *,
        behind: Sequence[Host] = (),
        kind: str = "port_preserving",
        unsolicited: str = "drop",
    ) -> Nat:
        """A router on the public segment, and hosts moved behind it.

        kind: `port_preserving` or `random` ports outside. unsolicited: `drop` or `reset`.
        """
        self.segment(PUBLIC)
        number = 2 + sum(host.segment == PUBLIC for host in self.hosts.values())
        router = Nat(self, name, number, kind=kind, unsolicited=unsolicited)
        self._add(router, False)
        router.start()
        for place, host in enumerate(behind, start=2):
            self.move(host, router.inside, place)
        return router

    def move(self, host: Host, segment: str, number: int) -> None:
        """Take the host's cable to another segment: another address, as when a laptop changes networks."""
        self.segment(segment)
        host.ip(f"address flush dev {INTERFACE}")
        host.segment, host.number = segment, number
        host.address, host.address6 = self.addresses(segment, number)
        self.ip(f"link set {host.port} master {segment}")
        self._address(host, default_route=False)

    def link_down(self, host: Host) -> None:
        """Pull the cable: the host sees its carrier go, its addresses stay, and no FIN or RST leaves."""
        self.ip(f"link set {self._outer(host)} down")
        self.ip(f"link set p-{host.name} down")

    def link_up(self, host: Host) -> None:
        self.ip(f"link set p-{host.name} up")
        self.ip(f"link set {self._outer(host)} up")

    def netem(
        self,
        host: Host,
        *,
        loss_percent: float = 0,
        delay_ms: float = 0,
        rate_mbit: float | None = None,
        seed: int = 1,
    ) -> None:
        """Make the host's cable bad. loss_percent: of frames, each way. delay_ms: added to a round trip.

        rate_mbit: each way. Called again it replaces what was; without arguments the cable is good again.
        """
        self._unwire(host)
        for inside, interface in ((f"-n {host.name} ", INTERFACE), ("", f"p-{host.name}")):
            command = [*self.enter(), "tc", *inside.split(), "qdisc"]
            subprocess.run([*command, "del", "dev", interface, "root"], capture_output=True)
            if rate_mbit is not None:
                burst = max(128_000, int(rate_mbit * 1e6 / 8 / 250))
                shape = f"add dev {interface} root tbf rate {rate_mbit}mbit burst {burst} latency 50ms"
                _checked([*command, *shape.split()])
        if loss_percent or delay_ms:
            self._wire(host, loss_percent=loss_percent, delay_ms=delay_ms, seed=seed)

    def partition(self, *groups: Sequence[Host]) -> None:
        """Hosts of different groups, on one segment, no longer hear each other. Replaces an earlier one."""
        self.heal()
        rules = ["table bridge split {", " chain forward { type filter hook forward priority 0;"]
        for group in groups:
            others = [host for other in groups if other is not group for host in other]
            rules += [
                f'  iifname "{self._outer(host)}" oifname "{self._outer(other)}" drop;'
                for host in group
                for other in others
            ]
        rules.append(" }\n}\n")
        _checked([*self.enter(), "nft", "-f", "-"], "\n".join(rules))

    def heal(self) -> None:
        subprocess.run([*self.enter(), "nft", "delete", "table", "bridge", "split"], capture_output=True)

    def segment(self, name: str) -> None:
        """A bridge, if it is not there yet."""
        if name in self.prefixes:
            return
        index = len(self.prefixes)
        self.prefixes[name] = SEGMENTS.get(name, (f"192.168.{index}", f"fd77:0:0:{100 + index}"))
        self.ip(f"link add {name} type bridge")
        self.ip(f"link set {name} up")

    def cable(self, host: str, inner: str, port: str, segment: str) -> None:
        self.ip(f"link add {port} type veth peer name {inner} netns {host}")
        self.ip(f"link set {port} master {segment} up")

    def addresses(self, segment: str, number: int) -> tuple[str, str]:
        four, six = self.prefixes[segment]
        return f"{four}.{number}", f"{six}::{number}"

    def enter(self, host: str | None = None) -> list[str]:
        """The words before a command that is to run among the bridges, or in a host."""
        holder = str(self._holder.pid)
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        net = "--net" if host is None else f"--net={Path('/proc', holder, 'root', 'run', 'netns', host)}"
        return ["nsenter", "--target", holder, *user, "--mount", net, "--"]

    def ip(self, command: str) -> str:
        return _checked([*self.enter(), "ip", *command.split()])

    def socket(self, host: str, family: int, kind: int, protocol: int) -> socket.socket:
        self._control.send(REQUEST.pack(host.encode(), family, kind, protocol))
        message, descriptors, _, _ = socket.recv_fds(self._control, 512, 1)
        assert descriptors, f"no socket in {host}: {message.decode()}"
        return socket.socket(fileno=descriptors[0])

    def _add(self, host: Host, default_route: bool) -> Host:
        assert host.name not in self.hosts and re.fullmatch(r"[a-z0-9]{1,9}", host.name), host.name
        self.hosts[host.name] = host
        self.ip(f"netns add {host.name}")
        if not self.ipv6:
            host.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6"])
        self.cable(host.name, INTERFACE, host.port, host.segment)
        host.ip("link set lo up")
        host.ip(f"link set {INTERFACE} up")
        self._address(host, default_route)
        return host

    def _address(self, host: Host, default_route: bool) -> None:
        if self.ipv4:
            host.ip(f"address add {host.address}/24 dev {INTERFACE} broadcast +")
        if self.ipv6:
            host.ip(f"address add {host.address6}/64 dev {INTERFACE} nodad")
        if host.segment not in SEGMENTS:
            host.ip(f"route replace default via {self.prefixes[host.segment][0]}.1")
        elif default_route:
            host.ip(f"route replace default dev {INTERFACE}")

    def _outer(self, host: Host) -> str:
        """The bridge's port towards the host: its own, or the far end of its bad cable."""
        return f"o-{host.name}" if host.name in self._wires else f"p-{host.name}"

    def _wire(self, host: Host, *, loss_percent: float, delay_ms: float, seed: int) -> None:
        near, far, small = f"n-{host.name}", f"o-{host.name}", f"w-{host.name}"
        numbers = [str(delay_ms / 2), str(loss_percent), str(seed)]
        command = [*self.enter(), sys.executable, str(HERE / "wire.py"), near, far, *numbers]
        wire = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        self.processes.append(wire)
        assert wire.stdout is not None and wire.stdout.readline() == "up\n", "no TAP interfaces here"
        self.ip(f"link add {small} type bridge")
        for end, bridge in ((near, small), (far, host.segment), (f"p-{host.name}", small)):
            self.ip(f"link set {end} master {bridge} up")
        self.ip(f"link set {small} up")
        self._wires[host.name] = wire

    def _unwire(self, host: Host) -> None:
        wire = self._wires.pop(host.name, None)
        if wire is not None:
            wire.kill()
            wire.wait(COMMAND_SECONDS)
            self.ip(f"link set p-{host.name} master {host.segment}")
            self.ip(f"link delete w-{host.name}")


def environment() -> dict[str, str]:
    """Ours, with the import paths of the tests and where system programs are."""
    path = os.environ.get("PATH", "/usr/bin:/bin")
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "PATH": f"{path}:/usr/sbin:/sbin",
    }


def _checked(command: Sequence[str], text: str | None = None) -> str:
    done = subprocess.run(
        command, input=text, env=environment(), capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    assert done.returncode == 0, f"{' '.join(command[command.index('--') + 1 :])}: {done.stderr.strip()}"
    return done.stdout


def _close(pipe: IO[Any]) -> None:
    with contextlib.suppress(BrokenPipeError):  # something was still to be written to a program that is gone
        pipe.close()
