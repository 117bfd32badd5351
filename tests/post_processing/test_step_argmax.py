from __future__ import annotations

import numpy as np
import pytest

from medexp.core.errors import DataError, UsageError
from medexp.core.types import StructureClass
from medexp.post_processing.argmax import Argmax


@pytest.mark.parametrize("shape", [(7, 9), (5, 6, 4)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_argmax_agrees_with_numpy(predict, shape, dtype):
    soft = np.random.default_rng(0).random((3, *shape)).astype(dtype)
    result = Argmax()(predict(probabilities=soft))
    assert np.array_equal(result.mask, np.array([0, 1, 3])[soft.argmax(axis=0)][None])


def test_argmax_gives_a_tie_to_the_channel_that_comes_first(predict):
    soft = np.array([[[0.4, 0.2]], [[0.4, 0.4]], [[0.2, 0.4]]])
    assert Argmax()(predict(probabilities=soft)).mask.tolist() == [[[0, 1]]]


def test_argmax_keeps_the_probabilities_as_they_were(predict):
    soft = np.random.default_rng(0).random((3, 4, 4))
    result = Argmax()(predict(probabilities=soft))
    assert np.array_equal(result.probabilities, soft)


@pytest.mark.parametrize(("value", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_argmax_makes_the_smallest_mask_that_holds_the_values(predict, value, dtype):
    result = Argmax()(predict(probabilities=np.array([[[0.1]], [[0.9]]]), classes=(StructureClass("liver", 0, value),)))
    assert result.mask.dtype == dtype
    assert result.mask.tolist() == [[[value]]]


def test_argmax_refuses_overlapping_regions(predict):
    with pytest.raises(UsageError, match=r"argmax in case case_7 needs exclusive classes.*use threshold instead"):
        Argmax()(predict(probabilities=np.zeros((2, 3, 3)), exclusive=False))


def test_argmax_refuses_a_prediction_without_probabilities(predict):
    with pytest.raises(UsageError, match="argmax in case case_7 takes probabilities, and the prediction has none"):
        Argmax()(predict(mask=np.zeros((1, 3, 3), dtype=np.uint8)))


@pytest.mark.parametrize("channels", [2, 4])
def test_argmax_refuses_another_number_of_channels(predict, channels):
    with pytest.raises(DataError, match=rf"needs 3 channels for classes \['liver', 'spleen'\], got {channels}"):
        Argmax()(predict(probabilities=np.zeros((channels, 3, 3))))


def test_argmax_refuses_nan(predict):
    soft = np.full((3, 2, 2), 1 / 3)
    soft[1, 0, 1] = np.nan
    with pytest.raises(DataError, match="argmax in case case_7: the probabilities hold nan; the model has diverged"):
        Argmax()(predict(probabilities=soft))
