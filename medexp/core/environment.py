"""What a run depends on beside its configuration: packages, code, machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import medexp
from medexp.core.hashing import hash_file, hash_files, hash_plain

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "monai", "numpy", "scipy", "torchmetrics", "scikit-image")


def versions() -> dict[str, str]:
    """Versions of Python, medexp and the packages that numbers come from."""
    found = {"python": platform.python_version(), "medexp": medexp.__version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code(user_modules: list[Path]) -> dict[str, str]:
    """Hashes of medexp's own source and of the user's modules that a configuration names."""
    package = Path(medexp.__file__).parent
    own = hash_files(package.rglob("*.py"), relative_to=package)
    by_name: dict[str, list[str]] = {}
    for path in user_modules:
        by_name.setdefault(path.name, []).append(hash_file(path))
    return {"medexp": own} | {name: hash_plain(sorted(hashes)) for name, hashes in by_name.items()}


def git_state(folder: Path) -> dict[str, str]:
    """Commit and uncommitted changes of the repository that holds a folder; empty outside a repository."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit.strip(), "diff": _git(folder, "diff", "HEAD") or ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def hardware() -> dict[str, Any]:
    """The machine that computes: processor, its vector units, cores, GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": gpus,
        "platform": f"{platform.system()} {platform.machine()}",
        "executable": Path(sys.executable).name,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
