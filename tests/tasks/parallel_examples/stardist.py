from __future__ import annotations

from torch import Tensor

from parallel_examples import Example

_SCALE_PX = 10.0


def _perfect(targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "star_probability": targets["star_probability"].logit(eps=1e-6),
        "star_distances": targets["star_distances"] / _SCALE_PX,
    }


EXAMPLE = Example(
    name="stardist",
    perfect=_perfect,
    step={"star_polygons": {"min_volume_mm3": 20.0}},
    least_iou=0.85,  # a polyhedron with 96 corners lies inside of the ball whose border they are on
    knobs={"distance_weight": 1.0, "distance_scale_px": _SCALE_PX},
    others={
        "n_rays": 16,
        "anisotropy": [1.0, 2.0],
        "probability_weight": 3.0,
        "distance_weight": 0.2,
        "distance_scale_px": 4.0,
    },
    wrong=(
        ("n_rays", 2, "n_rays needs at least 3 in 2D, got 2"),
        ("anisotropy", [1.0, 1.0, 1.0], "anisotropy needs 2 values above 0"),
        ("anisotropy", [1.0, 0.0], "anisotropy needs 2 values above 0"),
        ("probability_weight", 0.0, "probability_weight needs a value above 0, got 0.0"),
        ("distance_weight", -1.0, "distance_weight needs a value above 0, got -1.0"),
        ("distance_scale_px", 0.0, "distance_scale_px needs a value above 0, got 0.0"),
    ),
)
