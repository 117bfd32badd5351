"""The discriminative loss against the paper's equations, object by object."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medexp.tasks.representations.embedding import Embedding

SETTINGS = {"n_dims": 3, "delta_var": 0.5, "delta_dist": 1.5, "alpha": 1.0, "beta": 2.0, "gamma": 0.1}


def equations(said: np.ndarray, ids: np.ndarray) -> tuple[float, float, float]:
    """Equations 1 to 3 of arXiv 1708.02551 in loops."""
    objects = [number for number in np.unique(ids) if number > 0]
    voxels = {number: said[:, ids == number].T for number in objects}
    means = {number: vectors.mean(axis=0) for number, vectors in voxels.items()}
    variance, distance, size = 0.0, 0.0, 0.0
    for number in objects:
        costs = [max(np.linalg.norm(means[number] - vector) - 0.5, 0) ** 2 for vector in voxels[number]]
        variance += np.mean(costs) / len(objects)
        size += np.linalg.norm(means[number]) / len(objects)
        for other in objects:
            if other != number:
                cost = max(2 * 1.5 - np.linalg.norm(means[number] - means[other]), 0) ** 2
                distance += cost / (len(objects) * (len(objects) - 1))
    return variance, distance, size


@pytest.mark.parametrize("shape", [(8, 9), (5, 6, 4)])
def test_the_loss_is_the_mean_of_the_papers_equations_over_images_with_objects(shape):
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 4, shape), rng.integers(0, 2, shape) * 7, np.zeros(shape)]).astype(np.int32)
    said = rng.normal(size=(3, 3, *shape))
    unknown = rng.random((3, 1, *shape)) < 0.2
    representation = Embedding(spatial_dims=len(shape), **SETTINGS)
    terms = representation.loss(
        {"embedding": [torch.from_numpy(said)]}, {"embedding": torch.from_numpy(ids)[:, None]}, torch.tensor(~unknown)
    )
    seen = np.where(unknown[:, 0], 0, ids)
    expected = np.mean([equations(said[i], seen[i]) for i in range(2)], axis=0) * [1.0, 2.0, 0.1]
    assert list(terms) == ["embedding_variance", "embedding_distance", "embedding_size"]
    assert [term.item() for term in terms.values()] == pytest.approx(expected.tolist(), rel=1e-5)


def test_objects_of_different_images_may_have_the_same_vectors():
    ids = torch.ones(2, 1, 4, 4, dtype=torch.int32)
    ids[1] = 2
    terms = Embedding(spatial_dims=2, **SETTINGS).loss(
        {"embedding": [torch.zeros(2, 3, 4, 4)]}, {"embedding": ids}, torch.ones(2, 1, 4, 4, dtype=torch.bool)
    )
    assert [term.item() for term in terms.values()] == [0.0, 0.0, 0.0]
