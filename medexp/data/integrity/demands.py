"""What the images of a dataset are held against: what the dataset declares, and what training asks of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medexp.core.errors import UsageError
from medexp.core.types import Source
from medexp.data.derive.derived import Derived


@dataclass(frozen=True)
class Training:
    """What training asks of images; None where it is not known.

    Attributes:
        patch_size: Spatial shape of a training patch, on the network's grid.
        strides: Factor by which the network shrinks a patch along each axis.
        spacing_mm: Spacing of the network's grid along its axes; None keeps each image's own.
        orient: The image's axes are brought along the axes of the world first.
        ignored_label: Label id of voxels that nobody annotated.
    """

    patch_size: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    orient: bool = False
    ignored_label: int | None = None


@dataclass(frozen=True)
class Demands:
    """What a dataset declares of its images, and what training asks of them.

    Attributes:
        spatial_dims: 2 or 3.
        channels: Names of the channels, in order.
        labels: Name of each label id of its own annotation.
        used_labels: Name of each label id of the annotation that training gets.
        training: What training asks.
    """

    spatial_dims: int
    channels: tuple[str, ...]
    labels: Mapping[int, str]
    used_labels: Mapping[int, str]
    training: Training = field(default_factory=Training)

    @classmethod
    def of(cls, source: Source, training: Training) -> Demands:
        """What a source declares, and what training asks."""
        return cls(
            spatial_dims=source.spatial_dims,
            channels=tuple(source.channels),
            labels=dict(original(source).labels),
            used_labels=dict(source.labels),
            training=training,
        )


def original(source: Source) -> Source:
    """The source that reads the dataset's own annotation, where another one is made of it."""
    while isinstance(source, Derived):
        source = source.source
    return source


def total_strides(
    strides: Sequence[int | Sequence[int]] | None,
    spatial_dims: int,
    *,
    depth: int | None = None,
    sequence_axis: int | None = None,
) -> tuple[int, ...] | None:
    """By how much a network shrinks a patch along each axis.

    Args:
        strides: Of each level; a list of values for a level whose axes differ. None where the model has no such knob.
        spatial_dims: Number of axes.
        depth: How many of these levels the network has, from the finest on; None: all.
        sequence_axis: Axis that one number for a level does not concern; None: it concerns all axes.

    Returns:
        The product along each axis, or None.

    Raises:
        UsageError: A level has another number of values than there are axes.
    """
    if strides is None:
        return None
    levels = [
        [1 if axis == sequence_axis else level for axis in range(spatial_dims)]
        if isinstance(level, int)
        else list(level)
        for level in strides[:depth]
    ]
    if any(len(level) != spatial_dims for level in levels):
        raise UsageError(f"model.strides needs one value or {spatial_dims} values a level, got {list(strides)}")
    return tuple(math.prod(axis) for axis in zip(*levels, strict=True)) if levels else (1,) * spatial_dims


def model_strides(knobs: Mapping[str, Any], spatial_dims: int) -> tuple[int, ...] | None:
    """By how much a network shrinks a patch along each axis, as far as its knobs tell.

    Args:
        knobs: Of the model: strides, and where it has them depth and sequence_axis, as `total_strides` takes them.
        spatial_dims: Number of axes.

    Returns:
        The product along each axis, or None where there is no such knob or it is not planned yet.
    """
    depth, sequence_axis = (
        value if isinstance(value := knobs.get(name), int) else None for name in ("depth", "sequence_axis")
    )
    return total_strides(knobs.get("strides"), spatial_dims, depth=depth, sequence_axis=sequence_axis)
