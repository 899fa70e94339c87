"""What works on this machine, what does not, and the next command: a list of findings.

Each check looks at one thing and never raises: a check that cannot look says so as a finding.
"""

import os
import platform
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from unhosted.node import app_facts, config, doctor_devnet, doctor_peers
from unhosted.node.cli.remote import find_server
from unhosted.node.config import Config
from unhosted.node.core.errors import Refused
from unhosted.node.finding import Finding, Status
from unhosted.node.version import installed_version

DISK_LOW_BYTES = 2_000_000_000
"""Room for a small model; below it a pull will be refused soon."""

MEMORY_LOW_BYTES = 600_000_000
"""The default model with its context takes half of this."""

SIMD = ("AVX512", "AVX2", "SVE", "NEON", "AVX")
BACKENDS = ("CUDA", "METAL", "VULKAN", "HIP", "SYCL")


def examine(settings: Config, environ: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Findings one by one, as they are made; the library's probe and the sandbox trial take a second."""
    checks: tuple[Callable[[], Finding], ...] = (
        _python,
        _library,
        _processor,
        _sandbox,
        lambda: _memory(settings),
        lambda: _disk(settings),
        lambda: _models(settings),
        lambda: _port(settings),
        lambda: doctor_peers.port(settings),
        lambda: doctor_peers.identity(settings),
        lambda: doctor_peers.discovery(settings),
        doctor_devnet.devnet,
        lambda: _settings(settings, environ),
        lambda: _offline(settings),
    )
    for check in checks:
        yield check()


def _python() -> Finding:
    version = installed_version()
    text = f"Python {platform.python_version()} at {sys.executable}; unhosted {version}"
    return Finding(check="python", status="ok", text=text)


def _library() -> Finding:
    facts = app_facts.library_facts()
    if facts.fault is not None:
        return Finding(check="library", status="fail", text=facts.fault, next="make engine")
    passed_over = f"; passed over: {'; '.join(facts.passed_over)}" if facts.passed_over else ""
    rpc = "with RPC" if facts.supports_rpc else "without RPC"
    text = (
        f"{facts.kind} {facts.version}, {rpc}, at {facts.path}; layout {facts.layout} proven"
        f" against bindings {facts.bindings_version}{passed_over}"
    )
    return Finding(check="library", status="ok", text=text)


def _processor() -> Finding:
    features = app_facts.library_facts().features
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    simd = [name for name in SIMD if any(feature.upper().startswith(name) for feature in features)]
    backends = [name for name in BACKENDS if any(name in feature.upper() for feature in features)]
    text = f"{cores} cores; the library uses {', '.join([*simd, *backends]) or 'no vector instructions'}"
    if features and not simd and not backends:
        return Finding(check="processor", status="warn", text=text, next="make engine")
    return Finding(check="processor", status="ok", text=text)


def _sandbox() -> Finding:
    level = app_facts.sandbox_level()
    if level == "network-namespace":
        text = "a model's process has no network at all (empty network namespace)"
        return Finding(check="sandbox", status="ok", text=text)
    if level == "audit-hook":
        text = "a model's process is kept off the network by Python alone, native code is not bound by that"
        step = "allow user namespaces: sysctl kernel.apparmor_restrict_unprivileged_userns=0, or run as root"
        return Finding(check="sandbox", status="warn", text=text, next=step if _is_linux() else None)
    return Finding(check="sandbox", status="warn", text="could not be tried: the trial process failed")


def _memory(settings: Config) -> Finding:
    available, total = app_facts.memory_bytes()
    text = f"{available / 1e9:.1f} GB free of {total / 1e9:.1f} GB"
    if settings.memory_budget_bytes:
        text += f", models may take {settings.memory_budget_bytes / 1e9:.1f} GB"
    status: Status = "warn" if available < MEMORY_LOW_BYTES else "ok"
    step = "close other programs; even the smallest model needs 0.3 GB" if status == "warn" else None
    return Finding(check="memory", status=status, text=text, next=step)


def _disk(settings: Config) -> Finding:
    folder = settings.paths.models_dir
    present = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(present).free
    text = f"{free / 1e9:.1f} GB free for models at {folder}"
    if not os.access(present, os.W_OK):
        return Finding(
            check="disk", status="fail", text=f"{present} is not writable", next="set UNHOSTED_HOME"
        )
    if free < DISK_LOW_BYTES:
        step = "unhosted list, then unhosted rm what is not needed"
        return Finding(check="disk", status="warn", text=text, next=step)
    return Finding(check="disk", status="ok", text=text)


def _models(settings: Config) -> Finding:
    from unhosted.node import app

    store = app.model_store(settings)
    entries = store.entries()
    broken = []
    for entry in entries:
        try:
            store.resolve(entry.name)
        except Refused as refused:
            broken.append(refused.message)
    if broken:
        return Finding(check="models", status="fail", text="; ".join(broken), next="unhosted pull it again")
    if not entries:
        step = f"unhosted pull {settings.default_model}"
        return Finding(check="models", status="warn", text="none here yet", next=step)
    names = ", ".join(entry.name for entry in entries)
    return Finding(check="models", status="ok", text=f"{len(entries)} here: {names}")


def _port(settings: Config) -> Finding:
    where = f"{settings.host} port {settings.port}"
    server = find_server(settings)
    if server is not None:
        return Finding(check="port", status="ok", text=f"a node of yours is running at {server.url}")
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((settings.host, settings.port))
        except OSError as error:
            step = f"unhosted serve --port {settings.port + 1}"
            return Finding(check="port", status="warn", text=f"{where}: {error.strerror}", next=step)
    return Finding(check="port", status="ok", text=f"{where} is free")


def _settings(settings: Config, environ: Mapping[str, str]) -> Finding:
    path = settings.paths.config_file
    text = f"{path}" if path.exists() else f"defaults; {path} does not exist"
    strange = config.strange_variables(environ)
    if strange:
        text += f"; not known and not read: {', '.join(strange)}"
        return Finding(check="settings", status="warn", text=text, next="unhosted config list")
    return Finding(check="settings", status="ok", text=text)


def _offline(settings: Config) -> Finding:
    tools = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if not _is_linux():
        text = "serve --offline refuses connections; the proof with packet counters needs Linux"
        return Finding(check="offline", status="warn", text=text)
    if tools:
        text = f"serve --offline refuses connections; the proof needs {' and '.join(tools)}"
        return Finding(check="offline", status="warn", text=text, next="apt install iproute2 util-linux")
    step = "unhosted doctor --offline"
    return Finding(check="offline", status="ok", text="the proof that nothing leaves can be run", next=step)


def _is_linux() -> bool:
    return sys.platform == "linux" and Path("/proc/self/ns/net").exists()
