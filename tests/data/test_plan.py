"""Plans against nnU-Net's published ones, its rules, and memory that was measured."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from medexp.core.errors import UsageError
from medexp.core.types import Source
from medexp.data.fingerprint import CaseSummary, Fingerprint
from medexp.data.fingerprint.objects import ClassSummary
from medexp.data.plan import Budget, Given, Plan, plan
from medexp.data.plan.memory import Network
from medexp.data.plan.spacing import target_spacing
from medexp.data.plan.topology import Topology, padded, topology
from medexp.models.adapter import build_model
from medexp.models.dynunet import dynunet


class Listed:
    """A dataset of which only the names matter."""

    name = "listed"
    public = True

    def __init__(self, dims: int, channels: Sequence[str], labels: Mapping[int, str]) -> None:
        self.spatial_dims, self.channels, self.labels = dims, tuple(channels), labels

    def cases(self) -> list[Any]:
        return []

    def read(self, case: Any) -> Any:
        raise AssertionError


def fingerprint_of(
    shape: Sequence[int],
    spacing: Sequence[float],
    *,
    cases: int = 100,
    region_mm: Sequence[float] | None = None,
    channels: Sequence[str] = ("CT",),
    unit: str = "mm",
    nonzero: Sequence[int] | None = None,
) -> Fingerprint:
    """Cases of one shape and spacing, with one object of a size in each."""
    classes = {}
    if region_mm is not None:
        classes[1] = ClassSummary(float(np.prod(region_mm)), 1, ((float(np.prod(region_mm)), *map(float, region_mm)),))
    summary = CaseSummary(
        case_id="case",
        shape=tuple(shape),
        nonzero_shape=tuple(nonzero or shape),
        affine=tuple(map(tuple, np.diag([*spacing, 1.0]).tolist())),
        unit=unit,
        foreground="mask",
        classes=classes,
    )
    source: Source = Listed(len(shape), channels, {0: "background", 1: "organ", 2: "lesion"})
    return Fingerprint(source, [summary] * cases, orient=False)


def planned(shape: Sequence[int], spacing: Sequence[float], *, budget: Budget | None = None, **fields: Any) -> Plan:
    given = fields.pop("given", None)
    return plan(fingerprint_of(shape, spacing, **fields), out_channels=3, budget=budget, given=given)


# Median shape and spacing of the Decathlon's tasks as nnU-Net resamples them, and the patch of its published plan
# "3d_fullres" at 8 GB; axes in the order of NIfTI's arrays (Isensee et al. 2021, supplementary note 6, and MONAI's
# dynunet_pipeline, which took them over). Which of two equal axes is the longer one is an accident.
PUBLISHED = {
    "Task01 brain": ((138, 169, 138), (1.0, 1.0, 1.0), ("FLAIR", "T1", "T1c", "T2"), (128, 128, 128)),
    "Task02 heart": ((320, 232, 115), (1.25, 1.25, 1.37), ("MRI",), (192, 160, 80)),
    "Task03 liver": ((512, 512, 482), (0.77, 0.77, 1.0), ("CT",), (128, 128, 128)),
    "Task05 prostate": ((320, 319, 20), (0.62, 0.62, 3.6), ("T2", "ADC"), (320, 256, 20)),
    "Task06 lung": ((512, 512, 252), (0.79, 0.79, 1.24), ("CT",), (160, 192, 80)),
    "Task07 pancreas": ((512, 512, 96), (0.8, 0.8, 2.5), ("CT",), (224, 224, 40)),
    "Task08 vessels": ((494, 494, 150), (0.8, 0.8, 1.5), ("CT",), (192, 192, 64)),
    "Task09 spleen": ((512, 512, 187), (0.79, 0.79, 1.6), ("CT",), (160, 192, 64)),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_patch_and_batch_are_those_of_nnunets_published_plans(task):
    shape, spacing, channels, patch = PUBLISHED[task]
    found = planned(shape, spacing, channels=channels, budget=Budget(memory_gb=8.0, mixed=True))
    assert (found.patch_size, found.batch_size) == (patch, 2)
    most = 320
    assert found.network.filters == tuple(min(most, 32 * 2**level) for level in range(found.network.topology.levels))


def test_the_plan_of_the_hippocampus_is_nnunets():
    """Task04: patch 40 x 56 x 40, batch 9, three poolings along each axis, deep supervision by one coarser map."""
    found = planned((35, 50, 36), (1.0, 1.0, 1.0), cases=260, channels=("MRI",), region_mm=(24, 26, 24))
    assert (found.spacing_mm, found.patch_size, found.batch_size) == ((1.0, 1.0, 1.0), (40, 56, 40), 9)
    assert found.model_knobs() == {
        "filters": [32, 64, 128, 256],
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
        "kernel_size": [[3, 3, 3]] * 4,
        "deep_supervision_levels": 1,
    }
    assert found.normalisation == {"MRI": "zscore"}


def test_thick_slices_are_not_pooled_before_the_plane_is_as_coarse():
    """The prostate's published levels: two poolings in the plane, two in all axes, two in the plane."""
    levels = topology((320, 256, 20), (0.62, 0.62, 3.6))
    plane, all_axes = (2, 2, 1), (2, 2, 2)
    assert levels.strides == ((1, 1, 1), plane, plane, all_axes, all_axes, plane, plane)
    assert levels.kernel_sizes == ((3, 3, 1), (3, 3, 1), *[(3, 3, 3)] * 5)


