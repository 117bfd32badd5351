"""Time matching instances beside stardist.matching.

Usage: python tests/bench/matching.py [--side 2048] [--instances 1000] [--rounds 7]

One process and one thread compare one pair of label images: discs that touch or overlap, and the same ones moved and
resized. Both take turns in each round; a figure is the median over the rounds of the processor's time, and what they
give is compared. medexp's time is that of the evidence rows and of the value together. Without stardist its own time
is printed alone; `pip install stardist csbdeep` beside it is enough, TensorFlow is not needed.
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
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Metric, Prediction, StructureClass
from medexp.metrics.aji import AggregatedJaccard
from medexp.metrics.instance_ap import InstanceAP
from medexp.metrics.pq import PanopticQuality

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from stardist.matching import matching
except ImportError:
    matching = None

# stardist matches from a threshold on, PQ above one half.
ABOVE_HALF = 0.50001
NINE = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


def discs(side: int, count: int, seed: int) -> np.ndarray:
    """Discs on a jittered grid, numbered from 1 in the order of the grid; later ones lie on earlier ones."""
    rng = np.random.default_rng(seed)
    columns = int(np.ceil(count**0.5))
    pitch = side / columns
    labels = np.zeros((side, side), dtype=np.int32)
    for number in range(count):
        middle = (np.array(divmod(number, columns)) + 0.5) * pitch + rng.uniform(-0.05, 0.05, 2) * pitch
        radius = rng.uniform(0.3, 0.5) * pitch
        low = np.maximum((middle - radius).astype(int), 0)
        box = tuple(slice(start, start + int(2 * radius) + 3) for start in low)
        part = labels[box]
        rows, cols = np.ogrid[: part.shape[0], : part.shape[1]]
        part[(rows + low[0] - middle[0]) ** 2 + (cols + low[1] - middle[1]) ** 2 <= radius**2] = number + 1
    return labels


def as_prediction(instances: np.ndarray) -> Prediction:
    """Instances of one class."""
    objects = Objects.of_instances(instances, dict.fromkeys(range(1, int(instances.max()) + 1), 1))
    geometry = Geometry.from_spacing(instances.shape, (1.0, 1.0))
    return Prediction(
        "case", "case", geometry, (StructureClass("nucleus", 0, 1),), instances=instances, objects=objects
    )


def value_of(metric: Metric, prediction: Prediction, reference: Prediction) -> float:
    """The metric's value of one case."""
    return metric.aggregate(metric.rows(prediction, reference))["nucleus"]


def cases(
    predicted: np.ndarray, referred: np.ndarray
) -> dict[str, tuple[Callable[[], float], Callable[[], float] | None]]:
    """By name, what medexp does and what stardist does; one value comes out of both."""
    pair = as_prediction(predicted), as_prediction(referred)

    def theirs(read: Callable[..., float]) -> Callable[[], float] | None:
        return None if matching is None else lambda: read(matching)

    metrics = {
        "PQ": (
            PanopticQuality(),
            lambda match: match(referred, predicted, thresh=ABOVE_HALF).panoptic_quality,
        ),
        "AP at .5": (
            InstanceAP(name="instance_ap50", min_ious=(0.5,), pooled=True),
            lambda match: match(referred, predicted, thresh=0.5).accuracy,
        ),
        "AP at nine thresholds": (
            InstanceAP(name="instance_ap", min_ious=NINE, pooled=True),
            lambda match: float(np.mean([each.accuracy for each in match(referred, predicted, thresh=NINE)])),
        ),
    }
    found = {name: ((lambda m=m: value_of(m, *pair)), theirs(read)) for name, (m, read) in metrics.items()}
    for pairing in ("best", "unique"):
        aji = AggregatedJaccard(name="aji", pairing=pairing, pooled=False, both_empty=float("nan"))
        found[f"AJI, {pairing} partners"] = ((lambda m=aji: value_of(m, *pair)), None)
    return found


def measured(run: Callable[[], float]) -> float:
    """Seconds of processor time."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    """Print a line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    peer = "no stardist" if matching is None else f"stardist {version('stardist')}"
    print(f"{platform.processor() or platform.machine()}, {peer}, numpy {version('numpy')}, scipy {version('scipy')}")
    print(f"{arguments.side}^2 pixels, {arguments.instances} instances, one thread\n")
    print("| Metric | medexp, s | stardist, s | medexp / stardist | same value |\n|---|---|---|---|---|")
    referred, predicted = (discs(arguments.side, arguments.instances, seed) for seed in (0, 1))
    for name, (ours, theirs) in cases(predicted, referred).items():
        value = ours()
        if theirs is None:
            own = statistics.median(measured(ours) for _ in range(arguments.rounds))
            print(f"| {name} | {own:.3f} | | | |", flush=True)
            continue
        same = abs(value - theirs()) < 1e-6  # stardist keeps the IoU in single precision
        rounds = [(measured(ours), measured(theirs)) for _ in range(arguments.rounds)]
        own, other = (statistics.median(times) for times in zip(*rounds, strict=True))
        ratio = statistics.median(first / second for first, second in rounds)
        print(f"| {name} | {own:.3f} | {other:.3f} | {ratio:.2f} | {'yes' if same else 'no'} |", flush=True)


if __name__ == "__main__":
    main()
