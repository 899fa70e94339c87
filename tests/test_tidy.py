"""Architecture and habits, checked like any other behaviour.

Each rule takes a tree and returns its faults, one line each. A rule runs twice: over the real tree, where it
must find nothing, and over a small tree with a fault planted in it, where it must find exactly that.
"""

import ast
import functools
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = ("node", "market", "verify", "contracts", "simulations")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 70
SKIPPED_FOLDERS = {"node_modules", "__pycache__", "build", "dist"}  # and whatever starts with a dot
TEXT_SUFFIXES = {
    ".py",
    ".md",
    ".toml",
    ".sh",
    ".yml",
    ".yaml",
    ".json",
    ".html",
    ".js",
    ".mjs",
    ".sol",
    ".txt",
    "",
}

STDLIB = frozenset(sys.stdlib_module_names)
# What cannot reach the world. A module that is missing here and is pure may be added; one that reads a
# clock, entropy, a file or a socket may not.
PURE_STDLIB = frozenset(
    """
    __future__ abc array base64 binascii bisect codecs collections contextlib copy dataclasses decimal
    difflib enum fractions functools hashlib heapq hmac html ipaddress itertools json math numbers
    operator re statistics string struct textwrap types typing unicodedata urllib.parse zlib
    """.split()  # noqa: SIM905 - a list of names reads better than a list of strings
)
PURE_LAYERS = {"market", "verify", "node.core"}
NODE_EDGE = {"market", "verify", "contracts", "node.core", "node.edge"}
# Who may import whom: design, section 2. `app` is node/app*.py; `edge` is http, cli and the rest of node.
MAY_IMPORT: dict[str, set[str]] = {
    "market": {"market"},
    "verify": {"verify"},
    "contracts": set(),
    "node.core": {"market", "verify", "node.core"},
    "node.shell": {"market", "verify", "contracts", "node.core", "node.shell"},
    "node.edge": NODE_EDGE | {"node.app"},
    "node.app": NODE_EDGE | {"node.app", "node.shell"},
    "simulations": {"market", "verify", "contracts", "node.core", "simulations"},
}
# None: any. Only these distributions may be named by the layer.
THIRD_PARTY: dict[str, set[str] | None] = {
    "market": {"cbor2", "blake3", "eth_account", "eth_hash", "eth_utils"},
    "verify": {"numpy", "blake3"},
    "contracts": {"tools"},  # contracts/tools: run from that folder, never installed
    "node.core": set(),
    "node.shell": None,
    "node.edge": None,
    "node.app": None,
    "simulations": {"numpy", "matplotlib"},
}

# Split so that this file does not hold what it forbids.
MACHINE_PATHS = tuple("/" + path for path in ("work/", "root/", "opt/wheels", "opt/pypi", "tmp/bash_jobs"))
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
ATTRIBUTION = re.compile(
    r"generated (by|with) (claude|chatgpt|copilot|codex|gemini|an? (ai|llm))|co-authored[-]by:", re.IGNORECASE
)
BANNER = re.compile(r"^\s*#\s?[-=#*~]{4,}\s*$")
SKIP_MARKS = re.compile(
    r"\b(mark\.(skip|skipif|xfail)|pytest\.(skip|xfail|importorskip)|unittest\.skip\w*)\b"
)
MARKDOWN_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)\s]*)?\)")


def _files(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") and path.name not in {".ci", ".gitignore"}:
            continue
        if path.is_dir() and not path.is_symlink():
            if path.name not in SKIPPED_FOLDERS:
                yield from _files(path)
        elif path.is_file():
            yield path


def _python(root: Path, folders: tuple[str, ...] = SOURCE_ROOTS) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        if (root / folder).is_dir():
            for path in _files(root / folder):
                if path.suffix == ".py":
                    yield path.relative_to(root), _parse(path.read_text("utf-8"), str(path))


@functools.cache
def _parse(text: str, name: str) -> ast.Module:
    return ast.parse(text, name)


def _layer_of(path: Path) -> str:
    parts = path.parts
    if parts[0] != "node":
        return parts[0]
    return _layer_of_module(".".join((*parts[1:-1], path.stem)))


def _layer_of_module(module: str) -> str:
    """The layer of `unhosted.x.y`; the name of a package of several layers is its widest one."""
    parts = module.split(".")
    if parts[0] != "unhosted" or len(parts) < 2:
        return parts[0]
    if parts[1] != "node":
        return parts[1]
    inner = parts[2] if len(parts) > 2 else ""
    if inner in {"core", "shell"}:
        return f"node.{inner}"
    return "node.app" if inner.startswith("app") else "node.edge"


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every module that is named, also inside functions and by import_module; `from a import b` names a.b."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                yield from ((node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom():
                yield node.lineno, "."
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]):
                if ast.unparse(function).split(".")[-1] in {"import_module", "__import__"}:
                    yield node.lineno, module


