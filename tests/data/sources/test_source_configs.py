from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

CONF = Path(__file__).parents[3] / "conf" / "dataset"
NAMES = [
    "phantom_2d", "phantom_3d", "phantom_sequence", "nuclei", "msd", "mni_white_matter", "folder", "manifest", "nnunet",
    "dicom", "nih_chest_xray", "taiwan_white_matter", "liver_lung_xray", "coco", "voc", "points", "medmnist", "tracks",
    "object_masks", "ellipse_pairs",
]  # fmt: skip
PICTURES = ("nih_chest_xray", "taiwan_white_matter", "liver_lung_xray", "coco", "voc", "object_masks", "ellipse_pairs")
FILES = {
    "dataset.json": '{"modality": {"0": "CT"}, "labels": {"0": "background", "1": "organ"}}',
    "classes.json": '{"organ": 1}',
    "annotations.json": '{"images": [], "annotations": [], "categories": [{"id": 1, "name": "organ"}]}',
    "Annotations/a.xml": "<annotation><object><name>organ</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax>"
    "<ymax>2</ymax></bndbox></object></annotation>",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_config_lists_every_knob_of_its_source_with_a_fit_value(name: str, tmp_path: Path) -> None:
    if name == "mni_white_matter":
        pytest.importorskip("nilearn", reason="needs nilearn, the extra 'demo'")
    for file, content in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(content)
    np.savez(tmp_path / "a.npz", train_images=np.zeros((1, 2, 2)), train_labels=np.zeros(1))
    paths = {"cache": str(tmp_path), "data": str(tmp_path)}
    known = OmegaConf.create({"paths": paths, "dataset": {"root": str(tmp_path)}})
    knobs = OmegaConf.to_container(OmegaConf.merge(known, OmegaConf.load(CONF / f"{name}.yaml")), resolve=True)[
        "source"
    ]
    module, _, class_name = knobs.pop("_target_").rpartition(".")
    source_class = getattr(import_module(module), class_name)
    assert list(knobs) == list(inspect.signature(source_class).parameters)
    source = source_class(**knobs)
    assert 0 in source.labels
    assert source.spatial_dims in (2, 3)
    assert len(source.channels) >= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_patch_has_the_dimensions_of_the_source(name: str) -> None:
    config = OmegaConf.load(CONF / f"{name}.yaml")
    assert len(config.patch_size) == config.source.get("spatial_dims", 2 if name in PICTURES else 3)
