from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture
from pycocotools import mask as reference

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.core.types import Image
from medexp.data.sources._coco_masks import UnfitSegmentationError, voxels_of
from medexp.data.sources.coco import COCO

# Of pycocotools with NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept:DeprecationWarning")

SHAPE = (20, 30)
CATEGORIES = [{"id": 7, "name": "cyst"}, {"id": 0, "name": "cell"}]
SQUARE = [2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0]  # x1, y1, x2, y2, ...


def image(identity: Any, name: str, shape: tuple[int, int] = SHAPE) -> dict[str, Any]:
    return {"id": identity, "file_name": name, "height": shape[0], "width": shape[1]}


def thing(identity: int, image_id: Any = 1, category: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": identity, "image_id": image_id, "category_id": category, "iscrowd": 0} | more


def write(
    root: Path,
    annotations: list[Any],
    *,
    images: list[Any] | None = None,
    categories: Any = CATEGORIES,
    file: str = "annotations.json",
) -> Path:
    """An annotation file for image a.png, or for others."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    Picture.fromarray(pixels()).save(root / "images" / "a.png")
    listed = [image(1, "a.png")] if images is None else images
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / file).write_text(json.dumps(content), encoding="utf-8")
    return root


def pixels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)


def read_first(root: Path, **knobs: Any) -> Image:
    source = COCO(root=root, **knobs)
    return source.read(source.cases()[0])


def checks(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """The checks that fail at listing, by case."""
    return {case.case_id: [fault.check for fault in case.faults] for case in COCO(root=root, **knobs).cases()}


def rasterised(segmentation: Any, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """What pycocotools makes of a segmentation."""
    if isinstance(segmentation, list):
        return reference.decode(reference.merge(reference.frPyObjects(segmentation, *shape))).astype(bool)
    if isinstance(segmentation["counts"], list):
        return reference.decode(reference.frPyObjects(segmentation, *shape)).astype(bool)
    return reference.decode(segmentation).astype(bool)


def encoded(mask: np.ndarray, *, compressed: bool) -> dict[str, Any]:
    """A mask as pycocotools compresses it, or its runs."""
    if compressed:
        rle = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
        return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
    down = np.concatenate([[0], mask.astype(np.int8).ravel(order="F")])
    changes = np.flatnonzero(np.diff(down)).tolist()
    ends = [*changes, mask.size]
    return {"size": list(mask.shape), "counts": np.diff([0, *ends]).tolist()}


@pytest.mark.parametrize("seed", range(4))
def test_polygons_cover_the_pixels_that_pycocotools_gives_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(40):
        rows, columns = (int(n) for n in rng.integers(1, 60, 2))
        limits = np.tile([columns, rows], int(rng.integers(3, 9)))
        draw = [rng.uniform(-1, limits + 1), rng.integers(0, limits + 1), np.round(rng.uniform(0, limits), 1)]
        polygons = [draw[int(rng.integers(3))].astype(float).tolist() for _ in range(int(rng.integers(1, 4)))]
        found = np.zeros((rows, columns), bool)
        found.reshape(-1)[voxels_of(polygons, (rows, columns))] = True
        np.testing.assert_array_equal(found, rasterised(polygons, (rows, columns)))


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_runs_cover_the_pixels_that_pycocotools_gives_them(share: float, compressed: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        shape = tuple(int(n) for n in rng.integers(1, 60, 2))
        rle = encoded(rng.random(shape) < share, compressed=compressed)
        np.testing.assert_array_equal(voxels_of(rle, shape), np.flatnonzero(rasterised(rle, shape)))


@pytest.mark.parametrize(
    "segmentation",
    [
        5,
        [],
        [[]],
        [[1.0, 2.0, 3.0, 4.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]],
        [[1.0, 2.0, 3.0, 4.0, "5", 6.0]],
        [[1.0, 2.0, 3.0, 4.0, True, 6.0]],
        [[1.0, 2.0, 3.0, 4.0, float("nan"), 6.0]],
        [[1.0, 2.0, 3.0, 4.0, 10**400, 6.0]],
        [[1.0, 2.0, 3.0, 4.0, 32.0, 6.0]],
        [[1.0, 2.0, 3.0, 4.0, 5.0, -1.5]],
        [SQUARE, 3],
        {},
        {"size": [30, 20], "counts": [600]},
        {"size": 5, "counts": [600]},
        {"size": [20, 30], "counts": [599]},
        {"size": [20, 30], "counts": [-1, 601]},
        {"size": [20, 30], "counts": [300.0, 300.0]},
        {"size": [20, 30], "counts": [10**30]},
        {"size": [20, 30], "counts": None},
        {"size": [20, 30], "counts": ""},
        {"size": [20, 30], "counts": "P"},
        {"size": [20, 30], "counts": "é\ud800"},
        {"size": [20, 30], "counts": "oooooooooooooooooooooooo0"},
    ],
)
def test_a_segmentation_that_does_not_fit_is_refused(segmentation: Any) -> None:
    with pytest.raises(UnfitSegmentationError):
        voxels_of(segmentation, SHAPE)


def test_masks_give_instances_with_labels_and_the_boxes_of_the_file(tmp_path: Path) -> None:
    other = encoded(np.pad(np.ones((4, 5), bool), ((12, 4), (20, 5))), compressed=True)
    root = write(
        tmp_path,
        [
            thing(1, category=7, bbox=[2.0, 3.0, 6.5, 6.0], segmentation=[SQUARE]),
            thing(2, category=0, segmentation=other),
        ],
    )
    read = read_first(root)
    expected = rasterised([SQUARE]) + 2 * rasterised(other).astype(int)
    np.testing.assert_array_equal(read.annotation.instances, expected)
    np.testing.assert_array_equal(read.annotation.mask, np.array([0, 2, 1])[expected])
    assert read.annotation.objects.labels.tolist() == [2, 1]
    assert read.annotation.objects.boxes.tolist() == [[3, 2, 9, 8.5], [12, 20, 16, 25]]
    assert COCO(root=root).labels == {0: "background", 1: "cell", 2: "cyst"}
    np.testing.assert_array_equal(read.pixels, np.moveaxis(pixels(), -1, 0))


def test_boxes_alone_give_objects(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, bbox=[2, 3, 6, 4], segmentation=[]), thing(2, category=7, bbox=[0, 0, 30, 20])])
    annotation = read_first(root).annotation
    assert annotation.objects.boxes.tolist() == [[3, 2, 7, 8], [0, 0, 20, 30]]
    assert annotation.objects.labels.tolist() == [1, 2]
    assert annotation.mask is None
    assert annotation.instances is None


def test_a_box_of_zero_size_is_given_as_it_is(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, bbox=[5, 6, 0, 0])])
    assert read_first(root).annotation.objects.boxes.tolist() == [[6, 5, 6, 5]]


@pytest.mark.parametrize("masks", ["auto", "use", "ignore"])
def test_an_image_without_annotations_has_no_objects(tmp_path: Path, masks: str) -> None:
    root = write(tmp_path, [thing(1, image_id=2, segmentation=[SQUARE], bbox=[2, 3, 6, 6])], images=[image(1, "a.png")])
    annotation = read_first(root, masks=masks).annotation
    assert annotation.objects.boxes.shape == (0, 4)
    assert masks == "ignore" or not annotation.instances.any()


def test_crowds_are_left_out(tmp_path: Path) -> None:
    crowd = encoded(np.ones(SHAPE, bool), compressed=False)
    root = write(tmp_path, [thing(1, iscrowd=1, segmentation=crowd), thing(2, segmentation=[SQUARE])])
    annotation = read_first(root).annotation
    np.testing.assert_array_equal(annotation.instances, rasterised([SQUARE]))
    assert len(annotation.objects) == 1


def test_where_masks_overlap_the_smaller_lies_on_top_and_much_overlap_is_told(tmp_path: Path) -> None:
    large = encoded(np.ones(SHAPE, bool), compressed=False)
    root = write(tmp_path, [thing(1, segmentation=[SQUARE]), thing(2, segmentation=large)])
    read = read_first(root)
    np.testing.assert_array_equal(read.annotation.instances, np.where(rasterised([SQUARE]), 1, 2))
    (fault,) = read.case.faults
    assert (fault.check, fault.severity, fault.case_id) == ("overlapping_objects", Severity.WARNING, "a")
    assert read_first(root, max_overlap=1.0).case.faults == ()


def test_an_object_without_voxels_of_its_own_is_left_out_and_told(tmp_path: Path) -> None:
    speck = [4.1, 4.1, 4.2, 4.1, 4.2, 4.2]
    assert not rasterised([speck]).any()
    root = write(tmp_path, [thing(1, segmentation=[speck], bbox=[4, 4, 0.1, 0.1]), thing(2, segmentation=[SQUARE])])
    read = read_first(root)
    assert np.unique(read.annotation.instances).tolist() == [0, 1]
    assert read.annotation.objects.boxes.tolist() == [[3, 2, 9, 8]]
    assert [fault.check for fault in read.case.faults] == ["object_without_voxels"]


def test_masks_can_be_ignored(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, segmentation=[SQUARE], bbox=[2, 3, 6, 6]), thing(2, bbox=[1, 1, 2, 2])])
    annotation = read_first(root, masks="ignore").annotation
    assert annotation.instances is None
    assert len(annotation.objects) == 2
    (case,) = COCO(root=root, masks="ignore").cases()
    assert all("segmentation" not in item for item in case.facts["objects"])


@pytest.mark.parametrize(
    ("masks", "lacking"), [("auto", {"bbox": [1, 1, 2, 2]}), ("ignore", {"segmentation": [SQUARE]})]
)
def test_an_object_that_lacks_what_is_used_is_a_fault(tmp_path: Path, masks: str, lacking: dict[str, Any]) -> None:
    root = write(tmp_path, [thing(1, segmentation=[SQUARE], bbox=[2, 3, 6, 6]), thing(2, **lacking)])
    assert checks(root, masks=masks) == {"a": ["missing_label"]}


def test_given_labels_merge_and_leave_out_categories(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, category=7, bbox=[1, 1, 2, 2]), thing(2, category=0, bbox=[3, 3, 2, 2])])
    source = COCO(root=root, labels={"cyst": 5, "cell": 0})
    assert source.labels == {0: "background", 5: "cyst"}
    objects = source.read(source.cases()[0]).annotation.objects
    assert objects.labels.tolist() == [5]
    assert checks(root, labels={"cell": 1}) == {"a": ["unknown_label"]}


def test_a_file_for_each_part_prescribes_the_split_and_names_stay_apart(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write(tmp_path / part, [thing(1, bbox=[1, 1, 2, 2])], images=[image(1, "a.png"), image(2, "sub\\b.png")])
        (tmp_path / part / "images/sub").mkdir()
        name = "b.png" if part == "train" else "c.png"
        write(tmp_path / part, [], images=[image(1, "a.png"), image(2, f"sub/{name}")])
        Picture.fromarray(pixels()).save(tmp_path / part / f"images/sub/{name}")
    source = COCO(
        root=tmp_path,
        annotation_files={"val": "val/annotations.json", "train": "train/annotations.json"},
        image_folder={"train": "train/images", "val": "val/images"},
    )
    assert [(case.case_id, case.split, case.faults) for case in source.cases()] == [
        ("train__a", "train", ()),
        ("sub__b", "train", ()),
        ("val__a", "val", ()),
        ("sub__c", "val", ()),
    ]


def test_what_is_wrong_with_entries_is_told_with_their_cases(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / "images").mkdir(exist_ok=True)
        Picture.fromarray(pixels()).save(tmp_path / f"images/{name}.png")
    images = [image(n, f"{name}.png") for n, name in enumerate("abcd", start=1)]
    images += [image(9, "e.png"), image(9, "f.png"), image(10, "gone.png"), image(11, "../a.png"), {"id": 12}]
    box = {"bbox": [1, 1, 2, 2]}
    root = write(
        tmp_path,
        [
            thing(1, 1, **box),
            thing(1, 2, **box),
            thing(2, 3, category=99, **box),
            thing(3, 4),
            thing(4, 4, bbox=[1, 2, 3]),
            thing(5, 4, bbox=[1, 2, 3, float("nan")]),
            thing(6, 77, **box),
            thing(7, 77, **box),
        ],
        images=[*images, image(13, "a.png", (0, 5))],
    )
    told = [(case.case_id, [fault.check for fault in case.faults]) for case in COCO(root=root).cases()]
    assert told == [
        ("a", []),
        ("b", ["duplicate_id"]),
        ("c", ["unknown_label"]),
        ("d", ["malformed_object", "missing_label"]),
        ("e", ["duplicate_id"]),
        ("f", ["duplicate_id"]),
        ("gone", ["missing_image"]),
        ("image_11", ["path_traversal"]),
        ("image_12", ["path_traversal"]),
        ("a", ["malformed_object"]),
        ("image_77", ["missing_image"]),
    ]
    for case in COCO(root=root).cases():
        if case.faults:
            with pytest.raises(DataError, match=f"case {case.case_id}"):
                COCO(root=root).read(case)


def test_many_faults_of_a_kind_are_one_with_examples(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(n, category=99, bbox=[1, 1, 2, 2]) for n in range(50)])
    (fault,) = COCO(root=root).cases()[0].faults
    assert fault.found.endswith("and 47 more")


def test_all_unfit_segmentations_of_an_image_are_told_together(tmp_path: Path) -> None:
    outside = [[25.0, 3.0, 40.0, 3.0, 40.0, 9.0]]
    root = write(
        tmp_path, [thing(1, segmentation=outside), thing(2, segmentation=[SQUARE]), thing(3, segmentation=[[1]])]
    )
    with pytest.raises(DataError, match="case a") as caught:
        read_first(root)
    assert [fault.check for fault in caught.value.faults] == ["unfit_segmentation"] * 2
    assert "x=40" in str(caught.value)


def test_another_size_of_the_image_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, [], images=[image(1, "a.png", (30, 20))])
    with pytest.raises(DataError, match="case a") as caught:
        read_first(root)
    assert [fault.check for fault in caught.value.faults] == ["shape_mismatch"]


def test_a_size_that_is_not_given_is_not_compared(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, bbox=[1, 1, 2, 2])], images=[{"id": 1, "file_name": "a.png"}])
    assert len(read_first(root).annotation.objects) == 1


def test_a_case_is_read_without_the_annotation_file_and_by_another_process(tmp_path: Path) -> None:
    root = write(tmp_path, [thing(1, segmentation=[SQUARE])])
    source = COCO(root=root)
    (case,) = source.cases()
    (root / "annotations.json").unlink()
    read = pickle.loads(pickle.dumps(source)).read(pickle.loads(pickle.dumps(case)))
    np.testing.assert_array_equal(read.annotation.instances, rasterised([SQUARE]))


def test_what_the_file_says_is_part_of_a_cases_content(tmp_path: Path) -> None:
    (before,) = COCO(root=write(tmp_path, [thing(1, segmentation=[SQUARE])])).cases()
    (after,) = COCO(root=write(tmp_path, [thing(1, segmentation=[[*SQUARE[:-1], 10.0]])])).cases()
    assert before.facts != after.facts
    assert json.loads(json.dumps(dict(before.facts))) == before.facts


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "JSON"),
        ("[]", "JSON object"),
        ("[" * 100_000, "JSON"),
        ('{"images": [], "annotations": []}', "'categories'"),
        ('{"images": {}, "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "'images'"),
        ('{"images": [], "annotations": [3], "categories": [{"id": 1, "name": "a"}]}', "'annotations'"),
        ('{"images": [], "annotations": [], "categories": []}', "categories with"),
        ('{"images": [], "annotations": [], "categories": [{"id": "1", "name": "a"}]}', "categories with"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}', "twice"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "annotations.json").write_text(content)
    with pytest.raises(DataError, match=message):
        COCO(root=tmp_path).cases()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"annotations\.json") as caught:
        _ = COCO(root=tmp_path).labels
    assert caught.value.faults[0].check == "missing_file"


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, "root"),
        ({"masks": "yes"}, "masks"),
        ({"max_overlap": -0.1}, "max_overlap"),
        ({"annotation_files": {}}, "annotation_files"),
        ({"annotation_files": {"training": "a.json"}}, "annotation_files"),
        ({"image_folder": {"train": "a"}}, "image_folder"),
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        COCO(**{"root": tmp_path} | knobs)


def test_the_patient_is_found_in_the_name(tmp_path: Path) -> None:
    root = write(tmp_path, [], images=[image(1, "a.png")])
    assert COCO(root=root, group_pattern="(a)").cases()[0].group == "a"
    assert checks(root, group_pattern="(b)") == {"a": ["missing_group"]}
