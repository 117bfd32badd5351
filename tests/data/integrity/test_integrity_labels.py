from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from integrity_examples import boxes, case, demands, image, names, noise, square, told
from scipy import ndimage

from medexp.core.faults import Severity
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Image
from medexp.data.integrity import labels
from medexp.data.integrity.measurement import measure

SHAPE = (8, 9)


def instances(*places: tuple[slice, slice], shape: tuple[int, ...] = SHAPE, dtype: type = np.int32) -> np.ndarray:
    ids = np.zeros(shape, dtype=dtype)
    for number, place in enumerate(places, start=1):
        ids[place] = number
    return ids


def objects_of(ids: np.ndarray) -> Objects:
    return Objects.of_instances(ids, dict.fromkeys(range(1, int(ids.max()) + 1), 1))


def test_an_image_alone_is_told() -> None:
    read = image()
    alone = Image(case=read.case, pixels=read.pixels, annotation=None, geometry=read.geometry)
    for one in (alone, Image(read.case, read.pixels, Annotation(), read.geometry)):
        (fault,) = told(labels.unannotated, one)
        assert (fault.check, fault.severity) == ("unannotated", Severity.ERROR)
    assert told(labels.unannotated, read) == []


@pytest.mark.parametrize(
    "annotation", [{"mask": square(SHAPE, 7)}, {"objects": boxes([1, 1, 3, 3], label=7)}, {"image_labels": (1, 7)}]
)
def test_an_undeclared_label_is_told_wherever_it_stands(annotation: dict) -> None:
    (fault,) = told(labels.undeclared_labels, image(**annotation))
    assert (fault.check, fault.severity) == ("undeclared_label", Severity.ERROR)
    assert "0, 1, 2" in fault.expected
    assert fault.found.startswith("also 7")


def test_the_voxels_of_undeclared_labels_are_counted_and_their_file_is_named() -> None:
    (fault,) = told(labels.undeclared_labels, image(mask=square(SHAPE, 7).astype(np.int32) * -1))
    assert fault.found == "also -7 (9 voxels)"
    assert fault.file == Path("a_mask.nii.gz")


def test_many_undeclared_labels_are_shortened() -> None:
    (fault,) = told(labels.undeclared_labels, image(mask=np.arange(72, dtype=np.uint8).reshape(SHAPE)))
    assert fault.found == "also 3, 4, 5, 6, 7, ... (69 voxels)"


def test_a_label_of_what_nobody_annotated_need_not_be_declared() -> None:
    assert told(labels.undeclared_labels, image(mask=square(SHAPE, 255)), demands(ignored_label=255)) == []


def test_a_mask_saved_to_be_looked_at_is_recognised() -> None:
    (black_white,) = told(labels.undeclared_labels, image(mask=square(SHAPE, 255)))
    assert "0 and 255: save it as 0 and 1" in black_white.remedy
    grey = square(SHAPE, 127)
    grey[5:7, 5:7] = 255
    (stretched,) = told(labels.undeclared_labels, image(mask=grey))
    assert "grey levels: save them as 0, 1, 2" in stretched.remedy


def test_a_mask_without_foreground_is_a_warning() -> None:
    (fault,) = told(labels.empty_label, image(mask=square(SHAPE, 0)))
    assert (fault.check, fault.severity) == ("empty_label", Severity.WARNING)
    assert "dataset.checks={empty_label:ignore}" in fault.remedy
    assert names(told(labels.empty_label, image(mask=square(SHAPE, 2)), demands(ignored_label=2))) == ["empty_label"]
    assert told(labels.empty_label, image()) == []


def test_objects_that_are_known_to_be_none_are_another_check_than_an_empty_mask() -> None:
    none = Objects.none(2)
    assert names(told(labels.empty_label, image(objects=none))) == ["no_objects"]
    assert names(told(labels.empty_label, image(objects=none, mask=square(SHAPE, 0)))) == ["no_objects"]
    assert told(labels.empty_label, image(objects=boxes([1, 1, 3, 3]))) == []


def test_instances_in_order_have_no_fault() -> None:
    ids = instances(np.s_[0:2, 0:2], np.s_[3:5, 3:5])
    read = image(instances=ids, objects=objects_of(ids))
    assert told(labels.instance_ids, read) == []
    assert told(labels.disconnected_instances, read) == []


