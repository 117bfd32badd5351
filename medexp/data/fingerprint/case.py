"""What is remembered of a case: a few numbers, from which those of the dataset follow without reading it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Image
from medexp.data.fingerprint.objects import ClassSummary, classes_of

# One every half per cent, so that the percentiles that clip a CT are among them.
N_QUANTILES = 201
# A quantile of so many voxels is sharp enough; of larger foregrounds every n-th voxel is taken.
_QUANTILE_VOXELS = 200_000


@dataclass(frozen=True)
class ChannelSummary:
    """The intensities of a channel in the foreground.

    Attributes:
        mean: Their mean.
        std: Their standard deviation.
        quantiles: Intensities at evenly spaced shares of the voxels, from the smallest to the largest.
    """

    mean: float
    std: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class CaseSummary:
    """What is known of a case, on its image's own grid.

    Attributes:
        case_id: The case.
        shape: Voxels along each axis.
        nonzero_shape: The same of the smallest box that holds every voxel that is not zero in all channels.
        affine: Rows of the affine.
        unit: Unit of the grid.
        foreground: Where intensities were taken: in the "mask", in the boxes of "objects", or in the whole "image".
        channels: Intensities by channel; empty where the annotation shows nothing.
        classes: What is annotated, by label id; only ids that occur.
        image_labels: Label ids of the whole image; None where it has no such annotation.
    """

    case_id: str
    shape: tuple[int, ...]
    nonzero_shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    unit: str
    foreground: str
    channels: tuple[ChannelSummary, ...] = ()
    classes: Mapping[int, ClassSummary] = field(default_factory=dict)
    image_labels: tuple[int, ...] | None = None

    @property
    def geometry(self) -> Geometry:
        """The grid."""
        return Geometry(self.shape, np.array(self.affine), "px" if self.unit == "px" else "mm")

    def as_plain(self) -> dict[str, Any]:
        """The summary for JSON."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> CaseSummary:
        """Undo `as_plain`, from what JSON makes of it."""
        fields = {name: _tuples(value) for name, value in plain.items() if name not in ("channels", "classes")}
        channels = tuple(
            ChannelSummary(**{name: _tuples(value) for name, value in item.items()}) for item in plain["channels"]
        )
        classes = {
            int(label): ClassSummary(**{name: _tuples(value) for name, value in item.items()})
            for label, item in plain["classes"].items()
        }
        return cls(**fields, channels=channels, classes=classes)


def summarise(image: Image, *, ignored_label: int | None = None) -> CaseSummary:
    """What is remembered of an image that was read.

    Args:
        image: The case, with pixels of shape (channels, *spatial).
        ignored_label: Label id of voxels that nobody annotated; they are no foreground.

    Returns:
        Its summary.
    """
    annotation = image.annotation or Annotation()
    name, foreground = _foreground(annotation, image.geometry.shape, ignored_label)
    some = foreground is None or foreground.any()
    return CaseSummary(
        case_id=image.case.case_id,
        shape=tuple(image.geometry.shape),
        nonzero_shape=_extent((image.pixels != 0).any(axis=0)),
        affine=_tuples(image.geometry.affine.tolist()),
        unit=image.geometry.unit,
        foreground=name,
        channels=tuple(_channel(values, foreground) for values in image.pixels) if some else (),
        classes=classes_of(annotation, image.geometry.spacing_mm, ignored_label=ignored_label),
        image_labels=None if annotation.image_labels is None else tuple(map(int, annotation.image_labels)),
    )


def _foreground(
    annotation: Annotation, shape: tuple[int, ...], ignored_label: int | None
) -> tuple[str, Bool[np.ndarray, "*spatial"] | None]:
    """Where intensities are taken; None for the whole image."""
    if annotation.mask is not None:
        foreground = annotation.mask > 0
        return "mask", foreground if ignored_label is None else foreground & (annotation.mask != ignored_label)
    if annotation.instances is not None:
        return "mask", annotation.instances > 0
    objects = annotation.objects
    if objects is None or (len(objects) and not (objects.high > objects.low).any()):
        return "image", None  # points have no voxels
    inside = np.zeros(shape, dtype=bool)
    for low, high in zip(np.floor(objects.low).astype(int), np.ceil(objects.high).astype(int), strict=True):
        inside[tuple(slice(max(0, start), max(0, stop)) for start, stop in zip(low, high, strict=True))] = True
    return "objects", inside


def _channel(channel: Float[np.ndarray, "*spatial"], where: Bool[np.ndarray, "*spatial"] | None) -> ChannelSummary:
    values = (channel if where is None else channel[where]).reshape(-1)
    some = values[:: -(-len(values) // _QUANTILE_VOXELS)]
    quantiles = np.quantile(some, np.linspace(0, 1, N_QUANTILES))
    quantiles[[0, -1]] = values.min(), values.max()
    return ChannelSummary(
        mean=float(values.mean(dtype=np.float64)),
        std=float(values.std(dtype=np.float64)),
        quantiles=tuple(float(f"{value:.7g}") for value in quantiles),
    )


def _extent(chosen: Bool[np.ndarray, "*spatial"]) -> tuple[int, ...]:
    """Shape of the smallest box that holds all chosen voxels; of the whole array where there is none."""
    lengths = []
    for axis in range(chosen.ndim):
        places = np.flatnonzero(chosen.any(axis=tuple(other for other in range(chosen.ndim) if other != axis)))
        lengths.append(int(places[-1] - places[0] + 1) if len(places) else chosen.shape[axis])
    return tuple(lengths)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