def _import_fault(layer: str, module: str) -> str | None:
    top = module.split(".")[0]
    if module == ".":
        return "imports are absolute"
    if top in {"unhosted", "simulations"}:
        target = _layer_of_module(module)
        return None if target in MAY_IMPORT[layer] else f"{layer} may not import {target}"
    if top in STDLIB:
        is_pure = top in PURE_STDLIB or ".".join(module.split(".")[:2]) in PURE_STDLIB
        is_pure = is_pure or module.startswith("pathlib.Pure")
        return f"{layer} is pure" if layer in PURE_LAYERS and not is_pure else None
    allowed = THIRD_PARTY[layer]
    return None if allowed is None or top in allowed else f"{layer} may not import a third party"


def import_faults(root: Path) -> Iterator[str]:
    for path, tree in _python(root):
        layer = _layer_of(path)
        for line, module in _imports(tree):
            if fault := _import_fault(layer, module):
                yield f"{path}:{line} {module}: {fault}"


ADAPTED = {
    "libp2p": "node/unhosted/node/shell/peers",
    "multiaddr": "node/unhosted/node/shell/peers",
    "coincurve": "node/unhosted/node/shell/keys",
    "web3": "node/unhosted/node/shell/chain",
}
"""Libraries behind one adapter: its folder alone names them."""


def adapter_faults(root: Path) -> Iterator[str]:
    for path, tree in _python(root):
        for line, module in _imports(tree):
            folder = ADAPTED.get(module.split(".")[0])
            if folder is not None and not path.is_relative_to(folder):
                yield f"{path}:{line} {module}: only {folder} imports it"


def namespace_faults(root: Path) -> Iterator[str]:
    for path in root.glob("*/unhosted/__init__.py"):
        yield f"{path.relative_to(root)}: makes the namespace a package"


def purity_faults(root: Path) -> Iterator[str]:
    for path, tree in _python(root):
        if _layer_of(path) in PURE_LAYERS:
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {"open", "input", "exec", "eval"}:
                    yield f"{path}:{node.lineno} {ast.unparse(node.func)}() in a pure layer"


def file_size_faults(root: Path) -> Iterator[str]:
    for path in _files(root):
        if path.suffix in {".py", ".sol", ".mjs", ".js"}:
            count = len(path.read_text("utf-8").splitlines())
            if count > FILE_LINES_MAX:
                yield f"{path.relative_to(root)}: {count} lines, at most {FILE_LINES_MAX}"


def function_size_faults(root: Path) -> Iterator[str]:
    for path, tree in _python(root):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                count = (node.end_lineno or node.lineno) - node.lineno + 1
                if count > FUNCTION_LINES_MAX:
                    yield f"{path}:{node.lineno} {node.name}: {count} lines, at most {FUNCTION_LINES_MAX}"


def float_money_faults(root: Path) -> Iterator[str]:
    """Names that end in _micros or _ns are integers: annotated so, and never made by a float."""
    for path, tree in _python(root):
        for node in ast.walk(tree):
            match node:
                case ast.arg(arg=name, annotation=ast.expr() as note):
                    is_float = "float" in ast.unparse(note)
                case ast.AnnAssign(target=target, annotation=note):
                    name, is_float = ast.unparse(target), "float" in ast.unparse(note)
                case ast.FunctionDef(name=name, returns=ast.expr() as note):
                    is_float = "float" in ast.unparse(note)
                case ast.Assign(targets=[target], value=ast.expr() as value):
                    name, is_float = ast.unparse(target), _is_float(value)
                case ast.keyword(arg=str(name), value=value):
                    is_float = _is_float(value)
                case _:
                    continue
            if is_float and name.endswith(("_micros", "_ns")):
                yield f"{path}:{node.lineno} {name} is a float"


