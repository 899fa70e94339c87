"""What the rest of the program takes from the checked-in contracts. No compiler is needed to run these."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any, cast

import pytest

from unhosted.contracts import NAMES, Artifact, Name, artifact
from unhosted.market import eip712

CONTRACTS = Path(__file__).resolve().parents[2] / "contracts"
RUNTIME_BYTES_MAX = 24_576
"""EIP-170: no chain takes more."""
CREATION_BYTES_MAX = 2 * RUNTIME_BYTES_MAX
"""EIP-3860."""
ALL_NAMES = pytest.mark.parametrize("name", NAMES)


def signature(item: dict[str, Any]) -> str:
    return f"{item['name']}({','.join(map(word, item['inputs']))})"


def word(parameter: dict[str, Any]) -> str:
    if not parameter["type"].startswith("tuple"):
        return str(parameter["type"])
    inside = ",".join(map(word, parameter["components"]))
    return f"({inside}){parameter['type'].removeprefix('tuple')}"


def signatures(found: Artifact, kind: str) -> set[str]:
    return {signature(item) for item in found.abi if item["type"] == kind}


CONFIG = "(address,address,address,uint32,bytes32)"
RECEIPT = "(bytes32,bytes32,bytes32,bytes32,bytes32,uint32,uint32,uint96)"
FUNCTIONS: dict[Name, set[str]] = {
    "Channels": {
        "deposit(uint256)",
        "depositWithPermit(uint256,uint256,bytes)",
        "depositWithAuthorization(address,uint256,uint256,uint256,address,uint96,bytes32,bytes)",
        "setOperator(address,uint96)",
        "withdraw(uint96)",
        f"allocate({CONFIG},uint96,uint40,bytes)",
        f"claim(address,({CONFIG},uint96,bytes)[],bool)",
        "payout(address)",
        f"close({CONFIG},uint96,bytes,bytes)",
        f"requestClose({CONFIG},uint40,bytes)",
        f"finalizeClose({CONFIG})",
        "multicall(bytes[])",
        "accounts(address)",
        "channels(bytes32)",
        "credit(address)",
        f"channelId({CONFIG})",
        "monthOf(uint256)",
        "domainSeparator()",
        "token()",
    },
    "Bonds": {
        "bond(uint96)",
        "requestUnbond()",
        "unbondAll()",
        f"slashEquivocation({RECEIPT},bytes,{RECEIPT},bytes)",
        f"openCase({RECEIPT},bytes,uint96,bytes[])",
        "appeal(bytes32)",
        "finalize(bytes32,bytes[])",
        "sweep()",
        f"receiptHash({RECEIPT})",
        "verdictHash(bytes32,uint96,bool)",
        "bonds(address)",
        "cases(bytes32)",
        "faulted(address,bytes32)",
        "verifier(address)",
        "owed()",
        "domainSeparator()",
        "token()",
    },
    "TestUSDC": {
        "mint(address,uint256)",
        "setPaused(bool)",
        "setBlacklisted(address,bool)",
        "pause()",
        "blacklist(address)",
        "DOMAIN_SEPARATOR()",
        "nonces(address)",
        "authorizationState(address,bytes32)",
        "permit(address,address,uint256,uint256,bytes)",
        "permit(address,address,uint256,uint256,uint8,bytes32,bytes32)",
        "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
        "receiveWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,bytes)",
        "transferWithAuthorization(address,address,uint256,uint256,uint256,bytes32,uint8,bytes32,bytes32)",
        "cancelAuthorization(address,bytes32,bytes)",
        "cancelAuthorization(address,bytes32,uint8,bytes32,bytes32)",
    },
}


@ALL_NAMES
def test_the_abi_has_what_the_program_calls(name: Name) -> None:
    assert FUNCTIONS[name] - signatures(artifact(name), "function") == set()


@ALL_NAMES
def test_the_code_dispatches_every_function_of_its_abi(name: Name) -> None:
    found = artifact(name)
    for text in signatures(found, "function"):
        # PUSH4, or PUSH3 where the selector begins with a zero byte.
        selector = eip712.keccak256(text.encode())[:4]
        assert selector in found.runtime_code or selector.lstrip(b"\0") in found.runtime_code, text


@ALL_NAMES
def test_the_code_fits_on_every_chain(name: Name) -> None:
    found = artifact(name)
    assert 1_000 < len(found.runtime_code) <= RUNTIME_BYTES_MAX
    assert len(found.runtime_code) < len(found.creation_code) <= CREATION_BYTES_MAX


@ALL_NAMES
def test_no_function_takes_ether(name: Name) -> None:
    assert [item for item in artifact(name).abi if item.get("stateMutability") == "payable"] == []


@pytest.mark.parametrize(
    ("name", "preimages"),
    [
        (
            "Channels",
            [
                eip712.VOUCHER_TYPE,
                eip712.ALLOCATE_TYPE,
                eip712.CLOSE_TYPE,
                eip712.REQUEST_CLOSE_TYPE,
                eip712.DOMAIN_TYPE,
            ],
        ),
        (
            "Bonds",
            [
                "Receipt(bytes32 requestId,bytes32 channelId,bytes32 modelId,bytes32 requestHash,"
                "bytes32 responseHash,uint32 inTokens,uint32 outTokens,uint96 amount)",
                "Verdict(bytes32 receipt,uint96 slash,bool onAppeal)",
                eip712.DOMAIN_TYPE,
            ],
        ),
        ("TestUSDC", [eip712.RECEIVE_TYPE, eip712.PERMIT_TYPE, eip712.DOMAIN_TYPE]),
    ],
)
def test_the_code_holds_the_type_hashes_that_python_signs(name: Name, preimages: list[str]) -> None:
    for preimage in preimages:
        assert eip712.type_hash(preimage) in artifact(name).runtime_code, preimage


def test_custom_errors_carry_values() -> None:
    """An error without a value says that something is wrong, not what: only `Locked` has none to give."""
    for name in ("Channels", "Bonds"):
        bare = {text for text in signatures(artifact(name), "error") if text.endswith("()")}
        assert bare == {"Locked()"}, name


def test_all_settings_are_the_ones_that_foundry_is_told() -> None:
    told = (CONTRACTS / "foundry.toml").read_text("utf-8")
    for name in NAMES:
        found = artifact(name)
        assert found.compiler.startswith("0.8.37+")
        assert found.settings["evmVersion"] == "cancun"
        assert found.settings["metadata"] == {"appendCBOR": False, "bytecodeHash": "none"}
        optimizer = found.settings["optimizer"]
        assert isinstance(optimizer, dict)
        assert re.search(rf"^optimizer_runs = {optimizer['runs']}$", told, re.MULTILINE)


@ALL_NAMES
def test_immutables_are_filled_in_their_places_only(name: Name) -> None:
    found = artifact(name)
    marks = {key: bytes([number + 1]) * 32 for number, key in enumerate(sorted(found.immutables))}
    filled = found.runtime(marks)
    places = [(start, length, key) for key, spans in found.immutables.items() for start, length in spans]
    assert places
    expected = bytearray(found.runtime_code)
    for start, length, key in places:
        assert found.runtime_code[start : start + length] == bytes(length)
        expected[start : start + length] = marks[key]
    assert filled == bytes(expected) != found.runtime_code


def test_missing_unknown_and_short_immutables_are_refused() -> None:
    found = artifact("TestUSDC")
    words = {key: bytes(32) for key in found.immutables}
    with pytest.raises(ValueError, match="extra"):
        found.runtime({**words, "extra": bytes(32)})
    with pytest.raises(ValueError, match="owner"):
        found.runtime({})
    with pytest.raises(ValueError, match="20 bytes, 32 are needed"):
        found.runtime({**words, "owner": bytes(20)})


def test_an_unknown_contract_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'Chanels': it must be one of Bonds, Channels, TestUSDC"):
        artifact(cast(Name, "Chanels"))


def test_the_folder_holds_the_named_contracts_and_no_others() -> None:
    folder = resources.files("unhosted.contracts")
    assert sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".json")) == sorted(
        f"{name}.json" for name in NAMES
    )
    for name in NAMES:
        text = folder.joinpath(f"{name}.json").read_text("utf-8")
        assert json.loads(text)["contract"] == name and text.endswith("}\n")
