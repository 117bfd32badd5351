"""Time of a training step: medexp against a plain script, and with and without freed memory kept in the process.

Each measurement runs in a process of its own, in turns, since a machine's speed drifts; what counts is the ratio.
Run by `make bench`; with `--root` on the hippocampus, without it on generated volumes of the same size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medexp.core.hardware import available_cores, cpu_model

_PATCH = (40, 56, 40)
_SKIPPED = 10
_FILTERS = (16, 32, 64, 128)


def plain_script(steps: int, root: str | None) -> float:
    """Seconds a step of a hand-written loop: all in memory, no augmentation, AdamW, Dice + cross-entropy, bf16."""
    from monai.losses import DiceCELoss

    from medexp.engine.process import keep_freed_memory

    keep_freed_memory()
    volumes = _volumes(root)
    network = _network().train()
    loss_function = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    random = np.random.default_rng(0)
    marks = []
    for _ in range(steps):
        chosen = [volumes[index] for index in random.integers(len(volumes), size=4)]
        images, labels = (torch.stack(list(part)) for part in zip(*chosen, strict=True))
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(images)
        loss = loss_function(logits.float(), labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0)
        optimizer.step()
        marks.append(time.perf_counter())
    return _seconds_a_step(marks)


def framework(steps: int, root: str | None) -> float:
    """Seconds a step of `medexp.train` on the same network, batch, loss, optimiser and precision."""
    import pytorch_lightning as pl

    import medexp
    from medexp.engine.work import Work

    marks: list[float] = []

    class Marks(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            marks.append(time.perf_counter())

    class StopError(Exception):
        pass

    def judge(*_: Any) -> None:
        raise StopError

    original = Work._user_callbacks
    Work._user_callbacks = lambda work: [Marks(), *original(work)]  # type: ignore[method-assign]
    Work.judge = judge  # type: ignore[method-assign]
    data = (
        [f"dataset.root={root!r}", "dataset=msd"]
        if root
        else ["dataset=phantom_3d", f"dataset.source.shape={list(_PATCH)}", "dataset.source.n_cases=40"]
    )
    with tempfile.TemporaryDirectory() as runs:
        config = medexp.compose(
            None,
            [
                *data,
                "model=dynunet",
                f"model.filters={list(_FILTERS)}",
                f"dataset.patch_size={list(_PATCH)}",
                "dataset.batch_size=4",
                "precision=bf16-mixed",
                f"trainer.max_steps={steps}",
                f"paths.runs={runs}",
                "callbacks=progress",
            ],
        )
        with contextlib.suppress(StopError):
            medexp.train(config)
    return _seconds_a_step(marks)


def allocator(steps: int, *, keep: bool) -> float:
    """Seconds a step of nnU-Net's network on two patches of 64 x 64 x 64 in bf16."""
    from medexp.engine.process import keep_freed_memory

    if keep:
        keep_freed_memory()
    network = _network((32, 64, 128, 256)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.randn(2, 1, 64, 64, 64)
    marks = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()
        optimizer.step()
        marks.append(time.perf_counter())
    return _seconds_a_step(marks)


def _network(filters: tuple[int, ...] = _FILTERS) -> torch.nn.Module:
    from monai.networks.nets import DynUNet

    torch.manual_seed(0)
    levels = len(filters)
    return DynUNet(3, 1, 3, [3] * levels, [1] + [2] * (levels - 1), [2] * (levels - 1), filters=list(filters))


def _volumes(root: str | None) -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = np.random.default_rng(0)
    if root is None:
        return [
            (torch.randn(1, *_PATCH), torch.from_numpy(random.integers(0, 3, (1, *_PATCH), dtype=np.int16)))
            for _ in range(40)
        ]
    import nibabel as nib

    found = []
    for image_path in sorted(Path(root, "imagesTr").glob("*.nii.gz"))[:208]:
        image = np.asarray(nib.load(image_path).dataobj, dtype=np.float32)
        label = np.asarray(nib.load(Path(root, "labelsTr", image_path.name)).dataobj).astype(np.int16)
        image = (image - image.mean()) / image.std()
        window = tuple(slice(0, min(have, want)) for have, want in zip(image.shape, _PATCH, strict=True))
        padded = [np.zeros((1, *_PATCH), dtype=part.dtype) for part in (image, label)]
        for target, part in zip(padded, (image, label), strict=True):
            target[(0, *window)] = part[window]
        found.append((torch.from_numpy(padded[0]), torch.from_numpy(padded[1])))
    return found


def _seconds_a_step(marks: list[float]) -> float:
    return statistics.median(np.diff(marks[_SKIPPED:]).tolist())


def _measure(name: str, steps: int, root: str | None) -> float:
    torch.set_num_threads(available_cores())
    runners = {
        "plain": lambda: plain_script(steps, root),
        "medexp": lambda: framework(steps, root),
        "kept": lambda: allocator(steps, keep=True),
        "returned": lambda: allocator(steps, keep=False),
    }
    return runners[name]()


def _in_turns(names: tuple[str, str], *, rounds: int, steps: int, root: str | None) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            words = ["--only", name, "--steps", str(steps), *(["--root", root] if root else [])]
            done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
            found[name].append(json.loads(done.stdout.splitlines()[-1]))
    return found


def _row(names: tuple[str, str], found: dict[str, list[float]]) -> str:
    first, second = (found[name] for name in names)
    ratio = statistics.median(one / other for one, other in zip(first, second, strict=True))
    return f"| {names[0]} / {names[1]} | {min(first):.3f} | {min(second):.3f} | {ratio:.2f} |"


def main() -> None:
    """Print one figure, or the whole table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="folder of MSD Task04")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("plain", "medexp", "kept", "returned"))
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(_measure(arguments.only, arguments.steps, arguments.root)))
        return
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {available_cores()} cores, torch {torch.__version__}")
    print("| A / B | A, s a step | B, s a step | A / B, median of pairs |\n|---|---|---|---|")
    for names in (("medexp", "plain"), ("kept", "returned")):
        print(_row(names, _in_turns(names, rounds=arguments.rounds, steps=arguments.steps, root=arguments.root)))


if __name__ == "__main__":
    main()
