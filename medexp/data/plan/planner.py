"""The plan of a network and its input for a dataset and a memory budget, after nnU-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from medexp.core.errors import UsageError
from medexp.data.fingerprint.dataset import Fingerprint
from medexp.data.plan.memory import Network
from medexp.data.plan.spacing import resampled_shapes, target_spacing
from medexp.data.plan.topology import LEAST_FEATURES, LEAST_LEVELS, Numbers, Topology, padded, topology
from medexp.data.plan.values import Budget, Given, Plan

# nnU-Net's constants (Isensee et al., Nature Methods 18, 2021): the size that a patch starts from, the channels of a
# level, and the share of all training voxels that a batch holds at most.
_LARGEST_SIDE = {2: 2048, 3: 256}
_MOST_FILTERS = {2: 512, 3: 320}
_MOST_OF_DATASET = 0.05
_CROPS = 0.75
_REGION_PERCENT = 90.0
# How much larger than the median image a patch may be padded so that the network sees the regions.
_MOST_PADDED = 1.5


def plan(
    fingerprint: Fingerprint,
    *,
    out_channels: int,
    budget: Budget | None = None,
    given: Given | None = None,
    crop_zeros: bool = False,
    residual: bool = False,
) -> Plan:
    """Plan a DynUNet and its input by the rules of nnU-Net, and see that it can see what is annotated.

    After Isensee et al., Nature Methods 18, 2021. The patch starts from the median image and shrinks, along the axis
    on which it covers most of the image, until a step of the smallest batch fits the memory; the batch then grows into
    what is left, up to a twentieth of all voxels. Two rules are added: no axis shrinks below the extent of the regions
    while another one can, and a patch is padded where one more pooling lets the network see a whole region.

    Args:
        fingerprint: Of the cases that one may learn from.
        out_channels: Channels of all maps together.
        budget: What to keep to.
        given: What is not planned.
        crop_zeros: The preprocessing crops margins of zeros.
        residual: The network has residual blocks.

    Returns:
        The plan.

    Raises:
        UsageError: The budget is too small, or what is given does not go together.
    """
    return _Planner(
        fingerprint, budget or Budget(), given or Given(), out_channels=out_channels, crop=crop_zeros, residual=residual
    ).plan()


class _Planner:
    """One planning: what is known of the dataset on the network's grid, and the reasons so far."""

    def __init__(
        self, fingerprint: Fingerprint, budget: Budget, given: Given, *, out_channels: int, crop: bool, residual: bool
    ) -> None:
        self.fingerprint = fingerprint
        self.budget = budget
        self.given = given
        self.out_channels = out_channels
        self.residual = residual
        self.dims = fingerprint.spatial_dims
        self.reasons: list[str] = []
        for name in ("spacing_mm", "patch_size"):
            values = getattr(given, name)
            if values is not None and len(values) != self.dims:
                raise UsageError(f"{name} needs {self.dims} values for {fingerprint.name}, got {list(values)}")
        shapes = fingerprint.nonzero_shapes if crop else fingerprint.shapes
        self.spacing = self._spacing(shapes)
        self.shapes = shapes if given.own_spacing else resampled_shapes(shapes, fingerprint.spacings_mm, self.spacing)
        self.median: Float[np.ndarray, "dims"] = np.ceil(np.median(self.shapes, axis=0))
        self.region = fingerprint.region_mm(_REGION_PERCENT)

    def plan(self) -> Plan:
        """The plan."""
        patch, levels = self._first_patch()
        smallest = self.given.batch_size or self.budget.min_batch_size
        network = self._network(levels)
        while self.given.patch_size is None and self._bytes(network, patch, smallest) > self.budget.step_gb * 1e9:
            patch, levels = self._smaller(patch, levels)
            network = self._network(levels)
        self._tell_patch(patch)
        batch = self._batch(network, patch, smallest)
        field_mm = np.array(levels.receptive_field) * np.array(self.spacing)
        self._tell_regions(patch, field_mm)
        crops = self.fingerprint.nonzero_share < _CROPS
        if crops:
            self.reasons.append(
                f"Without margins of zeros {100 * self.fingerprint.nonzero_share:.0f} % of a case are left: "
                "dataset.preprocessing.crop_zeros=true saves time, and zeros should not count in the normalisation."
            )
        return Plan(
            spacing_mm=None if self.given.own_spacing or self.fingerprint.unit == "px" else self.spacing,
            median_shape=tuple(int(n) for n in self.median),
            region_mm=tuple(round(float(extent), 2) for extent in self.region),
            patch_size=patch,
            batch_size=batch,
            network=network,
            receptive_field_mm=tuple(round(float(extent), 2) for extent in field_mm),
            step_gb=self._bytes(network, patch, batch) / 1e9,
            normalisation={
                name: "ct" if name.casefold() == "ct" else "zscore" for name in self.fingerprint.channel_names
            },
            crop_zeros=crops,
            reasons=tuple(self.reasons),
        )

    def _spacing(self, shapes: Float[np.ndarray, "cases dims"]) -> tuple[float, ...]:
        if self.fingerprint.unit == "px":
            return (1.0,) * self.dims
        spacing, why = target_spacing(self.fingerprint.spacings_mm, shapes)
        if self.given.own_spacing:
            self.reasons.append(f"Each image keeps its own spacing; planned for the median, {_by(spacing)} mm.")
            return spacing
        if self.given.spacing_mm is not None:
            spacing, why = self.given.spacing_mm, "given"
        self.reasons.append(f"Spacing {_by(spacing)} mm: {why}.")
        return spacing

    def _first_patch(self) -> tuple[tuple[int, ...], Topology]:
        """The largest patch that makes sense, or the given one, and its levels."""
        if self.given.patch_size is not None:
            return self.given.patch_size, self._levels_of_given(self.given.patch_size)
        aspect = 1 / np.array(self.spacing)
        side = _LARGEST_SIDE[self.dims]
        largest = np.round(aspect * (side**self.dims / aspect.prod()) ** (1 / self.dims))
        return self._seeing(tuple(np.minimum(largest, self.median).tolist()))

    def _levels_of_given(self, patch: tuple[int, ...]) -> Topology:
        """The levels for a patch that must stay as it is."""
        levels, possible = self._levels(patch, divisible=True), self._levels(patch)
        _check_divisible(patch, levels)
        if levels.total_strides != possible.total_strides:
            larger = padded(patch, possible.total_strides)
            self.reasons.append(
                f"A patch of {_by(patch)} can be made {_by(levels.total_strides)} times coarser only; one of "
                f"{_by(larger)} could be made {_by(possible.total_strides)} times coarser."
            )
        return levels

    def _seeing(self, size: Numbers) -> tuple[tuple[int, ...], Topology]:
        """A patch of at least this size, padded where one more pooling lets the network see a whole region."""
        levels = self._levels(size)
        patch = padded(size, levels.total_strides)
        blind = self._blind_axes(levels)
        if not blind:
            return patch, levels
        # Axes are pooled together, so that it can take less to pad all of them.
        found = [self._widened(patch, axes, blind) for axes in (range(self.dims), blind)]
        return min(
            (one for one in found if one is not None), key=lambda one: math.prod(one[0]), default=(patch, levels)
        )

    def _widened(
        self, patch: tuple[int, ...], axes: Sequence[int], blind: Sequence[int]
    ) -> tuple[tuple[int, ...], Topology] | None:
        """The patch with some axes padded until the network sees more of a region; None where it does not."""
        wider = list(patch)
        while all(wider[axis] < _MOST_PADDED * self.median[axis] for axis in axes):
            for axis in axes:
                wider[axis] += LEAST_FEATURES
            levels = self._levels(wider)
            if len(self._blind_axes(levels)) < len(blind):
                return padded(wider, levels.total_strides), levels
        return None

    def _blind_axes(self, levels: Topology) -> list[int]:
        """Axes along which a feature of the coarsest level sees less than a region."""
        seen = np.array(levels.receptive_field) * np.array(self.spacing)
        return [axis for axis in range(self.dims) if seen[axis] < self.region[axis]]

    def _sees_enough(self, levels: Topology) -> bool:
        """Whether a feature of the coarsest level sees as many regions as the budget says, of which there are some."""
        if self.budget.regions_seen is None or not self.region.any() or levels.levels < LEAST_LEVELS:
            return False
        seen = np.array(levels.receptive_field) * np.array(self.spacing)
        return bool((seen >= self.budget.regions_seen * self.region).all())

    def _levels(self, size: Numbers, *, divisible: bool = False) -> Topology:
        wanted = self.given.levels
        found = topology(size, self.spacing, divisible=divisible, most_levels=wanted)
        while wanted is None and self._sees_enough(fewer := found.without_coarsest()):
            found = fewer
        if self.given.strides is not None:
            found = replace(
                found, strides=self.given.strides, kernel_sizes=((3,) * self.dims,) * len(self.given.strides)
            )
        if self.given.kernel_size is not None:
            found = replace(found, kernel_sizes=self.given.kernel_size)
        if wanted is not None and {len(found.strides), len(found.kernel_sizes)} != {wanted}:
            raise UsageError(
                f"model=auto has lists of {wanted} levels, but a patch of {_by(size)} is pooled into {found.levels}; "
                "give lists of that length, or another dataset.patch_size"
            )
        return found

    def _network(self, levels: Topology) -> Network:
        most = self.budget.max_filters or _MOST_FILTERS[self.dims]
        filters = tuple(min(most, self.budget.base_filters * 2**level) for level in range(levels.levels))
        # nnU-Net leaves out the two coarsest maps.
        supervised = self.given.deep_supervision_levels
        return Network(
            topology=levels,
            filters=self.given.filters or filters,
            in_channels=len(self.fingerprint.channel_names),
            out_channels=self.out_channels,
            deep_supervision_levels=max(0, levels.levels - 3) if supervised is None else supervised,
            residual=self.residual,
        )

    def _bytes(self, network: Network, patch: Sequence[int], batch: int) -> int:
        return network.step_bytes(patch, batch, mixed=self.budget.mixed)

    def _smaller(self, patch: tuple[int, ...], levels: Topology) -> tuple[tuple[int, ...], Topology]:
        """The patch with one axis shortened by the least that its levels allow."""
        candidates = [self._shortened(patch, levels, axis) for axis in range(self.dims)]
        possible = [axis for axis, shorter in enumerate(candidates) if shorter is not None]
        if not possible:
            self._refuse(patch, self._network(levels))
        # Axes that keep whole regions first, of them the one on which the patch covers most of the image.
        whole = [axis for axis in possible if self._holds_region(candidates[axis], axis)]
        axis = max(whole or possible, key=lambda axis: patch[axis] / self.median[axis])
        shorter = candidates[axis]
        assert shorter is not None
        return shorter

    def _shortened(
        self, patch: tuple[int, ...], levels: Topology, axis: int
    ) -> tuple[tuple[int, ...], Topology] | None:
        """The patch with an axis shortened; None where it cannot be."""
        tried = list(patch)
        tried[axis] -= levels.total_strides[axis]
        if tried[axis] < LEAST_FEATURES:
            return None
        # With fewer poolings smaller steps are possible.
        step = self._levels(tried).total_strides[axis]
        tried[axis] = patch[axis] - step
        found = self._levels(tried)
        shorter = padded(tried, found.total_strides)
        return (shorter, found) if shorter != patch else None

    def _holds_region(self, candidate: tuple[tuple[int, ...], Topology] | None, axis: int) -> bool:
        return candidate is not None and bool(candidate[0][axis] * self.spacing[axis] >= self.region[axis])

    def _batch(self, network: Network, patch: tuple[int, ...], smallest: int) -> int:
        needed = self._bytes(network, patch, smallest)
        if needed > self.budget.step_gb * 1e9:
            self._refuse(patch, network)
        if self.given.batch_size is not None:
            return self.given.batch_size
        of_sample = self._bytes(network, patch, 2) - self._bytes(network, patch, 1)
        fitting = smallest + int((self.budget.step_gb * 1e9 - needed) / of_sample)
        covering = round(self.median.prod() * len(self.shapes) * _MOST_OF_DATASET / math.prod(patch))
        batch = max(smallest, min(fitting, covering))
        why = (
            "the least that is taken"
            if batch == smallest
            else f"a twentieth of all voxels of the {len(self.shapes)} cases"
            if batch == covering
            else f"what fits into {self.budget.memory_gb:g} GB"
        )
        self.reasons.append(f"Batch {batch}: {why}.")
        return batch

    def _refuse(self, patch: tuple[int, ...], network: Network) -> None:
        smallest = self.given.batch_size or self.budget.min_batch_size
        needed = self._bytes(network, patch, smallest) / 1e9
        left = max(0.0, self.budget.step_gb)
        raise UsageError(
            f"a step with a patch of {_by(patch)} and a batch of {smallest} takes about {needed:.2f} GB, more than the "
            f"{left:.2f} GB that model.plan.memory_gb={self.budget.memory_gb:g} leaves for it; give more memory, fewer "
            "channels (model.plan.base_filters), or a smaller dataset.patch_size or dataset.batch_size"
        )

    def _tell_patch(self, patch: tuple[int, ...]) -> None:
        if self.given.patch_size is not None:
            why = "given"
        elif all(n >= m for n, m in zip(patch, self.median, strict=True)):
            why = "the median image, padded so that it can be pooled"
        else:
            why = f"as much of the median image as fits into {self.budget.memory_gb:g} GB"
        self.reasons.append(f"Patch {_by(patch)} of a median image of {_by(self.median)}: {why}.")

    def _tell_regions(self, patch: tuple[int, ...], field_mm: Float[np.ndarray, "dims"]) -> None:
        if not self.region.any():
            self.reasons.append(
                "No extent of a region is known, so that depth follows from image size and spacing alone."
            )
            return
        unit, regions, fields = self.fingerprint.unit, _by(self.region), _by(field_mm)
        told = (
            f"Regions of {regions} {unit} (90 % of the voxels of every class); the coarsest level sees {fields} {unit}."
        )
        blind = [axis for axis in range(self.dims) if field_mm[axis] < self.region[axis]]
        if blind:
            along = ", ".join(map(str, blind))
            told += (
                f" That is less along axis {along}: choose a coarser spacing, or a patch that can be pooled further."
            )
        cut = [axis for axis in range(self.dims) if patch[axis] * self.spacing[axis] < self.region[axis]]
        if cut:
            told += f" A patch does not hold a whole region along axis {', '.join(map(str, cut))}."
        self.reasons.append(told)


def _check_divisible(patch: Sequence[int], levels: Topology) -> None:
    if any(n % step for n, step in zip(patch, levels.total_strides, strict=True)):
        raise UsageError(
            f"dataset.patch_size={list(patch)} cannot be pooled by model.strides, which make it "
            f"{_by(levels.total_strides)} times coarser; choose {list(padded(patch, levels.total_strides))}"
        )


def _by(values: Numbers | Float[np.ndarray, "dims"]) -> str:
    return " x ".join(f"{float(value):.4g}" for value in values)
