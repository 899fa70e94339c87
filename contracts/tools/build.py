"""Builds what `unhosted.contracts` holds: ABI and bytecode, one JSON file for each contract.

    python -m tools.build            writes the files
    python -m tools.build --check    compares them, and forge's own build, byte for byte

Two compilations must agree: the plain compiler over src/ alone, and forge over src/ and test/. If they did
not, the code would depend on what else stands in the project, and nobody could rebuild it from the source.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from tools.toolchain import (
    COMPILE_TIMEOUT_S,
    ROOT,
    ToolFailed,
    compile_sources,
    compiler_settings,
    compiler_version,
    forge,
    say,
)

CONTRACTS = ("Bonds", "Channels", "TestUSDC")
FOLDER = ROOT / "unhosted" / "contracts"
RUNTIME_BYTES_MAX = 24_576
"""EIP-170."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="tools.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare instead of writing; exit 1 on a difference"
    )
    options = parser.parse_args(arguments)
    texts = artifact_texts()
    if not options.check:
        for name, text in texts.items():
            (FOLDER / f"{name}.json").write_text(text, "utf-8")
        say(f"wrote {', '.join(texts)} to {FOLDER.relative_to(ROOT)}")
        return 0
    faults = [*_stored_faults(texts), *_forge_faults(texts)]
    for fault in faults:
        say(f"error: {fault}")
    if faults:
        say("Next: python -m tools.build, in contracts/, and commit what it wrote")
        return 1
    say(f"{', '.join(texts)}: checked in, plain compiler and forge agree byte for byte")
    return 0


def artifact_texts() -> dict[str, str]:
    """Contract name -> text of its file. The same for everybody: sorted keys, one item of the ABI a line."""
    output = compile_sources()
    version = compiler_version()
    names_by_id = {node["id"]: node["name"] for node in _variables(output["sources"])}
    return {name: _text(_artifact(output, name, version, names_by_id)) for name in CONTRACTS}


def _artifact(output: dict[str, Any], name: str, version: str, names_by_id: dict[int, str]) -> dict[str, Any]:
    compiled = output["contracts"][f"src/{name}.sol"][name]
    runtime = compiled["evm"]["deployedBytecode"]
    if len(runtime["object"]) // 2 > RUNTIME_BYTES_MAX:
        raise ToolFailed(f"{name} has {len(runtime['object']) // 2} bytes, a chain takes {RUNTIME_BYTES_MAX}")
    immutables = {
        names_by_id[int(key)]: sorted([place["start"], place["length"]] for place in places)
        for key, places in runtime.get("immutableReferences", {}).items()
    }
    if len(immutables) != len(runtime.get("immutableReferences", {})):
        raise ToolFailed(f"{name} has two immutables of one name: they could not be told apart")
    return {
        "abi": compiled["abi"],
        "compiler": version,
        "contract": name,
        "creation_code": "0x" + compiled["evm"]["bytecode"]["object"],
        "immutables": immutables,
        "runtime_code": "0x" + runtime["object"],
        "settings": compiler_settings(),
        "source": f"contracts/src/{name}.sol",
    }


def _text(fields: dict[str, Any]) -> str:
    lines = []
    for key in sorted(fields):
        value = fields[key]
        if key == "abi":
            items = ",\n".join("  " + json.dumps(item, sort_keys=True) for item in value)
            lines.append(f' "abi": [\n{items}\n ]')
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _variables(value: Any) -> Iterator[dict[str, Any]]:
    """Every variable's node of the syntax trees: the compiler names immutables by their numbers only."""
    if isinstance(value, dict):
        if value.get("nodeType") == "VariableDeclaration":
            yield value
        for child in value.values():
            yield from _variables(child)
    elif isinstance(value, list):
        for child in value:
            yield from _variables(child)


def _stored_faults(texts: dict[str, str]) -> Iterator[str]:
    for name, text in texts.items():
        path = FOLDER / f"{name}.json"
        if not path.is_file():
            yield f"{path.relative_to(ROOT)} is missing"
        elif path.read_text("utf-8") != text:
            yield f"{path.relative_to(ROOT)} is not what src/{name}.sol compiles to"


def _forge_faults(texts: dict[str, str]) -> Iterator[str]:
    done = forge("build", timeout_s=2 * COMPILE_TIMEOUT_S)
    if done.returncode != 0:
        raise ToolFailed(f"forge build failed:\n{done.stdout}{done.stderr}")
    for name, text in texts.items():
        built = json.loads((ROOT / "build" / "out" / f"{name}.sol" / f"{name}.json").read_text("utf-8"))
        fields = json.loads(text)
        for key, code in (
            ("creation_code", built["bytecode"]["object"]),
            ("runtime_code", built["deployedBytecode"]["object"]),
        ):
            if fields[key] != code:
                yield f"{name}: forge's {key} differs from the plain compiler's"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ToolFailed as fault:
        say(f"error: {fault}")
        sys.exit(1)
