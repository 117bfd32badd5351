"""`medexp doctor`: what this machine can do, and what it lacks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from medexp.cli.dependencies import (
    Finding,
    check_requirements,
    declared_requirements,
    dependency_findings,
    pair_findings,
    version_of,
)
from medexp.core import hardware
from medexp.core.wandb_login import wandb_login

_GIB = 1024**3
_SHARED_MEMORY = Path("/dev/shm")
_SHARED_MEMORY_NEEDED_GIB = 1.0
_FREE_DISK_NEEDED_GIB = 5.0
_STATUS_STYLES = {
    "ok": "green",
    "optional, missing": "dim",
    "optional, unfit": "yellow",
    "missing": "red",
    "unfit": "red",
}


def doctor(arguments: Sequence[str]) -> int:
    """Print what this machine can do.

    Args:
        arguments: The words after `medexp doctor`.

    Returns:
        Exit code: 0 where all that is needed is there, 1 where something is missing or unfit.
    """
    options = _parser().parse_args(arguments)
    report, findings = examine(runs=options.runs, cache=options.cache)
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _draw(report, Console())
    for finding in findings:
        label = "error" if finding.failure else "warning"
        print(f"{label}: {finding.what}; {finding.remedy}", file=sys.stderr)
    return 0 if report["ok"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp doctor", description="Say what this machine can do, and what it lacks."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are written")
    cache = user_cache_path("medexp", appauthor=False)
    parser.add_argument("--cache", type=Path, default=cache, metavar="FOLDER", help="where prepared data is kept")
    return parser


def examine(*, runs: Path, cache: Path) -> tuple[dict[str, Any], list[Finding]]:
    """All facts as a JSON object, and what is wrong with them.

    Args:
        runs: Folder of the runs; need not exist.
        cache: Folder of prepared data; need not exist.

    Returns:
        The report by section, and the findings, failures first.
    """
    dependencies = check_requirements(declared_requirements(), installed_version=version_of)
    torch_facts, torch_findings = _torch_facts()
    storage, storage_findings = _storage(runs=runs, cache=cache)
    findings = [*dependency_findings(dependencies), *pair_findings(), *torch_findings, *storage_findings]
    findings.sort(key=lambda finding: not finding.failure)
    report = {
        "ok": not any(finding.failure for finding in findings),
        "findings": [asdict(finding) for finding in findings],
        "machine": _machine(),
        "torch": torch_facts,
        "precision": _precision(torch_facts),
        "storage": storage,
        "wandb": wandb_login(environment=os.environ, home=Path.home(), folder=Path.cwd()),
        "dependencies": [asdict(dependency) for dependency in dependencies],
    }
    return report, findings


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": hardware.cpu_model(),
        "cores_of_machine": os.cpu_count(),
        "cores_by_affinity": hardware.affinity_cores(),
        "cores_by_cgroup": hardware.cgroup_cores(),
        "cores_available": hardware.available_cores(),
        "memory_total_gib": _gib(hardware.total_memory_bytes()),
        "memory_limit_gib": _gib(hardware.cgroup_memory_bytes()),
        "memory_free_gib": _gib(hardware.free_memory_bytes()),
        "allocator": allocator_note(libc=platform.libc_ver()[0], preloaded=os.environ.get("LD_PRELOAD", "")),
    }


def allocator_note(*, libc: str, preloaded: str) -> str:
    """What allocates memory, and what medexp does about it.

    Args:
        libc: Name of the C library.
        preloaded: Value of LD_PRELOAD.

    Returns:
        One line.
    """
    other = next((name for name in ("jemalloc", "tcmalloc", "mimalloc") if name in preloaded), None)
    if other:
        return f"{other} (preloaded); medexp leaves it as it is"
    if libc == "glibc":
        return "glibc malloc; medexp keeps freed memory for reuse, so a process stays at its peak size"
    return f"malloc of {libc or 'the system'}; medexp leaves it as it is"


def _torch_facts() -> tuple[dict[str, Any], list[Finding]]:
    """What torch sees; a torch that cannot be imported is a finding, not a crash."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import torch

            facts = {
                "version": str(torch.__version__),
                "cuda_build": torch.version.cuda,
                "cuda_available": torch.cuda.is_available(),
                "devices": [_device(torch, index) for index in range(torch.cuda.device_count())],
                "mps_available": torch.backends.mps.is_available(),
                "threads": torch.get_num_threads(),
            }
        except (ImportError, OSError, RuntimeError) as error:
            what = f"torch cannot be used: {type(error).__name__}: {error}"
            return {"version": None}, [Finding(what, "install torch again, with torchvision of the same release", True)]
    notes = [str(warning.message).strip() for warning in caught]
    return facts, [Finding(f"torch warns: {note}", "check the driver (nvidia-smi)", False) for note in notes]


def _device(torch: Any, index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "memory_gib": _gib(properties.total_memory),
    }


def _precision(torch_facts: Mapping[str, Any]) -> dict[str, str | None]:
    if torch_facts["version"] is None:
        return {"auto": None, "reason": "torch cannot be used"}
    devices = torch_facts["devices"] if torch_facts["cuda_available"] else []
    precision, reason = hardware.hardware_precision(
        capabilities=[(device["capability"][0], device["capability"][1]) for device in devices],
        native_bf16=hardware.native_bf16_cpu(),
        mps=torch_facts["mps_available"],
    )
    return {"auto": precision, "reason": reason}


