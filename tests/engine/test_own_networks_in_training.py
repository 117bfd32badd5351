"""medexp's own networks through a whole run."""

from pathlib import Path

import pytest
from tiny import tiny

import medexp
from medexp.core.errors import MedexpError

_SEQUENCES = (
    "dataset=phantom_sequence",
    "dataset.source.shape=[16,16,3]",
    "dataset.source.spacing_mm=[1.0,1.0,1.0]",
    "dataset.patch_size=[16,16,3]",
)
_LEVELS = ("model.filters=[4,8,8]", "model.strides=[1,2,2]", "model.kernel_size=[3,3,3]", "trainer.max_epochs=1")


def _train(runs: Path, *overrides: str) -> medexp.engine.run.Run:
    words = [
        word
        for word in tiny(runs, *_LEVELS, *overrides)
        if not word.startswith(("model.channels", "model.num_res_units", "model.strides=[2]"))
    ]
    return medexp.train(medexp.compose(None, words))


@pytest.mark.parametrize(
    "knobs",
    [
        ("model=convrnn_unet", *_SEQUENCES),
        ("model=cnn_unet", "model.kernel_shape=disk", "model.pooling=average"),
        ("model=r2unet", "dataset.batch_size=2"),
        ("model=bcdunet", "dataset.batch_size=2"),
    ],
    ids=lambda knobs: knobs[0],
)
def test_it_trains_with_deep_supervision_and_is_evaluated(tmp_path: Path, knobs: tuple[str, ...]) -> None:
    run = _train(tmp_path / "runs", "model.deep_supervision_levels=1", *knobs)
    assert "mean" in run.results["dice"]
    assert {"train/dice", "train/cross_entropy"} <= set(run.history.columns)


def test_a_patch_of_slices_is_divided_in_the_plane_alone(tmp_path: Path) -> None:
    with pytest.raises(MedexpError, match=r"got \(18, 16, 3\); the nearest is dataset.patch_size=\[20,16,3\]"):
        _train(tmp_path / "runs", "model=convrnn_unet", *_SEQUENCES[:-1], "dataset.patch_size=[18,16,3]")
