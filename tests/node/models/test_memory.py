"""Estimates against arithmetic done by hand, and limits as the kernel writes them."""

from dataclasses import replace
from pathlib import Path

import pytest

from unhosted.node.core.gguf_facts import GgufHeader
from unhosted.node.shell.models.memory import (
    SpeedEstimate,
    available_bytes,
    estimate_bytes,
    load_speed,
    rough_speed,
    save_speed,
    total_bytes,
)

SMOLLM2 = GgufHeader(
    architecture="llama",
    name=None,
    licence=None,
    context_tokens=8192,
    block_count=30,
    embedding_length=576,
    head_count=9,
    heads_kv=(3,) * 30,
    key_length=64,
    value_length=64,
    vocab_size=49152,
    parameters=134_515_008,
    weights_bytes=96_576_768,
)


def test_weights_and_cache_are_counted_exactly_and_overhead_on_top() -> None:
    estimate = estimate_bytes(SMOLLM2, context_tokens_total=4096, slots=1, batch_tokens=512)
    assert estimate.weights_bytes == 96_576_768
    assert estimate.kv_bytes == 30 * 3 * (64 + 64) * 2 * 4096 == 90 << 20
    assert estimate.compute_bytes >= 512 * 49152 * 4 + (estimate.weights_bytes + estimate.kv_bytes) // 20
    total = estimate.weights_bytes + estimate.kv_bytes + estimate.compute_bytes
    assert estimate.total_bytes == total


def test_cache_grows_with_context_and_shrinks_with_its_type() -> None:
    def kv(tokens: int, width: float = 2.0) -> int:
        return estimate_bytes(
            SMOLLM2, context_tokens_total=tokens, slots=4, batch_tokens=512, kv_bytes_per_element=width
        ).kv_bytes

    assert kv(8192) == 2 * kv(4096)
    assert kv(4096, 1.0625) == int(kv(4096) * 1.0625 / 2)


def test_encoder_keeps_no_cache() -> None:
    encoder = replace(SMOLLM2, causal=False)
    assert estimate_bytes(encoder, context_tokens_total=8192, slots=1, batch_tokens=512).kv_bytes == 0


def test_mixture_of_experts_is_faster_than_its_size() -> None:
    dense = rough_speed(SMOLLM2, cores=2, bandwidth_bytes_per_s=10e9)
    experts = replace(SMOLLM2, expert_bytes=80_000_000, expert_count=8, expert_used_count=2)
    sparse = rough_speed(experts, cores=2, bandwidth_bytes_per_s=10e9)
    assert dense.decode_tokens_per_s == pytest.approx(10e9 / 96_576_768)
    assert sparse.decode_tokens_per_s == pytest.approx(10e9 / (96_576_768 - 80_000_000 * 6 / 8))
    assert sparse.prefill_tokens_per_s > dense.prefill_tokens_per_s
    assert not dense.measured


def test_speed_of_this_machine_is_finite() -> None:
    speed = rough_speed(SMOLLM2)
    assert 0 < speed.decode_tokens_per_s < 1e6


def test_measured_speed_is_kept_and_damage_forgotten(tmp_path: Path) -> None:
    assert load_speed(tmp_path, "abc") is None
    save_speed(
        tmp_path, "abc", SpeedEstimate(decode_tokens_per_s=9.5, prefill_tokens_per_s=80.0, measured=True)
    )
    kept = load_speed(tmp_path, "abc")
    assert kept == SpeedEstimate(decode_tokens_per_s=9.5, prefill_tokens_per_s=80.0, measured=True)
    (tmp_path / "speed" / "abc.json").write_text("[]")
    assert load_speed(tmp_path, "abc") is None


def group(path: Path, **files: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (path / f"memory.{name}").write_text(content)


def test_tightest_cgroup_above_us_is_the_limit(tmp_path: Path) -> None:
    root, membership = tmp_path / "cgroup", tmp_path / "membership"
    membership.write_text("1:name=systemd:/x\n0::/outer/inner\n")
    group(root / "outer/inner", max="max\n", current="5000\n")
    group(root / "outer", max="1000000\n", current="900000\n", stat="anon 5\ninactive_file 50000\n")
    assert available_bytes(cgroup_root=root, membership=membership) == 150_000
    assert total_bytes(cgroup_root=root, membership=membership) == 1_000_000
    group(root, max="70000\n", current="80000\n")
    assert available_bytes(cgroup_root=root, membership=membership) == 0


def test_without_cgroups_the_machine_is_the_limit(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    have = available_bytes(cgroup_root=absent, membership=absent)
    assert 0 < have <= total_bytes(cgroup_root=absent, membership=absent)
