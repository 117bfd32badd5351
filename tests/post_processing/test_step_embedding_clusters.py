from __future__ import annotations

import numpy as np
import pytest
from parallel_predictions import predict

from medexp.core.errors import UsageError
from medexp.core.types import Kind
from medexp.post_processing.chain import Chain
from medexp.post_processing.embedding_clusters import EmbeddingClusters


def blobs(shape: tuple[int, ...], objects: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Ids of stripes along the first axis, and an embedding within `spread` of means that lie 3 apart at least."""
    rng = np.random.default_rng(seed)
    ids = np.broadcast_to(
        (np.arange(shape[0]) * objects // shape[0] + 1).reshape(-1, *[1] * (len(shape) - 1)), shape
    ).astype(np.int32)
    means = 3.0 * np.stack(np.unravel_index(np.arange(objects + 1), (4, 4, 4)))
    away = rng.normal(size=(3, *shape))
    away *= spread * rng.random(shape) / np.linalg.norm(away, axis=0)
    return ids, (means[:, ids] + away).astype(np.float32)


@pytest.mark.parametrize("shape", [(24, 10), (12, 6, 5)])
def test_vectors_for_which_the_loss_is_zero_become_exactly_the_objects(shape):
    ids, embedding = blobs(shape, 6, spread=0.5)
    result = EmbeddingClusters(min_voxels=1)(predict(np.ones(shape), {"embedding": embedding}))
    pairs = np.unique(np.stack([ids.ravel(), result.instances.ravel()]), axis=1)
    assert pairs.shape == (2, 6)
    assert len(set(pairs[1])) == 6


def test_an_object_may_lie_in_parts_and_the_background_in_none():
    foreground, embedding = np.array([[0.9, 0.1, 0.9, 0.9]]), np.array([[[0.0, 9.0, 9.0, 0.1]]], np.float32)
    step = EmbeddingClusters(min_voxels=1)
    assert step(predict(foreground, {"embedding": embedding})).instances.tolist() in ([[1, 0, 2, 1]], [[2, 0, 1, 2]])
    low = EmbeddingClusters(min_voxels=1, foreground_threshold=0.05)(predict(foreground, {"embedding": embedding}))
    assert low.instances.all()


def test_voxels_of_small_clusters_go_to_the_nearest_one():
    embedding = np.array([[[0.0] * 5 + [1.9] + [5.0] * 5]], np.float32)
    prediction = predict(np.ones((1, 11)), {"embedding": embedding})
    assert EmbeddingClusters(min_voxels=2)(prediction).instances.tolist() == [[1] * 6 + [2] * 5]
    assert EmbeddingClusters(min_voxels=1)(prediction).instances.max() == 3
    assert not EmbeddingClusters(min_voxels=6)(prediction).instances.any()


def test_the_bandwidth_and_the_number_of_objects_join_clusters():
    embedding = np.repeat(np.array([[[0.0, 1.5, 9.0]]], np.float32), 4, axis=2)
    prediction = predict(np.ones((1, 12)), {"embedding": embedding})
    assert EmbeddingClusters(min_voxels=1)(prediction).instances.max() == 3
    assert EmbeddingClusters(min_voxels=1, bandwidth=2.0)(prediction).instances.max() == 2
    assert EmbeddingClusters(min_voxels=1, max_objects=2)(prediction).instances.max() == 2


def test_small_objects_are_left_out_by_their_volume():
    embedding = np.array([[[0.0, 0.0, 9.0]]], np.float32)
    prediction = predict(np.ones((1, 3)), {"embedding": embedding}, spacing=(2.0, 1.5))
    assert EmbeddingClusters(min_voxels=1, min_volume_mm3=6.0)(prediction).instances.tolist() == [[1, 1, 0]]


def test_thirty_wide_clusters_are_told_apart():
    _, embedding = blobs((128, 128), 30, spread=0.9)
    prediction = predict(np.ones((128, 128)), {"embedding": embedding})
    assert EmbeddingClusters()(prediction).instances.max() == 30


def test_it_leads_from_embeddings_to_instances():
    Chain([EmbeddingClusters()], takes=Kind.EMBEDDINGS, gives=Kind.INSTANCES)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"foreground_threshold": 0.0}, r"embedding_clusters\.foreground_threshold needs a probability"),
        ({"bandwidth": 0.0}, r"embedding_clusters\.bandwidth needs a finite value above 0"),
        ({"min_voxels": 0}, r"embedding_clusters\.min_voxels needs a whole number from 1 on"),
        ({"max_objects": 0}, r"embedding_clusters\.max_objects needs a whole number from 1 on"),
        ({"min_volume_mm3": -1.0}, r"embedding_clusters\.min_volume_mm3 needs a finite value"),
    ],
)
def test_knobs_out_of_range_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        EmbeddingClusters(**knobs)