def _is_float(value: ast.expr) -> bool:
    match value:
        case ast.Constant(value=float()) | ast.BinOp(op=ast.Div()):
            return True
        case ast.Call(func=ast.Name(id="float")):
            return True
        case ast.BinOp(left=left, right=right):
            return _is_float(left) or _is_float(right)
        case _:
            return False


def print_faults(root: Path) -> Iterator[str]:
    for path, tree in _python(root):
        if path.parts[:4] != ("node", "unhosted", "node", "cli") and path.parts[0] != "simulations":
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and ast.unparse(node.func) in {"print", "click.echo"}:
                    yield f"{path}:{node.lineno} only the command line prints"


def skip_faults(root: Path) -> Iterator[str]:
    for path in _files(root):
        if path.suffix == ".py" and path.relative_to(root).parts[0] == "tests":
            for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
                if SKIP_MARKS.search(line) and path.name != Path(__file__).name:
                    yield f"{path.relative_to(root)}:{number} a test that does not run proves nothing"


def wording_faults(root: Path) -> Iterator[str]:
    for path in _files(root):
        if path.suffix not in TEXT_SUFFIXES or path.name in {"package-lock.json", "LICENSE"}:
            continue
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
            where = f"{path.relative_to(root)}:{number}"
            if any(word in line for word in MACHINE_PATHS):
                yield f"{where} path of one machine"
            if UNFINISHED.search(line):
                yield f"{where} unfinished work is an issue, not a comment"
            if ATTRIBUTION.search(line):
                yield f"{where} says who typed it; the history does that"
            if path.suffix == ".py" and BANNER.match(line):
                yield f"{where} banner"


def link_faults(root: Path) -> Iterator[str]:
    """A relative link in a Markdown file leads to a file."""
    for path in _files(root):
        if path.suffix == ".md":
            for target in MARKDOWN_LINK.findall(path.read_text("utf-8")):
                is_local = "://" not in target and not target.startswith("mailto:")
                if is_local and not (path.parent / target).exists():
                    yield f"{path.relative_to(root)}: {target} is not there"


