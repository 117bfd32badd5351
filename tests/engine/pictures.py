"""Figures as pixels, and small cases to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Case, Image, Prediction, StructureClass

ORGAN = (StructureClass("organ", 0, 1),)
TWO = (StructureClass("left", 0, 1), StructureClass("right", 0, 2))
OPACITY = 0.45  # of areas
LINE_PX = 1.2 / 72 * 200  # 1.2 points at 200 pixels an inch


@dataclass(frozen=True)
class Panel:
    """The pixels of one panel, and where each lies in the panel's own units."""

    rgb: np.ndarray
    x: np.ndarray
    y: np.ndarray

    @property
    def coloured(self) -> np.ndarray:
        return np.ptp(self.rgb, axis=-1) > 0.1

    @property
    def shown(self) -> np.ndarray:
        return self.rgb.min(axis=-1) < 0.99

    @property
    def unit_px(self) -> float:
        """Pixels of one unit."""
        return 1.0 / float(np.median(np.diff(self.x[0])))

    def near(self, colour: str, tolerance: float = 0.12) -> np.ndarray:
        return np.abs(self.rgb - to_rgb(colour)).max(axis=-1) < tolerance


def panels(figure: Figure) -> list[Panel]:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rgb = np.asarray(canvas.buffer_rgba())[..., :3] / 255.0
    return [_panel(axes, rgb) for axes in figure.axes]


def _panel(axes: Axes, rgb: np.ndarray) -> Panel:
    box = axes.get_window_extent()
    height = rgb.shape[0]
    rows = np.arange(int(np.ceil(height - box.y1)), int(height - box.y0))
    columns = np.arange(int(np.ceil(box.x0)), int(box.x1))
    row, column = np.meshgrid(rows, columns, indexing="ij")
    points = np.stack([column + 0.5, height - row - 0.5], axis=-1).reshape(-1, 2)
    x, y = axes.transData.inverted().transform(points).T.reshape(2, *row.shape)
    return Panel(rgb=rgb[row, column], x=x, y=y)


def image_of(
    shape: tuple[int, ...], *, spacing: tuple[float, ...] | None = None, unit: str = "px", fill: float = 0.5
) -> Image:
    pixels = np.full((1, *shape), fill, dtype=np.float32)
    geometry = Geometry.from_spacing(shape, spacing or (1.0,) * len(shape), unit="mm" if unit == "mm" else "px")
    return Image(case=Case("case", "group", ()), pixels=pixels, annotation=None, geometry=geometry)


def predicted(
    image: Image, mask: np.ndarray, classes: tuple[StructureClass, ...] = ORGAN, *, case_id: str = "case"
) -> Prediction:
    return Prediction(case_id=case_id, group="group", geometry=image.geometry, classes=classes, mask=mask)


def rectangle(shape: tuple[int, ...], *slices: slice, value: int = 1) -> np.ndarray:
    mask = np.zeros((1, *shape), dtype=np.uint8)
    mask[(0, *slices)] = value
    return mask


def distance_to_border(panel: Panel, x: tuple[float, float], y: tuple[float, float]) -> np.ndarray:
    """Distance of each pixel to the border of a rectangle, in units; negative inside."""
    dx = np.maximum(x[0] - panel.x, panel.x - x[1])
    dy = np.maximum(y[0] - panel.y, panel.y - y[1])
    outside = np.hypot(np.maximum(dx, 0), np.maximum(dy, 0))
    return outside + np.minimum(np.maximum(dx, dy), 0)


def with_objects(image: Image, boxes: list, labels: list[int], scores: list | None = None, classes=ORGAN) -> Prediction:
    dims = image.geometry.spatial_dims
    objects = Objects.of(
        np.array(boxes, dtype=float).reshape(-1, 2 * dims), np.array(labels), scores and np.array(scores)
    )
    return Prediction("case", "group", image.geometry, classes, objects=objects)


def with_instances(image: Image, instances: np.ndarray, labels: dict[int, int], classes=ORGAN) -> Prediction:
    objects = Objects.of_instances(instances, labels)
    return Prediction("case", "group", image.geometry, classes, instances=instances, objects=objects)


def halves(shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    """Two instances that touch at column 30."""
    instances = np.zeros(shape, dtype=np.int32)
    instances[5:35, 5:30], instances[5:35, 30:55] = 1, 2
    return instances


def affine_of(permutation: tuple[int, ...], signs: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """Voxel axis i runs along the world's axis `permutation[i]`, forwards or backwards."""
    dims = len(permutation)
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = 0
    for axis, (world, sign, length) in enumerate(zip(permutation, signs, spacing, strict=True)):
        affine[world, axis] = sign * length
    affine[:dims, dims] = 7.0
    return affine
