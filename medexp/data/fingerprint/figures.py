"""Plots of a fingerprint."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medexp.data.fingerprint.case import N_QUANTILES
from medexp.data.fingerprint.dataset import Fingerprint

_SIZE_INCHES, _DPI = (5.2, 2.7), 110
_BINS = 24
# More classes than that make one plot unreadable.
_MOST_CLASSES = 10
# Intensities of which some cases have so many times higher ones than most are drawn on a logarithmic axis.
_FAR = 30


@dataclass(frozen=True)
class Plot:
    """A plot.

    Attributes:
        title: What it shows.
        png: The picture, in base64.
    """

    title: str
    png: str


def plots(fingerprint: Fingerprint) -> Iterator[Plot]:
    """The plots of whatever the dataset has.

    Args:
        fingerprint: What is shown.

    Yields:
        The plots.
    """
    unit = "voxel" if fingerprint.unit == "px" else "mm"
    axes = [f"axis {axis}" for axis in range(fingerprint.spatial_dims)]
    yield _histograms("Shape of the images", dict(zip(axes, fingerprint.shapes.T, strict=True)), "voxels")
    if fingerprint.unit == "mm":
        yield _histograms("Spacing of the voxels", dict(zip(axes, fingerprint.spacings_mm.T, strict=True)), "mm")
    if any(case.channels for case in fingerprint.cases):
        yield _intensities(fingerprint)
    classes = dict(list(fingerprint.classes.items())[:_MOST_CLASSES])
    power = "" if fingerprint.unit == "px" else "³" if fingerprint.spatial_dims == 3 else "²"
    volumes = {name: sizes.volumes_mm3[sizes.volumes_mm3 > 0] for name, sizes in classes.items()}
    yield from _where_any("Volume of each class in a case", volumes, f"{unit}{power}", log=True)
    counts = {name: sizes.counts for name, sizes in classes.items()}
    yield from _where_any("Objects of each class in a case", counts, "objects")
    longest = {name: sizes.object_extents_mm.max(axis=1, initial=0.0) for name, sizes in classes.items()}
    yield from _where_any("Longest side of the objects", longest, unit)
    if fingerprint.image_labels:
        yield _bars("Images of each label", fingerprint.image_labels)


def _where_any(
    title: str, values: Mapping[str, Float[np.ndarray, "_"]], unit: str, *, log: bool = False
) -> Iterator[Plot]:
    some = {name: of_class for name, of_class in values.items() if len(of_class) and of_class.max() > 0}
    if some:
        yield _histograms(title, some, unit, log=log)


def _histograms(title: str, values: Mapping[str, Float[np.ndarray, "_"]], unit: str, *, log: bool = False) -> Plot:
    figure, axes = _figure()
    together = np.concatenate(list(values.values()))
    low, high = float(together.min()), float(together.max())
    margin = 0.5 if low == high else 0.0
    log = log and high > 10 * low > 0
    edges = np.geomspace(low, high, _BINS) if log else np.linspace(low - margin, high + margin, _BINS)
    for name, of_name in values.items():
        axes.hist(of_name, bins=edges.tolist(), histtype="step", linewidth=1.6, label=name)
    if log:
        axes.set_xscale("log")
    axes.set_xlabel(unit)
    axes.set_ylabel("number")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return _plot(title, figure)


def _intensities(fingerprint: Fingerprint) -> Plot:
    """Of each channel the share of the foreground that is darker: the median case, and the spread between cases."""
    figure, axes = _figure()
    shares = np.linspace(0, 1, N_QUANTILES)
    near = far = 0.0
    for channel, name in enumerate(fingerprint.channel_names):
        quantiles = np.array([case.channels[channel].quantiles for case in fingerprint.cases if case.channels])
        low, middle, high = np.percentile(quantiles, (10, 50, 90), axis=0)
        (line,) = axes.plot(middle, shares, linewidth=1.6, label=name)
        axes.fill_betweenx(shares, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        near, far = max(near, float(middle.max())), max(far, float(high.max()))
    if far > _FAR * near > 0:
        axes.set_xscale("symlog", linthresh=near)
    axes.set_xlabel("intensity (band: from the 10th to the 90th percentile of the cases)")
    axes.set_ylabel("share of the foreground")
    axes.legend(frameon=False, fontsize=8)
    return _plot("Intensities in the foreground", figure)


def _bars(title: str, counts: Mapping[str, int]) -> Plot:
    figure, axes = _figure()
    axes.barh(list(counts), list(counts.values()))
    axes.invert_yaxis()
    axes.set_xlabel("images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return _plot(title, figure)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _plot(title: str, figure: Figure) -> Plot:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return Plot(title, base64.b64encode(stream.getvalue()).decode())
