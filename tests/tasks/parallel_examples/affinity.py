from __future__ import annotations

import torch
from torch import Tensor

from medexp.tasks.representations.affinity import Affinity, at_offsets
from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    ids = targets["affinity"]
    usual = Affinity(spatial_dims=ids.ndim - 2, long_range_px=[3, 9], diagonals=True, criterion="dice", weight=1.0)
    there = at_offsets(ids, usual.offsets, outside=0)
    return {"affinity": 20.0 * torch.where((ids == there) & (ids > 0), 1.0, -1.0)}


EXAMPLE = Example(
    name="affinity",
    perfect=_perfect,
    step={"mutex_watershed": {"min_volume_mm3": 10.0}},
    others={"long_range_px": [3, 5], "diagonals": False, "criterion": "bce", "weight": 2.0},
    wrong=(
        ("long_range_px", [], "long_range_px needs a list of whole numbers from 2 on"),
        ("long_range_px", [3, 1], "long_range_px needs a list of whole numbers from 2 on, got [3, 1]"),
        ("criterion", "mse", "criterion needs dice or bce, got 'mse'"),
        ("weight", 0.0, "weight needs a value above 0, got 0.0"),
    ),
    needs="mwatershed",
)
