"""The values that pass between the rooms of the house."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer

from medexp.core.geometry import Geometry, Placement

if TYPE_CHECKING:
    import torch

# What a target holds where nobody annotated; no class index and no region has this value.
UNANNOTATED = -1


class Kind(StrEnum):
    """What a prediction holds; a post-processing step says which it takes and which it gives."""

    PROBABILITIES = "probabilities"
    MASK = "mask"
    INSTANCES = "instances"
    OBJECTS = "objects"


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
    """

    case_id: str
    group: str
    images: tuple[Path, ...]
    references: Mapping[str, Path] = field(default_factory=dict)
    split: str | None = None
    fold: int | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """All files that the case is read from."""
        return (*self.images, *self.references.values())


@dataclass(frozen=True, eq=False)
class Annotation:
    """What is known of an image, on the image's own grid.

    Attributes:
        mask: Label ids as the dataset declares them, one per voxel.
    """

    mask: Integer[np.ndarray, "*spatial"] | None = None


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

    Attributes:
        name: Name of the dataset.
        spatial_dims: 2 or 3.
        channels: Names of the image channels, in order.
        labels: Name of each label id of the mask; 0 is the background.
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
        classes: The classes of `mask`, without background.
        probabilities: Soft result in [0, 1]: background and classes (they sum to one) or one channel per region.
        mask: Layers of class values, see `StructureClass`; 0 is background.
    """

    case_id: str
    group: str
    geometry: Geometry
    classes: tuple[StructureClass, ...]
    probabilities: Float[np.ndarray, "channels *spatial"] | None = None
    mask: Integer[np.ndarray, "layers *spatial"] | None = None
    exclusive: bool = True
    valid: np.ndarray | None = None

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
    """One step of a post-processing chain.

    Attributes:
        takes: What the prediction must hold.
        gives: What it holds afterwards.
    """

    takes: Kind
    gives: Kind

    def __call__(self, prediction: Prediction) -> Prediction:
        """Return the changed prediction; the argument is left as it was."""
        ...


@dataclass(frozen=True)
class EvidenceRow:
    """What one case contributes to a metric: aggregates, intervals and tests are computed from rows alone.

    Attributes:
        case_id: The case.
        group: Its independent unit.
        metric: Name of the metric.
        label: Class or region.
        value: The case's own value; nan where the metric is undefined for it.
    """

    case_id: str
    group: str
    metric: str
    label: str
    value: float


@runtime_checkable
class Metric(Protocol):
    """A measure of a prediction against its reference."""

    name: str
    higher_is_better: bool

    def rows(self, prediction: Prediction, reference: Prediction) -> list[EvidenceRow]:
        """The evidence of one case."""
        ...

    def aggregate(self, rows: Sequence[EvidenceRow]) -> dict[str, float]:
        """Value by label over the given rows."""
        ...

    def definition(self) -> dict[str, Any]:
        """Implementation, version, rule for empty cases and aggregation: what makes two values comparable."""
        ...


@dataclass(eq=False)
class Batch:
    """What a model and a task get.

    Attributes:
        images: Intensities on the network's grid.
        targets: What the loss sees, by head; None for images without a reference.
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
        targets = None if self.targets is None else {key: function(value) for key, value in self.targets.items()}
        return replace(self, images=function(self.images), targets=targets)
