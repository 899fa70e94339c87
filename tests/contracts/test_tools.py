"""The lists that the contracts' tools work from, where a slip would let them check nothing."""

import json
import re
import tomllib
from pathlib import Path

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"


def test_every_planted_fault_is_in_the_source_exactly_once() -> None:
    mutants = tomllib.loads((CONTRACTS / "tools/mutants.toml").read_text("utf-8"))["mutant"]
    assert len(mutants) >= 20
    assert len({mutant["what"] for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        assert (CONTRACTS / mutant["file"]).read_text("utf-8").count(mutant["old"]) == 1, mutant["what"]
        assert mutant["old"] != mutant["new"]


def test_every_test_contract_that_a_fault_names_is_there() -> None:
    mutants = tomllib.loads((CONTRACTS / "tools/mutants.toml").read_text("utf-8"))["mutant"]
    text = "".join(path.read_text("utf-8") for path in (CONTRACTS / "test").glob("*.t.sol"))
    names = re.findall(r"^contract (\w+)", text, re.MULTILINE)
    for mutant in mutants:
        assert any(re.search(mutant["tests"], name) for name in names), mutant["what"]


def test_every_finding_of_the_analyser_is_explained_in_words() -> None:
    rows = tomllib.loads((CONTRACTS / "slither.toml").read_text("utf-8"))["explained"]
    assert rows
    for row in rows:
        assert row["where"] and len(row["why"].split()) >= 6, row["check"]


def test_the_tools_versions_are_exact() -> None:
    wanted = json.loads((CONTRACTS / "package.json").read_text("utf-8"))["devDependencies"]
    assert wanted == {"@foundry-rs/anvil": "1.7.1", "@foundry-rs/forge": "1.7.1", "solc": "0.8.37"}
    assert "pragma solidity =0.8.37;" in (CONTRACTS / "src/Channels.sol").read_text("utf-8")
