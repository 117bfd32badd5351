"""Words in pictures: ids and scores of objects, and captions."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from medexp.core.types import Kind, Prediction

_CAPTION_LINES = 3
_ID_PT = 5.0
# Of a digit, in font sizes.
_DIGIT_WIDTH, _DIGIT_HEIGHT = 0.64, 0.75
_PT_PER_INCH = 72.0


def write_id(axes: Axes, identity: int, middle: Float[np.ndarray, "2"], extent: tuple[float, float]) -> None:
    """Write the id of an object in its middle, white with a black rim; nothing where the object is smaller than that.

    Args:
        axes: The panel.
        identity: The id.
        middle: Where, in the panel's units.
        extent: Width and height of the object, in the panel's units.
    """
    assert axes.figure is not None
    points = axes.get_window_extent().width / axes.figure.dpi * _PT_PER_INCH / abs(np.subtract(*axes.get_xlim()))
    text = str(identity)
    if extent[0] * points < _DIGIT_WIDTH * _ID_PT * len(text) or extent[1] * points < _DIGIT_HEIGHT * _ID_PT:
        return
    column, row = middle.tolist()
    axes.text(
        column,
        row,
        text,
        ha="center",
        va="center",
        fontsize=_ID_PT,
        color="white",
        gid=f"id {identity}",
        path_effects=[withStroke(linewidth=1.0, foreground="black")],
    )


def score_text(score: float) -> str:
    """Two digits without a leading zero.

    >>> score_text(0.874), score_text(1.0)
    ('.87', '1.00')
    """
    return f"{score:.2f}".removeprefix("0")


def caption_of(shown: Prediction, *, with_scores: bool) -> list[str]:
    """What holds for the whole image: its classes, and how many objects a density counts.

    Args:
        shown: What is drawn.
        with_scores: The surest classes with their probabilities; else those that hold.

    Returns:
        A line for each class, three of either kind at most; "none" where no class holds.
    """
    lines: list[str] = []
    if shown.scores is not None:
        surest = [int(i) for i in np.argsort(-shown.scores, kind="stable")]
        if with_scores:
            lines += [f"{score_text(float(shown.scores[i]))} {shown.classes[i].name}" for i in surest[:_CAPTION_LINES]]
        else:
            true = [shown.classes[i].name for i in surest if shown.scores[i] > 0.5]
            lines += true[:_CAPTION_LINES] or ["none"]
    density = shown.maps.get(Kind.DENSITY)
    if density is not None:
        totals = density.reshape(len(density), -1).sum(axis=1).tolist()
        counted = list(zip(totals, shown.classes, strict=True))
        lines += [f"{total:.1f} {structure.name}" for total, structure in counted[:_CAPTION_LINES]]
    return lines
