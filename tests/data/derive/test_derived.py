"""One annotation serves other tasks."""

from __future__ import annotations

import inspect
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from skimage.measure import label, regionprops

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data.derive.components import Components
from medexp.data.derive.derived import Derived
from medexp.data.derive.image_label import ImageLabel
from medexp.data.derive.object_mask import ObjectMask

CONF = Path(__file__).parents[3] / "conf" / "derive"
LABELS = {0: "background", 1: "organ", 2: "lesion", 5: "vessel"}


class One:
    """A source of one case with a given annotation, in voxels of 1 x 0.5 mm."""

    name, channels, public, labels = "one", ("ct",), False, LABELS

    def __init__(self, annotation: Annotation | None, shape: tuple[int, ...]) -> None:
        self.annotation, self.shape, self.spatial_dims = annotation, shape, len(shape)

    def cases(self) -> list[Case]:
        return [Case(case_id="only", group="patient", images=())]

    def read(self, case: Case) -> Image:
        geometry = Geometry.from_spacing(self.shape, (1.0, 0.5, 1.0)[: len(self.shape)])
        return Image(case, np.ones((1, *self.shape), np.float32), self.annotation, geometry)


def one_mask(mask: np.ndarray) -> One:
    return One(Annotation(mask=mask), mask.shape)


def derived(source, *steps) -> Annotation:
    whole = Derived(source=source, steps=steps)
    return whole.read(whole.cases()[0]).annotation


def components(**knobs) -> Components:
    return Components(**({"chosen": ["lesion"], "connectivity": "faces", "min_volume_mm3": 0.0} | knobs))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("connectivity", "share"), [("faces", 1), ("corners", None)])
def test_the_objects_are_the_connected_parts_of_the_chosen_labels(dims, connectivity, share):
    random = np.random.default_rng(dims)
    mask = random.choice([0, 1, 2, 5], size=(12,) * dims, p=[0.55, 0.2, 0.15, 0.1]).astype(np.uint8)
    found = derived(one_mask(mask), components(chosen=["lesion", "vessel"], connectivity=connectivity))
    expected = {
        (value, *region.bbox)
        for value in (2, 5)
        for region in regionprops(label(mask == value, connectivity=share or dims))
    }
    objects = found.objects
    assert len(objects) == len(expected)
    assert {(int(own), *map(int, box)) for own, box in zip(objects.labels, objects.boxes, strict=True)} == expected
    assert np.array_equal(found.instances > 0, np.isin(mask, (2, 5)))
    assert np.array_equal(found.mask, np.where(np.isin(mask, (2, 5)), mask, 0))


def test_parts_that_are_smaller_than_the_least_volume_are_no_objects():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[0, :2], mask[2, :3], mask[4, :4] = 2, 2, 2
    for least, kept in ((0.0, 3), (1.0, 3), (1.5, 2), (1.51, 1), (5.0, 0)):
        found = derived(one_mask(mask), components(min_volume_mm3=least))
        assert len(found.objects) == kept
        assert len(np.unique(found.mask * found.instances)) == kept + 1


def test_without_a_choice_all_labels_have_objects():
    mask = np.array([[1, 0, 2], [0, 0, 0], [5, 0, 1]], dtype=np.uint8)
    source = Derived(source=one_mask(mask), steps=[components(chosen=None)])
    assert source.labels == LABELS
    assert sorted(source.read(source.cases()[0]).annotation.objects.labels.tolist()) == [1, 1, 2, 5]


@pytest.mark.parametrize(("least", "expected"), [(1.0, 1), (1.5, 1), (1.51, 0)])
def test_an_image_is_labelled_by_the_area_of_what_is_looked_for(least, expected):
    mask = np.array([[2, 2, 0, 1], [2, 0, 0, 1]], dtype=np.uint8)  # three voxels of half a square millimetre
    found = derived(one_mask(mask), ImageLabel(present=["lesion"], min_volume_mm3=least))
    assert found.image_labels == (expected,)
    assert found.mask is None


@pytest.mark.parametrize(("present", "expected"), [(["lesion"], 1), (["organ"], 0), (None, 1)])
def test_an_image_is_labelled_by_its_objects_or_labels_where_it_has_no_mask(present, expected):
    objects = Objects.of(np.array([[0.0, 0.0, 2.0, 2.0]]), np.array([2]))
    for known in (Annotation(objects=objects), Annotation(image_labels=(2, 5))):
        source = Derived(source=One(known, (4, 4)), steps=[ImageLabel(present=present, min_volume_mm3=1.0)])
        assert source.read(source.cases()[0]).annotation.image_labels == (expected,)
    assert Derived(
        source=One(None, (4, 4)), steps=[ImageLabel(present=["organ", "vessel"], min_volume_mm3=1.0)]
    ).labels == {0: "no organ or vessel", 1: "organ or vessel"}


