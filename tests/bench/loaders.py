"""Patches per second of the whole loading pipeline, beside other projects' loaders with the same operations.

Eight volumes of 160 voxels along each axis, patches of 64, `augmentation=full`, two loading processes, batches of two.
Every measurement runs in a process of its own, in turns, as a machine's speed drifts. Run by `make bench-loaders`. Of
the others only MONAI is a dependency: `pip install torchio nnunetv2` for the whole table.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from loader_peers import N_CLASSES, PEERS, Batches, Task
from scipy import ndimage

import medexp
from medexp.core.hardware import available_cores, cpu_model
from medexp.data.module import ImageData
from medexp.engine.build import build
from medexp.engine.process import keep_freed_memory

OURS = "medexp"
_N_VOLUMES, _SIZE, PATCH, _FOREGROUND = 8, 160, 64, 0.33
_WARM_UP = 60


@dataclass(frozen=True)
class Speed:
    """What one process measured.

    Attributes:
        patches_per_s: Patches per second of wall time.
        cpu_ms: Processor time of a patch, over all processes.
        memory_mib: Memory of all processes at the end, shared pages counted once, without mapped files, whose pages
            are given back when others need them.
    """

    patches_per_s: float
    cpu_ms: float
    memory_mib: float


def write_volumes(folder: Path, *, count: int, size: int = _SIZE) -> None:
    """Textured volumes with structures of two classes all over, as a Medical Segmentation Decathlon set."""
    import nibabel as nib

    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random = np.random.default_rng(number)
        coarse, middle, fine = (
            ndimage.gaussian_filter(random.standard_normal((size,) * 3, dtype=np.float32), sigma)
            for sigma in (8, 5, 1.5)
        )
        label = (coarse > np.quantile(coarse, 0.93)).astype(np.uint8)
        label[middle > np.quantile(middle, 0.995)] = 2
        noise = random.standard_normal((size,) * 3, dtype=np.float32)
        image = 0.5 * fine / fine.std() + 0.5 * middle / middle.std() + label + 0.1 * noise
        for part, array in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / part / f"blobs_{number:03}.nii.gz")
    names = [f"blobs_{number:03}.nii.gz" for number in range(count)]
    description = {
        "name": "blobs",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "large", "2": "small"},
        "numTraining": count,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (folder / "dataset.json").write_text(json.dumps(description))


def our_data(volumes: Path, scratch: Path, overrides: list[str]) -> tuple[ImageData, dict[str, Any]]:
    """medexp's data of a run on the volumes, and the knobs of its augmentation."""
    config = medexp.compose(
        None,
        [
            "dataset=msd",
            f"dataset.root={volumes}",
            f"dataset.split.n_folds={len(list((volumes / 'imagesTr').iterdir()))}",
            f"dataset.patch_size=[{PATCH},{PATCH},{PATCH}]",
            "dataset.batch_size=2",
            "dataset.workers=2",
            f"dataset.foreground_fraction={_FOREGROUND}",
            "augmentation=full",
            "trainer.steps_per_epoch=1000000",
            f"paths.cache={scratch / 'cache'}",
            f"paths.runs={scratch / 'runs'}",
            *overrides,
        ],
    )
    data = build(config).data
    data.prepare_data()
    return data, dict(config.augmentation)


def batches_of(name: str, volumes: Path, scratch: Path, overrides: list[str]) -> Batches:
    """Endless batches of one loader."""
    data, knobs = our_data(volumes, scratch, overrides)
    if name == OURS:
        return ((batch.images, batch.targets["semantic"]) for batch in data.train_dataloader())
    prepared = [data.prepared.load(case)[0] for case in data.parts.train]
    task = Task(
        pixels=[case.pixels for case in prepared],
        masks=[case.annotation.mask for case in prepared],
        patch=PATCH,
        foreground=_FOREGROUND,
        knobs=knobs,
        folder=scratch,
    )
    return PEERS[name][1](task)


def measure(batches: Batches, patches: int) -> Speed:
    """Take some patches from a loader that runs."""
    # What was freed while the loader was built is no part of its memory, nor of the processes that it forks.
    ctypes.CDLL(None).malloc_trim(0)
    _take(batches, _WARM_UP)
    processor, begin = _cpu_seconds(), time.perf_counter()
    taken = _take(batches, patches)
    seconds, processor = time.perf_counter() - begin, _cpu_seconds() - processor
    return Speed(taken / seconds, 1000 * processor / taken, _memory_mib())


def _take(batches: Batches, patches: int) -> int:
    taken = 0
    while taken < patches:
        images, masks = next(batches)
        assert images.shape[1:] == masks.shape[1:] == (1, PATCH, PATCH, PATCH)
        taken += len(images)
    return taken