@settings(deadline=None, database=None)
@given(
    axes=st.lists(
        st.tuples(st.integers(4, 400), st.sampled_from([0.4, 0.7, 1.0, 1.5, 3.0, 5.0, 10.0])), min_size=2, max_size=3
    )
)
def test_pooling_keeps_its_limits_and_stops_only_where_they_stop_it(axes):
    size, spacing = zip(*axes, strict=True)
    levels = topology(size, spacing)
    patch = padded(size, levels.total_strides)
    shapes = levels.shapes(patch)
    coarseness = np.cumprod(levels.strides, axis=0) * np.array(spacing)
    for before, stride, shape, own in zip(coarseness, levels.strides[1:], shapes[1:], coarseness[1:], strict=False):
        pooled = [axis for axis, step in enumerate(stride) if step == 2]
        if pooled:
            finest = min(before[axis] for axis in pooled)
            assert all(before[axis] < 2 * finest for axis in pooled)
            assert all(shape[axis] >= 4 for axis in pooled)
            assert max(own[pooled]) / min(own[pooled]) < 2
    assert levels.levels >= 3
    last, spacing_of_last = shapes[-1], coarseness[-1]
    further = [axis for axis in range(len(size)) if last[axis] >= 8]
    finest = min((spacing_of_last[axis] for axis in further), default=0.0)
    left = [axis for axis in further if spacing_of_last[axis] < 2 * finest]
    assert len(left) == 0 or (len(left) == 1 and last[left[0]] < 12)


def test_a_patch_that_must_stay_is_pooled_as_long_as_it_divides():
    levels = topology((48, 36), (1.0, 1.0), divisible=True)
    assert levels.total_strides == (8, 4)
    assert topology((47, 45), (1.0, 1.0), divisible=True).total_strides == (1, 1)


