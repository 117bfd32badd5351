"""Small cases for the tests of checks: what a source would have read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medexp.core.faults import Fault
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.integrity.demands import Demands, Training
from medexp.data.integrity.measurement import Measurement, measure

LABELS = {0: "background", 1: "organ", 2: "lesion"}


def case(case_id: str = "a", **knobs: Any) -> Case:
    defaults = {
        "group": case_id,
        "images": (Path(f"{case_id}.nii.gz"),),
        "references": {"mask": Path(f"{case_id}_mask.nii.gz")},
    }
    return Case(case_id=case_id, **(defaults | knobs))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def image(
    pixels: np.ndarray | None = None,
    *,
    spacing: tuple[float, ...] | None = None,
    affine: np.ndarray | None = None,
    unit: str = "mm",
    of: Case | None = None,
    **annotation: Any,
) -> Image:
    """A case with noise unless pixels are given, and with a mask of a square organ unless an annotation is given."""
    pixels = noise(1, 8, 9) if pixels is None else pixels
    shape = pixels.shape[1:]
    matrix = np.diag([*(spacing or (1.0,) * len(shape)), 1.0]) if affine is None else affine
    if not annotation:
        annotation["mask"] = square(shape)
    return Image(
        case=of or case(),
        pixels=pixels.astype(np.float32),
        annotation=Annotation(**annotation),
        geometry=Geometry(shape, np.asarray(matrix, dtype=np.float64), unit),
    )


def square(shape: tuple[int, ...], label: int = 1) -> np.ndarray:
    mask = np.zeros(shape, dtype=np.uint8)
    mask[tuple(slice(1, 4) for _ in shape)] = label
    return mask


def boxes(*rows: list[float], label: int = 1) -> Objects:
    return Objects.of(np.array(rows, dtype=np.float64), np.full(len(rows), label))


def demands(
    *,
    spatial_dims: int = 2,
    channels: tuple[str, ...] = ("image",),
    labels: Mapping[int, str] = LABELS,
    **training: Any,
) -> Demands:
    return Demands(
        spatial_dims=spatial_dims,
        channels=channels,
        labels=labels,
        used_labels=labels,
        training=Training(**training),
    )


def told(
    check: Callable[[Case, Measurement, Demands], Iterator[Fault]], read: Image, asked: Demands | None = None
) -> list[Fault]:
    return list(check(read.case, measure(read), asked or demands()))


def names(faults: list[Fault]) -> list[str]:
    return [fault.check for fault in faults]
