"""Pictures whose values other than 0 are places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy.ndimage import center_of_mass, label

from medexp.core.errors import DataError
from medexp.core.faults import Fault
from medexp.data.sources._files import read_image, read_labels
from medexp.data.sources._listed import check_shape
from medexp.data.sources._pictures import JPEG


def dots_of(
    path: Path, shape: tuple[int, ...], *, meaning: str, ids: tuple[int, ...], connected: bool, case_id: str
) -> tuple[Float[np.ndarray, "n dims"], Integer[np.ndarray, "n"]]:
    """The places in a dot image.

    Args:
        path: The file.
        shape: Shape of the image whose dots they are.
        meaning: "any", "channel" or "value", see `Points`.
        ids: The declared label ids, in the order of the classes.
        connected: Dots that touch are one object.
        case_id: The case, for errors.

    Returns:
        The middles of the objects' voxels (voxel i has its centre at i + 1/2), and their label ids.

    Raises:
        DataError: The file is missing, damaged, of another shape or compressed with loss, or has a class too many.
    """
    if path.suffix.lower() in JPEG:
        expected, remedy = "a format that keeps every value", "save the dots as PNG or TIFF"
        raise DataError.of(Fault("lossy_mask", expected, "JPEG, which smears dots", remedy, case_id, path))
    layers = _layers(path, len(shape), meaning=meaning, case_id=case_id)
    strange = sorted(set(layers) - set(range(len(ids)) if meaning != "value" else ids))
    if strange:
        expected = (
            f"{len(ids)} channels" if meaning == "channel" else f"values of the label ids {', '.join(map(str, ids))}"
        )
        remedy = "declare all classes in dataset.source.labels, or set dataset.source.dots=any"
        raise DataError.of(Fault("unknown_label", expected, f"also {strange[0]}", remedy, case_id, path))
    found, labels = [np.zeros((0, len(shape)))], [np.zeros(0, dtype=np.int64)]
    for key, layer in layers.items():
        check_shape(layer.shape, shape, case_id=case_id, file=path)
        places = _middles(layer) if connected else np.argwhere(layer).astype(np.float64)
        found.append(places + 0.5)
        labels.append(np.full(len(places), key if meaning == "value" else ids[key], dtype=np.int64))
    return np.concatenate(found), np.concatenate(labels)


def _layers(path: Path, spatial_dims: int, *, meaning: str, case_id: str) -> dict[int, Bool[np.ndarray, "*spatial"]]:
    """Where there are dots: by label id where values mean it, else by place of the class."""
    if meaning == "value":
        values, _ = read_labels(path, case_id=case_id, spatial_dims=spatial_dims)
        return {int(value): values == value for value in np.unique(values) if value != 0}
    channels, _ = read_image(path, case_id=case_id, spatial_dims=spatial_dims)
    if meaning == "any":
        return {0: (channels != 0).any(axis=0)}
    return {number: channel != 0 for number, channel in enumerate(channels)}


def _middles(layer: Bool[np.ndarray, "*spatial"]) -> Float[np.ndarray, "n dims"]:
    """The middle of each spot of voxels that share at least a corner."""
    spots, number = label(layer, structure=np.ones((3,) * layer.ndim))
    return np.array(center_of_mass(layer, spots, range(1, number + 1)), dtype=np.float64).reshape(-1, layer.ndim)