@pytest.mark.parametrize(
    ("strides", "kernels"),
    [
        ([(1, 1), (2, 2), (2, 2), (2, 2)], [(3, 3)] * 4),
        ([(1, 1, 1), (2, 2, 1), (2, 2, 2), (1, 2, 2)], [(3, 3, 1), (3, 3, 3), (3, 3, 3), (3, 3, 3)]),
    ],
)
def test_the_receptive_field_is_what_a_feature_of_the_encoder_depends_on(strides, kernels):
    levels = Topology(tuple(strides), tuple(kernels))
    dims = len(strides[0])
    layers, channels = [], 1
    for stride, kernel in zip(strides, kernels, strict=True):
        for step in (stride, (1,) * dims):
            layers.append(getattr(torch.nn, f"Conv{dims}d")(channels, 1, kernel, step, [k // 2 for k in kernel]))
    for layer in layers:
        torch.nn.init.ones_(layer.weight)
    size = [2 * field + 16 - (2 * field) % 16 for field in levels.receptive_field]
    images = torch.zeros(1, 1, *size, requires_grad=True)
    features = torch.nn.Sequential(*layers)(images)
    features[(0, 0, *(n // 2 for n in features.shape[2:]))].backward()
    assert images.grad is not None
    extent = tuple(int(places.max() - places.min()) + 1 for places in torch.nonzero(images.grad[0, 0], as_tuple=True))
    assert extent == levels.receptive_field


def test_the_target_spacing_is_the_median_and_the_tenth_percentile_along_thick_slices():
    random = np.random.default_rng(0)
    thick = np.stack([np.full(40, 1.5), np.full(40, 1.5), random.choice([5.0, 6.0, 10.0], 40)], axis=1)
    shapes = np.tile([240.0, 240.0, 14.0], (40, 1))
    spacing, why = target_spacing(thick, shapes)
    assert spacing == (1.5, 1.5, np.percentile(thick[:, 2], 10))
    assert "axis 2, which is coarse" in why
    # As many voxels along it as in the plane: it is no stack of slices.
    assert target_spacing(thick, np.tile([60.0, 60.0, 60.0], (40, 1)))[0] == (1.5, 1.5, np.median(thick[:, 2]))
    almost = thick / [1, 1, 3]
    assert target_spacing(almost, shapes)[0][2] == pytest.approx(np.median(almost[:, 2]), rel=1e-5)


def network_of(
    patch: Sequence[int], spacing: Sequence[float], *, base: int = 8, out: int = 3, **fields: Any
) -> Network:
    levels = topology(patch, spacing)
    filters = tuple(min(64, base * 2**level) for level in range(levels.levels))
    return Network(levels, filters, in_channels=fields.pop("in_channels", 1), out_channels=out, **fields)


def built(network: Network) -> torch.nn.Module:
    factory = functools.partial(
        dynunet,
        filters=network.filters,
        strides=network.topology.strides,
        kernel_size=network.topology.kernel_sizes,
        norm="instance",
        residual=network.residual,
        dropout=None,
        deep_supervision_levels=network.deep_supervision_levels,
    )
    dims = len(network.topology.strides[0])
    heads = {"semantic": network.out_channels}
    return build_model(
        factory, spatial_dims=dims, in_channels=network.in_channels, heads=heads, image_size=(16,) * dims
    )


NETWORKS = {
    "3D": ((24, 32, 24), (1.0, 1.0, 1.0), {}),
    "3D with thick slices": ((32, 32, 12), (1.0, 1.0, 4.0), {"in_channels": 2}),
    "3D with residual blocks": ((16, 16, 16), (1.0, 1.0, 1.0), {"residual": True}),
    "2D": ((64, 48), (1.0, 1.0), {"in_channels": 3}),
    "2D with deep supervision": ((64, 64), (1.0, 1.0), {"deep_supervision_levels": 2, "out": 5}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_estimate_of_what_a_step_keeps_is_what_autograd_keeps(name):
    patch, spacing, fields = NETWORKS[name]
    network = network_of(patch, spacing, **fields)
    module = built(network).train()
    assert network.weights == sum(parameter.numel() for parameter in module.parameters())
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    images = torch.randn(2, network.in_channels, *patch)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = module(images)
    assert outputs
    # The statistics of the normalisation, a number for each map, are what is left out.
    assert 2 * 4 * network.kept_values(patch) == pytest.approx(sum(kept.values()), rel=0.01)


@pytest.mark.parametrize("name", ["3D", "2D with deep supervision"])
def test_the_estimate_of_a_step_is_close_to_its_measured_peak(name):
    patch, spacing, fields = NETWORKS[name]
    network = network_of(patch, spacing, base=16, **fields)
    module = built(network).train()
    optimizer = torch.optim.AdamW(module.parameters(), foreach=False)
    images, target = torch.randn(4, network.in_channels, *patch), torch.randint(0, network.out_channels, (4, *patch))

    def step() -> None:
        optimizer.zero_grad()
        outputs = module(images)
        maps = [outputs["semantic"], *(coarser["semantic"] for coarser in outputs.get("deep_supervision", []))]
        torch.stack([torch.nn.functional.cross_entropy(one, target) for one in maps]).sum().backward()
        optimizer.step()

    step()  # makes the gradients and the moments
    resident = 4 * 4 * network.weights
    peak = resident + _peak_of(step)
    assert 0.98 * peak <= network.step_bytes(patch, 4) <= 1.2 * peak


def _peak_of(step: Any) -> int:
    """Largest sum of what is allocated and not yet freed, in bytes, beside what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    assert profile.profiler is not None
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(sizes).max())


def test_half_precision_halves_the_maps_and_keeps_the_weights():
    network = network_of((32, 32, 32), (1.0, 1.0, 1.0))
    full, mixed = (network.step_bytes((32, 32, 32), 50, mixed=mixed) for mixed in (False, True))
    assert 0.5 < mixed / full < 0.55


@settings(deadline=None, database=None, max_examples=40)
@given(
    axes=st.lists(st.tuples(st.integers(8, 600), st.sampled_from([0.5, 0.8, 1.0, 2.5, 5.0])), min_size=2, max_size=3),
    memory=st.floats(0.5, 40.0),
    share=st.floats(0.05, 1.0),
)
def test_a_plan_fits_the_budget_and_the_network(axes, memory, share):
    shape, spacing = zip(*axes, strict=True)
    region = [n * step * share for n, step in axes]
    budget = Budget(memory_gb=memory)
    try:
        found = planned(shape, spacing, region_mm=region, budget=budget)
    except UsageError:  # nothing fits, see below
        reject()
    network = found.network
    assert network.step_bytes(found.patch_size, found.batch_size) <= 0.8 * memory * 1e9
    assert all(n % step == 0 for n, step in zip(found.patch_size, network.topology.total_strides, strict=True))
    assert found.batch_size >= 2
    assert len(network.filters) == network.topology.levels >= 3
    covered = found.batch_size * math.prod(found.patch_size)
    assert found.batch_size == 2 or covered <= (0.05 * 100 * math.prod(shape)) + math.prod(found.patch_size)


def test_a_process_on_a_cpu_needs_more_beside_the_tensors():
    gpu, cpu = (
        planned((64, 64, 64), (1.0,) * 3, budget=Budget(memory_gb=4.0, on_cpu=on_cpu)) for on_cpu in (False, True)
    )
    assert gpu.step_gb > cpu.step_gb
    assert cpu.step_gb <= 3.0 / 1.6
    with pytest.raises(UsageError, match=r"more than the 0\.00 GB that model\.plan\.memory_gb=0\.5 leaves for it"):
        planned((64, 64, 64), (1.0,) * 3, budget=Budget(memory_gb=0.5, on_cpu=True))


def test_more_memory_never_makes_a_smaller_patch():
    sizes = [
        math.prod(planned((512, 512, 200), (0.8, 0.8, 2.0), budget=Budget(memory_gb=memory)).patch_size)
        for memory in (2.0, 4.0, 8.0, 16.0, 32.0)
    ]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 4 * sizes[0]


def test_a_patch_is_padded_where_one_more_pooling_lets_the_network_see_a_region():
    short = planned((28, 28), (1.0, 1.0), region_mm=(20, 10))
    assert (short.patch_size, short.receptive_field_mm) == ((28, 28), (23.0, 23.0))
    # By their size alone 28 voxels are pooled twice, so that 23 are seen.
    assert topology((28, 28), (1.0, 1.0)).receptive_field == (23, 23)
    seeing = planned((28, 28), (1.0, 1.0), region_mm=(27, 10))
    assert (seeing.patch_size, seeing.receptive_field_mm) == ((32, 32), (47.0, 47.0))


def test_what_the_network_cannot_see_is_told():
    found = planned((64, 64), (1.0, 1.0), region_mm=(60, 20), given=Given(patch_size=(16, 64)))
    assert found.receptive_field_mm[0] < 60
    assert any("That is less along axis 0: choose a coarser spacing" in reason for reason in found.reasons)
    assert any("does not hold a whole region along axis 0" in reason for reason in found.reasons)
    without = planned((64, 64), (1.0, 1.0))
    assert any("No extent of a region is known" in reason for reason in without.reasons)


def test_an_axis_does_not_shrink_below_the_regions_while_another_can():
    tight = Budget(memory_gb=1.2)
    flat = planned((256, 256, 64), (1.0, 1.0, 1.0), budget=tight, region_mm=(20, 20, 20))
    tall = planned((256, 256, 64), (1.0, 1.0, 1.0), budget=tight, region_mm=(20, 20, 60))
    assert flat.patch_size[2] < 60 <= tall.patch_size[2]
    assert tall.patch_size[0] < flat.patch_size[0]


def test_levels_beyond_what_the_regions_need_are_left_out_on_demand():
    deep = planned((256, 256), (1.0, 1.0), region_mm=(20, 16))
    shallow = planned((256, 256), (1.0, 1.0), region_mm=(20, 16), budget=Budget(regions_seen=2))
    assert (deep.network.topology.levels, shallow.network.topology.levels) == (7, 4)
    assert shallow.receptive_field_mm == (47.0, 47.0)
    assert shallow.network.topology.kernel_sizes[-1] == (3, 3)


def test_what_is_given_is_kept_and_the_rest_fits_it():
    found = planned((64, 64, 40), (1.0, 1.0, 1.0), given=Given(patch_size=(48, 32, 24), batch_size=5))
    assert (found.patch_size, found.batch_size) == ((48, 32, 24), 5)
    assert found.network.topology.total_strides == (8, 8, 4)
    coarse = planned((64, 64, 40), (1.0, 1.0, 1.0), given=Given(spacing_mm=(2.0, 2.0, 2.0)))
    assert (coarse.spacing_mm, coarse.median_shape) == ((2.0, 2.0, 2.0), (32, 32, 20))
    own = planned((64, 64, 40), (1.0, 1.0, 3.0), given=Given(own_spacing=True))
    assert (own.spacing_mm, own.median_shape) == (None, (64, 64, 40))
    lists = planned((64, 64), (1.0, 1.0), given=Given(filters=(6, 8, 10)))
    assert (lists.network.filters, lists.network.topology.levels) == ((6, 8, 10), 3)
    strides = planned((64, 64), (1.0, 1.0), given=Given(strides=((1, 1), (2, 2), (4, 4))))
    assert (strides.network.topology.total_strides, len(strides.network.filters)) == ((8, 8), 3)
    assert planned((64, 64), (1.0, 1.0), given=Given(deep_supervision_levels=0)).network.deep_supervision_levels == 0


def test_what_a_configuration_gives_and_leaves():
    dataset = {"patch_size": "auto", "batch_size": 4, "preprocessing": {"spacing_mm": "auto"}}
    model = {"filters": None, "strides": [1, 2, [2, 1]], "kernel_size": None, "deep_supervision_levels": 0}
    assert Given.of(dataset=dataset, model=model, spatial_dims=2) == Given(
        batch_size=4, strides=((1, 1), (2, 2), (2, 1)), deep_supervision_levels=0
    )
    dataset = {"patch_size": [8, 8], "batch_size": "auto", "preprocessing": {"spacing_mm": None}}
    assert Given.of(dataset=dataset, model={}, spatial_dims=2) == Given(patch_size=(8, 8), own_spacing=True)


def test_pictures_without_a_scale_are_not_resampled():
    found = planned((300, 200), (1.0, 1.0), unit="px", channels=("red", "green", "blue"))
    assert (found.spacing_mm, found.network.in_channels) == (None, 3)
    assert not any("mm" in reason for reason in found.reasons)


def test_margins_of_zeros_are_told_where_they_are_large():
    found = planned((100, 100), (1.0, 1.0), nonzero=(80, 80))
    assert found.crop_zeros
    assert any("crop_zeros=true" in reason for reason in found.reasons)
    assert not planned((100, 100), (1.0, 1.0), nonzero=(95, 90)).crop_zeros
    cropped = plan(fingerprint_of((100, 100), (1.0, 1.0), nonzero=(80, 60)), out_channels=2, crop_zeros=True)
    assert cropped.median_shape == (80, 60)


def test_a_patch_that_is_pooled_less_than_its_size_allows_is_told():
    found = planned((64, 64), (1.0, 1.0), given=Given(patch_size=(50, 50)))
    assert found.network.topology.total_strides == (2, 2)
    assert any("can be made 2 x 2 times coarser only; one of 56 x 56" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"budget": Budget(memory_gb=0.01)},
            r"takes about .* GB, more than the 0\.01 GB that model\.plan\.memory_gb=0\.01 leaves",
        ),
        (
            {"given": Given(patch_size=(64, 64, 64), batch_size=99)},
            "a patch of 64 x 64 x 64 and a batch of 99 takes about",
        ),
        ({"given": Given(patch_size=(64, 64))}, "patch_size needs 3 values for listed"),
        ({"given": Given(spacing_mm=(1.0,))}, "spacing_mm needs 3 values for listed"),
        ({"given": Given(filters=(8,) * 9)}, "has lists of 9 levels, but a patch of .* is pooled into 5"),
        (
            {"given": Given(filters=(8,) * 3, kernel_size=((3, 3, 3),) * 4)},
            "model.kernel_size has 4, model.filters has 3",
        ),
        (
            {"given": Given(patch_size=(40, 40, 40), strides=((1, 1, 1), *[(2, 2, 2)] * 4))},
            r"dataset\.patch_size=\[40, 40, 40\] cannot be pooled by model\.strides.* choose \[48, 48, 48\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused(fields, told):
    with pytest.raises(UsageError, match=told):
        planned((64, 64, 64), (1.0, 1.0, 1.0), **fields)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"memory_gb": 0}, "model.plan.memory_gb needs a value above 0, got 0"),
        ({"regions_seen": -1.0}, "model.plan.regions_seen needs a value above 0"),
        ({"max_filters": 16}, "model.plan.max_filters needs at least base_filters=32, got 16"),
    ],
)
def test_a_budget_that_is_none_is_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        Budget(**knobs)


def test_a_plan_is_told_in_plain_values():
    import json

    found = planned((64, 64), (0.5, 0.7), region_mm=(10, 10))
    plain = json.loads(json.dumps(found.as_plain()))
    assert (plain["spacing_mm"], plain["model"]) == ([0.5, 0.7], found.model_knobs())
    assert plain["step_gb"] == pytest.approx(
        found.network.step_bytes(found.patch_size, found.batch_size) / 1e9, abs=1e-3
    )
    assert len(plain["reasons"]) == len(found.reasons) == 4
