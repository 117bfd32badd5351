"""What a plan keeps to, what is given, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medexp.core.errors import UsageError
from medexp.data.plan.memory import Network

# The rest is for the context of a GPU, the workspaces of its libraries and memory in pieces too small to be used. With
# four fifths of 8 GB and half-precision maps the patches of nnU-Net's published plans come out.
_FOR_TENSORS = 0.8
# Of a process that computes on a CPU, measured: 0.6 to 1.3 GB beside the step, and 1.45 to 1.53 of its tensors, as the
# libraries copy maps into layouts of their own.
_PROCESS_GB, _CPU_COPIES = 1.0, 1.6
# What a configuration says where a value is planned.
AUTO = "auto"


@dataclass(frozen=True)
class Budget:
    """What a plan keeps to.

    Attributes:
        memory_gb: Memory of the GPU, or of the process that computes on a CPU.
        base_filters: Channels of the finest level; each coarser level has twice as many.
        max_filters: Channels at most; None: 512 in 2D, 320 in 3D.
        min_batch_size: Patches of a step, at least.
        regions_seen: How many regions long the view of the coarsest level is, along each axis; levels beyond that are
            left out. None: as many levels as image and spacing allow.
        mixed: Half-precision maps.
        on_cpu: Whether a CPU computes.
    """

    memory_gb: float | int = 8.0
    base_filters: int = 32
    max_filters: int | None = None
    min_batch_size: int = 2
    regions_seen: float | int | None = None
    mixed: bool = False
    on_cpu: bool = False

    @property
    def step_gb(self) -> float:
        """What the tensors of a training step may take."""
        return (self.memory_gb - _PROCESS_GB) / _CPU_COPIES if self.on_cpu else _FOR_TENSORS * self.memory_gb

    def __post_init__(self) -> None:
        for name in ("memory_gb", "base_filters", "min_batch_size", "regions_seen"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"model.plan.{name} needs a value above 0, got {value}")
        if self.max_filters is not None and self.max_filters < self.base_filters:
            raise UsageError(
                f"model.plan.max_filters needs at least base_filters={self.base_filters}, got {self.max_filters}"
            )


@dataclass(frozen=True)
class Given:
    """What is not planned but given; None where the plan decides.

    Attributes:
        spacing_mm: Spacing of the network's grid.
        own_spacing: Each image keeps its own spacing.
        patch_size: Spatial shape of a patch.
        batch_size: Patches of a step.
        strides: Pooling window before each level.
        kernel_size: Kernel of each level.
        filters: Channels of each level.
        deep_supervision_levels: Coarser maps that the loss sees.
    """

    spacing_mm: tuple[float, ...] | None = None
    own_spacing: bool = False
    patch_size: tuple[int, ...] | None = None
    batch_size: int | None = None
    strides: tuple[tuple[int, ...], ...] | None = None
    kernel_size: tuple[tuple[int, ...], ...] | None = None
    filters: tuple[int, ...] | None = None
    deep_supervision_levels: int | None = None

    @classmethod
    def of(cls, *, dataset: Mapping[str, Any], model: Mapping[str, Any], spatial_dims: int) -> Given:
        """What a configuration leaves to the plan, and what it gives.

        Args:
            dataset: Its knobs; `auto` leaves patch_size, batch_size and preprocessing.spacing_mm to the plan.
            model: Its knobs; null leaves a list of levels to the plan.
            spatial_dims: 2 or 3.

        Returns:
            What is given.
        """
        spacing = dataset.get("preprocessing", {}).get("spacing_mm")
        patch, batch = dataset["patch_size"], dataset["batch_size"]
        strides, kernels = (_levels(model.get(name), spatial_dims) for name in ("strides", "kernel_size"))
        return cls(
            spacing_mm=None if spacing in (None, AUTO) else tuple(float(value) for value in spacing),
            own_spacing=spacing is None,
            patch_size=None if patch == AUTO else tuple(patch),
            batch_size=None if batch == AUTO else batch,
            strides=strides,
            kernel_size=kernels,
            filters=None if model.get("filters") is None else tuple(model["filters"]),
            deep_supervision_levels=model.get("deep_supervision_levels"),
        )

    @property
    def levels(self) -> int | None:
        """The number of levels that the given lists have; UsageError where they differ."""
        lengths = {
            name: len(values)
            for name, values in (
                ("strides", self.strides),
                ("kernel_size", self.kernel_size),
                ("filters", self.filters),
            )
            if values is not None
        }
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"model.{name} has {length}" for name, length in lengths.items())
            raise UsageError(f"model=auto needs lists of one length, one value a level: {listed}")
        return next(iter(lengths.values()), None)


@dataclass(frozen=True)
class Plan:
    """A network and its input.

    Attributes:
        spacing_mm: Spacing of the network's grid; None where images have no scale.
        median_shape: Median shape of the images on that grid.
        region_mm: Extent along each axis of the objects that 90 % of every class's voxels lie in, at most; zeros where
            none is known.
        patch_size: Spatial shape of a patch.
        batch_size: Patches of a step.
        network: The levels of the network.
        receptive_field_mm: What a feature of the coarsest level sees.
        step_gb: Estimated memory of the tensors of a training step.
        normalisation: Scheme of each channel.
        crop_zeros: Margins of zeros are worth cropping, and zeros worth leaving out of the normalisation.
        reasons: Why, a sentence each.
    """

    spacing_mm: tuple[float, ...] | None
    median_shape: tuple[int, ...]
    region_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    batch_size: int
    network: Network
    receptive_field_mm: tuple[float, ...]
    step_gb: float
    normalisation: dict[str, str]
    crop_zeros: bool
    reasons: tuple[str, ...] = field(default=())

    def model_knobs(self) -> dict[str, Any]:
        """The knobs of `model=dynunet` that the plan sets."""
        return {
            "filters": list(self.network.filters),
            "strides": [list(stride) for stride in self.network.topology.strides],
            "kernel_size": [list(kernel) for kernel in self.network.topology.kernel_sizes],
            "deep_supervision_levels": self.network.deep_supervision_levels,
        }

    def as_plain(self) -> dict[str, Any]:
        """The plan for JSON."""
        return {
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "patch_size": list(self.patch_size),
            "batch_size": self.batch_size,
            "model": self.model_knobs(),
            "median_shape": list(self.median_shape),
            "region_mm": list(self.region_mm),
            "receptive_field_mm": list(self.receptive_field_mm),
            "weights": self.network.weights,
            "step_gb": round(self.step_gb, 3),
            "normalisation": dict(self.normalisation),
            "crop_zeros": self.crop_zeros,
            "reasons": list(self.reasons),
        }


def _levels(values: Sequence[int | Sequence[int]] | None, spatial_dims: int) -> tuple[tuple[int, ...], ...] | None:
    """A window for each level, which a knob may give as one number."""
    if values is None:
        return None
    return tuple((value,) * spatial_dims if isinstance(value, int) else tuple(value) for value in values)
