from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import get_class
from omegaconf import OmegaConf
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.core.types import Kind, StructureClass
from medexp.post_processing.chain import Chain
from medexp.post_processing.components import Components

CONF = Path(__file__).parents[2] / "conf" / "post_processing"


def row(*values: int) -> np.ndarray:
    return np.array([[values]], dtype=np.uint8)


@pytest.mark.parametrize("connectivity", ["faces", "corners"])
@pytest.mark.parametrize("min_voxels", [1, 3])
def test_components_agree_with_scipy(predict, scattered, connectivity, min_voxels):
    layer, dims = scattered[0], scattered[0].ndim
    structure = ndimage.generate_binary_structure(dims, 1 if connectivity == "faces" else dims)
    spacing = (0.5, 3.0, 2.0)[:dims]
    step = Components(connectivity=connectivity, min_volume_mm3=min_voxels * float(np.prod(spacing)))
    result = step(predict(mask=scattered, spacing=spacing))
    expected = set()
    for value in (1, 3):
        numbers, count = ndimage.label(layer == value, structure)
        for number in range(1, count + 1):
            if (numbers == number).sum() >= min_voxels:
                expected.add((value, (numbers == number).tobytes()))
    labels = result.objects.labels.tolist()
    found = {(value, (result.instances == k).tobytes()) for k, value in enumerate(labels, start=1)}
    assert found == expected
    assert len(labels) == len(expected)
    assert result.instances.max(initial=0) == len(labels)


def test_mask_and_boxes_show_the_same_objects(predict, scattered):
    result = Components(min_volume_mm3=3.0)(predict(mask=scattered))
    assert np.array_equal(result.mask[0], np.array([0, *result.objects.labels])[result.instances])
    assert np.array_equal(result.mask[0], np.where(result.instances > 0, scattered[0], 0))
    for box, where in zip(result.objects.boxes, ndimage.find_objects(result.instances), strict=True):
        assert box.tolist() == [axis.start for axis in where] + [axis.stop for axis in where]


def test_objects_of_two_classes_that_touch_stay_two(predict):
    result = Components()(predict(mask=row(1, 1, 3, 3, 0, 1)))
    assert result.instances.tolist() == [[1, 1, 2, 2, 0, 3]]
    assert result.objects.labels.tolist() == [1, 3, 1]


def test_objects_of_one_class_that_touch_become_one(predict):
    assert Components()(predict(mask=row(1, 1, 1, 1))).instances.tolist() == [[1, 1, 1, 1]]


def test_the_score_is_the_mean_probability_of_the_class_inside(predict):
    soft = np.array([[[0.0, 0.2, 0.9, 0.1]], [[0.8, 0.6, 0.1, 0.0]], [[0.2, 0.2, 0.0, 0.9]]])
    result = Components()(predict(mask=row(1, 1, 0, 3), probabilities=soft))
    assert result.objects.scores == pytest.approx([0.7, 0.9])


def test_without_probabilities_every_score_is_one(predict):
    assert Components()(predict(mask=row(1, 0, 3))).objects.scores.tolist() == [1.0, 1.0]


def test_the_smallest_volume_is_measured_in_mm3(predict):
    mask = row(1, 1, 0, 1, 1, 1)
    assert len(Components(min_volume_mm3=12.0)(predict(mask=mask, spacing=(2.0, 2.0))).objects) == 1
    assert len(Components(min_volume_mm3=8.0)(predict(mask=mask, spacing=(2.0, 2.0))).objects) == 2
    assert len(Components(min_volume_mm3=3.0)(predict(mask=mask, unit="px", spacing=(1.0, 1.0))).objects) == 1


@pytest.mark.parametrize("shape", [(1, 4, 5), (1, 3, 4, 5)])
def test_an_empty_mask_has_no_object(predict, shape):
    soft = np.zeros((3, *shape[1:]))
    result = Components()(predict(mask=np.zeros(shape, np.uint8), probabilities=soft))
    assert len(result.objects) == 0
    assert result.objects.spatial_dims == len(shape) - 1
    assert result.instances.shape == shape[1:]
    assert not result.instances.any()
    assert not result.mask.any()


def test_an_object_may_fill_the_image(predict):
    result = Components()(predict(mask=np.ones((1, 3, 4), np.uint8)))
    assert result.objects.boxes.tolist() == [[0, 0, 3, 4]]


def test_the_argument_is_left_as_it_was(predict, scattered):
    prediction = predict(mask=scattered)
    Components(min_volume_mm3=3.0)(prediction)
    assert prediction.instances is None
    assert np.array_equal(prediction.mask, scattered)


def test_it_leads_from_a_mask_to_instances():
    Chain([Components()], takes=Kind.MASK, gives=Kind.INSTANCES)


def test_overlapping_regions_are_refused(predict):
    regions = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))
    prediction = predict(mask=np.ones((2, 3, 3), np.uint8), classes=regions, exclusive=False)
    with pytest.raises(UsageError, match="components in case case_7 needs exclusive classes"):
        Components()(prediction)


def test_a_prediction_without_mask_is_refused(predict):
    with pytest.raises(UsageError, match="components takes a mask, and case case_7 has none"):
        Components()(predict(probabilities=np.zeros((3, 2, 2))))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"min_volume_mm3": -1.0}, r"components\.min_volume_mm3 needs a finite value of at least 0, got -1\.0"),
        ({"connectivity": "full"}, r"components\.connectivity needs faces or corners"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        Components(**knobs)


@pytest.mark.parametrize("name", ["components", "border_watershed"])
def test_option_file_lists_every_knob_with_its_default(name):
    config = OmegaConf.load(CONF / f"{name}.yaml")
    knobs = inspect.signature(get_class(config.pop("_target_"))).parameters
    assert dict(config) == {knob.name: knob.default for knob in knobs.values()}
