from __future__ import annotations

import torch
from torch import Tensor

from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    classes = torch.nn.functional.one_hot(targets["border"][:, 0].long(), 3).movedim(-1, 1)
    return {"border": 20.0 * classes.float()}


EXAMPLE = Example(
    name="boundary",
    perfect=_perfect,
    step={"border_watershed": {"border_threshold": 0.3}},
    others={"width_px": 3.0, "weight": 2.0},
    wrong=(("weight", 0.0, "weight needs a value above 0, got 0.0"), ("width_px", 0.5, "width_px needs a value >= 1")),
)
