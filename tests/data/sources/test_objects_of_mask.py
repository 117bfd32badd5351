from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from skimage.measure import label, regionprops

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data.sources.objects_of_mask import ObjectsOfMask
from medexp.data.sources.phantom import Phantom

CONF = Path(__file__).parents[3] / "conf" / "dataset" / "lesion_boxes.yaml"


class OneMask:
    """A source of one case with a given mask of labels 1 and 2, in voxels of 1 x 0.5 mm."""

    name, channels, public = "one", ("ct",), False

    def __init__(self, mask: np.ndarray) -> None:
        self.mask, self.spatial_dims = mask, mask.ndim
        self.labels = {0: "background", 1: "organ", 2: "lesion", 5: "vessel"}

    def cases(self) -> list[Case]:
        return [Case(case_id="only", group="patient", images=())]

    def read(self, case: Case) -> Image:
        geometry = Geometry.from_spacing(self.mask.shape, (1.0, 0.5, 1.0)[: self.mask.ndim])
        return Image(case, np.ones((1, *self.mask.shape), np.float32), Annotation(mask=self.mask), geometry)


def objects_of(source, **knobs) -> ObjectsOfMask:
    given = {"chosen": ["lesion"], "connectivity": "faces", "min_volume_mm3": 0.0, "keep_mask": False}
    return ObjectsOfMask(source=source, **(given | knobs))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("connectivity", "share"), [("faces", 1), ("corners", None)])
def test_the_boxes_are_those_of_the_connected_parts(dims, connectivity, share):
    random = np.random.default_rng(dims)
    mask = random.choice([0, 1, 2, 5], size=(12,) * dims, p=[0.55, 0.2, 0.15, 0.1]).astype(np.uint8)
    source = objects_of(OneMask(mask), chosen=["lesion", "vessel"], connectivity=connectivity)
    objects = source.read(source.cases()[0]).annotation.objects
    expected = {
        (value, *region.bbox)
        for value in (2, 5)
        for region in regionprops(label(mask == value, connectivity=share or dims))
    }
    assert len(objects) == len(expected)
    assert {(int(own), *map(int, box)) for own, box in zip(objects.labels, objects.boxes, strict=True)} == expected


def test_parts_that_are_smaller_than_the_least_volume_are_no_objects():
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[0, :2], mask[2, :3], mask[4, :4] = 2, 2, 2
    for least, kept in ((0.0, 3), (1.0, 3), (1.5, 2), (1.51, 1), (5.0, 0)):
        source = objects_of(OneMask(mask), min_volume_mm3=least)
        assert len(source.read(source.cases()[0]).annotation.objects) == kept


def test_a_mask_is_dropped_or_holds_the_objects_alone():
    mask = np.array([[2, 2, 0, 1], [0, 0, 0, 1], [2, 0, 0, 5]], dtype=np.uint8)
    source = objects_of(OneMask(mask))
    assert source.read(source.cases()[0]).annotation.mask is None
    kept = objects_of(OneMask(mask), keep_mask=True, min_volume_mm3=1.0)
    annotation = kept.read(kept.cases()[0]).annotation
    assert annotation.mask.tolist() == [[2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_images_pass_through_and_the_labels_are_the_chosen_ones(tmp_path):
    phantom = Phantom(
        cache_dir=tmp_path, spatial_dims=2, n_cases=6, shape=(32, 32), spacing_mm=(1.0, 1.0), lesion_free=0.5
    )
    source = objects_of(phantom)
    assert (source.spatial_dims, source.channels, source.public) == (2, phantom.channels, True)
    assert source.labels == {0: "background", 2: "lesion"}
    counts = []
    for case in source.cases():
        image, plain = source.read(case), phantom.read(case)
        assert np.array_equal(image.pixels, plain.pixels)
        counts.append(len(image.annotation.objects))
        assert (counts[-1] == 0) == (not (plain.annotation.mask == 2).any())
    assert min(counts) == 0 < max(counts)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"chosen": ["lesoin"]}, "chosen needs a list of some of organ, lesion, vessel, got"),
        ({"chosen": []}, "chosen needs a list"),
        ({"chosen": ["background"]}, "chosen needs a list"),
        ({"connectivity": "edges"}, "connectivity needs faces or corners, got 'edges'"),
        ({"min_volume_mm3": -1.0}, "min_volume_mm3 needs a finite value >= 0"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(knobs, told):
    with pytest.raises(UsageError, match=told):
        objects_of(OneMask(np.zeros((4, 4), dtype=np.uint8)), **knobs)


def test_a_case_without_a_mask_is_told():
    class Bare(OneMask):
        def read(self, case: Case) -> Image:
            return replace(super().read(case), annotation=Annotation())

    source = objects_of(Bare(np.zeros((4, 4), dtype=np.uint8)))
    with pytest.raises(DataError, match="case only has no mask that boxes could be made of"):
        source.read(source.cases()[0])


def test_the_option_file_lists_every_knob():
    knobs = OmegaConf.to_container(OmegaConf.load(CONF).source, resolve=False)
    assert set(knobs) - {"_target_"} == set(inspect.signature(ObjectsOfMask).parameters)
    assert set(knobs["source"]) - {"_target_"} == set(inspect.signature(Phantom).parameters)
