"""What every option of conf/post_processing promises."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from medexp.core.errors import UsageError
from medexp.core.instantiate import instantiate
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.post_processing.argmax import Argmax
from medexp.post_processing.arrays import apply_to_mask, apply_to_probabilities
from medexp.post_processing.chain import Chain
from medexp.post_processing.dilate import Dilate
from medexp.post_processing.keep_largest import KeepLargest
from medexp.post_processing.smooth import Smooth
from medexp.post_processing.threshold import Threshold

CONF = Path(__file__).parents[2] / "conf" / "post_processing"
# Steps that make or change objects have tests of their own.
OBJECTS = (
    "border_watershed",
    "components",
    "distance_watershed",
    "embedding_clusters",
    "flow_tracking",
    "grow_instances",
    "hover_watershed",
    "mutex_watershed",
    "peak_watershed",
    "peaks",
    "star_polygons",
)
NAMES = sorted(file.stem for file in CONF.glob("*.yaml") if file.stem not in OBJECTS)
# Values that change what comes out, where that is not the half of the default.
OTHER: dict[str, dict[str, Any]] = {
    "connectivity": {"connectivity": "corners"},
    "classes": {"classes": ["spleen"]},
    "window": {"radius_mm": None, "window": 5},
    "radius_mm": {"radius_mm": 4.0},
    "count": {"count": 2},
    "joint": {"joint": True},
    "per_component": {"per_component": True},
    "into": {"into": "spleen"},
    "min_volume_mm3": {"min_volume_mm3": 60.0},
    "max_volume_mm3": {"max_volume_mm3": 2.0},
    "threshold": {"threshold": 0.9},
    "channel": {"channel": 1},
    "margin_mm": {"margin_mm": 3.0},
    "iterations": {"iterations": 1},
}
WRONG: dict[str, Any] = {"connectivity": "edges", "classes": [], "into": 3, "joint": 3, "per_component": 3}


def config_of(name: str) -> Any:
    if name == "crf":
        pytest.importorskip("pydensecrf")
    return OmegaConf.load(CONF / f"{name}.yaml")


def built(name: str, **knobs: Any) -> Any:
    return instantiate(OmegaConf.merge(config_of(name), knobs), name)


def example(predict, takes: Kind | tuple[Kind, ...], *, dims: int, seed: int = 0, one: bool = False) -> Prediction:
    """Noise of all sizes, so that each knob finds something to change."""
    rng = np.random.default_rng(seed)
    shape = (18, 20, 16)[:dims] if dims == 3 else (40, 44)
    soft = np.kron(rng.random((3, *[size // 2 for size in shape])), np.ones((1, *[2] * dims)))
    soft = np.where(rng.random(shape) < 0.1, rng.random((3, *shape)), soft)
    soft[0] += 0.35
    soft = (soft / soft.sum(axis=0)).astype(np.float32)
    classes = (StructureClass("liver", 0, 1), StructureClass("spleen", 0, 3))
    given = predict(probabilities=soft, classes=classes, spacing=(1.0, 1.5, 0.8)[:dims])
    if one:
        sparse = np.kron(rng.random((2, *[size // 2 for size in shape])) ** 4, np.ones((1, *[2] * dims)))
        given = predict(probabilities=sparse.astype(np.float32), classes=_regions(), exclusive=False)
    kinds = takes if isinstance(takes, tuple) else (takes,)
    pixels = np.zeros((2, *shape), dtype=np.float32)
    pixels[0, 3:-3, 3:-3], pixels[1, 5:-5, 5:-5] = 1.0, 2.0
    pixels += rng.random(pixels.shape).astype(np.float32)
    given = replace(given, pixels=pixels)
    return given if Kind.MASK not in kinds else _frozen(Argmax()(given))


def perforated(predict, dims: int) -> Prediction:
    """Slabs of two classes with holes of one voxel and larger ones."""
    rng = np.random.default_rng(dims)
    shape = (24,) * dims
    mask = np.ones((1, *shape), dtype=np.uint8)
    mask[:, 12:] = 3
    mask[0][rng.random(shape) < 0.12] = 0
    mask[0][tuple([slice(3, 6)] * dims)] = 0
    return _frozen(predict(mask=mask))


def _regions() -> tuple[StructureClass, ...]:
    return (StructureClass("liver", 0, 1), StructureClass("spleen", 1, 1))


def _frozen(prediction: Prediction) -> Prediction:
    assert prediction.mask is not None
    prediction.mask.setflags(write=False)
    return prediction


def examples(predict, name: str) -> list[Prediction]:
    if name == "fill_holes":
        return [perforated(predict, dims) for dims in (2, 3)]
    takes = built(name).takes
    both = [example(predict, takes, dims=dims, one=name in ("threshold", "hysteresis")) for dims in (2, 3)]
    if isinstance(takes, tuple) and Kind.PROBABILITIES in takes:
        both += [example(predict, Kind.PROBABILITIES, dims=dims) for dims in (2, 3)]
    return both


def result_of(prediction: Prediction, given: Prediction) -> np.ndarray:
    found = prediction.mask if prediction.mask is not None else prediction.probabilities
    assert found is not None
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_step_never_changes_its_argument_and_keeps_shape_type_and_grid(predict, name):
    step = built(name)
    for given in examples(predict, name):
        before = {
            field: None if (v := getattr(given, field)) is None else v.copy() for field in ("mask", "probabilities")
        }
        result = step(given)
        for field, array in before.items():
            assert (array is None) == (getattr(given, field) is None)
            assert array is None or np.array_equal(array, getattr(given, field))
        assert result.geometry is given.geometry
        assert result.classes is given.classes
        if step.gives in (None, step.takes):
            new, old = result_of(result, given), result_of(given, given)
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
            assert not np.array_equal(new, old), "the example shows nothing"
        again = step(given)
        assert np.array_equal(result_of(result, given), result_of(again, given))


@pytest.mark.parametrize(
    ("name", "knob"),
    [(name, knob) for name in NAMES for knob in OmegaConf.load(CONF / f"{name}.yaml") if knob != "_target_"],
)
def test_each_knob_changes_something_and_refuses_what_means_nothing(predict, name, knob):
    default = config_of(name)[knob]
    changed = OTHER.get(knob) or {knob: default / 2}
    beside = {"per_component": True} if (name, knob) == ("convex_hull", "connectivity") else {}
    if knob == "connectivity":
        changed = {knob: "faces" if default == "corners" else "corners"}
    if name == "merge_classes" and knob == "classes":
        changed, beside = {"classes": ["spleen"]}, {}
        assert built(name, **changed).classes == ("spleen",)
        three = predict(
            mask=np.array([[[1, 2, 3]]], dtype=np.uint8),
            classes=tuple(StructureClass(n, 0, v) for v, n in enumerate(("liver", "spleen", "other"), start=1)),
        )
        assert built(name, **changed)(three).mask.tolist() == [[[1, 1, 3]]]
    else:
        differs = [
            not np.array_equal(
                result_of(built(name, **beside)(given), given),
                result_of(built(name, **beside, **changed)(given), given),
            )
            for given in examples(predict, name)
        ]
        assert any(differs)
    for wrong in (WRONG.get(knob, -1), {"a": 1}):
        with pytest.raises(UsageError):
            built(name, **{**({"radius_mm": None} if knob == "window" else {}), knob: wrong})


@pytest.mark.parametrize("name", NAMES)
def test_a_step_says_what_it_takes_and_refuses_what_it_cannot(predict, name):
    step = built(name)
    empty = replace(example(predict, Kind.PROBABILITIES, dims=2), probabilities=None)
    with pytest.raises(UsageError, match=f"{name} (in case case_7 )?takes (a mask|probabilities)"):
        step(replace(empty, exclusive=name not in ("threshold", "hysteresis")))


def test_a_chain_of_growing_thresholding_and_growing_works_on_both_kinds(predict):
    given = example(predict, Kind.PROBABILITIES, dims=2, one=True)
    first, last = Dilate(radius_mm=1.0), Dilate(window=3)
    chain = Chain([first, Threshold(threshold=0.8), last])
    expected = last(Threshold(threshold=0.8)(first(given)))
    assert np.array_equal(chain(given).mask, expected.mask)


def test_a_chain_of_steps_that_keep_the_kind_is_refused_where_the_kind_does_not_fit():
    with pytest.raises(UsageError, match=r"post_processing must end with mask, but post_processing\[0\] \(Dilate\)"):
        Chain([Dilate(window=3)])
    message = (
        r"post_processing\[1\] \(Smooth\) takes probabilities or .*, but post_processing\[0\] \(Argmax\) gives mask; "
        r"move it before"
    )
    with pytest.raises(UsageError, match=message):
        Chain([Argmax(), Smooth(sigma_mm=1.0)])
    Chain([Smooth(sigma_mm=1.0), Dilate(window=3)], takes=Kind.BORDERS, gives=Kind.BORDERS)


def test_tensors_and_arrays_give_the_same():
    mask = np.random.default_rng(0).integers(0, 3, (9, 10, 11))
    step, spacing = KeepLargest(connectivity="faces"), (1.0, 2.0, 3.0)
    array, tensor = (apply_to_mask(step, given, spacing_mm=spacing) for given in (mask, torch.from_numpy(mask)))
    assert isinstance(array, np.ndarray)
    assert isinstance(tensor, torch.Tensor)
    assert array.dtype == mask.dtype
    assert np.array_equal(array, tensor)
    regions = (mask[None] > np.array([0, 1])[:, None, None, None]).astype(np.uint8)
    both = apply_to_mask(step, torch.from_numpy(regions), spacing_mm=spacing, regions=True)
    assert both.shape == regions.shape
    alone = [apply_to_mask(step, region, spacing_mm=spacing) for region in regions]
    assert np.array_equal(both, alone)


def test_probabilities_as_tensors_and_what_they_become():
    soft = torch.rand(3, 8, 9, generator=torch.manual_seed(0)).softmax(dim=0)
    smoothed = apply_to_probabilities(Smooth(sigma_mm=2.0), soft, spacing_mm=(1.0, 2.0))
    assert (smoothed.shape, smoothed.dtype) == (soft.shape, soft.dtype)
    mask = apply_to_probabilities(Argmax(), soft, spacing_mm=(1.0, 2.0), gives=Kind.MASK)
    assert torch.equal(mask.long(), soft.argmax(dim=0))
