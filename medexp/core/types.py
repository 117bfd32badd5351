"""The values that pass between the rooms of the house."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects

if TYPE_CHECKING:
    import torch

# What a target holds where nobody annotated; no class index and no region has this value.
UNANNOTATED = -1


class Kind(StrEnum):
    """What a prediction holds; a post-processing step says which it takes and which it gives."""

    PROBABILITIES = "probabilities"
    BORDERS = "probabilities with borders"
    DISTANCES = "probabilities with distances"
    EMBEDDINGS = "probabilities with embeddings"
    FLOWS = "probabilities with flows"
    OFFSETS = "probabilities with offsets"
    AFFINITIES = "probabilities with affinities"
    STARS = "probabilities with star distances"
    DENSITY = "density"
    MASK = "mask"
    INSTANCES = "instances"
    OBJECTS = "objects"
    SCORES = "scores"


# Kinds of what still has probabilities of classes, alone or beside maps that tell objects apart.
SOFT = (
    Kind.PROBABILITIES,
    Kind.BORDERS,
    Kind.DISTANCES,
    Kind.EMBEDDINGS,
    Kind.FLOWS,
    Kind.OFFSETS,
    Kind.AFFINITIES,
    Kind.STARS,
)


def holds(final: Kind) -> tuple[Kind, ...]:
    """What metrics find in a prediction after its last step; instances have boxes and classes too."""
    return (Kind.INSTANCES, Kind.OBJECTS) if final is Kind.INSTANCES else (final,)


@dataclass(frozen=True)
class Case:
    """One image with its reference, as a source lists it; nothing is read yet.

    Attributes:
        case_id: Name that is unique in the dataset.
        group: Independent unit that a split must not cut (a patient).
        images: One file per channel, or one file that holds all channels.
        references: Files of the annotation by name ("mask", "instances", ...).
        split: "train", "val" or "test" where the dataset prescribes it.
        fold: Number of the fold where the dataset prescribes it.
        facts: What a table says of the case (boxes, labels, a spacing), as plain values; part of its content.
        faults: What was found wrong while the case was listed; it cannot be read then.
    """

    case_id: str
    group: str
    images: tuple[Path, ...]
    references: Mapping[str, Path] = field(default_factory=dict)
    split: str | None = None
    fold: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is read from."""
        return (*self.images, *self.references.values())


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of an image, on the image's own grid.

    Attributes:
        mask: Label ids as the dataset declares them, one per voxel.
        instances: Ids of the objects, one per voxel, 0 where there is none; id k is row k - 1 of `objects`.
        objects: Boxes or points with label ids; empty where it is known that there is none.
        image_labels: Label ids that hold for the whole image.
    """

    mask: Integer[np.ndarray, "*spatial"] | None = None
    instances: Integer[np.ndarray, "*spatial"] | None = None
    objects: Objects | None = None
    image_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.instances is not None and self.objects is None:
            raise DataError("instances need objects that say their labels; make them with Objects.of_instances")


@dataclass(frozen=True, eq=False)
class Image:
    """A case that was read.

    Attributes:
        case: The case it was read from.
        pixels: Intensities, channels first.
        annotation: The reference, or None where there is none.
        geometry: The grid of `pixels` and of the annotation.
    """

    case: Case
    pixels: Float[np.ndarray, "channels *spatial"]
    annotation: Annotation | None
    geometry: Geometry


@runtime_checkable
class Source(Protocol):
    """A dataset on disk: it lists its cases and reads one.

    A case that is listed wrongly (its label is missing, its row cannot be read) is listed with its faults, so that one
    pass can tell what is wrong with all of them; `cases` itself fails only where nothing can be listed.

    Attributes:
        name: Name of the dataset.
        spatial_dims: 2 or 3.
        channels: Names of the image channels, in order.
        labels: Name of each label id; in masks 0 is the background.
        public: True for data that may be shown to anyone (synthetic or openly licensed).
    """

    name: str
    spatial_dims: int
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    public: bool

    def cases(self) -> list[Case]:
        """All cases, in a fixed order."""
        ...

    def read(self, case: Case) -> Image:
        """Read one case; raises DataError naming case, file and remedy."""
        ...


@dataclass(frozen=True)
class StructureClass:
    """Where a class stands in a mask of layers.

    Exclusive classes share layer 0 and differ in their value; overlapping regions have a layer each and value 1.
    """

    name: str
    layer: int
    value: int


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a task says of one case, or what its reference says, on the image's own grid.

    Attributes:
        case_id: The case.
        group: Its independent unit.
        geometry: The image's grid.
        classes: The classes of `mask` without background, of `objects`, or of `scores` in their order.
        probabilities: Soft result in [0, 1]: background and classes (they sum to one) or one channel per region.
        mask: Layers of class values, see `StructureClass`; 0 is background.
        exclusive: Classes exclude each other.
        valid: Voxels that were annotated; None for all.
        maps: Further soft maps by name: "border" (probability), "distance" (see `Distance`), "star_probability" and
            "star_distances" (see `StarDist`), "density" (objects per voxel, a channel per class).
        directions: For maps whose channels speak of directions (rays, offsets): one vector for each channel, in voxels
            along the axes.
        instances: Ids of the objects, 0 where there is none; id k is row k - 1 of `objects`.
        objects: Boxes with values of `classes` and scores.
        scores: Probability of each class for the whole image; 1 or 0 for a reference.
        pixels: Intensities of the image, for steps that look at it; None where they are not at hand.
    """

    case_id: str
    group: str
    geometry: Geometry
    classes: tuple[StructureClass, ...]
    probabilities: Float[np.ndarray, "channels *spatial"] | None = None
    mask: Integer[np.ndarray, "layers *spatial"] | None = None
    exclusive: bool = True
    valid: np.ndarray | None = None
    maps: Mapping[str, Float[np.ndarray, "_ *spatial"]] = field(default_factory=dict)
    directions: Mapping[str, Float[np.ndarray, "_ dims"]] = field(default_factory=dict)
    instances: Integer[np.ndarray, "*spatial"] | None = None
    objects: Objects | None = None
    scores: Float[np.ndarray, "classes"] | None = None
    pixels: Float[np.ndarray, "image_channels *spatial"] | None = None

    def with_mask(self, mask: np.ndarray) -> Prediction:
        """The same prediction with another mask."""
        return replace(self, mask=mask)

    def binary(self, structure: StructureClass) -> np.ndarray:
        """Boolean mask of one class, without the voxels that nobody annotated."""
        if self.mask is None:
            raise ValueError(
                f"case {self.case_id} has no mask yet; end the post-processing chain with a step that makes one"
            )
        return self.mask[structure.layer] == structure.value


