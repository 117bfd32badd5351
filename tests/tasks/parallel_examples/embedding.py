from __future__ import annotations

import torch
from torch import Tensor

from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = targets["embedding"][:, 0].long()
    return {"embedding": 4.0 * torch.nn.functional.one_hot(ids, 9).movedim(-1, 1)[:, 1:].float()}


EXAMPLE = Example(
    name="embedding",
    perfect=_perfect,
    step={"embedding_clusters": {}},
    others={"n_dims": 3, "delta_var": 0.2, "delta_dist": 2.0, "alpha": 2.0, "beta": 2.0, "gamma": 0.1},
    wrong=(
        ("n_dims", 0, "n_dims needs a value above 0, got 0"),
        ("delta_var", 0.0, "delta_var needs a value above 0"),
        ("delta_dist", 0.5, "delta_dist needs a value above delta_var=0.5, got 0.5"),
        ("alpha", -1.0, "alpha needs a value above 0"),
        ("beta", 0.0, "beta needs a value above 0"),
        ("gamma", -0.1, "gamma needs a value of at least 0"),
    ),
)
