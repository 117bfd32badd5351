from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.geometry import Geometry
from medexp.core.types import Prediction, StructureClass

LIVER = (StructureClass("liver", layer=0, value=1),)


def _pair(
    prediction: np.ndarray,
    reference: np.ndarray,
    *,
    spacing: tuple[float, ...] | None = None,
    unit: str = "mm",
    valid: np.ndarray | None = None,
    classes: tuple[StructureClass, ...] = LIVER,
    exclusive: bool = True,
) -> tuple[Prediction, Prediction]:
    """Prediction and reference of one case; a boolean mask stands for a single class, other masks come in layers."""
    layered = [mask[None].astype(np.uint8) if mask.dtype == bool else mask for mask in (prediction, reference)]
    shape = layered[0].shape[1:]
    geometry = Geometry.from_spacing(shape, spacing or (1.0,) * len(shape), unit=unit)
    kwargs = {"case_id": "case_7", "group": "patient_3", "geometry": geometry, "classes": classes}
    kwargs["exclusive"] = exclusive
    return Prediction(mask=layered[0], **kwargs), Prediction(mask=layered[1], valid=valid, **kwargs)


@pytest.fixture
def pair() -> Callable[..., tuple[Prediction, Prediction]]:
    return _pair


@pytest.fixture
def value_of() -> Callable[..., float]:
    """The value of a metric for one class; arguments as for `pair`."""

    def value(metric, *masks, **options) -> float:
        (row,) = metric.rows(*_pair(*masks, **options))
        return row.value

    return value


@pytest.fixture(params=range(12))
def blobs(request) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Two ragged masks in 2D or 3D that may touch the edge and have several parts, with an anisotropic spacing."""
    rng = np.random.default_rng(request.param)
    dims = 2 + request.param % 2
    shape = tuple(int(size) for size in rng.integers(7, 15, dims))
    masks = [ndimage.gaussian_filter(rng.normal(size=shape), 1.0) > 0.1 for _ in range(2)]
    assert all(mask.any() and not mask.all() for mask in masks)
    return masks[0], masks[1], tuple(float(value) for value in rng.uniform(0.4, 4.0, dims))


@pytest.fixture
def box() -> Callable[..., np.ndarray]:
    """A mask with a box: `box(shape, slice, slice, ...)`."""

    def make(shape: tuple[int, ...], *where: slice) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        if where:
            mask[where] = True
        return mask

    return make
