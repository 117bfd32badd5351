from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from medexp.core.errors import DataError, UsageError
from medexp.core.types import Annotation
from medexp.data.sources.label_of_mask import LabelOfMask
from medexp.data.sources.phantom import Phantom

CONF = Path(__file__).parents[3] / "conf" / "dataset" / "lesion_labels.yaml"


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Phantom:
    folder = tmp_path_factory.mktemp("phantoms")
    return Phantom(cache_dir=folder, spatial_dims=2, n_cases=12, shape=(32, 32), spacing_mm=(1.0, 0.5), lesion_free=0.5)


def lesion_area_mm2(phantom: Phantom, case) -> float:
    mask = phantom.read(case).annotation.mask
    return float((mask == 2).sum() * 0.5)


def test_an_image_is_labelled_by_the_area_of_what_is_looked_for(phantom):
    areas = sorted({lesion_area_mm2(phantom, case) for case in phantom.cases()} - {0.0})
    least = areas[len(areas) // 2]
    source = LabelOfMask(source=phantom, present=["lesion"], min_volume_mm3=least)
    labels = [source.read(case).annotation.image_labels for case in source.cases()]
    assert labels == [(int(lesion_area_mm2(phantom, case) >= least),) for case in phantom.cases()]
    assert set(labels) == {(0,), (1,)}


def test_the_images_are_those_of_the_source_without_their_masks(phantom):
    source = LabelOfMask(source=phantom, present=["lesion", "organ"], min_volume_mm3=1.0)
    for case in source.cases():
        labelled, image = source.read(case), phantom.read(case)
        assert np.array_equal(labelled.pixels, image.pixels)
        assert labelled.annotation.mask is None
    assert source.labels == {0: "no lesion or organ", 1: "lesion or organ"}
    assert (source.spatial_dims, source.channels, source.public) == (2, phantom.channels, True)


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"present": ["lesoin"]}, "present needs some of background, organ, lesion, got"),
        ({"present": []}, "present needs some of"),
        ({"min_volume_mm3": 0.0}, "min_volume_mm3 needs a value above 0, got 0.0"),
    ],
)
def test_knobs_that_make_no_sense_are_refused(phantom, knobs, told):
    with pytest.raises(UsageError, match=told):
        LabelOfMask(**({"source": phantom, "present": ["lesion"], "min_volume_mm3": 1.0} | knobs))


def test_a_case_without_a_mask_is_told(phantom, monkeypatch):
    source = LabelOfMask(source=phantom, present=["lesion"], min_volume_mm3=1.0)
    bare = replace(phantom.read(phantom.cases()[0]), annotation=Annotation())
    monkeypatch.setattr(phantom, "read", lambda case: bare)
    with pytest.raises(DataError, match="has no mask that could be made a label"):
        source.read(phantom.cases()[0])


def test_the_option_file_lists_every_knob_of_both_sources():
    stored = OmegaConf.load(CONF).source
    for config, source_class in ((stored, LabelOfMask), (stored.source, Phantom)):
        knobs = set(inspect.signature(source_class).parameters)
        assert set(config) - {"_target_"} == knobs
    assert stored.source.lesion_free == 0.5
