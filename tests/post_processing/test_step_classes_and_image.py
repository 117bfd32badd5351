from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from skimage.filters import threshold_otsu

from medexp.core.errors import DataError, UsageError
from medexp.core.types import StructureClass
from medexp.post_processing.merge_classes import MergeClasses
from medexp.post_processing.remove_outside_body import RemoveOutsideBody

ONE = (StructureClass("liver", 0, 1),)
REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


def test_merge_classes_gives_the_voxels_of_one_to_another(predict):
    mask = np.array([[[0, 1, 3, 3, 1]]], dtype=np.uint8)
    assert MergeClasses()(predict(mask=mask)).mask.tolist() == [[[0, 1, 1, 1, 1]]]
    assert MergeClasses(into="spleen")(predict(mask=mask)).mask.tolist() == [[[0, 3, 3, 3, 3]]]
    assert MergeClasses(classes=["liver"], into="spleen")(predict(mask=mask)).mask.tolist() == [[[0, 3, 3, 3, 3]]]


def test_merged_regions_are_a_union(predict):
    mask = np.array([[[1, 0, 0]], [[1, 1, 0]]], dtype=np.uint8)
    result = MergeClasses()(predict(mask=mask, classes=REGIONS, exclusive=False))
    assert result.mask.tolist() == [[[1, 1, 0]], [[0, 0, 0]]]


def test_merged_probabilities_are_summed_up_or_for_regions_the_highest(predict):
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], size=(3, 4)).transpose(2, 0, 1)
    result = MergeClasses()(predict(probabilities=soft)).probabilities
    np.testing.assert_allclose(result, [soft[0], soft[1] + soft[2], 0 * soft[0]])
    regions = MergeClasses(into="core")(predict(probabilities=soft[:2], classes=REGIONS, exclusive=False))
    assert np.array_equal(regions.probabilities, [0 * soft[0], soft[:2].max(axis=0)])


def test_merge_classes_refuses_to_merge_a_class_into_itself(predict):
    with pytest.raises(UsageError, match=r"merge_classes\.into=liver is one of merge_classes\.classes"):
        MergeClasses(classes=["liver"], into="liver")
    with pytest.raises(UsageError, match="merge_classes would merge liver, the first class, into itself"):
        MergeClasses(classes=["liver"])(predict(mask=np.ones((1, 2, 2), dtype=np.uint8)))


def patient() -> tuple[np.ndarray, np.ndarray]:
    """A body of 0 HU with lungs that are open upwards, and a bright table beneath it; and a mask of everything."""
    rng = np.random.default_rng(0)
    image = np.full((8, 24, 24), -1000.0)
    image[:, 4:16, 4:20] = 0.0
    image[:, 8:12, 8:12] = -900.0
    image[:, 19:21, 2:22] = 100.0
    return (image + rng.normal(0, 5, image.shape)).astype(np.float32)[None], np.ones((1, 8, 24, 24), dtype=np.uint8)


@pytest.mark.parametrize("threshold", ["auto", -500.0])
def test_what_lies_outside_the_body_is_removed_and_open_lungs_are_inside(predict, threshold):
    pixels, mask = patient()
    body = np.zeros((8, 24, 24), dtype=bool)
    body[:, 4:16, 4:20] = True
    given = replace(predict(mask=mask, classes=ONE), pixels=pixels)
    assert np.array_equal(RemoveOutsideBody(threshold=threshold)(given).mask[0], body)
    wider = RemoveOutsideBody(threshold=threshold, margin_mm=2.0)(given).mask[0]
    assert np.array_equal(wider, ndimage.distance_transform_edt(~body) <= 2)
    flat = replace(predict(mask=mask[:, 0], classes=ONE), pixels=pixels[:, 0])
    assert np.array_equal(RemoveOutsideBody(threshold=threshold)(flat).mask[0], body[0])


def test_probabilities_outside_the_body_become_background(predict):
    pixels, _ = patient()
    soft = np.full((2, 8, 24, 24), 0.5)
    result = RemoveOutsideBody()(replace(predict(probabilities=soft, classes=ONE), pixels=pixels)).probabilities
    assert result[:, 0, 0, 0].tolist() == [1.0, 0.0]
    assert result[:, 0, 5, 5].tolist() == [0.5, 0.5]


def test_an_image_of_one_intensity_is_all_body(predict):
    mask = np.ones((1, 4, 5), dtype=np.uint8)
    given = replace(predict(mask=mask, classes=ONE), pixels=np.zeros((1, 4, 5), dtype=np.float32))
    assert RemoveOutsideBody()(given).mask.all()
    assert not RemoveOutsideBody(threshold=1.0)(given).mask.any()


def test_the_threshold_auto_is_otsus(predict):
    pixels, mask = patient()
    found = float(threshold_otsu(pixels[0]))
    given = replace(predict(mask=mask, classes=ONE), pixels=pixels)
    expected = RemoveOutsideBody(threshold=found)(given).mask
    assert np.array_equal(RemoveOutsideBody()(given).mask, expected)


def test_the_body_needs_the_image_and_a_channel_that_it_has(predict):
    given = predict(mask=np.ones((1, 4, 5), dtype=np.uint8), classes=ONE)
    with pytest.raises(DataError, match="remove_outside_body in case case_7 looks at the image"):
        RemoveOutsideBody()(given)
    with pytest.raises(DataError, match=r"remove_outside_body\.channel=1 needs that many channels"):
        RemoveOutsideBody(channel=1)(replace(given, pixels=np.zeros((1, 4, 5), dtype=np.float32)))


@pytest.mark.parametrize("shape", [(24, 24), (12, 12, 12)])
def test_a_random_field_takes_noise_away_where_the_image_is_even(predict, shape):
    pytest.importorskip("pydensecrf")
    from medexp.post_processing.crf import Crf

    rng = np.random.default_rng(0)
    truth = np.zeros(shape, dtype=bool)
    truth[tuple(slice(size // 4, 3 * size // 4) for size in shape)] = True
    likely = np.clip(0.3 + 0.4 * truth + rng.normal(0, 0.15, shape), 0.01, 0.99)
    soft = np.stack([1 - likely, likely]).astype(np.float32)
    pixels = truth[None].astype(np.float32)
    given = replace(predict(probabilities=soft, classes=ONE), pixels=pixels)
    result = Crf()(given).probabilities
    assert ((likely > 0.5) != truth).any()
    assert np.array_equal(result[1] > 0.5, truth)
    np.testing.assert_allclose(result.sum(axis=0), 1, rtol=1e-5)
    unchanged = Crf(smoothness_weight=0.0, appearance_weight=0.0)(given).probabilities
    np.testing.assert_allclose(unchanged, soft, rtol=1e-4)