Rule = Callable[[Path], Iterator[str]]
RULES: tuple[Rule, ...] = (
    import_faults,
    adapter_faults,
    namespace_faults,
    purity_faults,
    file_size_faults,
    function_size_faults,
    float_money_faults,
    print_faults,
    skip_faults,
    wording_faults,
    link_faults,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_tree_keeps(rule: Rule) -> None:
    assert list(rule(ROOT)) == []


CORE, SHELL, CLI = "node/unhosted/node/core/", "node/unhosted/node/shell/", "node/unhosted/node/cli/"
MARKET, VERIFY = "market/unhosted/market/", "verify/unhosted/verify/"
LONG_FUNCTION = "def f() -> None:\n" + "    a = 1\n" * FUNCTION_LINES_MAX
PLANTED: list[tuple[Rule, str, str]] = [
    (import_faults, MARKET + "a.py", "import unhosted.verify.params\n"),
    (import_faults, MARKET + "a.py", "import numpy\n"),
    (import_faults, MARKET + "a.py", "def f() -> None:\n    from time import time_ns\n"),
    (import_faults, VERIFY + "a.py", "from unhosted.market import channel\n"),
    (import_faults, VERIFY + "a.py", "import cbor2\n"),
    (import_faults, VERIFY + "a.py", "from urllib import request\n"),
    (import_faults, "contracts/unhosted/contracts/a.py", "import unhosted.market\n"),
    (import_faults, "contracts/unhosted/contracts/a.py", "import yaml\n"),
    (import_faults, CORE + "a.py", "import numpy\n"),
    (import_faults, CORE + "a.py", "import trio\n"),
    (import_faults, CORE + "a.py", "import os\n"),
    (import_faults, CORE + "a.py", "import logging\n"),
    (import_faults, CORE + "a.py", "from pathlib import Path\n"),
    (import_faults, CORE + "a.py", "from unhosted.node import shell\n"),
    (import_faults, CORE + "a.py", "from . import service\n"),
    (import_faults, SHELL + "a.py", "from unhosted.node.http import api\n"),
    (import_faults, SHELL + "a.py", "import unhosted.node.cli.main\n"),
    (import_faults, SHELL + "a.py", "import unhosted.node.app\n"),
    (import_faults, CLI + "a.py", "from unhosted.node.shell import offline\n"),
    (import_faults, CLI + "a.py", "import importlib\nimportlib.import_module('unhosted.node.shell')\n"),
    (import_faults, "node/unhosted/node/http/a.py", "import unhosted.node.shell.models.store\n"),
    (import_faults, "node/unhosted/node/doctor.py", "import unhosted.node.shell.offline\n"),
    (import_faults, "simulations/a.py", "import unhosted.node.shell\n"),
    (import_faults, "simulations/a.py", "import trio\n"),
    (adapter_faults, SHELL + "a.py", "from libp2p import new_host\n"),
    (adapter_faults, SHELL + "trusted/a.py", "def f() -> None:\n    import multiaddr\n"),
    (namespace_faults, "market/unhosted/__init__.py", ""),
    (purity_faults, VERIFY + "a.py", "text = open('a').read()\n"),
    (file_size_faults, "tests/test_a.py", "a = 1\n" * (FILE_LINES_MAX + 1)),
    (function_size_faults, SHELL + "a.py", LONG_FUNCTION),
    (float_money_faults, MARKET + "a.py", "def f(price_micros: float) -> None: ...\n"),
    (float_money_faults, MARKET + "a.py", "class A:\n    timeout_ns: float\n"),
    (float_money_faults, MARKET + "a.py", "cost_micros = 3 * (1 / 2)\n"),
    (float_money_faults, MARKET + "a.py", "f(cost_micros=0.5)\n"),
    (float_money_faults, MARKET + "a.py", "def cost_micros() -> float: ...\n"),
    (print_faults, SHELL + "a.py", "print('x')\n"),
    (skip_faults, "tests/test_a.py", "import pytest\n@pytest.mark.sk" + "ip\ndef test_a() -> None: ...\n"),
    (skip_faults, "tests/test_a.py", "import pytest\npytest.import" + "orskip('numpy')\n"),
    (wording_faults, "docs/a.md", "see " + MACHINE_PATHS[0] + "main\n"),
    (wording_faults, SHELL + "a.py", "# TO" + "DO later\n"),
    (wording_faults, SHELL + "a.py", "# " + "-" * 20 + "\n"),
    (wording_faults, "docs/a.md", "Generated " + "with an LLM\n"),
    (link_faults, "docs/a.md", "[b](gone.md#part)\n"),
]
ALLOWED: list[tuple[str, str]] = [
    (MARKET + "a.py", "import cbor2, blake3, eth_account\nfrom unhosted.market import channel\n"),
    (VERIFY + "a.py", "import hashlib\nimport numpy as np\nfrom urllib.parse import quote\n"),
    (CORE + "a.py", "from pathlib import PurePath\nfrom unhosted.verify import params\nA_NS = 5 // 2\n"),
    (
        SHELL + "a.py",
        "import trio\nfrom unhosted import contracts, market\nimport unhosted.node.core.errors\n",
    ),
    (CLI + "a.py", "from unhosted.node.app import serve\nfrom unhosted.node import config\nprint(1)\n"),
    ("node/unhosted/node/http/a.py", "import unhosted.node.cli\nimport fastapi\n"),
    ("node/unhosted/node/app_doctor.py", "from unhosted.node.shell import offline\n"),
    ("simulations/a.py", "import numpy\nimport random\nfrom unhosted.node.core import service\n"),
    ("tests/test_a.py", LONG_FUNCTION),
    ("docs/a.md", "[a](a.md) [web](https://example.org) [part](#part)\n"),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"), PLANTED, ids=[f"{r.__name__}-{i}" for i, (r, _, _) in enumerate(PLANTED)]
)
def test_a_planted_fault_is_caught(tmp_path: Path, rule: Rule, path: str, text: str) -> None:
    _plant(tmp_path, path, text)
    faults = list(rule(tmp_path))
    assert len(faults) == 1 and faults[0].startswith(path.split(":")[0]), faults
    assert [fault for other in RULES if other is not rule for fault in other(tmp_path)] == []


@pytest.mark.parametrize(("path", "text"), ALLOWED)
def test_what_the_table_allows_is_not_a_fault(tmp_path: Path, path: str, text: str) -> None:
    _plant(tmp_path, path, text)
    assert [fault for rule in RULES for fault in rule(tmp_path)] == []


def _plant(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, "utf-8")
