"""What the machine offers: processor, cores, memory, and the precision that fits it; nothing here imports torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
# AMX and AVX512-BF16 on x86, the BF16 extension on Arm.
_BF16_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})
# cgroup v1 writes "no limit" as the largest multiple of a page.
_UNLIMITED_BYTES = 1 << 60


def hardware_precision(*, capabilities: Sequence[tuple[int, int]], native_bf16: bool, mps: bool) -> tuple[str, str]:
    """The precision that `auto` considers on this hardware, and why.

    Args:
        capabilities: Compute capability of each CUDA device; empty without CUDA.
        native_bf16: Whether the CPU multiplies bf16 natively, see `native_bf16_cpu`.
        mps: Whether Apple's GPU is what trains.

    Returns:
        A precision as Lightning spells it, and a clause that says why.
    """
    if capabilities:
        lowest = min(capabilities)
        precision = cuda_precision(lowest)
        has = "has" if precision == "bf16-mixed" else "lacks"
        return precision, f"CUDA capability {lowest[0]}.{lowest[1]} {has} native bf16 (8.0 and newer have it)"
    if mps:
        return "32-true", "Apple GPU: mixed precision is not considered there"
    if native_bf16:
        return "bf16-mixed", "CPU with native bf16: where the model gains by it (measured at the start of a study)"
    return "32-true", "CPU without native bf16 (neither AVX512-BF16 nor AMX): emulation would be slower"


def cuda_precision(capability: tuple[int, int]) -> str:
    """Mixed precision for a CUDA device of the given compute capability: bf16 from 8.0 on, fp16 before."""
    return "bf16-mixed" if capability >= (8, 0) else "16-mixed"


def native_bf16_cpu(*, cpuinfo: Path = _CPUINFO) -> bool:
    """Whether the CPU multiplies bf16 natively (AVX512-BF16, AMX or Arm's BF16).

    The operating system's list of flags is asked first. torch is asked only where there is none: its own probes are
    private and know x86 alone.
    """
    flags = _cpu_field(cpuinfo, "flags", "Features")
    if flags is not None:
        return not _BF16_FLAGS.isdisjoint(flags.split())
    return _torch_says_bf16()


def _torch_says_bf16() -> bool:
    import torch

    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def cpu_model(*, cpuinfo: Path = _CPUINFO) -> str:
    """Name of the processor; its architecture where the system does not tell the name."""
    return _cpu_field(cpuinfo, "model name", "Model") or platform.processor() or platform.machine()


def _cpu_field(cpuinfo: Path, *names: str) -> str | None:
    """Value of the first line of /proc/cpuinfo with one of the names; None where there is no such line or file."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in names:
            return value.strip()
    return None


def available_cores() -> int:
    """Cores that this process may use: its CPU affinity, cut by its control group's quota; at least one."""
    limit = cgroup_cores()
    cores = affinity_cores()
    return cores if limit is None else max(1, min(cores, int(limit)))


def affinity_cores() -> int:
    """Cores that the process may be scheduled on; all cores where the system has no affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cgroup_cores(*, own: Path = _OWN_CGROUP, root: Path = _CGROUPS) -> float | None:
    """Cores that the control groups above this process grant; None without a limit.

    Args:
        own: File that names the process's own groups, one line `number:controllers:path` each.
        root: Where the groups are mounted.

    Returns:
        Cores, which may be a fraction.
    """
    quotas = []
    for folder in _cgroup_folders("cpu", own=own, root=root):
        quota, period = _numbers(folder / "cpu.max", count=2)
        if quota is None:
            quota = _numbers(folder / "cpu.cfs_quota_us")[0]
            period = _numbers(folder / "cpu.cfs_period_us")[0]
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def cgroup_memory_bytes(*, own: Path = _OWN_CGROUP, root: Path = _CGROUPS) -> int | None:
    """Memory that the control groups above this process grant, in bytes; None without a limit.

    Args:
        own: File that names the process's own groups, one line `number:controllers:path` each.
        root: Where the groups are mounted.

    Returns:
        The tightest limit.
    """
    limits = []
    for folder in _cgroup_folders("memory", own=own, root=root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limit = _numbers(folder / name)[0]
            if limit is not None and limit < _UNLIMITED_BYTES:
                limits.append(int(limit))
    return min(limits, default=None)


def _cgroup_folders(controller: str, *, own: Path, root: Path) -> Iterator[Path]:
    """The folders of the process's groups of a controller and of all groups above, as versions 1 and 2 lay them."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            base = root
        elif controller in controllers.split(","):
            base = root / controller
        else:
            continue
        relative = Path(path.lstrip("/"))
        # A container may see its host's path here while its own group is mounted at the root.
        yield from (base / folder for folder in (relative, *relative.parents))


def _numbers(file: Path, *, count: int = 1) -> list[float | None]:
    """The first numbers of a one-line file; None for "max" and for what is missing."""
    try:
        words = file.read_text(encoding="utf-8").split()
    except OSError:
        words = []
    found = [float(word) if word.lstrip("-").isdigit() else None for word in words[:count]]
    return found + [None] * (count - len(found))


def total_memory_bytes() -> int | None:
    """Physical memory of the machine in bytes; None where the system does not tell."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free_memory_bytes(*, meminfo: Path = _MEMINFO) -> int | None:
    """Memory that can be had without swapping, in bytes; None where the system does not tell."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None
