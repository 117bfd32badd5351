"""Time removing small components, keeping the largest and filling holes beside MONAI's transforms.

Usage: python tests/bench/post_processing.py [--side 256] [--rounds 5]

One process and one thread work on one label map: balls of five classes with small holes, and specks. Both take turns
in each round; a figure is the median over the rounds of the processor's time, and what they give is compared.

MONAI's RemoveSmallObjects takes the values of a label map for components. It is right where it gets each class by
itself, and, as no two balls touch here, where it gets all classes as one foreground.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from monai.transforms import FillHoles as MonaiFillHoles
from monai.transforms import KeepLargestConnectedComponent, RemoveSmallObjects

from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass
from medexp.post_processing.fill_holes import FillHoles
from medexp.post_processing.keep_largest import KeepLargest
from medexp.post_processing.remove_small import RemoveSmall

N_CLASSES = 5
N_COMPONENTS = 200
MIN_VOXELS = 400


def label_map(side: int) -> np.ndarray:
    """Balls that touch no other one, some with a hole, some small; each of one class."""
    rng = np.random.default_rng(0)
    labels, taken, placed = np.zeros((side,) * 3, dtype=np.uint8), np.zeros((side,) * 3, dtype=bool), 0
    while placed < N_COMPONENTS:
        # Radii that are no whole numbers, so that no two largest components are equal.
        radius = float(rng.choice([2, 3, 6, 9, 12])) + rng.random()
        reach = int(radius) + 2
        center = rng.integers(reach, side - reach, 3)
        box = tuple(slice(middle - reach, middle + reach + 1) for middle in center)
        squared = sum(
            (axis - shift) ** 2
            for axis, shift in zip(np.ogrid[(slice(-reach, reach + 1),) * 3], rng.random(3), strict=True)
        )
        if taken[box].any():
            continue
        taken[box] = True
        inner = radius / 3 if placed % 2 else 0
        labels[box][(squared <= radius**2) & (squared >= inner**2)] = placed % N_CLASSES + 1
        placed += 1
    return labels


def cases(labels: np.ndarray) -> dict[str, tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]]:
    """By name, what medexp does and what MONAI does; a label map comes out of both."""
    classes = tuple(StructureClass(f"class {value}", 0, value) for value in range(1, N_CLASSES + 1))
    geometry = Geometry.from_spacing(labels.shape, (1.0,) * 3)
    prediction = Prediction("case", "case", geometry, classes, mask=labels[None])
    tensor = torch.from_numpy(labels[None])
    remove = RemoveSmallObjects(min_size=MIN_VOXELS, connectivity=3)
    remove_joint = RemoveSmallObjects(min_size=MIN_VOXELS, connectivity=3, independent_channels=False)
    largest = KeepLargestConnectedComponent(applied_labels=range(1, N_CLASSES + 1), connectivity=3)
    fill = MonaiFillHoles(connectivity=1)

    def medexp(step: Callable[[Prediction], Prediction]) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            mask = step(prediction).mask
            assert mask is not None
            return mask[0]

        return run

    def monai(transform: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[], np.ndarray]:
        return lambda: np.asarray(transform(tensor.clone()))[0]

    def one_by_one() -> np.ndarray:
        result = torch.zeros_like(tensor)
        for value in range(1, N_CLASSES + 1):
            result[remove((tensor == value).to(torch.uint8)) > 0] = value
        return np.asarray(result)[0]

    return {
        "remove small, one foreground": (medexp(RemoveSmall(min_volume_mm3=float(MIN_VOXELS))), monai(remove_joint)),
        "remove small, class by class": (medexp(RemoveSmall(min_volume_mm3=float(MIN_VOXELS))), one_by_one),
        "keep largest": (medexp(KeepLargest()), monai(largest)),
        "fill holes": (medexp(FillHoles()), monai(fill)),
    }


def measured(run: Callable[[], np.ndarray]) -> float:
    """Seconds of processor time."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    """Print a line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    labels = label_map(arguments.side)
    print(f"{platform.processor() or platform.machine()}, MONAI {version('monai')}, numpy {version('numpy')}")
    print(f"{arguments.side}^3 voxels, {N_CLASSES} classes, {N_COMPONENTS} components, one thread\n")
    print("| Operation | medexp, s | MONAI, s | medexp / MONAI | same result |\n|---|---|---|---|---|")
    for name, (ours, theirs) in cases(labels).items():
        same = np.array_equal(ours(), theirs())
        rounds = [(measured(ours), measured(theirs)) for _ in range(arguments.rounds)]
        own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(first / second for first, second in rounds)
        print(f"| {name} | {own:.3f} | {other:.3f} | {ratio:.2f} | {'yes' if same else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
