from __future__ import annotations

from torch import Tensor

from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"hover": targets["hover"]}


EXAMPLE = Example(
    name="hover",
    perfect=_perfect,
    step={"hover_watershed": {}},
    dims=(2,),
    others={"weight": 2.0, "gradient_weight": 1.0},
    wrong=(
        ("weight", 0.0, "weight needs a value above 0, got 0.0"),
        ("gradient_weight", -1.0, "gradient_weight needs a value of at least 0"),
    ),
)
