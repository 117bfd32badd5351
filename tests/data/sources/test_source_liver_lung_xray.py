from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from omegaconf import OmegaConf
from skimage.draw import disk
from skimage.measure import label as components
from skimage.measure import regionprops

from medexp.core.types import Annotation
from medexp.data.derive.components import Components
from medexp.data.derive.derived import Derived
from medexp.data.sources.class_masks import ClassMasks
from medexp.losses.cross_entropy import CrossEntropy
from medexp.tasks.classification import Classification

CONF = Path(__file__).parents[3] / "conf" / "dataset" / "liver_lung_xray.yaml"
CLASSES = {"liver": 1, "fibrosis echo": 2, "patch": 3}
N_SLICES = 12


def drawn(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A slice's mask and its patches by number: a liver, an echo in it, and patches of various size in both."""
    random = np.random.default_rng(number)
    shape = (120 + 4 * number, 150)
    mask, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    mask[disk((60, 75), 55, shape=shape)] = 1
    if number % 2:
        mask[disk((60, 75), 20, shape=shape)] = 2
    for place in range(number % 4):
        region = disk((35 + 17 * place, 50 + 20 * place), random.integers(2, 8), shape=shape)
        mask[region], instances[region] = 3, place + 1
    return mask, instances


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve slices of various size, as TIFF."""
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for folder in ("images", "masks", "instances"):
        (tmp_path / folder).mkdir()
    for number in range(N_SLICES):
        mask, instances = drawn(number)
        image = np.random.default_rng(number).normal(100.0 * mask, 10.0)
        tifffile.imwrite(tmp_path / "images" / f"slice {number + 1}.tif", image.clip(0).astype(np.uint16))
        tifffile.imwrite(tmp_path / "masks" / f"slice {number + 1}.tif", mask)
        tifffile.imwrite(tmp_path / "instances" / f"slice {number + 1}.tif", instances)
    return tmp_path


def configured(root: Path) -> ClassMasks:
    """The source as its configuration has it."""
    config = OmegaConf.create(OmegaConf.merge({"dataset": {"root": str(root)}}, OmegaConf.load(CONF)))
    knobs = OmegaConf.to_container(config, resolve=True)["source"]
    knobs.pop("_target_")
    return ClassMasks(**knobs)


def annotations(root: Path) -> list[Annotation]:
    source = configured(root)
    return [source.read(case).annotation for case in source.cases()]


def test_all_slices_are_listed_in_the_order_of_their_numbers(root: Path) -> None:
    source = configured(root)
    cases = source.cases()
    assert [case.case_id for case in cases] == [f"slice {number}" for number in range(1, N_SLICES + 1)]
    assert [case.group for case in cases] == [case.case_id for case in cases]
    assert not any(case.faults for case in cases)
    assert source.labels == {0: "background", 1: "liver", 2: "fibrosis echo", 3: "patch"}


def test_regions_are_a_mask_for_segmentation(root: Path) -> None:
    for number, annotation in enumerate(annotations(root)):
        np.testing.assert_array_equal(annotation.mask, drawn(number)[0])


def test_patches_are_boxes_for_detection(root: Path) -> None:
    for number, annotation in enumerate(annotations(root)):
        boxes = [list(region.bbox) for region in regionprops(drawn(number)[1])]
        assert annotation.objects.boxes.tolist() == boxes
        assert set(annotation.objects.labels.tolist()) <= {CLASSES["patch"]}


def test_regions_that_are_seen_are_labels_for_classification(root: Path) -> None:
    task = Classification(
        labels=configured(root).labels, loss=CrossEntropy(sigmoid=True), multi_label=True, sigmoid=True
    )
    for number, annotation in enumerate(annotations(root)):
        seen = [int(label in drawn(number)[0]) for label in (1, 2, 3)]
        assert task.sample_targets(annotation)["label"].tolist() == seen


def test_without_instance_maps_the_parts_of_a_class_are_objects(root: Path) -> None:
    for path in (root / "instances").iterdir():
        path.unlink()
    step = Components(chosen=["patch"], connectivity="corners", min_volume_mm3=0.0)
    source = Derived(source=configured(root), steps=[step])
    for number, case in enumerate(source.cases()):
        expected = regionprops(components(drawn(number)[0] == 3, connectivity=2))
        found = source.read(case).annotation.objects
        assert sorted(found.boxes.tolist()) == sorted(list(map(float, region.bbox)) for region in expected)
