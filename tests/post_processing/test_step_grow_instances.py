from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medexp.core.errors import UsageError
from medexp.post_processing.components import Components
from medexp.post_processing.grow_instances import GrowInstances


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 2.0), (0.7, 1.0, 1.5)])
def test_each_voxel_near_an_object_goes_to_the_nearest_one(predict, spacing):
    rng = np.random.default_rng(3)
    mask = (rng.random((1, *(20, 24, 9)[: len(spacing)])) > 0.97).astype(np.uint8)
    before = Components()(predict(mask=mask, spacing=spacing))
    after = GrowInstances(radius_mm=2.0)(before)
    away = np.stack([
        ndimage.distance_transform_edt(before.instances != identity, sampling=spacing)
        for identity in range(1, len(before.objects) + 1)
    ])  # fmt: skip
    assert np.array_equal(after.instances > 0, away.min(axis=0) <= 2.0)
    rows, *where = np.nonzero(away <= 2.0)
    mine = after.instances[tuple(where)] == rows + 1
    assert np.allclose(away[rows, *where][mine], away.min(axis=0)[tuple(where)][mine])
    assert np.array_equal(after.instances[before.instances > 0], before.instances[before.instances > 0])


def test_classes_and_scores_stay_and_boxes_and_mask_follow(predict):
    soft = np.zeros((3, 1, 8))
    soft[1, 0, 2], soft[2, 0, 5] = 0.75, 0.5
    before = Components()(predict(mask=np.array([[[0, 0, 1, 0, 0, 3, 0, 0]]], np.uint8), probabilities=soft))
    after = GrowInstances(radius_mm=1.0)(before)
    assert after.instances.tolist() == [[0, 1, 1, 1, 2, 2, 2, 0]]
    assert after.mask.tolist() == [[[0, 1, 1, 1, 3, 3, 3, 0]]]
    assert after.objects.boxes.tolist() == [[0, 1, 1, 4], [0, 4, 1, 7]]
    assert after.objects.labels.tolist() == [1, 3]
    assert after.objects.scores.tolist() == [0.75, 0.5]


def test_no_object_is_normal_and_no_instances_are_an_error(predict):
    empty = np.zeros((1, 4, 5), np.uint8)
    assert not GrowInstances()(Components()(predict(mask=empty))).instances.any()
    with pytest.raises(UsageError, match="needs instances; put a step before it"):
        GrowInstances()(predict(mask=empty))
    with pytest.raises(UsageError, match=r"grow_instances\.radius_mm needs a value of 0 or more, got -1"):
        GrowInstances(radius_mm=-1.0)
