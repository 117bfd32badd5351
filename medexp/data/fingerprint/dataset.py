"""What the cases of a dataset look like together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from medexp.core.errors import DataError
from medexp.core.geometry import orient_to_world
from medexp.core.types import Source
from medexp.data.fingerprint.case import N_QUANTILES, CaseSummary, ChannelSummary

_PERCENTILES = {"p10": 10.0, "median": 50.0, "p90": 90.0}
_INTENSITY_PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True, eq=False)
class ClassSizes:
    """The sizes of a class over all cases.

    Attributes:
        missing_in: Ids of the cases that do not show it.
        volumes_mm3: Volume in each case that shows it; NaN where there are boxes only.
        counts: Number of objects in each case that shows it.
        object_volumes_mm3: Volume of the objects.
        object_extents_mm: Extent of the objects along each axis of the network's grid.
        weights: How many objects each of them stands for.
    """

    missing_in: tuple[str, ...]
    volumes_mm3: Float[np.ndarray, "cases"]
    counts: Float[np.ndarray, "cases"]
    object_volumes_mm3: Float[np.ndarray, "objects"]
    object_extents_mm: Float[np.ndarray, "objects dims"]
    weights: Float[np.ndarray, "objects"]

    def region_mm(self, percent: float) -> Float[np.ndarray, "dims"]:
        """Extent along each axis that so many per cent of the class's voxels lie in objects of, at most.

        Specks of a voxel that a rough annotation has by the hundred hardly count; boxes count by their volume, and
        points, which have none, alike.
        """
        weights = self.weights * self.object_volumes_mm3
        weights = weights if weights.sum() > 0 else self.weights
        return weighted_percentile(self.object_extents_mm, percent, weights)

    def as_plain(self) -> dict[str, Any]:
        """The figures for JSON."""
        volumes = self.volumes_mm3[~np.isnan(self.volumes_mm3)]
        return {
            "cases": len(self.counts),
            "missing_in": list(self.missing_in),
            "volume_mm3": _percentiles(volumes),
            "objects": int(self.counts.sum()),
            "objects_per_case": _percentiles(self.counts),
            "object_volume_mm3": _percentiles(self.object_volumes_mm3, self.weights),
            "object_extent_mm": _percentiles(self.object_extents_mm, self.weights),
            "region_mm": {"p90": _plain(self.region_mm(90.0))},
        }


class Fingerprint:
    """Shapes, spacings, intensities and sizes of a dataset, along the axes of the network's grid.

    Args:
        source: What the cases were read by.
        cases: Their summaries.
        orient: The image's axes are brought along the axes of the world, as the preprocessing does it.

    Raises:
        DataError: There is no case, or some have a scale in millimetres and others none.
    """

    def __init__(self, source: Source, cases: Iterable[CaseSummary], *, orient: bool) -> None:
        self.name = source.name
        self.spatial_dims = source.spatial_dims
        self.channel_names = tuple(source.channels)
        self.labels: Mapping[int, str] = dict(source.labels)
        self.cases = tuple(cases)
        self.orient = orient
        if not self.cases:
            raise DataError(f"{self.name} has no case; check the dataset's folder")
        units = {case.unit for case in self.cases}
        if len(units) > 1:
            odd = next(case.case_id for case in self.cases if case.unit != self.cases[0].unit)
            raise DataError(
                f"{self.name} has cases with a scale in mm and cases without one (case {odd}); give all of them a "
                "spacing, or none"
            )
        self.unit = self.cases[0].unit

    @cached_property
    def _axes(self) -> list[tuple[int, ...]]:
        """For each case the image axis that becomes each axis of the network's grid."""
        identity = tuple(range(self.spatial_dims))
        return [orient_to_world(case.geometry)[0] if self.orient else identity for case in self.cases]

    @cached_property
    def shapes(self) -> Float[np.ndarray, "cases dims"]:
        """Voxels of each case."""
        return np.array([np.array(c.shape)[list(axes)] for c, axes in zip(self.cases, self._axes, strict=True)], float)

    @cached_property
    def nonzero_shapes(self) -> Float[np.ndarray, "cases dims"]:
        """Voxels of each case without its margin of zeros."""
        pairs = zip(self.cases, self._axes, strict=True)
        return np.array([np.array(case.nonzero_shape)[list(axes)] for case, axes in pairs], float)

    @cached_property
    def spacings_mm(self) -> Float[np.ndarray, "cases dims"]:
        """Distance between the voxels of each case (1 where there is no scale)."""
        pairs = zip(self.cases, self._axes, strict=True)
        return np.array([np.array(case.geometry.spacing_mm)[list(axes)] for case, axes in pairs])

    @property
    def nonzero_share(self) -> float:
        """Median share of the voxels that is left without margins of zeros."""
        return float(np.median(self.nonzero_shapes.prod(axis=1) / self.shapes.prod(axis=1)))

    @cached_property
    def classes(self) -> dict[str, ClassSizes]:
        """Sizes by class, of all that are declared or occur; the background does not count."""
        occurring = {label for case in self.cases for label in case.classes}
        declared = {label for label in self.labels if label != 0} if occurring else set()
        return {self.labels.get(i, str(i)): self._class(i) for i in sorted(declared | occurring)}

    def _class(self, label: int) -> ClassSizes:
        shown = [(case.classes[label], axes) for case, axes in self._with_axes() if label in case.classes]
        rows = [np.array(item.objects).reshape(-1, self.spatial_dims + 1) for item, _ in shown]
        extents = [sizes[:, 1:][:, list(axes)] for sizes, (_, axes) in zip(rows, shown, strict=True)]
        weights = [np.full(len(item.objects), item.n_objects / max(1, len(item.objects))) for item, _ in shown]
        return ClassSizes(
            missing_in=tuple(case.case_id for case in self.cases if label not in case.classes),
            volumes_mm3=np.array([item.volume_mm3 for item, _ in shown], dtype=np.float64),
            counts=np.array([item.n_objects for item, _ in shown], dtype=np.float64),
            object_volumes_mm3=np.concatenate([np.zeros(0), *(sizes[:, 0] for sizes in rows)]),
            object_extents_mm=np.concatenate([np.zeros((0, self.spatial_dims)), *extents]),
            weights=np.concatenate([np.zeros(0), *weights]),
        )

    def _with_axes(self) -> list[tuple[CaseSummary, tuple[int, ...]]]:
        return list(zip(self.cases, self._axes, strict=True))

    @cached_property
    def channels(self) -> dict[str, dict[str, float]]:
        """Figures of the foreground's intensities by channel; each case counts alike, as in nnU-Net."""
        shown = [case.channels for case in self.cases if case.channels]
        return {name: _pooled([of_case[i] for of_case in shown]) for i, name in enumerate(self.channel_names) if shown}

    @property
    def image_labels(self) -> dict[str, int]:
        """Number of images of each label; empty where images have none."""
        known = [case.image_labels for case in self.cases if case.image_labels is not None]
        if not known:
            return {}
        return {name: sum(label in labels for labels in known) for label, name in self.labels.items()}

    @property
    def without_objects(self) -> tuple[str, ...]:
        """Ids of the cases whose annotation shows nothing, in datasets that annotate places."""
        return tuple(case.case_id for case in self.cases if not case.classes) if self.classes else ()

    def region_mm(self, percent: float = 90.0) -> Float[np.ndarray, "dims"]:
        """Extent along each axis that covers so many per cent of every class; zeros where nothing has an extent."""
        regions = [sizes.region_mm(percent) for sizes in self.classes.values() if len(sizes.weights)]
        return np.max(regions, axis=0) if regions else np.zeros(self.spatial_dims)

    def as_plain(self) -> dict[str, Any]:
        """All figures, and a line a case, for JSON."""
        return {
            "dataset": self.name,
            "cases": len(self.cases),
            "spatial_dims": self.spatial_dims,
            "unit": self.unit,
            "oriented": self.orient,
            "shape": _percentiles(self.shapes, ends=True),
            "spacing_mm": _percentiles(self.spacings_mm, ends=True),
            "nonzero_share": round(self.nonzero_share, 4),
            "foreground": sorted({case.foreground for case in self.cases}),
            "intensities": self.channels,
            "classes": {name: sizes.as_plain() for name, sizes in self.classes.items()},
            "image_labels": self.image_labels,
            "without_objects": list(self.without_objects),
            "by_case": [self._line(place) for place in range(len(self.cases))],
        }

    def _line(self, place: int) -> dict[str, Any]:
        case = self.cases[place]
        return {
            "case_id": case.case_id,
            "shape": _plain(self.shapes[place]),
            "spacing_mm": _plain(self.spacings_mm[place]),
            "classes": {
                self.labels.get(label, str(label)): {
                    "volume_mm3": None if np.isnan(shown.volume_mm3) else _plain(np.array(shown.volume_mm3)),
                    "objects": shown.n_objects,
                }
                for label, shown in case.classes.items()
            },
        }


