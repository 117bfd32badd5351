"""The figure around the panels: where they lie, the legend, the scale bar and the titles."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from medexp.engine._overlay_parts import FILL_OPACITY, Look

_DPI = 200
_BOX_INCH = 3.2
_MONTAGE_BOX_INCH = 1.5
_MONTAGE_INCH = 10.0
_MARGIN_INCH = 0.3
_GAP_INCH = 0.08
_LEGEND_ROW_INCH = 0.17
_SCALE_ROW_INCH = 0.2
_CAPTION_ROW_INCH = 0.15
_LETTER_INCH = 0.075
# The longest bar, as a share of the widest panel.
_BAR_SHARE = 0.4


def figure_of(
    sizes_mm: Sequence[tuple[float, float]],
    *,
    columns: int,
    montage: bool,
    caption_lines: int,
    handles: Mapping[str, Any],
    unit: str,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with a row of empty panels per plane, all on one scale, a scale bar below them, and the legend.

    Args:
        sizes_mm: Height and width of each plane.
        columns: Panels of a plane.
        montage: Small panels, of several planes side by side as far as they find room.
        caption_lines: Lines above the first panels, below their titles.
        handles: What the legend shows, by name.
        unit: Unit of the sizes.

    Returns:
        The figure, and the panels of each plane.
    """
    scale = (_MONTAGE_BOX_INCH if montage else _BOX_INCH) / max(length for size in sizes_mm for length in size)
    # A panel is no lower than its label is long.
    heights = [max(height * scale, 1.0) for height, _ in sizes_mm]
    width = max(max(width * scale for _, width in sizes_mm), 1.2)
    block = _MARGIN_INCH + columns * width + (columns - 1) * _GAP_INCH
    abreast = min(len(sizes_mm), max(1, int(_MONTAGE_INCH / block))) if montage else 1
    figure_width = abreast * block + _MARGIN_INCH
    per_row = max(1, int(figure_width / (0.5 + _LETTER_INCH * max((len(short(name)) for name in handles), default=1))))
    foot = 0.1 + _LEGEND_ROW_INCH * math.ceil(len(handles) / per_row) + _SCALE_ROW_INCH
    head = _MARGIN_INCH + _CAPTION_ROW_INCH * caption_lines
    rows = [max(heights[start : start + abreast]) for start in range(0, len(heights), abreast)]
    figure_height = foot + sum(rows) + _GAP_INCH * (len(rows) - 1) + head
    figure = Figure(figsize=(figure_width, figure_height), dpi=_DPI, facecolor="white")
    panels = []
    for number, height in enumerate(heights):
        row, place = divmod(number, abreast)
        top = figure_height - head - sum(rows[:row]) - row * _GAP_INCH
        lefts = [place * block + _MARGIN_INCH + column * (width + _GAP_INCH) for column in range(columns)]
        places = [(left / figure_width, (top - height) / figure_height) for left in lefts]
        panels.append([figure.add_axes((*at, width / figure_width, height / figure_height)) for at in places])
    _legend(figure, handles, per_row)
    # A panel that is wider than its plane shows it in its middle.
    _scale_bar(
        figure, scale, foot - 0.12, left=_MARGIN_INCH + (width - sizes_mm[-1][1] * scale) / 2, unit=unit, room=width
    )
    return figure, panels


def bar_length(longest: float) -> float:
    """The longest length that is 1, 2 or 5 times a power of ten.

    >>> bar_length(79.0), bar_length(0.3), bar_length(10.0)
    (50.0, 0.2, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(longest) + 1e-9)
    return max(round(factor * power, 12) for factor in (1, 2, 5) if factor * power <= longest * (1 + 1e-9))


def _scale_bar(figure: Figure, scale: float, height_inch: float, *, left: float, unit: str, room: float) -> None:
    """A bar with its length in words below the panels, where it hides nothing."""
    length = bar_length(_BAR_SHARE * room / scale)
    wide, high = figure.get_size_inches()
    ends = left / wide, (left + length * scale) / wide
    bar = Line2D(ends, [height_inch / high] * 2, color="black", linewidth=2.0, solid_capstyle="butt", gid="scale bar")
    figure.add_artist(bar)
    figure.text(ends[1] + 0.06 / wide, height_inch / high, f"{length:g} {unit}", fontsize=7, va="center")


def class_handles(looks: Mapping[str, Look], *, filled: bool) -> dict[str, tuple[Line2D | Patch, ...]]:
    """What stands for each class in the legend."""
    return {
        name: tuple(_handle(look, colour, filled=filled) for colour in look.colours[:3]) for name, look in looks.items()
    }


def patch_handle(colour: str, opacity: float) -> tuple[Patch]:
    """What stands for an area of a colour in the legend."""
    return (Patch(facecolor=(*to_rgb(colour), opacity), edgecolor="none"),)


def _handle(look: Look, colour: str, *, filled: bool) -> Line2D | Patch:
    if not filled:
        return Line2D([], [], color=colour, linestyle=look.dashes, linewidth=1.6)
    face = (*to_rgb(colour), FILL_OPACITY)
    return Patch(facecolor=face, edgecolor=colour, linestyle=look.dashes, linewidth=0.8)


def _legend(figure: Figure, handles: Mapping[str, Any], per_row: int) -> None:
    if not handles:
        return
    legend = figure.legend(
        list(handles.values()),
        [short(name) for name in handles],
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.2)},
        loc="lower center",
        ncol=per_row,
        fontsize=8,
        frameon=False,
        borderpad=0.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def write_title(axes: Axes, lines: Sequence[str]) -> None:
    """Words above a panel, each line as long as the panel is wide."""
    letters = max(8, int(axes.get_window_extent().width / _DPI / _LETTER_INCH))
    title = axes.set_title("\n".join(short(line, letters) for line in lines), fontsize=9)
    title.set_parse_math(False)


def short(name: str, letters: int = 40) -> str:
    """At most so many letters of a name."""
    return name if len(name) <= letters else f"{name[: letters - 1]}…"