@runtime_checkable
class Step(Protocol):
    """One step of a post-processing chain."""

    @property
    def takes(self) -> Kind | tuple[Kind, ...]:
        """What the prediction must hold: a kind, or one of several."""
        ...

    @property
    def gives(self) -> Kind | None:
        """What it holds afterwards; None for the kind that it had."""
        ...

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return the changed prediction; the argument is left as it was."""
        ...


class Outcome(StrEnum):
    """What became of an object (match, miss, false alarm) or what is true of it or of an image (positive, negative).

    An image in which a metric of objects found nothing to count gives one row `NONE`, so that it stays among the cases.
    """

    MATCH = "match"
    MISS = "miss"
    FALSE_ALARM = "false_alarm"
    POSITIVE = "positive"
    NEGATIVE = "negative"
    NONE = "none"


class EvidenceRow(NamedTuple):
    """What one case contributes to a metric: aggregates, intervals and tests are computed from rows alone.

    A metric with a value per case gives one row a case and label. A metric without one gives a row for each object or
    decision, from which the aggregate is computed.

    Attributes:
        case_id: The case.
        group: Its independent unit.
        metric: Name of the metric.
        label: Class or region.
        value: The case's own value, or what the metric measures of an object (IoU, distance); nan where undefined.
        score: Confidence of the prediction, where the metric ranks by it.
        outcome: What became of an object or decision, see `Outcome`; empty in a row of a case's own value.
        threshold: The threshold at which the outcome holds, where the metric has several.
    """

    case_id: str
    group: str
    metric: str
    label: str
    value: float
    score: float = math.nan
    outcome: str = ""
    threshold: float = math.nan


@runtime_checkable
class Metric(Protocol):
    """A measure of a prediction against its reference.

    Attributes:
        name: Name in rows and tables.
        higher_is_better: Direction of improvement.
        takes: What prediction and reference must hold.
        per_case: Whether the aggregate of one case's rows is a value of that case.
    """

    name: str
    higher_is_better: bool
    takes: Kind
    per_case: bool

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """The evidence of one case."""
        ...

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Value by label over the given rows, and their mean under "mean"."""
        ...

    def definition(self) -> dict[str, Any]:
        """Implementation, version, rule for empty cases and aggregation: what makes two values comparable."""
        ...


@dataclass(eq=False)
class Batch:
    """What a model and a task get.

    Attributes:
        images: Intensities on the network's grid.
        targets: What the loss sees, by head; of things whose number differs between images a list of mappings, one an
            image; None for images without a reference.
        images_read: The cases as they were read, for evaluation; empty in training.
        placements: How the network's grid lies on each image's grid, for evaluation.
        case_ids: Names of the cases.
    """

    images: Float[torch.Tensor, "batch channels *spatial"]
    targets: dict[str, Any] | None
    case_ids: tuple[str, ...]
    images_read: tuple[Image, ...] = ()
    placements: tuple[Placement, ...] = ()

    def to(self, device: Any, *, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which copies to a GPU can overlap with computing."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Any) -> Batch:
        return replace(self, images=function(self.images), targets=_map_tensors(self.targets, function))


def _map_tensors(value: Any, function: Any) -> Any:
    """The same structure of mappings and lists with every tensor changed."""
    if isinstance(value, Mapping):
        return {key: _map_tensors(item, function) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_tensors(item, function) for item in value]
    return None if value is None else function(value)
