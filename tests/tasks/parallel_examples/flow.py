from __future__ import annotations

from torch import Tensor

from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"flow": 5.0 * targets["flow"]}


EXAMPLE = Example(
    name="flow",
    perfect=_perfect,
    step={"flow_tracking": {}},
    others={"scale": 1.0, "weight": 2.0},
    wrong=(("scale", 0.0, "scale needs a value above 0, got 0.0"), ("weight", -1.0, "weight needs a value above 0")),
)