def _processes() -> Iterator[Path]:
    """This process and those below it."""
    waiting = [os.getpid()]
    while waiting:
        folder = Path("/proc", str(waiting.pop()))
        yield folder
        for thread in (folder / "task").iterdir():
            waiting += map(int, (thread / "children").read_text().split())


def _cpu_seconds() -> float:
    ticks = 0
    for folder in _processes():
        # Fields 14 to 17 are the time of the process and of its children that ended; the second is a name in brackets.
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _memory_mib() -> float:
    lines = [line for folder in _processes() for line in (folder / "smaps_rollup").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:"))) / 1024


def _end() -> NoReturn:
    """End this process and those below it; loaders without an end do not all stop when they are told to."""
    for folder in list(_processes())[1:]:
        os.kill(int(folder.name), signal.SIGKILL)
    os._exit(0)


def statistics_of(batches: Batches, patches: int) -> dict[str, float]:
    """What the patches of a loader look like, on average over patches.

    Args:
        batches: The loader's batches.
        patches: How many are looked at.

    Returns:
        Mean, standard deviation and energy of the gradient of the intensities; share of each class; share of patches
        that show each class.
    """
    rows = []
    while len(rows) < patches:
        for image, mask in zip(*next(batches), strict=True):
            gradients = [np.diff(image[0].numpy(), axis=axis) for axis in range(3)]
            shares = [float((mask == label).float().mean()) for label in range(1, N_CLASSES)]
            rows.append({
                "mean": float(image.mean()),
                "SD": float(image.std()),
                "gradient": sum(float(np.square(gradient).mean()) for gradient in gradients),
                **{f"share of class {label}": share for label, share in enumerate(shares, start=1)},
                **{f"shows class {label}": float(share > 0) for label, share in enumerate(shares, start=1)},
            })  # fmt: skip
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def installed() -> list[str]:
    """Names of the loaders that can be built here, ours first."""
    return [OURS, *(name for name, (module, _) in PEERS.items() if importlib.util.find_spec(module) is not None)]


def _in_turns(names: list[str], arguments: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for _ in range(arguments.rounds):
        for name in names:
            words = ["--only", name, "--patches", str(arguments.patches), "--scratch", arguments.scratch]
            words += ["--statistics"] if arguments.statistics else []
            done = subprocess.run(
                [sys.executable, __file__, *words, *arguments.overrides], stdout=subprocess.PIPE, text=True, check=True
            )
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(name, found[name][-1], file=sys.stderr, flush=True)
    return found


def _table(found: dict[str, list[dict[str, float]]], *, with_ratio: bool) -> str:
    """Medians over the rounds, and of the ratio of the first figure within each."""
    keys = list(found[OURS][0])
    titles = [*keys, "medexp / it"] if with_ratio else keys
    lines = [f"| Loader | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
    for name, rows in found.items():
        cells = [f"{statistics.median(row[key] for row in rows):.3g}" for key in keys]
        if with_ratio:
            ratios = [ours[keys[0]] / row[keys[0]] for ours, row in zip(found[OURS], rows, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _measure_one(arguments: argparse.Namespace, volumes: Path) -> NoReturn:
    """Print the figures of one loader and end the process."""
    keep_freed_memory()
    torch.set_num_threads(1)
    batches = batches_of(arguments.only, volumes, Path(arguments.scratch), arguments.overrides)
    if arguments.statistics:
        found = statistics_of(batches, arguments.patches)
    else:
        found = asdict(measure(batches, arguments.patches))
    print(json.dumps(found), flush=True)
    _end()


def main() -> None:
    """Print the figures of one loader, or the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--patches", type=int, default=400)
    parser.add_argument("--volumes", type=int, default=_N_VOLUMES, help="how many are trained on")
    parser.add_argument("--only", choices=[OURS, *PEERS])
    parser.add_argument("--statistics", action="store_true", help="what the patches look like, not how fast they come")
    parser.add_argument("--scratch", default="", help="folder of volumes and cache, kept; one that is removed if empty")
    parser.add_argument(
        "overrides", nargs="*", help="of medexp's configuration, e.g. augmentation.elastic_probability=0"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        arguments.scratch = arguments.scratch or temporary
        volumes = Path(arguments.scratch, "volumes")
        if not (volumes / "dataset.json").exists():
            # One of them is held out.
            write_volumes(volumes, count=arguments.volumes + 1)
        if arguments.only:
            _measure_one(arguments, volumes)
        names = installed()
        machine = f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, torch {torch.__version__}"
        print(machine, *arguments.overrides)
        absent = [name for name in PEERS if name not in names]
        if absent:
            print(f"not installed: {', '.join(absent)}")
        print(_table(_in_turns(names, arguments), with_ratio=not arguments.statistics))


if __name__ == "__main__":
    main()
