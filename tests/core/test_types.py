from __future__ import annotations

import numpy as np
import pytest
import torch

from medexp.core.geometry import Geometry, Placement
from medexp.core.types import Annotation, Batch, Case, Image, Kind, holds


def nested_batch() -> Batch:
    geometry = Geometry.from_spacing((4, 5), (1.0, 1.0))
    return Batch(
        images=torch.zeros(2, 1, 4, 5),
        targets={
            "semantic": torch.ones(2, 1, 4, 5, dtype=torch.int16),
            "objects": [
                {"boxes": torch.zeros(3, 4), "labels": torch.ones(3, dtype=torch.int64)},
                {"boxes": torch.zeros(0, 4), "labels": torch.ones(0, dtype=torch.int64)},
            ],
        },
        case_ids=("a", "b"),
        images_read=(Image(Case("a", "a", ()), np.zeros((1, 4, 5), np.float32), Annotation(), geometry),),
        placements=(Placement.identity((4, 5)),),
    )


def tensors_of(batch: Batch) -> list[torch.Tensor]:
    found = [batch.images, batch.targets["semantic"]]
    return found + [tensor for target in batch.targets["objects"] for tensor in target.values()]


def test_every_tensor_of_a_batch_goes_to_the_device_and_the_rest_stays():
    batch = nested_batch()
    # The meta device is there on every machine.
    moved = batch.to(torch.device("meta"))
    assert [tensor.device.type for tensor in tensors_of(moved)] == ["meta"] * 6
    for before, after in zip(tensors_of(batch), tensors_of(moved), strict=True):
        assert (before.shape, before.dtype) == (after.shape, after.dtype)
    assert [list(target) for target in moved.targets["objects"]] == [["boxes", "labels"]] * 2
    assert (moved.case_ids, moved.images_read, moved.placements) == (
        batch.case_ids,
        batch.images_read,
        batch.placements,
    )
    assert all(tensor.device.type == "cpu" for tensor in tensors_of(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs CUDA")
def test_every_tensor_of_a_batch_is_page_locked():
    assert all(tensor.is_pinned() for tensor in tensors_of(nested_batch().pin_memory()))


def test_images_without_reference_have_no_targets_anywhere():
    batch = Batch(images=torch.zeros(1, 1, 4, 5), targets=None, case_ids=("a",))
    moved = batch.to("meta", non_blocking=True)
    assert moved.targets is None
    assert moved.images.device.type == "meta"


def test_instances_have_boxes_for_metrics_of_objects():
    assert holds(Kind.INSTANCES) == (Kind.INSTANCES, Kind.OBJECTS)
    for kind in set(Kind) - {Kind.INSTANCES}:
        assert holds(kind) == (kind,)
