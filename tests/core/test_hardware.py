from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from medexp.core import hardware
from medexp.core.hardware import (
    available_cores,
    cgroup_cores,
    cgroup_memory_bytes,
    cpu_model,
    cuda_precision,
    free_memory_bytes,
    hardware_precision,
    native_bf16_cpu,
)


@pytest.mark.parametrize(
    ("capability", "precision"),
    [
        ((7, 5), "16-mixed"),
        ((7, 9), "16-mixed"),
        ((8, 0), "bf16-mixed"),
        ((8, 9), "bf16-mixed"),
        ((12, 0), "bf16-mixed"),
    ],
)
def test_cuda_has_bf16_from_capability_8_on(capability: tuple[int, int], precision: str) -> None:
    assert cuda_precision(capability) == precision


def test_the_weakest_cuda_device_decides() -> None:
    precision, reason = hardware_precision(capabilities=[(9, 0), (7, 5)], native_bf16=True, mps=False)
    assert precision == "16-mixed"
    assert "7.5 lacks native bf16" in reason


def test_a_cuda_device_outweighs_the_cpu() -> None:
    assert hardware_precision(capabilities=[(9, 0)], native_bf16=False, mps=False)[0] == "bf16-mixed"


def test_a_cpu_with_native_bf16_is_to_be_measured() -> None:
    precision, reason = hardware_precision(capabilities=[], native_bf16=True, mps=False)
    assert precision == "bf16-mixed"
    assert "measured at the start of a study" in reason


def test_without_native_bf16_all_is_computed_in_32_bits() -> None:
    assert hardware_precision(capabilities=[], native_bf16=False, mps=False)[0] == "32-true"
    assert hardware_precision(capabilities=[], native_bf16=True, mps=True)[0] == "32-true"


@pytest.mark.parametrize(
    ("line", "native"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16", True),
        ("flags\t\t: fpu amx_bf16 amx_tile", True),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("flags\t\t: fpu avx512f avx512bw", False),
        ("Features\t: fp asimd", False),
    ],
)
def test_native_bf16_is_read_from_the_processors_flags(tmp_path: Path, line: str, native: bool) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nmodel name\t: Some CPU\n{line}\n")
    assert native_bf16_cpu(cpuinfo=cpuinfo) is native


def test_without_a_list_of_flags_torch_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert native_bf16_cpu(cpuinfo=tmp_path / "none")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert not native_bf16_cpu(cpuinfo=tmp_path / "none")
    monkeypatch.delattr(torch.cpu, "_is_amx_tile_supported")  # a private function, which may go
    assert not native_bf16_cpu(cpuinfo=tmp_path / "none")


def test_the_cpu_is_named_by_its_model(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz\n")
    assert cpu_model(cpuinfo=cpuinfo) == "Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"
    assert cpu_model(cpuinfo=tmp_path / "none")


def groups(folder: Path, own: str, files: dict[str, str]) -> dict[str, Path]:
    (folder / "own").write_text(own)
    for name, text in files.items():
        file = folder / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return {"own": folder / "own", "root": folder / "root"}


def test_the_tightest_group_above_limits_cores_and_memory(tmp_path: Path) -> None:
    files = {
        "slurm/job_7/cpu.max": "400000 100000\n",
        "slurm/job_7/step_0/cpu.max": "max 100000\n",
        "slurm/job_7/memory.max": "max\n",
        "slurm/job_7/step_0/memory.max": "8589934592\n",
    }
    places = groups(tmp_path, "0::/slurm/job_7/step_0\n", files)
    assert cgroup_cores(**places) == 4.0
    assert cgroup_memory_bytes(**places) == 8 * 1024**3


def test_version_1_groups_are_read_by_controller(tmp_path: Path) -> None:
    files = {
        "cpu/docker/abc/cpu.cfs_quota_us": "150000\n",
        "cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        "cpu/cpu.cfs_quota_us": "-1\n",
        "cpu/cpu.cfs_period_us": "100000\n",
        "memory/docker/abc/memory.limit_in_bytes": "1073741824\n",
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
    }
    places = groups(tmp_path, "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n", files)
    assert cgroup_cores(**places) == 1.5
    assert cgroup_memory_bytes(**places) == 1024**3


def test_a_container_that_sees_its_hosts_path_reads_the_root(tmp_path: Path) -> None:
    places = groups(tmp_path, "0::/kubepods/pod1\n", {"cpu.max": "200000 100000\n"})
    assert cgroup_cores(**places) == 2.0


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path: Path) -> None:
    places = groups(tmp_path, "4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n"})
    assert cgroup_memory_bytes(**places) is None


def test_without_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroup_cores(own=tmp_path / "none", root=tmp_path) is None
    assert cgroup_memory_bytes(own=tmp_path / "none", root=tmp_path) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (2.5, 2), (0.5, 1), (16.0, 8)])
def test_cores_are_those_of_affinity_and_quota(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "affinity_cores", lambda: 8)
    monkeypatch.setattr(hardware, "cgroup_cores", lambda: quota)
    assert available_cores() == cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no CPU affinity")
def test_cores_follow_the_affinity_of_the_process() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_free_memory_is_what_can_be_had_without_swapping(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       24683656 kB\nMemFree:         1000000 kB\nMemAvailable:   2000000 kB\n")
    assert free_memory_bytes(meminfo=meminfo) == 2_000_000 * 1024
    assert free_memory_bytes(meminfo=tmp_path / "none") is None


def test_importing_the_module_imports_no_torch() -> None:
    code = "import sys, medexp.core.hardware; sys.exit('torch' in sys.modules)"
    checkout = Path(hardware.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=checkout).returncode == 0
