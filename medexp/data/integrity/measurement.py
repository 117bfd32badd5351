"""What is remembered of a case that was read: a few numbers, from which all checks follow without reading it again."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from jaxtyping import Float, Integer

from medexp.core.faults import Fault, Severity
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Image

_CHUNK = 2**22
_TABLE = 2**16
# Values that fill the outer quarters of the signed 16-bit range on both sides are unusual unless they wrapped.
_WRAPPED_FROM = 2**14
_HALF_RANGE = 2**15


@dataclass(frozen=True)
class ChannelValues:
    """The intensities of a channel.

    Attributes:
        low: Smallest finite value; NaN where there is none.
        high: Largest finite value.
        mean: Mean of the finite values.
        std: Their standard deviation.
        not_finite: Number of voxels that are NaN or infinite.
        first_not_finite: Index of the first of them.
        wrapped: Whether unsigned 16-bit values seem to have been stored as signed ones.
    """

    low: float
    high: float
    mean: float
    std: float
    not_finite: int = 0
    first_not_finite: tuple[int, ...] | None = None
    wrapped: bool = False


@dataclass(frozen=True)
class MaskLabels:
    """The label ids of a mask.

    Attributes:
        shape: Its shape.
        voxels: Number of voxels of each id.
    """

    shape: tuple[int, ...]
    voxels: Mapping[int, int]


@dataclass(frozen=True)
class InstanceIds:
    """The ids of an instance map.

    Attributes:
        shape: Its shape.
        n_ids: Number of distinct ids other than 0.
        lowest: Lowest id, 0 included.
        highest: Highest id.
        largest_storable: Largest id that the data type of the map holds.
        in_parts: Ids that lie on parts which do not touch, not even at a corner.
    """

    shape: tuple[int, ...]
    n_ids: int
    lowest: int
    highest: int
    largest_storable: int
    in_parts: tuple[int, ...]


@dataclass(frozen=True)
class ObjectPlaces:
    """The boxes of an annotation.

    Attributes:
        boxes: Lower ends, then upper ends, a row an object.
        labels: Label id of each.
    """

    boxes: tuple[tuple[float, ...], ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """What checks need of a case.

    Attributes:
        shape: Spatial shape of the pixels.
        grid_shape: Shape of the grid.
        affine: Rows of the affine.
        spacing_mm: Distance between neighbouring voxels along each axis.
        unit: Unit of the grid.
        channels: Intensities by channel.
        image_hash: Hash of shape and values of the pixels.
        mask: Label ids of the voxels, if there is a mask.
        instances: Ids of the instance map, if there is one.
        objects: Boxes, if the annotation has objects.
        image_labels: Labels of the whole image, if there are any.
        told: What the source found while it read the case, and read it nevertheless.
        derived: The same case with the annotation that training gets, where that is made from the dataset's own.
    """

    shape: tuple[int, ...]
    grid_shape: tuple[int, ...]
    affine: tuple[tuple[float, ...], ...]
    spacing_mm: tuple[float, ...]
    unit: str
    channels: tuple[ChannelValues, ...]
    image_hash: str
    mask: MaskLabels | None = None
    instances: InstanceIds | None = None
    objects: ObjectPlaces | None = None
    image_labels: tuple[int, ...] | None = None
    told: tuple[Fault, ...] = ()
    derived: Measurement | None = None

    @property
    def used(self) -> Measurement:
        """The case as training gets it."""
        return self.derived or self

    @property
    def geometry(self) -> Geometry:
        """The grid, made anew."""
        return Geometry(self.grid_shape, np.array(self.affine), "px" if self.unit == "px" else "mm")

    @property
    def is_constant(self) -> bool:
        """Whether each channel has one value."""
        return all(channel.low == channel.high for channel in self.channels)

    @property
    def labels(self) -> set[int]:
        """Every label id that the annotation holds, 0 of a mask included."""
        of_mask = set() if self.mask is None else set(self.mask.voxels)
        of_objects = set() if self.objects is None else set(self.objects.labels)
        return of_mask | of_objects | set(self.image_labels or ())

    def as_plain(self) -> dict[str, Any]:
        """The measurement for JSON."""
        own = asdict(replace(self, told=(), derived=None))
        told = [fault.as_plain() for fault in self.told]
        return own | {"told": told, "derived": None if self.derived is None else self.derived.as_plain()}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Measurement:
        """Undo `as_plain`, from what JSON makes of it."""
        fields = {key: _tuples(value) for key, value in plain.items() if not isinstance(value, Mapping)}
        mask, instances, objects = (plain[key] for key in ("mask", "instances", "objects"))
        fields["channels"] = tuple(
            ChannelValues(**{key: _tuples(value) for key, value in channel.items()}) for channel in plain["channels"]
        )
        if mask is not None:
            voxels = {int(label): count for label, count in mask["voxels"].items()}
            fields["mask"] = MaskLabels(tuple(mask["shape"]), voxels)
        if instances is not None:
            fields["instances"] = InstanceIds(**{key: _tuples(value) for key, value in instances.items()})
        if objects is not None:
            fields["objects"] = ObjectPlaces(**{key: _tuples(value) for key, value in objects.items()})
        fields["told"] = tuple(_fault(fault) for fault in plain["told"])
        fields["derived"] = None if plain["derived"] is None else cls.from_plain(plain["derived"])
        return cls(**fields)


def measure(image: Image, *, derived: Annotation | None = None, listed_faults: Collection[Fault] = ()) -> Measurement:
    """What checks need of an image that was read.

    Args:
        image: The case, with pixels of shape (channels, *spatial).
        derived: The annotation that training gets, where it is made from the image's own.
        listed_faults: What was found when it was listed.

    Returns:
        Its measurement.
    """
    own = Measurement(
        shape=image.pixels.shape[1:],
        grid_shape=tuple(image.geometry.shape),
        affine=_tuples(image.geometry.affine.tolist()),
        spacing_mm=image.geometry.spacing_mm,
        unit=image.geometry.unit,
        channels=tuple(_channel(channel) for channel in image.pixels),
        image_hash=_hash(image.pixels),
        told=tuple(fault for fault in image.case.faults if fault not in listed_faults),
    )
    used = None if derived is None else _annotated(replace(own, told=()), derived)
    return replace(_annotated(own, image.annotation or Annotation()), derived=used)


def _annotated(image: Measurement, annotation: Annotation) -> Measurement:
    mask, instances, labels = annotation.mask, annotation.instances, annotation.image_labels
    return replace(
        image,
        mask=None if mask is None else MaskLabels(mask.shape, _counts(mask)),
        instances=None if instances is None else _instance_ids(instances),
        objects=None if annotation.objects is None else _places(annotation.objects),
        image_labels=None if labels is None else tuple(map(int, labels)),
    )


def _places(objects: Objects) -> ObjectPlaces:
    return ObjectPlaces(boxes=_tuples(objects.boxes.tolist()), labels=_tuples(objects.labels.tolist()))


def _channel(values: Float[np.ndarray, "*spatial"]) -> ChannelValues:
    if values.size == 0:
        return ChannelValues(np.nan, np.nan, np.nan, np.nan)
    not_finite, first = 0, None
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        finite = np.isfinite(values)
        not_finite = values.size - int(np.count_nonzero(finite))
        first = tuple(int(place) for place in np.unravel_index(int(np.argmin(finite)), values.shape))
        values = values[finite]
    if values.size == 0:
        return ChannelValues(np.nan, np.nan, np.nan, np.nan, not_finite, first)
    low, high = float(values.min()), float(values.max())
    wrapped = not_finite == 0 and _seems_wrapped(values, low, high)
    mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
    return ChannelValues(low, high, mean, std, not_finite, first, wrapped)


def _seems_wrapped(values: Float[np.ndarray, "*spatial"], low: float, high: float) -> bool:
    """Whether whole numbers jump between neighbours, and no longer do once 65,536 is added to the negative ones."""
    if not (-_HALF_RANGE <= low <= -_WRAPPED_FROM and _WRAPPED_FROM <= high < _HALF_RANGE):
        return False
    if not (values == np.rint(values)).all():
        return False
    jumps = _jumps(values)
    return jumps > 0 and _jumps(np.where(values < 0, values + 2 * _HALF_RANGE, values)) < jumps / 10


def _jumps(values: Float[np.ndarray, "*spatial"]) -> int:
    """Neighbours that differ by more than half of what 16 bits hold."""
    return sum(int((np.abs(np.diff(values, axis=axis)) > _HALF_RANGE).sum()) for axis in range(values.ndim))


def _hash(pixels: Float[np.ndarray, "channels *spatial"]) -> str:
    digest = hashlib.blake2b(repr((pixels.shape, pixels.dtype.str)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _counts(labels: Integer[np.ndarray, "*spatial"]) -> dict[int, int]:
    """Number of voxels of each id."""
    if labels.size == 0:
        return {}
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= _TABLE:
        ids, counts = np.unique(labels, return_counts=True)
        return dict(zip(ids.tolist(), counts.tolist(), strict=True))
    flat = labels.reshape(-1)
    # In pieces, since bincount makes 64-bit integers of what it gets.
    pieces = (flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK))
    total = np.sum([np.bincount(piece, minlength=high + 1) for piece in pieces], axis=0)
    return {int(label): int(total[label]) for label in np.flatnonzero(total)}


def _instance_ids(instances: Integer[np.ndarray, "*spatial"]) -> InstanceIds:
    counts = _counts(instances)
    lowest, highest = (min(counts), max(counts)) if counts else (0, 0)
    return InstanceIds(
        shape=instances.shape,
        n_ids=len(counts.keys() - {0}),
        lowest=lowest,
        highest=highest,
        largest_storable=int(np.iinfo(instances.dtype).max),
        in_parts=_in_parts(instances) if lowest >= 0 and highest > 0 else (),
    )


def _in_parts(instances: Integer[np.ndarray, "*spatial"]) -> tuple[int, ...]:
    """Ids on several parts that share neither a face nor an edge nor a corner."""
    connectivity = {2: 8, 3: 26}.get(instances.ndim)
    if connectivity is None:
        return ()
    parts = cc3d.connected_components(np.ascontiguousarray(instances), connectivity=connectivity)
    id_of = np.zeros(int(parts.max()) + 1, dtype=np.int64)
    id_of[parts.reshape(-1)] = instances.reshape(-1)
    ids, counts = np.unique(id_of[1:], return_counts=True)
    return tuple(int(identity) for identity in ids[counts > 1])


def _fault(plain: Mapping[str, Any]) -> Fault:
    """Undo `Fault.as_plain`."""
    file = None if plain["file"] is None else Path(plain["file"])
    return Fault(**{**plain, "file": file, "severity": Severity(plain["severity"])})


def _tuples(value: Any) -> Any:
    """The same with tuples in the place of lists, at every depth."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
