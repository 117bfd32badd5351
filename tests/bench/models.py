"""Parameters, operations and time of every dense network under conf/model, and whether it learns one batch by heart.

Run by `make bench-models`, which writes docs/models.md. Each network has the knobs of its option file and learns two
generated images, in 2D and in 3D where it can, until it finds their classes again or the steps are spent. With `--only`
or `--dims` a part is measured and printed, not written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from monai.losses import DiceCELoss
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from medexp.core.errors import UsageError
from medexp.core.hardware import available_cores, cpu_model
from medexp.core.instantiate import instantiate
from medexp.data.sources.phantom import Phantom
from medexp.models.adapter import build_model
from medexp.models.cost import cost_of
from medexp.models.fitting import nearest_fit

_ROOT = Path(__file__).parents[2]
_PAGE = _ROOT / "docs" / "models.md"
_NOT_DENSE = ("auto", "densenet", "mask_rcnn", "mask_retinanet", "retinanet")  # planned, or without maps
_SIDE = {2: 64, 3: 32}
_BATCH = 2
_CLASSES = 3
_GOAL = 0.95
_SKIPPED = 2
_HEADER = """# The dense networks

Made by `make bench-models`, which builds each network of conf/model with the knobs of its option file and lets it
learn {batch} generated images (an organ with lesions, {classes} classes) by heart: AdamW with a rate of {rate}, Dice
and cross-entropy, fp32, {steps} steps at most. Dice is the mean over organ and lesion of that batch, in evaluation;
above {goal} training ends. That a network learns a batch says that it is built rightly, and nothing about patients.
Operations are those of a forward pass of one patch; memory is counted from shapes (`medexp model show` says how). A
step is the median of its forward and backward pass and update, on a machine that other work may have shared.

{machine}

| Network | Patch | Parameters | GFLOPs | Memory of a step | Time of a step | Dice, after steps |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Learnt:
    """How a network learnt the batch.

    Attributes:
        dice: Mean over the foreground classes in the end.
        steps: Steps that were taken.
        step_s: Median time of a step.
    """

    dice: float
    steps: int
    step_s: float


def batch_of(size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two generated images with all classes, standardised, and their class indices."""
    with TemporaryDirectory() as folder:
        phantom = Phantom(
            cache_dir=folder, spatial_dims=len(size), n_cases=_BATCH, shape=size, spacing_mm=[1.0] * len(size),
            lesion_free=0.0,
        )  # fmt: skip
        read = [phantom.read(case) for case in phantom.cases()]
    images = torch.stack([torch.as_tensor(image.pixels) for image in read])
    masks = torch.stack([torch.as_tensor(image.annotation.mask.astype("int64")) for image in read])[:, None]
    return (images - images.mean()) / images.std(), masks


def dice_of(model: nn.Module, images: Tensor, masks: Tensor) -> float:
    """Mean Dice of the foreground classes over the batch."""
    with torch.no_grad():
        found = model.eval()(images)["semantic"].argmax(dim=1, keepdim=True)
    scores = []
    for label in range(1, _CLASSES):
        both = ((found == label) & (masks == label)).sum()
        scores.append(2 * both / ((found == label).sum() + (masks == label).sum()).clamp(min=1))
    return float(torch.stack(scores).mean())


def learn(model: nn.Module, images: Tensor, masks: Tensor, *, rate: float, steps: int, every: int = 10) -> Learnt:
    """Train on one batch until its Dice passes the goal."""
    loss = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    times, dice, step = [], 0.0, 0
    for step in range(1, steps + 1):
        begin = time.perf_counter()
        optimizer.zero_grad()
        loss(model.train()(images)["semantic"], masks).backward()
        optimizer.step()
        times.append(time.perf_counter() - begin)
        if step % every == 0:
            dice = dice_of(model, images, masks)
            if dice > _GOAL:
                break
    return Learnt(dice, step, median(times[_SKIPPED:]))


def built(name: str, size: Sequence[int]) -> nn.Module:
    """A network with the knobs of its option file."""
    config = OmegaConf.load(_ROOT / "conf" / "model" / f"{name}.yaml")
    assert isinstance(config, DictConfig)
    torch.manual_seed(0)
    factory = instantiate(config, "model")
    return build_model(
        factory, spatial_dims=len(size), in_channels=1, heads={"semantic": _CLASSES}, image_size=tuple(size)
    )


def rows(names: Sequence[str], *, dims: Sequence[int], rate: float, steps: int) -> Iterator[str]:
    """A line of the table for each network and number of axes that it is for."""
    for name in names:
        for n in dims:
            wanted = [_SIDE[n]] * n
            try:
                model = built(name, wanted)
            except UsageError as error:
                print(f"{name} in {n}D: {error}", flush=True)
                continue
            size = nearest_fit(model, in_channels=1, size=wanted)
            if size is None:
                yield f"| {name} | none near {' x '.join(map(str, wanted))} passes | | | | | |"
                continue
            cost = cost_of(model, in_channels=1, size=size, batch_size=_BATCH)
            learnt = learn(model, *batch_of(size), rate=rate, steps=steps)
            cells = [
                name, " x ".join(map(str, size)), f"{cost.parameters:,}", f"{cost.gflops:.3g}",
                f"{cost.step_mb:,.0f} MB", f"{learnt.step_s:.3f} s", f"{learnt.dice:.3f}, {learnt.steps}",
            ]  # fmt: skip
            yield f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="measure these alone, and write nothing")
    parser.add_argument("--steps", type=int, default=300, help="steps at most")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate")
    parser.add_argument("--dims", nargs="+", type=int, choices=_SIDE, default=list(_SIDE), help="axes of the images")
    given = parser.parse_args()
    names = given.only or sorted(file.stem for file in (_ROOT / "conf" / "model").glob("*.yaml"))
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, {torch.get_num_threads()} threads of {available_cores()} cores, "
        f"torch {torch.__version__}"
    )
    page = _HEADER.format(
        batch=_BATCH, classes=_CLASSES, rate=given.rate, steps=given.steps, goal=_GOAL, machine=machine
    )
    dense = [name for name in names if name not in _NOT_DENSE]
    for row in rows(dense, dims=given.dims, rate=given.rate, steps=given.steps):
        print(row, flush=True)
        page += f"{row}\n"
    if given.only is None and given.dims == list(_SIDE):
        _PAGE.write_text(page)


if __name__ == "__main__":
    main()
