"""What is drawn over an image: areas of classes and instances, boxes and places, heat, and words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Integer, UInt8
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.path import Path as MplPath
from matplotlib.patheffects import withStroke
from scipy.ndimage import find_objects
from skimage.measure import find_contours

from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction
from medexp.engine._instance_colours import INSTANCE_COLOURS, PALETTE, Neighbours, colour_table
from medexp.engine._overlay_errors import ERROR_COLOURS
from medexp.engine._overlay_planes import Plane
from medexp.engine._overlay_words import score_text, write_id

FILL_OPACITY = 0.45
ERROR_OPACITY = 0.7
DASHES = ("solid", "dashed", "dotted", "dashdot")
# Boxes lie over each other, and what they hold should be seen.
_BOX_FILL_OPACITY = 0.15
_HEAT_OPACITY = 0.7
_FAINTEST = 0.3
_LINE_PT = 1.2
_CROSS_PT = 6.0
_SCORE_PT = 5.0
_EDGE_LETTER_PT = 6.0


@dataclass(frozen=True)
class Look:
    """How a class is drawn.

    Attributes:
        colours: One, or several where the instances of a class are told apart.
        dashes: How its lines are dashed.
    """

    colours: tuple[str, ...]
    dashes: str

    def colour(self, number: int) -> str:
        """The colour of an instance by its number among colours."""
        return self.colours[number % len(self.colours)]


def looks_of(shown: Sequence[Prediction]) -> dict[str, Look]:
    """How each class is drawn, by its name; empty where nothing has a place in the image.

    Classes of a mask differ in colour and in how their lines are dashed; instances and boxes, which are many and small,
    are dashed only where the colours are used up. A class looks the same in all panels and, for one task, in all
    pictures.

    Args:
        shown: What is drawn; the classes of the first come first.

    Returns:
        The looks; several colours for a single class with instances.
    """
    if not any(has_places(one) for one in shown):
        return {}
    names = dict.fromkeys(structure.name for one in shown for structure in one.classes)
    if len(names) == 1 and any(one.instances is not None for one in shown):
        return {name: Look(INSTANCE_COLOURS, DASHES[0]) for name in names}
    of_masks = any(one.mask is not None and one.instances is None for one in shown)
    # Seven colours and four dashes have no common factor: 28 classes differ either way.
    dashes = [i if of_masks else i // len(PALETTE) for i in range(len(names))]
    return {
        name: Look((PALETTE[i % len(PALETTE)],), DASHES[dash % len(DASHES)])
        for i, (name, dash) in enumerate(zip(names, dashes, strict=True))
    }


def colour_numbers(shown: Prediction) -> Integer[np.ndarray, "ids"]:
    """Which of several colours each instance has, by its id, so that no two alike touch anywhere in the image.

    Args:
        shown: What is drawn.

    Returns:
        Numbers of colours by id, from 0 on; only that of id 0 where there are no instances.
    """
    neighbours = Neighbours()
    if shown.instances is not None:
        neighbours.add(shown.instances)
    return colour_table(neighbours.colour_numbers())


def has_places(shown: Prediction) -> bool:
    """Whether a prediction holds anything that has a place in the image and can be drawn."""
    drawn = (shown.mask, shown.instances, shown.objects, shown.maps.get(Kind.DENSITY))
    return any(part is not None for part in drawn)


@dataclass(frozen=True)
class Area:
    """What a class or an instance covers of a plane.

    Attributes:
        name: Name of the class.
        identity: Id of the instance; 0 for a class.
        inside: Whether each pixel of a part of the plane belongs to it.
        row: First row of this part.
        column: First column of this part.
    """

    name: str
    identity: int
    inside: Bool[np.ndarray, "rows columns"]
    row: int = 0
    column: int = 0

    def paint(self, plane: np.ndarray, value: object) -> None:
        """Set its pixels in an array of the whole plane."""
        rows, columns = self.inside.shape
        plane[self.row : self.row + rows, self.column : self.column + columns][self.inside] = value

    @property
    def middle(self) -> Float[np.ndarray, "2"]:
        """Column and row of the middle of its pixel that is nearest to its centre."""
        pixels = np.argwhere(self.inside)
        row, column = pixels[((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
        return np.array([self.column + column + 0.5, self.row + row + 0.5])

    def outlines(self) -> list[Float[np.ndarray, "_ 2"]]:
        """Closed lines of (column, row), halfway between the pixels inside and outside, along the image's edge there.

        Pixel i covers [i, i + 1).
        """
        # Pixel i lies at i + 1 in the padded area, and its centre at i + 1/2 in the picture.
        lines = find_contours(np.pad(self.inside, 1).astype(np.float32), 0.5)
        return [line[:, ::-1] + np.array([self.column, self.row]) - 0.5 for line in lines]


def areas_of(shown: Prediction, plane: Plane) -> list[Area]:
    """The instances that a plane meets, else the classes of the mask.

    Args:
        shown: What is drawn.
        plane: Where it is cut.

    Returns:
        The largest first, so that one that is drawn later lies over the larger ones around it.
    """
    found = _instances(shown, plane) if shown.instances is not None else _classes(shown, plane)
    return sorted(found, key=lambda area: -int(np.count_nonzero(area.inside)))


def class_numbers(
    shown: Prediction, plane: Plane, names: tuple[str, ...]
) -> Integer[np.ndarray, "rows columns"] | None:
    """Which class a plane shows at each pixel, the smallest of several; None where there are no areas.

    Args:
        shown: What is drawn.
        plane: Where it is cut.
        names: Names of the classes.

    Returns:
        0 where there is none, else the place of the class in `names`, from 1 on.
    """
    if shown.mask is None and shown.instances is None:
        return None
    numbers = np.zeros(plane.pixels(shown.geometry), dtype=np.int32)
    for area in areas_of(shown, plane):
        area.paint(numbers, names.index(area.name) + 1)
    return numbers


def _classes(shown: Prediction, plane: Plane) -> Iterator[Area]:
    """Only the plane is compared, as a volume may have a hundred classes."""
    if shown.mask is None:
        return
    cut = replace(shown, mask=plane.cut(shown.mask, lead=1), probabilities=None, valid=None, pixels=None)
    for structure in shown.classes:
        inside = cut.binary(structure)
        if inside.any():
            yield Area(structure.name, 0, inside)


def _instances(shown: Prediction, plane: Plane) -> Iterator[Area]:
    """Each in the part of the plane around it, as a plane may meet a thousand."""
    assert shown.instances is not None
    assert shown.objects is not None
    names = {structure.value: structure.name for structure in shown.classes}
    cut = plane.cut(shown.instances, lead=0)
    for number, box in enumerate(find_objects(cut)):
        if box is not None and (name := names.get(int(shown.objects.labels[number]))) is not None:
            yield Area(name, number + 1, cut[box] == number + 1, row=box[0].start, column=box[1].start)


@dataclass(frozen=True)
class Panel:
    """One plane of a case in a figure.

    Attributes:
        axes: Where it is drawn, in millimetres (pixels where there are none) from the upper left corner.
        plane: The cut that is shown.
        geometry: The image's grid.
        looks: How each class is drawn.
        filled: Areas instead of contours.
        ids: Whether instances have their id written in them, where it finds room.
    """

    axes: Axes
    plane: Plane
    geometry: Geometry
    looks: Mapping[str, Look]
    filled: bool
    ids: bool = False

    def draw_image(self, pixels: Float[np.ndarray, "*spatial"], window: tuple[float, float]) -> None:
        """Draw an image in grey, between the intensities that are black and white."""
        height, width = self.plane.size_mm(self.geometry)
        shown = self.plane.cut(pixels, lead=0)
        self.axes.imshow(shown, cmap="gray", vmin=window[0], vmax=window[1], extent=self._extent, aspect="equal")
        self.axes.set_xlim(0.0, width)
        self.axes.set_ylim(height, 0.0)
        self.axes.set_xticks([])
        self.axes.set_yticks([])
        for spine in self.axes.spines.values():
            spine.set_visible(False)

    def draw(self, shown: Prediction, numbers: Integer[np.ndarray, "ids"], *, with_scores: bool) -> None:
        """Draw all that a prediction or reference holds.

        Args:
            shown: It.
            numbers: What `colour_numbers` says of it.
            with_scores: Boxes have their scores beside them.
        """
        self._draw_heat(shown)
        self._draw_areas(shown, numbers)
        # Instances are their objects, drawn more closely.
        if shown.objects is not None and shown.instances is None:
            self._draw_objects(shown, with_scores=with_scores)

    def draw_errors(self, kinds: UInt8[np.ndarray, "rows columns"]) -> None:
        """Draw where a prediction differs from its reference, by values of `ErrorKind`."""
        colours = np.zeros((*kinds.shape, 4))
        for kind, colour in ERROR_COLOURS.items():
            colours[kinds == kind] = (*to_rgb(colour), ERROR_OPACITY)
        self._lay_over(colours)

    def write_letters(self) -> None:
        """Write at each edge which side of the patient it is, where that is known."""
        letters = self.plane.letters(self.geometry)
        if letters is None:
            return
        height, width = self.plane.size_mm(self.geometry)
        places = ((0.0, height / 2), (width, height / 2), (width / 2, height), (width / 2, 0.0))
        inward = (
            (2, 0, "left", "center"),
            (-2, 0, "right", "center"),
            (0, 2, "center", "bottom"),
            (0, -2, "center", "top"),
        )
        for letter, place, (right_pt, up_pt, horizontal, vertical) in zip(letters, places, inward, strict=True):
            self.axes.annotate(
                letter,
                place,
                xytext=(right_pt, up_pt),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=_EDGE_LETTER_PT,
                color="white",
                path_effects=[withStroke(linewidth=1.2, foreground="black")],
            )

    @property
    def _extent(self) -> tuple[float, float, float, float]:
        height, width = self.plane.size_mm(self.geometry)
        return 0.0, width, height, 0.0

    def _lay_over(self, colours: Float[np.ndarray, "rows columns rgba"]) -> None:
        self.axes.imshow(colours, extent=self._extent, aspect="equal", interpolation="nearest")

    def _draw_heat(self, shown: Prediction) -> None:
        density = shown.maps.get(Kind.DENSITY)
        if density is None or not self.filled or not (highest := float(density.max())) > 0:
            return
        for structure, channel in zip(shown.classes, self.plane.cut(density, lead=1), strict=True):
            colours = np.empty((*channel.shape, 4))
            colours[..., :3] = to_rgb(self.looks[structure.name].colour(0))
            colours[..., 3] = _HEAT_OPACITY * np.clip(channel / highest, 0.0, 1.0)
            self._lay_over(colours)

    def _draw_areas(self, shown: Prediction, numbers: Integer[np.ndarray, "ids"]) -> None:
        areas = areas_of(shown, self.plane)
        if not areas:
            return
        colours = [self.looks[area.name].colour(int(numbers[area.identity])) for area in areas]
        rows, columns = self.plane.pixels(self.geometry)
        if self.filled:
            over = np.zeros((rows, columns, 4))
            for area, colour in zip(areas, colours, strict=True):
                # The upper replaces the lower: mixed colours would be in no legend.
                area.paint(over, (*to_rgb(colour), FILL_OPACITY))
            self._lay_over(over)
        height, width = self.plane.size_mm(self.geometry)
        pixel = np.array([width / columns, height / rows])
        for area, colour in zip(areas, colours, strict=True):
            self._draw_outlines([line * pixel for line in area.outlines()], colour, self.looks[area.name].dashes)
        if self.ids and shown.instances is not None:
            for area in areas:
                extent = area.inside.shape[1] * pixel[0], area.inside.shape[0] * pixel[1]
                write_id(self.axes, area.identity, area.middle * pixel, extent)

    def _draw_outlines(self, lines: list[Float[np.ndarray, "_ 2"]], colour: str, dashes: str) -> None:
        """Draw outlines on their inner side alone, so that areas that touch do not hide each other's border."""
        strokes = LineCollection(
            lines,
            colors=colour,
            linestyles=dashes,
            linewidths=_LINE_PT if self.filled else 2 * _LINE_PT,
        )
        self.axes.add_collection(strokes, autolim=False)
        inside = MplPath.make_compound_path(*(MplPath(line, closed=True) for line in lines))
        strokes.set_clip_path(inside, self.axes.transData)

    def _draw_objects(self, shown: Prediction, *, with_scores: bool) -> None:
        """Draw the boxes and places that the plane meets, the surest last; those of low scores are faint."""
        assert shown.objects is not None
        names = {structure.value: structure.name for structure in shown.classes}
        chosen = self.plane.crosses(shown.objects) & np.isin(shown.objects.labels, list(names))
        objects = shown.objects.select(chosen)
        corners = np.stack(self.plane.place(objects, self.geometry), axis=1)
        for row in np.argsort(objects.scores, kind="stable"):
            score = float(objects.scores[row])
            look = self.looks[names[int(objects.labels[row])]]
            draw = self._draw_cross if (corners[row, 0] == corners[row, 1]).all() else self._draw_box
            draw(corners[row], look, opacity=float(np.clip(score, _FAINTEST, 1.0)))
            if with_scores:
                self._write_score(corners[row], look, score)

    def _draw_box(self, corners: Float[np.ndarray, "2 2"], look: Look, *, opacity: float) -> None:
        (left, top), (right, bottom) = corners.tolist()
        colour = to_rgb(look.colour(0))
        box = Rectangle(
            (left, top),
            right - left,
            bottom - top,
            facecolor=(*colour, _BOX_FILL_OPACITY if self.filled else 0.0),
            edgecolor=(*colour, opacity),
            linestyle=look.dashes,
            linewidth=_LINE_PT,
        )
        self.axes.add_patch(box)

    def _draw_cross(self, corners: Float[np.ndarray, "2 2"], look: Look, *, opacity: float) -> None:
        [[x, y], _] = corners.tolist()
        self.axes.plot(
            [x], [y], "x", markersize=_CROSS_PT, markeredgewidth=_LINE_PT, color=look.colour(0), alpha=opacity
        )

    def _write_score(self, corners: Float[np.ndarray, "2 2"], look: Look, score: float) -> None:
        """Above the upper left corner; inside at the picture's upper edge, and to the left of its right edge."""
        height, width = self.plane.size_mm(self.geometry)
        (left, top), (right, _) = corners.tolist()
        at_top, at_right = top < 0.05 * height, left > 0.9 * width
        self.axes.annotate(
            score_text(score),
            (min(right, width) if at_right else max(left, 0.0), max(top, 0.0)),
            xytext=(0.0, -1.5 if at_top else 1.5),
            textcoords="offset points",
            ha="right" if at_right else "left",
            va="top" if at_top else "bottom",
            fontsize=_SCORE_PT,
            color="black",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": look.colour(0), "linewidth": 0.0, "alpha": 0.8},
        )
