"""The files of one prepared case: an array of voxels each, and all else as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medexp.core.geometry import Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data._folders import writing
from medexp.data.preprocessing import Prepared

_REST = "case.json"
_FOREGROUND_SAMPLES = 4096


def write_case(folder: Path, prepared: Prepared) -> None:
    """Write a prepared case and positions of its foreground; MedexpError where the folder refuses it."""
    foreground = foreground_positions(prepared)
    with writing(folder):
        np.save(folder / "pixels.npy", np.ascontiguousarray(prepared.pixels, dtype=np.float32))
        for name, layer in layers_of(prepared.annotation).items():
            np.save(folder / f"{name}.npy", np.ascontiguousarray(layer))
        np.save(folder / "foreground.npy", foreground)
        (folder / _REST).write_text(json.dumps(_rest_as_plain(prepared)))


def read_case(folder: Path) -> tuple[Prepared, np.ndarray]:
    """A prepared case with its arrays mapped from their files, and positions of its foreground.

    Args:
        folder: What `write_case` filled.

    Returns:
        The case, and rows of (label id, *index).

    Raises:
        FileNotFoundError, EOFError, ValueError, KeyError: A file is missing or damaged.
    """
    rest = json.loads((folder / _REST).read_text())
    objects, image_labels = rest["objects"], rest["image_labels"]
    placement = Placement(**{name: tuple(values) for name, values in rest["placement"].items()})
    annotation = Annotation(
        **{name: _mapped(folder / f"{name}.npy") for name in rest["layers"]},
        objects=None if objects is None else _objects(objects, spatial_dims=len(placement.resized_shape)),
        image_labels=None if image_labels is None else tuple(image_labels),
    )
    prepared = Prepared(
        pixels=_mapped(folder / "pixels.npy"),
        annotation=annotation,
        placement=placement,
        spacing_mm=tuple(rest["spacing_mm"]),
    )
    return prepared, _mapped(folder / "foreground.npy")


def layers_of(annotation: Annotation) -> dict[str, np.ndarray]:
    """The arrays of an annotation that have a value for each voxel."""
    layers = {"mask": annotation.mask, "instances": annotation.instances}
    return {name: layer for name, layer in layers.items() if layer is not None}


def foreground_positions(prepared: Prepared) -> np.ndarray:
    """Rows of (label id, *index): voxels of the mask, else the centres of the objects.

    Of each label id other than 0 up to a fixed number, drawn with a fixed seed.
    """
    mask, objects = prepared.annotation.mask, prepared.annotation.objects
    if mask is None and objects is not None:
        return np.column_stack([objects.labels, np.floor(objects.centers)]).astype(np.int32)
    rows: list[np.ndarray] = []
    random = np.random.default_rng(0)
    for label in [] if mask is None else np.unique(mask):
        if mask is None or label == 0:
            continue
        places = np.flatnonzero(mask == label)
        if len(places) > _FOREGROUND_SAMPLES:
            places = places[random.choice(len(places), _FOREGROUND_SAMPLES, replace=False)]
        positions = np.unravel_index(places, mask.shape)
        rows.append(np.column_stack([np.full(len(places), label), *positions]).astype(np.int32))
    return np.concatenate(rows) if rows else np.zeros((0, prepared.pixels.ndim), dtype=np.int32)


def _mapped(file: Path) -> np.ndarray:
    found: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    return found


def _rest_as_plain(prepared: Prepared) -> dict[str, Any]:
    """All of a prepared case that is no array of voxels, for JSON."""
    objects = prepared.annotation.objects
    return {
        "placement": asdict(prepared.placement),
        "spacing_mm": prepared.spacing_mm,
        "layers": list(layers_of(prepared.annotation)),
        "objects": None if objects is None else {"boxes": objects.boxes.tolist(), "labels": objects.labels.tolist()},
        "image_labels": prepared.annotation.image_labels,
    }


def _objects(plain: dict[str, Any], *, spatial_dims: int) -> Objects:
    return Objects.of(np.array(plain["boxes"]).reshape(-1, 2 * spatial_dims), np.array(plain["labels"]))