def test_instances_make_a_mask_of_their_labels():
    instances = np.array([[1, 1, 0], [0, 2, 3]], dtype=np.int32)
    known = Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 5, 2: 1, 3: 5}))
    found = derived(One(known, (2, 3)), ObjectMask())
    assert found.mask.tolist() == [[5, 5, 0], [0, 1, 5]]
    assert found.instances is instances


def test_boxes_make_a_weak_mask_with_the_smaller_one_on_top():
    objects = Objects.of(
        np.array([[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 4.0, 5.0], [5.0, 5.0, 5.0, 5.0]]), np.array([2, 1, 5])
    )
    found = derived(One(Annotation(objects=objects), (6, 6)), ObjectMask())
    expected = np.zeros((6, 6), dtype=int)
    expected[:4, :5] = 1
    expected[1:3, 1:3] = 2
    assert found.mask.tolist() == expected.tolist()


def test_steps_follow_each_other_and_labels_with_them():
    mask = np.zeros((6, 6), dtype=np.uint8)
    mask[0, 0], mask[3:5, 3:5] = 2, 2
    steps = [components(min_volume_mm3=1.0), ImageLabel(present=None, min_volume_mm3=0.5)]
    source = Derived(source=one_mask(mask), steps=steps)
    assert source.labels == {0: "no lesion", 1: "lesion"}
    assert source.read(source.cases()[0]).annotation.image_labels == (1,)
    smaller = Derived(source=one_mask(mask), steps=[components(min_volume_mm3=9.0), steps[1]])
    assert smaller.read(smaller.cases()[0]).annotation.image_labels == (0,)


def test_images_pass_through_and_one_without_an_annotation_stays_without():
    source = One(None, (4, 4))
    whole = Derived(source=source, steps=[components()])
    image = whole.read(whole.cases()[0])
    assert image.annotation is None
    assert np.array_equal(image.pixels, source.read(source.cases()[0]).pixels)
    assert (whole.name, whole.spatial_dims, whole.channels, whole.public) == ("one", 2, ("ct",), False)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (lambda: components(chosen=["lesoin"]), "components.chosen needs some of organ, lesion, vessel, got lesoin"),
        (lambda: components(chosen=["background"]), "components.chosen needs some of"),
        (lambda: components(chosen=[]), "components.chosen needs a list"),
        (lambda: components(connectivity="edges"), "connectivity needs faces or corners, got 'edges'"),
        (lambda: components(min_volume_mm3=-1.0), "min_volume_mm3 needs a finite value >= 0"),
        (lambda: ImageLabel(present=["lesoin"], min_volume_mm3=1.0), "image_label.present needs some of background"),
        (lambda: ImageLabel(present=[], min_volume_mm3=1.0), "image_label.present needs a list"),
        (lambda: ImageLabel(present=None, min_volume_mm3=0.0), "min_volume_mm3 needs a value above 0, got 0.0"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(step, told):
    with pytest.raises(UsageError, match=told):
        Derived(source=one_mask(np.zeros((4, 4), dtype=np.uint8)), steps=[step()])


@pytest.mark.parametrize("step", [components(), ImageLabel(present=None, min_volume_mm3=1.0), ObjectMask()])
def test_what_a_step_lacks_is_told_with_the_case(step):
    with pytest.raises(DataError, match=r"case only: it needs .* for dataset.derive=") as told:
        derived(One(Annotation(), (4, 4)), step)
    assert told.value.faults[0].check == "missing_annotation"


@pytest.mark.parametrize("name", ["components", "image_label", "object_mask"])
def test_the_option_file_lists_every_knob_of_the_step(name):
    knobs = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    module, _, class_name = knobs.pop("_target_").rpartition(".")
    step = getattr(import_module(module), class_name)(**knobs)
    assert set(knobs) == set(inspect.signature(type(step)).parameters)


def test_steps_are_named_on_the_command_line():
    config = medexp.compose(None, ["dataset=phantom_2d", "dataset.derive=[{components:{chosen:[lesion]}},image_label]"])
    first, second = config.dataset.derive
    assert first == {**OmegaConf.load(CONF / "components.yaml"), "chosen": ["lesion"]}
    assert second == OmegaConf.load(CONF / "image_label.yaml")
    with pytest.raises(UsageError, match=r"dataset.derive\[0\] is componnets: no such step; did you mean components"):
        medexp.compose(None, ["dataset.derive=[componnets]"])


def test_replaced_annotations_leave_the_source_as_it_was():
    source = one_mask(np.array([[2, 0], [0, 2]], dtype=np.uint8))
    before = replace(source.read(source.cases()[0]))
    derived(source, components(), ObjectMask())
    assert np.array_equal(source.annotation.mask, before.annotation.mask)
