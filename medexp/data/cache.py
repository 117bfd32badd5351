"""Prepared cases on disk: computed once per content, shared by all runs, read by patch without loading the volume."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from medexp.core.errors import DataError
from medexp.core.geometry import Placement
from medexp.core.hashing import hash_file, hash_plain
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Source
from medexp.data.preprocessing import Prepared, Preprocessing

_LAYOUT = 2
_REST = "case.json"
_FOREGROUND_SAMPLES = 4096
# Opening three mapped files costs more than cutting a small patch, so that many bytes of cases stay in memory.
_KEPT_BYTES = 2**29


class PreparedCases:
    """Cases on the network's grid: in memory as far as they fit into half a gigabyte, else in memory-mapped files.

    A folder is written under a temporary name and renamed when it is complete, so a killed writer leaves no half case
    and two writers of one case do not disturb each other.

    Args:
        folder: Where the prepared cases lie.
        source: Reads a case.
        preprocessing: Prepares it.
        identity: What decides a prepared case beside its files and the preprocessing: the source's configuration.
    """

    def __init__(self, *, folder: Path, source: Source, preprocessing: Preprocessing, identity: str) -> None:
        self.folder = folder
        self.source = source
        self.preprocessing = preprocessing
        self.identity = identity
        self._contents: dict[str, str] = {}
        self._kept: dict[str, tuple[Prepared, np.ndarray]] = {}
        self._kept_bytes = 0

    def content_hash(self, case: Case) -> str:
        """Hash of the bytes of all files of a case and of what a table says of it."""
        if case.case_id not in self._contents:
            absent = [str(path) for path in case.files if not path.is_file()]
            if absent:
                raise DataError(f"case {case.case_id}: {', '.join(absent)} is missing; restore it or remove the case")
            files = [hash_file(path) for path in case.files]
            self._contents[case.case_id] = hash_plain([*files, dict(case.facts)] if case.facts else files)
        return self._contents[case.case_id]

    def load(self, case: Case) -> tuple[Prepared, np.ndarray]:
        """One prepared case and positions of foreground voxels, rows of (label id, *index)."""
        if case.case_id in self._kept:
            return self._kept[case.case_id]
        folder = self._folder_of(case)
        if not folder.exists():
            self._write(case, folder)
        prepared, foreground = _read(folder)
        layers = _layers(prepared.annotation)
        needed = sum(array.nbytes for array in (prepared.pixels, foreground, *layers.values()))
        if self._kept_bytes + needed > _KEPT_BYTES:
            return prepared, foreground
        in_layers: dict[str, Any] = {name: _in_memory(layer) for name, layer in layers.items()}
        annotation = replace(prepared.annotation, **in_layers)
        in_memory = replace(prepared, pixels=_in_memory(prepared.pixels), annotation=annotation)
        self._kept[case.case_id] = in_memory, _in_memory(foreground)
        self._kept_bytes += needed
        return self._kept[case.case_id]

    def _folder_of(self, case: Case) -> Path:
        key = hash_plain(
            {
                "layout": _LAYOUT,
                "case": case.case_id,
                "files": self.content_hash(case),
                "source": self.identity,
                "preprocessing": self.preprocessing.knobs(),
            }
        )
        return self.folder / key[:2] / key[2:34]

    def _write(self, case: Case, folder: Path) -> None:
        prepared = self.preprocessing(self.source.read(case))
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        partial.chmod(0o755)  # mkdtemp's folder is closed to the other users of a shared cache
        np.save(partial / "pixels.npy", np.ascontiguousarray(prepared.pixels, dtype=np.float32))
        for name, layer in _layers(prepared.annotation).items():
            np.save(partial / f"{name}.npy", np.ascontiguousarray(layer))
        np.save(partial / "foreground.npy", _foreground_positions(prepared))
        (partial / _REST).write_text(json.dumps(_rest_as_plain(prepared)))
        try:
            os.rename(partial, folder)
        except OSError:  # another process was faster
            shutil.rmtree(partial)
            if not folder.exists():
                raise


def _read(folder: Path) -> tuple[Prepared, np.ndarray]:
    rest = json.loads((folder / _REST).read_text())
    objects, image_labels = rest["objects"], rest["image_labels"]
    placement = Placement(**{name: tuple(values) for name, values in rest["placement"].items()})
    annotation = Annotation(
        **{name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in rest["layers"]},
        objects=None if objects is None else _objects(objects, spatial_dims=len(placement.resized_shape)),
        image_labels=None if image_labels is None else tuple(image_labels),
    )
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    prepared = Prepared(pixels=pixels, annotation=annotation, placement=placement)
    return prepared, np.load(folder / "foreground.npy", mmap_mode="r")


def _layers(annotation: Annotation) -> dict[str, np.ndarray]:
    """The arrays of an annotation that have a value for each voxel."""
    layers = {"mask": annotation.mask, "instances": annotation.instances}
    return {name: layer for name, layer in layers.items() if layer is not None}


def _rest_as_plain(prepared: Prepared) -> dict[str, Any]:
    """All of a prepared case that is no array of voxels, for JSON."""
    objects = prepared.annotation.objects
    return {
        "placement": asdict(prepared.placement),
        "layers": list(_layers(prepared.annotation)),
        "objects": None if objects is None else {"boxes": objects.boxes.tolist(), "labels": objects.labels.tolist()},
        "image_labels": prepared.annotation.image_labels,
    }


def _objects(plain: dict[str, Any], *, spatial_dims: int) -> Objects:
    return Objects.of(np.array(plain["boxes"]).reshape(-1, 2 * spatial_dims), np.array(plain["labels"]))


def _in_memory(mapped: np.ndarray) -> np.ndarray:
    """A copy that, like the mapped file, cannot be written to."""
    copy = np.array(mapped)
    copy.flags.writeable = False
    return copy


def _foreground_positions(prepared: Prepared) -> np.ndarray:
    """Rows of (label id, *index): voxels of the mask, else the centres of the objects.

    Of each label id other than 0 up to a fixed number, drawn with a fixed seed.
    """
    mask, objects = prepared.annotation.mask, prepared.annotation.objects
    if mask is None and objects is not None:
        return np.column_stack([objects.labels, np.floor(objects.centers)]).astype(np.int32)
    rows: list[np.ndarray] = []
    random = np.random.default_rng(0)
    for label in [] if mask is None else np.unique(mask):
        if label == 0:
            continue
        positions = np.argwhere(mask == label)
        if len(positions) > _FOREGROUND_SAMPLES:
            positions = positions[random.choice(len(positions), _FOREGROUND_SAMPLES, replace=False)]
        rows.append(np.column_stack([np.full(len(positions), label), positions]).astype(np.int32))
    return np.concatenate(rows) if rows else np.zeros((0, prepared.pixels.ndim), dtype=np.int32)
