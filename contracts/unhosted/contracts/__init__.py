"""ABI and bytecode of the contracts, as `contracts/tools/build.py` wrote them beside this file.

Nobody needs a compiler to use them: the files are checked in, and the checks of this repository build them
again and compare byte for byte.
"""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

Name = Literal["Bonds", "Channels", "TestUSDC"]
NAMES: tuple[Name, ...] = ("Bonds", "Channels", "TestUSDC")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A compiled contract. Read only: one value is shared by all who ask.

    creation_code lacks the ABI-encoded constructor arguments, which follow it. runtime_code has zeros where
    `immutables` says (name -> places as (start, length) in bytes); `runtime` fills them.
    """

    name: str
    abi: list[dict[str, Any]]
    creation_code: bytes
    runtime_code: bytes
    immutables: Mapping[str, tuple[tuple[int, int], ...]]
    compiler: str
    settings: Mapping[str, object]

    def runtime(self, values: Mapping[str, bytes]) -> bytes:
        """The code that stands on a chain, given each immutable as a word of 32 bytes.

        Raises: ValueError where a name is missing or unknown, or a value is no word.
        """
        if values.keys() != self.immutables.keys():
            raise ValueError(
                f"{self.name} has the immutables {sorted(self.immutables)}, given are {sorted(values)}"
            )
        code = bytearray(self.runtime_code)
        for name, places in self.immutables.items():
            for start, length in places:
                if len(values[name]) != length:
                    raise ValueError(f"{name} is given {len(values[name])} bytes, {length} are needed")
                code[start : start + length] = values[name]
        return bytes(code)


@functools.cache
def artifact(name: Name) -> Artifact:
    """The contract called `name`.

    Raises: ValueError for a name that is not in NAMES.
    """
    if name not in NAMES:
        raise ValueError(f"there is no contract {name!r}: it must be one of {', '.join(NAMES)}")
    read = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    return Artifact(
        name=name,
        abi=read["abi"],
        creation_code=bytes.fromhex(read["creation_code"].removeprefix("0x")),
        runtime_code=bytes.fromhex(read["runtime_code"].removeprefix("0x")),
        immutables={
            key: tuple((start, length) for start, length in places)
            for key, places in read["immutables"].items()
        },
        compiler=read["compiler"],
        settings=read["settings"],
    )
