"""The critical-difference diagram of a ranking."""

from __future__ import annotations

import io
import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medexp.compare.comparison import Ranking
from medexp.core.files import write_atomic

# Heights in rows: the axis of ranks is at 0, names and bars lie below.
_FIRST_BAR = -0.6
_BETWEEN_BARS = 0.35
_BETWEEN_NAMES = 0.8


def draw_critical_difference(ranking: Ranking, path: Path) -> Path:
    """Draw mean ranks on an axis, best at the left, with bars over methods that Nemenyi's test does not tell apart.

    Source: J. Demsar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006), figure 1.

    Args:
        ranking: Three methods or more, ranked within cases, so that it has a critical difference.
        path: The file; its suffix is the format (svg, pdf or png).

    Returns:
        The file.
    """
    count = len(ranking.methods)
    rows = math.ceil(count / 2)
    lowest = _FIRST_BAR - _BETWEEN_BARS * len(ranking.cliques) - _BETWEEN_NAMES * rows
    figure = Figure(figsize=(7.0, 0.6 - 0.35 * lowest), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(1 - 0.35 * (count - 1), count + 0.35 * (count - 1)), ylim=(lowest, 1.6))
    axes.set_axis_off()
    _draw_axis(axes, ranking)
    _draw_bars(axes, ranking)
    _draw_names(axes, ranking, _FIRST_BAR - _BETWEEN_BARS * len(ranking.cliques))
    stream = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "medexp"}):
        figure.savefig(stream, format=path.suffix[1:], metadata={"Date": None} if path.suffix == ".svg" else None)
    write_atomic(path, lambda file: file.write(stream.getvalue()))
    return path


def _draw_axis(axes: Axes, ranking: Ranking) -> None:
    """The axis of ranks with its ticks, and the critical difference above it."""
    count = len(ranking.methods)
    axes.plot([1, count], [0, 0], color="black", linewidth=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.15], color="black", linewidth=1)
        axes.text(rank, 0.2, str(rank), ha="center", va="bottom", size=8)
    end = 1 + ranking.critical_difference
    axes.plot([1, end], [1.1, 1.1], color="black", linewidth=2)
    axes.text((1 + end) / 2, 1.15, f"CD {ranking.critical_difference:.2f}", ha="center", va="bottom", size=8)


def _draw_bars(axes: Axes, ranking: Ranking) -> None:
    rank_of = dict(zip(ranking.methods, ranking.mean_ranks, strict=True))
    for place, clique in enumerate(ranking.cliques):
        ranks = [rank_of[name] for name in clique]
        height = _FIRST_BAR - _BETWEEN_BARS * place + _BETWEEN_BARS
        axes.plot([min(ranks) - 0.03, max(ranks) + 0.03], [height, height], color="black", linewidth=3)


def _draw_names(axes: Axes, ranking: Ranking, top: float) -> None:
    """Each name beside the axis, the better half at the left, with a line to its mean rank."""
    count = len(ranking.methods)
    order = sorted(range(count), key=lambda place: ranking.mean_ranks[place])
    half = math.ceil(count / 2)
    for place, index in enumerate(order):
        at_left = place < half
        row = place if at_left else count - 1 - place
        height, rank = top - _BETWEEN_NAMES * row, ranking.mean_ranks[index]
        end = 1 - 0.05 * (count - 1) if at_left else count + 0.05 * (count - 1)
        axes.plot([rank, rank, end], [0, height, height], color="black", linewidth=0.8)
        text = f"{ranking.methods[index]}  {rank:.2f}" if at_left else f"{rank:.2f}  {ranking.methods[index]}"
        axes.text(end, height, f" {text} ", ha="right" if at_left else "left", va="center", size=8, parse_math=False)