def weighted_percentile(
    values: Float[np.ndarray, "n *axes"], percent: float, weights: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "*axes"]:
    """The smallest value, axis by axis, that at least so many per cent of the weight do not exceed.

    Args:
        values: Values, a row each.
        percent: From 0 to 100.
        weights: Weight of each row.

    Returns:
        A value for each column; NaN where there is no row.
    """
    if not len(values):
        return np.full(values.shape[1:], np.nan)
    columns = values.reshape(len(values), -1)
    found = []
    for column in columns.T:
        order = np.argsort(column, kind="stable")
        covered = np.cumsum(weights[order])
        place = np.searchsorted(covered, percent / 100 * covered[-1] * (1 - 1e-12))
        found.append(column[order][min(int(place), len(column) - 1)])
    return np.array(found).reshape(values.shape[1:])


def _pooled(cases: list[ChannelSummary]) -> dict[str, float]:
    means, stds = (np.array([getattr(case, name) for case in cases]) for name in ("mean", "std"))
    mean = float(means.mean())
    # Between two quantiles of a case the same share of its voxels lies, half of it near either end.
    quantiles = np.array([case.quantiles for case in cases])
    weights = np.ones(N_QUANTILES)
    weights[[0, -1]] = 0.5
    low, middle, high = (
        float(weighted_percentile(quantiles.reshape(-1), percent, np.tile(weights, len(cases))))
        for percent in _INTENSITY_PERCENTILES
    )
    return {
        "mean": _rounded(mean),
        "std": _rounded(float(np.sqrt((stds**2 + (means - mean) ** 2).mean()))),
        "min": float(quantiles.min()),
        "p00.5": low,
        "median": middle,
        "p99.5": high,
        "max": float(quantiles.max()),
    }


def _percentiles(
    values: Float[np.ndarray, "n *axes"], weights: Float[np.ndarray, "n"] | None = None, *, ends: bool = False
) -> dict[str, Any]:
    """The tenth, median and ninetieth percentile, and smallest and largest; empty where there is no value."""
    if not len(values):
        return {}
    found = {
        name: _plain(
            np.percentile(values, percent, axis=0) if weights is None else weighted_percentile(values, percent, weights)
        )
        for name, percent in _PERCENTILES.items()
    }
    return {"min": _plain(values.min(axis=0)), **found, "max": _plain(values.max(axis=0))} if ends else found


def _plain(values: Any) -> Any:
    """Numbers for JSON with as many digits as mean something."""
    rounded = np.asarray(values, dtype=np.float64).tolist()
    return [_rounded(value) for value in rounded] if isinstance(rounded, list) else _rounded(rounded)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
