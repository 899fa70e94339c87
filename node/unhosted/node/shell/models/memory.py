"""How much memory a model takes, how much there is, and roughly how fast it would answer.

The estimate is meant to be a little high: a refusal before loading is cheap, a machine that swaps is not.
Measured against it: SmolLM2 135M Q4_1 with 4,096 tokens grew by 190 MiB where weights and KV cache are
182 MiB, Gemma 3 270M by 321 where they are 307.
"""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.shell.models.files import write_atomically

OVERHEAD_PERCENT = 5
"""Allocator slack and the graph's small tensors; the two measurements above differ by 4.4 and 4.4 %."""

BYTES_PER_LOGIT = 4

DECODE_PARAMETERS_PER_CORE_S = 9e9
"""Weights that one core multiplies each second: 63 to 94 tokens/s of a 135M model on one quiet Zen 3 core."""

PREFILL_OPERATIONS_PER_CORE_S = 6e10
"""Two operations per parameter and token: 230 to 260 tokens/s of a 135M model on one Zen 3 core."""

BANDWIDTH_SAMPLE_BYTES = 64 << 20
"""Twice a large desktop's last-level cache, so memory is timed and not the cache; takes about 50 ms."""

CGROUP_DEPTH_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes that loading a model adds to the machine's use."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedEstimate:
    """Tokens per second of one stream. measured: False means a rule of thumb for idle cores, easily off by
    a factor of two or three."""

    decode_tokens_per_s: float
    prefill_tokens_per_s: float
    measured: bool


def estimate_bytes(
    header: GgufHeader,
    *,
    context_tokens_total: int,
    slots: int,
    batch_tokens: int,
    kv_bytes_per_element: float = 2.0,
) -> MemoryEstimate:
    """Memory of `slots` sequences that share `context_tokens_total` tokens of context.

    Blocks with a sliding window are counted as if they saw everything, which is how llama.cpp keeps them
    when prefixes are to be reused. kv_bytes_per_element: 2 for f16, 1.0625 for q8_0.
    """
    elements_per_token = sum(header.heads_kv) * (header.key_length + header.value_length)
    kv_bytes = int(elements_per_token * kv_bytes_per_element * context_tokens_total) if header.causal else 0
    rows = batch_tokens + slots
    # Activations: a handful of row-sized tensors live at once; the logits of a batch dwarf them.
    row_bytes = header.vocab_size * BYTES_PER_LOGIT + 8 * header.embedding_length * BYTES_PER_LOGIT
    slack_bytes = (header.weights_bytes + kv_bytes) * OVERHEAD_PERCENT // 100
    return MemoryEstimate(
        weights_bytes=header.weights_bytes, kv_bytes=kv_bytes, compute_bytes=rows * row_bytes + slack_bytes
    )


def available_bytes(
    *, cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Memory a new model may take now: the machine's, or what the tightest cgroup (v2) above us leaves."""
    return min([int(_machine().available), *_cgroup_room(cgroup_root, membership)])


def total_bytes(
    *, cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")
) -> int:
    """Memory this machine has, or the tightest cgroup limit above us if that is less."""
    limits = [_number(group / "memory.max") for group in _cgroups(cgroup_root, membership)]
    return min([int(_machine().total), *(limit for limit in limits if limit is not None)])


def rough_speed(
    header: GgufHeader, *, cores: int | None = None, bandwidth_bytes_per_s: float | None = None
) -> SpeedEstimate:
    """A rule of thumb for this machine's processor, one stream, a short context.

    Decoding reads every active weight once per token, so it is bounded by memory bandwidth and, for small
    models, by what the cores can multiply. Of a mixture of experts only the chosen experts are read.
    """
    active_bytes = header.weights_bytes - header.expert_bytes
    share = 1.0
    if header.expert_count and header.expert_used_count:
        active_bytes += header.expert_bytes * header.expert_used_count // header.expert_count
        share = active_bytes / max(1, header.weights_bytes)
    cores = cores if cores is not None else _cores()
    bandwidth = bandwidth_bytes_per_s if bandwidth_bytes_per_s is not None else memory_bandwidth_bytes_per_s()
    active_parameters = max(1, header.parameters) * share
    return SpeedEstimate(
        decode_tokens_per_s=min(
            bandwidth / max(1, active_bytes), cores * DECODE_PARAMETERS_PER_CORE_S / active_parameters
        ),
        prefill_tokens_per_s=cores * PREFILL_OPERATIONS_PER_CORE_S / (2 * active_parameters),
        measured=False,
    )


def memory_bandwidth_bytes_per_s() -> float:
    """How fast this process reads memory now: the best of three passes over a sample."""
    import numpy as np

    sample = np.ones(BANDWIDTH_SAMPLE_BYTES // 8, np.int64)
    best_s = float("inf")
    for _ in range(3):
        started_s = time.perf_counter()
        sample.sum()
        best_s = min(best_s, time.perf_counter() - started_s)
    return sample.nbytes / max(best_s, 1e-9)


def save_speed(models_dir: Path, blake3: str, speed: SpeedEstimate) -> None:
    """Keep a measured speed beside the store, for `show`."""
    directory = models_dir / "speed"
    directory.mkdir(parents=True, exist_ok=True)
    write_atomically(directory / f"{blake3}.json", json.dumps(asdict(speed)).encode())


def load_speed(models_dir: Path, blake3: str) -> SpeedEstimate | None:
    """The speed saved for this file on this machine; None if there is none or it cannot be read."""
    try:
        fields = json.loads((models_dir / "speed" / f"{blake3}.json").read_bytes())
        return SpeedEstimate(
            decode_tokens_per_s=float(fields["decode_tokens_per_s"]),
            prefill_tokens_per_s=float(fields["prefill_tokens_per_s"]),
            measured=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a figure to show, nothing more: measured again at the next chance


def _machine() -> Any:
    import psutil

    return psutil.virtual_memory()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cgroup_room(root: Path, membership: Path) -> list[int]:
    rooms = []
    for group in _cgroups(root, membership):
        limit, used = _number(group / "memory.max"), _number(group / "memory.current")
        if limit is not None and used is not None:
            # The kernel drops clean file pages before it refuses memory, so they count as free.
            rooms.append(max(0, limit - used + _inactive_file_bytes(group)))
    return rooms


def _cgroups(root: Path, membership: Path) -> list[Path]:
    """Our cgroup and those above it, the root included (a container sees its own limit there)."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []  # no Linux, or no /proc: no limit that could be read
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    if own is None:
        return []
    parts = [part for part in own.split("/") if part not in ("", "..")][:CGROUP_DEPTH_MAX]
    return [root.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # absent, or "max": no limit here


def _inactive_file_bytes(group: Path) -> int:
    try:
        lines = (group / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("inactive_file ")), 0)
