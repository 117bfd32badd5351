from __future__ import annotations

from pathlib import Path

import numpy as np
from integrity_examples import case, demands, image, names, noise, square

from medexp.core.faults import Severity
from medexp.core.types import Case
from medexp.data.integrity.across import channel_order, class_absent, equal_images
from medexp.data.integrity.measurement import Measurement, measure
from medexp.data.splits import Parts

A, B, C, D = (case(name) for name in "abcd")


def pairs(*read: tuple[Case, np.ndarray]) -> list[tuple[Case, Measurement]]:
    return [(one, measure(image(pixels, of=one))) for one, pixels in read]


def parts(train: tuple[Case, ...], val: tuple[Case, ...] = (), test: tuple[Case, ...] = ()) -> Parts:
    return Parts(train=train, val=val, test=test)


def test_distinct_images_have_no_fault_and_constant_ones_are_told_elsewhere() -> None:
    flat = np.ones((1, 8, 9), dtype=np.float32)
    assert list(equal_images(pairs((A, noise(1, 8, 9)), (B, noise(1, 8, 9, seed=1)), (C, flat), (D, flat)), None)) == []


def test_equal_images_of_one_part_are_a_warning() -> None:
    same = noise(1, 8, 9)
    (fault,) = equal_images(pairs((A, same), (B, same), (C, noise(1, 8, 9, seed=1))), parts((A, B, C)))
    assert (fault.check, fault.case_id, fault.severity) == ("equal_images", "b", Severity.WARNING)
    assert "case a in train (a.nii.gz)" in fault.found


def test_an_image_of_another_part_is_a_leak_and_the_tested_case_is_kept() -> None:
    same = noise(1, 8, 9)
    (fault,) = equal_images(pairs((A, same), (B, same)), parts((A,), (), (B,)))
    assert (fault.check, fault.case_id) == ("leaked_image", "a")
    assert "case b in test" in fault.found
    assert "in train" in fault.expected


def test_an_image_that_is_listed_twice_is_an_error() -> None:
    same, again = noise(1, 8, 9), case("b", images=A.images)
    (fault,) = equal_images(pairs((A, same), (again, same)), None)
    assert (fault.check, fault.case_id, fault.severity) == ("image_listed_twice", "b", Severity.ERROR)


def test_different_pictures_of_one_file_have_no_fault() -> None:
    slices = [case(name, images=(Path("volume.nii"),)) for name in "ab"]
    assert list(equal_images(pairs((slices[0], noise(1, 8, 9)), (slices[1], noise(1, 8, 9, seed=1))), None)) == []


def test_the_same_values_in_another_shape_are_another_image() -> None:
    values = noise(1, 8, 9)
    assert list(equal_images(pairs((A, values), (B, values.reshape(1, 9, 8))), None)) == []


def labelled(one: Case, *labels: int) -> tuple[Case, Measurement]:
    mask = square((8, 9), 0)
    mask[0, : len(labels)] = labels
    return one, measure(image(noise(1, 8, 9), of=one, mask=mask))


def test_a_class_that_a_part_lacks_is_told_with_the_parts() -> None:
    read = [labelled(A, 1, 2), labelled(B, 1), labelled(C, 1), labelled(D, 2)]
    (fault,) = class_absent(read, parts((A,), (B, D), (C,)), demands())
    assert (fault.check, fault.case_id, fault.severity) == ("class_absent", None, Severity.WARNING)
    assert "lesion (2)" in fault.expected
    assert fault.found == "no case with it in test"


def test_a_class_in_every_part_has_no_fault_and_background_and_ignored_labels_are_no_class() -> None:
    read = [labelled(A, 1), labelled(B, 1)]
    assert list(class_absent(read, parts((A,), (B,)), demands(ignored_label=2))) == []


def test_without_a_split_the_dataset_is_one_part() -> None:
    (fault,) = class_absent([labelled(A, 1)], None, demands())
    assert fault.found == "no case with it in the dataset"


def test_label_0_of_whole_images_is_a_class() -> None:
    read = [(one, measure(image(of=one, image_labels=(label,)))) for one, label in ((A, 0), (B, 1))]
    faults = list(class_absent(read, parts((A,), (B,)), demands(labels={0: "benign", 1: "malignant"})))
    assert [fault.expected.split(" in ")[0] for fault in faults] == ["benign (0)", "malignant (1)"]
    assert [fault.found for fault in faults] == ["no case with it in val", "no case with it in train"]


TWO = demands(channels=("CT", "PET"))


def two_channels(number: int, *, exchanged: bool = False) -> tuple[Case, Measurement]:
    pixels = noise(2, 20, 20, seed=number) * np.array([200, 1])[:, None, None] + np.array([-500, 3])[:, None, None]
    one = case(f"case_{number}")
    return one, measure(image(pixels[::-1] if exchanged else pixels, of=one))


def test_exchanged_channels_are_told() -> None:
    read = [two_channels(number, exchanged=number == 3) for number in range(6)]
    (fault,) = channel_order(read, TWO)
    assert (fault.check, fault.case_id, fault.severity) == ("channel_order", "case_3", Severity.WARNING)
    assert "PET, CT" in fault.found


def test_channels_in_order_few_cases_and_one_channel_have_no_fault() -> None:
    assert list(channel_order([two_channels(number) for number in range(6)], TWO)) == []
    assert list(channel_order([two_channels(number, exchanged=number == 3) for number in range(4)], TWO)) == []
    assert list(channel_order(pairs((A, noise(1, 8, 9)), (B, noise(1, 8, 9) * 99)), demands())) == []


def test_a_case_unlike_the_others_in_any_order_is_no_exchange() -> None:
    strange = case("x"), measure(image(noise(2, 20, 20) * 1e6, of=case("x")))
    assert names(list(channel_order([*(two_channels(number) for number in range(6)), strange], TWO))) == []