def test_more_objects_than_the_data_type_of_the_map_holds_are_told() -> None:
    places = [np.s_[2 * (n // 20) : 2 * (n // 20) + 1, 2 * (n % 20) : 2 * (n % 20) + 1] for n in range(300)]
    ids = instances(*places, shape=(40, 40))
    whole = objects_of(ids)
    beyond = image(noise(1, 40, 40), instances=ids.astype(np.uint8), objects=whole)
    (fault,) = told(labels.instance_ids, beyond)
    assert (fault.check, fault.severity) == ("instance_ids", Severity.ERROR)
    assert "1 to 300" in fault.expected
    assert "data type ends at 255" in fault.found
    assert told(labels.instance_ids, image(noise(1, 40, 40), instances=ids, objects=whole)) == []


def test_ids_that_began_again_in_the_file_are_told_by_their_last_one() -> None:
    ids = np.zeros((40, 40), dtype=np.int32)
    for n in range(300):  # as uint8 holds them, without 0
        ids[2 * (n // 20), 2 * (n % 20)] = n % 255 + 1
    (fault,) = told(labels.instance_ids, image(noise(1, 40, 40), instances=ids, objects=objects_of(ids)))
    assert "ids that end at 255, the last of 8 bits, 45 of them on several parts" in fault.found


def test_gaps_between_ids_are_told() -> None:
    ids = instances(np.s_[0:2, 0:2], np.s_[3:5, 3:5])
    ids[ids == 2] = 3
    (fault,) = told(labels.instance_ids, image(instances=ids, objects=boxes([0, 0, 2, 2], [3, 3, 5, 5])))
    assert fault.found == "2 ids from 0 to 3"


@pytest.mark.parametrize("shape", [(12, 13), (7, 8, 9)])
def test_ids_on_several_parts_are_those_that_scipy_finds(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    ids = random.choice(np.array([0, 1, 2, 3, 4], dtype=np.int32), p=[0.9, 0.04, 0.03, 0.02, 0.01], size=shape)
    ids[0:1] = 0
    ids[(0,) * len(shape)] = 5  # in one piece, since the first plane is empty but for it
    every = np.ones((3,) * len(shape))
    expected = [k for k in range(1, 6) if ndimage.label(ids == k, structure=every)[1] > 1]
    read = image(noise(1, *shape), instances=ids, objects=objects_of(ids))
    assert list(measure(read).instances.in_parts) == expected
    assert 5 not in expected
    (fault,) = told(labels.disconnected_instances, read)
    assert (fault.check, fault.severity) == ("disconnected_instance", Severity.WARNING)
    assert f"{len(expected)} in several" in fault.found


def test_parts_that_touch_at_a_corner_are_one_piece() -> None:
    ids = np.zeros(SHAPE, dtype=np.int32)
    ids[1, 1] = ids[2, 2] = 1
    assert told(labels.disconnected_instances, image(instances=ids, objects=objects_of(ids))) == []


@pytest.mark.parametrize(("low", "high"), [(0, 3), (0, 60_000), (-5, 5), (0, 3_000_000)])
def test_voxels_of_each_label_are_counted_as_numpy_counts_them(low: int, high: int) -> None:
    mask = np.random.default_rng(0).integers(low, high, size=(300, 200), dtype=np.int32)
    ids, counts = np.unique(mask, return_counts=True)
    assert dict(measure(image(noise(1, 300, 200), mask=mask)).mask.voxels) == dict(zip(ids, counts, strict=True))


def test_the_annotations_own_file_is_named_for_instances() -> None:
    ids = instances(np.s_[0:2, 0:2])
    ids[6, 6] = 1
    of = case(references={"mask": Path("m.png"), "instances": Path("i.png")})
    (fault,) = told(labels.disconnected_instances, image(instances=ids, objects=objects_of(ids), of=of))
    assert fault.file == Path("i.png")


@pytest.mark.parametrize("name", ["mask.jpg", "mask.JPEG"])
@pytest.mark.parametrize("layer", ["mask", "instances"])
def test_a_mask_that_was_read_from_a_jpeg_is_told(name: str, layer: str) -> None:
    (fault,) = told(labels.lossy_mask, image(of=case(references={layer: Path(name)})))
    assert (fault.check, fault.severity, fault.file) == ("lossy_mask", Severity.ERROR, Path(name))
    assert "PNG" in fault.remedy


def test_an_image_that_is_a_jpeg_has_no_fault() -> None:
    assert told(labels.lossy_mask, image(of=case(images=(Path("a.jpg"),)))) == []