def _storage(*, runs: Path, cache: Path) -> tuple[dict[str, Any], list[Finding]]:
    storage: dict[str, Any] = {"runs": _folder(runs), "cache": _folder(cache), "shared_memory": None}
    findings = []
    for key in ("runs", "cache"):
        findings += folder_findings(key, storage[key])
    if _SHARED_MEMORY.is_dir():
        usage = shutil.disk_usage(_SHARED_MEMORY)
        storage["shared_memory"] = {"total_gib": _gib(usage.total), "free_gib": _gib(usage.free)}
        findings += shared_memory_findings(usage.total / _GIB)
    return storage, findings


def _folder(path: Path) -> dict[str, Any]:
    """Room and rights at a folder that may not exist yet."""
    path = path.expanduser().absolute()
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    return {
        "folder": str(path),
        "free_gib": _gib(shutil.disk_usage(existing).free),
        "writable": existing.is_dir() and os.access(existing, os.W_OK | os.X_OK),
    }


def folder_findings(role: str, facts: Mapping[str, Any]) -> list[Finding]:
    """What is wrong with a folder that medexp writes to.

    Args:
        role: "runs" or "cache"; also the option that moves the folder.
        facts: The keys `folder`, `free_gib` and `writable`.

    Returns:
        At most one finding.
    """
    if not facts["writable"]:
        what = f"the {role} folder {facts['folder']} cannot be written"
        return [Finding(what, f"check its owner and rights, or name another with --{role}", True)]
    if facts["free_gib"] < _FREE_DISK_NEEDED_GIB:
        what = f"the {role} folder {facts['folder']} has {facts['free_gib']} GiB free"
        return [Finding(what, f"make room, or name another with --{role}", False)]
    return []


def shared_memory_findings(total_gib: float) -> list[Finding]:
    """A warning where the loaders' workers have too little shared memory to hand batches over.

    Args:
        total_gib: Size of /dev/shm.

    Returns:
        At most one finding.
    """
    if total_gib >= _SHARED_MEMORY_NEEDED_GIB:
        return []
    what = f"shared memory ({_SHARED_MEMORY}) has {total_gib:.2f} GiB, and workers pass batches through it"
    return [Finding(what, "start the container with --shm-size=8g, or train without workers", False)]


def _gib(size_bytes: int | None) -> float | None:
    return None if size_bytes is None else round(size_bytes / _GIB, 2)


def _draw(report: Mapping[str, Any], console: Console) -> None:
    table = Table("what", "value", title="medexp doctor", title_justify="left")
    for section in (_machine_rows, _torch_rows, _storage_rows):
        for name, value in section(report):
            table.add_row(name, value)
        table.add_section()
    console.print(table)
    console.print(_dependency_table(report["dependencies"]))


def _machine_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = report["machine"]
    quota = "no quota" if facts["cores_by_cgroup"] is None else f"quota {facts['cores_by_cgroup']:g}"
    cores = (
        f"{facts['cores_available']} of {facts['cores_of_machine']} (affinity {facts['cores_by_affinity']}, {quota})"
    )
    limit = "no limit" if facts["memory_limit_gib"] is None else f"limit {facts['memory_limit_gib']} GiB"
    memory = f"{_text(facts['memory_total_gib'])} GiB, {_text(facts['memory_free_gib'])} free, {limit}"
    return [
        ("python", facts["python"]),
        ("platform", facts["platform"]),
        ("processor", facts["cpu"]),
        ("cores available", cores),
        ("memory", memory),
        ("allocator", facts["allocator"]),
    ]


def _torch_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts, precision = report["torch"], report["precision"]
    if facts["version"] is None:
        return [("torch", "cannot be used")]
    devices = [
        f"{device['name']}, capability {'.'.join(map(str, device['capability']))}, {device['memory_gib']} GiB"
        for device in facts["devices"]
    ]
    cuda = "\n".join(devices) or f"no device (built for CUDA {facts['cuda_build']})"
    return [
        ("torch", f"{facts['version']}, {facts['threads']} threads"),
        ("CUDA", cuda if facts["cuda_build"] else "not built in"),
        ("Apple GPU (MPS)", "yes" if facts["mps_available"] else "no"),
        ("precision=auto", f"{precision['auto']}: {precision['reason']}"),
    ]


def _storage_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts, login = report["storage"], report["wandb"]
    shared = facts["shared_memory"]
    state = f"logged in by {login['source']}" if login["logged_in"] else "not logged in (run: wandb login)"
    return [
        *((f"{key} folder", f"{facts[key]['folder']}, {facts[key]['free_gib']} GiB free") for key in ("runs", "cache")),
        ("shared memory", "none" if shared is None else f"{shared['total_gib']} GiB, {shared['free_gib']} free"),
        ("Weights & Biases", f"{state}, mode {login['mode']}, {login['host']}"),
    ]


def _text(value: Any) -> str:
    return "-" if value is None else str(value)


def _dependency_table(dependencies: Iterable[Mapping[str, Any]]) -> Table:
    table = Table("package", "needs", "installed", "extra", "status")
    table.columns[0].overflow = "fold"
    for entry in dependencies:
        style = _STATUS_STYLES[entry["status"]]
        extras = ", ".join(entry["extras"])
        table.add_row(
            entry["name"], entry["required"] or "any", _text(entry["installed"]), extras, entry["status"], style=style
        )
    return table
