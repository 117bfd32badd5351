"""What a sample of the training stream was made from can be told without making it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation, Drawn, Intensities, cut_patch
from medexp.data.cache import PreparedCases
from medexp.data.module import TrainingSamples
from medexp.data.normalisation.zscore import ZScore
from medexp.data.preprocessing import Preprocessing
from medexp.data.sampling import SampleOrder

_NAMES = ("rotation", "scale", "elastic", "noise", "blur", "contrast", "low_resolution", "gamma_inverted", "gamma")


@pytest.fixture
def samples(numpy_source, tmp_path):
    """The stream of a small dataset with every ingredient on some of the samples."""
    source = numpy_source(n_cases=3, shape=(24, 20), spacing_mm=(1.0, 3.0))
    cases = source.cases()
    preprocessing = Preprocessing(orient=False, spacing_mm=None, normalisation=ZScore())
    return TrainingSamples(
        cases=cases,
        prepared=PreparedCases(
            folder=tmp_path, source=source, preprocessing=preprocessing, identity="numpy", training=cases
        ),
        order=SampleOrder(n_cases=3, seed=5),
        patch_size=(12, 10),
        foreground_fraction=0.5,
        ignored_label=None,
        augmentation=Augmentation(
            flip_axes=[0, 1], per_channel=True, **{f"{name}_probability": 0.5 for name in _NAMES}
        ),
        sample_targets=lambda annotation: {"semantic": torch.from_numpy(annotation.mask)},
    )


def test_the_recorded_parameters_make_the_sample_again(samples):
    for number in range(12):
        record = json.loads(json.dumps(samples.parameters_of(number)))
        case_id, pixels, targets = samples[number]
        assert (record.pop("sample"), record.pop("case_id")) == (number, case_id)
        case = next(case for case in samples.cases if case.case_id == case_id)
        prepared, _ = samples.prepared.load(case)
        changes = [
            Intensities(**(change | {"blur_sigma_voxels": tuple(change["blur_sigma_voxels"])}))
            for change in record.pop("intensities")
        ]
        center, plain = record.pop("center"), {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
        again, known = cut_patch(
            prepared.pixels,
            Annotation(mask=prepared.annotation.mask),
            center=center,
            patch_size=(12, 10),
            drawn=Drawn(**plain, intensities=tuple(changes)),
            spacing_mm=(1.0, 3.0),
        )
        assert torch.equal(again, pixels)
        assert np.array_equal(known.mask, targets["semantic"].numpy())


def test_telling_the_parameters_does_not_disturb_the_stream(samples):
    before = [samples[number][1] for number in range(4)]
    for number in range(20):
        samples.parameters_of(number)
    assert all(torch.equal(samples[number][1], pixels) for number, pixels in enumerate(before))
