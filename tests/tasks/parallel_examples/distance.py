from __future__ import annotations

from torch import Tensor

from parallel_examples import Example


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"distance": targets["distance"]}


EXAMPLE = Example(
    name="distance",
    perfect=_perfect,
    step={"peak_watershed": {}},
    others={"distance_to": "centre", "weight": 2.0},
    wrong=(
        ("distance_to", "edge", "distance_to needs border or centre, got 'edge'"),
        ("weight", -1.0, "weight needs a value above 0"),
    ),
)
