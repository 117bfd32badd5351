"""Networks and tasks in their other forms, through a whole run."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import MedexpError


def _volumes(*more: str) -> tuple[str, ...]:
    return (
        "dataset=phantom_3d",
        "dataset.source.shape=[16,16,16]",
        "dataset.source.spacing_mm=[1.0,1.0,2.0]",
        "dataset.patch_size=[16,16,16]",
        "trainer.max_epochs=2",
        *more,
    )


def _without_unet_knobs(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith(("model.channels", "model.num_res_units"))]


def test_dynunet_with_deep_supervision_trains_in_3d_and_sums_its_levels(tmp_path: Path) -> None:
    knobs = _volumes(
        "model=dynunet",
        "model.filters=[4,8,8]",
        "model.strides=[1,2,2]",
        "model.kernel_size=[3,3,3]",
        "model.deep_supervision_levels=1",
    )
    run = medexp.train(medexp.compose(None, _without_unet_knobs(tiny(tmp_path / "runs", *knobs))))
    assert set(run.results["dice"]) == {"organ", "lesion", "mean"}
    assert {"train/dice", "train/cross_entropy"} <= set(run.history.columns)


def test_several_channels_reach_the_network(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", "dataset.source.n_channels=3", "trainer.max_epochs=1")
    first = next(iter(run.module().model.parameters()))
    assert first.shape[1] == 3


def test_a_patch_that_does_not_fit_the_network_is_told_before_anything_is_recorded(tmp_path: Path) -> None:
    knobs = ("dataset.patch_size=[30,30]", "model.channels=[4,8,8]", "model.strides=[2,2]")
    with pytest.raises(MedexpError, match=r"got \(30, 30\); the nearest is dataset.patch_size=\[32,32\]"):
        train_tiny(tmp_path / "runs", *knobs)
    assert not list((tmp_path / "runs").glob("*/*/run.json"))


def test_training_overfits_one_case(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "dataset.source.n_cases=2",
        "dataset.split.n_folds=2",
        "dataset.source.lesion_free=0.0",
        "model.channels=[8,16]",
        "optimizer.lr=0.02",
        "trainer.max_epochs=150",
    )
    module = run.module()
    data = medexp.engine.build.build(run.config).data
    batch = next(iter(data._evaluation(data.parts.train)))
    (prediction,), (reference,) = module.predict_cases(batch), module.task.reference(batch)
    for structure in module.task.classes:
        ours, truth = prediction.binary(structure), reference.binary(structure)
        assert 2 * np.sum(ours & truth) / (ours.sum() + truth.sum()) > 0.95, structure.name


def test_predictions_of_2d_images_are_written_with_their_spacing(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "dataset.source.spacing_mm=[0.5,2.0]",
        "save_predictions=true",
        "trainer.max_epochs=1",
    )
    stored = nib.load(next(run.folder.predictions.iterdir()))
    assert stored.shape == (32, 32)
    np.testing.assert_allclose(stored.header.get_zooms(), (0.5, 2.0))
