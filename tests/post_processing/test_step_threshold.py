from __future__ import annotations

import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import StructureClass
from medexp.post_processing.threshold import Threshold

REGIONS = (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 4)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_threshold_marks_each_region_in_its_layer(predict, shape, threshold):
    soft = np.random.default_rng(0).random((2, *shape))
    result = Threshold(threshold=threshold)(predict(probabilities=soft, classes=REGIONS, exclusive=False))
    assert np.array_equal(result.mask, soft >= threshold)
    assert result.mask.dtype == np.uint8


def test_threshold_marks_voxels_of_two_regions_in_both(predict):
    soft = np.array([[[0.9, 0.9, 0.1]], [[0.1, 0.8, 0.7]]])
    result = Threshold()(predict(probabilities=soft, classes=REGIONS, exclusive=False))
    assert result.mask.tolist() == [[[1, 1, 0]], [[0, 1, 1]]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threshold_marks_a_probability_exactly_at_the_threshold(predict, dtype):
    soft = np.array([[[0.1, np.nextafter(dtype(0.1), dtype(0))]]], dtype=dtype)
    result = Threshold(threshold=0.1)(predict(probabilities=soft, classes=REGIONS[:1], exclusive=False))
    assert result.mask.tolist() == [[[1, 0]]]


def test_threshold_of_a_single_exclusive_class_looks_at_the_class_and_not_at_the_background(predict):
    soft = np.array([[[0.8, 0.6, 0.1]], [[0.2, 0.4, 0.9]]])
    liver = (StructureClass("liver", 0, 4),)
    assert Threshold(threshold=0.3)(predict(probabilities=soft, classes=liver)).mask.tolist() == [[[0, 4, 4]]]
    assert Threshold(threshold=0.5)(predict(probabilities=soft, classes=liver)).mask.tolist() == [[[0, 0, 4]]]


def test_threshold_refuses_several_exclusive_classes(predict):
    with pytest.raises(UsageError, match="got exclusive classes liver, spleen; use argmax instead"):
        Threshold()(predict(probabilities=np.zeros((3, 2, 2))))


def test_threshold_refuses_another_number_of_channels(predict):
    with pytest.raises(DataError, match=r"needs 2 channels for classes \['whole', 'core'\], got 3"):
        Threshold()(predict(probabilities=np.zeros((3, 2, 2)), classes=REGIONS, exclusive=False))


def test_threshold_refuses_nan(predict):
    soft = np.full((2, 2, 2), np.nan)
    with pytest.raises(DataError, match="the probabilities hold nan"):
        Threshold()(predict(probabilities=soft, classes=REGIONS, exclusive=False))


def test_threshold_refuses_a_prediction_without_probabilities(predict):
    with pytest.raises(UsageError, match="threshold in case case_7 takes probabilities, and the prediction has none"):
        Threshold()(predict(mask=np.zeros((2, 3, 3), dtype=np.uint8), classes=REGIONS, exclusive=False))


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.5, float("nan")])
def test_threshold_refuses_what_is_no_probability(threshold):
    with pytest.raises(UsageError, match=r"threshold\.threshold needs a probability above 0 and up to 1, got"):
        Threshold(threshold=threshold)
