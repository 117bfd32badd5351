"""Runs with loss=auto."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import UsageError
from medexp.data.fingerprint.configured import fingerprint_of
from medexp.engine.build import build
from medexp.engine.loss_choice import pin_loss, shares_of
from medexp.engine.study import Study


def chosen(runs: Path, *overrides: str):
    """Configuration with the loss in place, and the choice."""
    config = medexp.compose(None, tiny(runs, "loss=auto", *overrides))
    return config, pin_loss(config, Study(runs, config.study))


def test_the_choice_is_recorded_with_its_reason_and_the_configuration_holds_the_loss(tmp_path: Path) -> None:
    auto = train_tiny(
        tmp_path / "a", "loss=auto", "loss.imbalanced.gamma=3.0", "trainer.max_steps=1", "loss.imbalance_below=0.5"
    )
    choice = json.loads((auto.path / "loss.json").read_text())
    assert choice["option"] == "imbalanced"
    assert choice["imbalance_below"] == 0.5
    assert choice["reason"] in (auto.path / "log.txt").read_text()
    assert auto.config.loss["_target_"] == choice["loss"] == "medexp.losses.focal.Focal"
    given = medexp.compose(None, tiny(tmp_path / "b", "loss=focal", "loss.gamma=3.0"))
    assert auto.config.loss == given.loss
    assert pin_loss(given, Study(tmp_path, "given")) is None


def test_the_shares_are_those_of_the_voxels_of_all_training_cases(tmp_path: Path) -> None:
    config = medexp.compose(None, tiny(tmp_path / "runs", "dataset.source.spacing_mm=[2.0,0.5]"))
    masks = [image.annotation.mask for image in _images(config)]
    found = shares_of(fingerprint_of(config, learning=True))
    for label in (1, 2):
        count = sum(int((mask == label).sum()) for mask in masks)
        assert found.get(label, 0.0) == pytest.approx(count / sum(mask.size for mask in masks))


def _images(config):
    source = build(config).data.source
    return [source.read(case) for case in source.cases()]


def test_the_choice_is_made_once_in_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = chosen(tmp_path, "loss.imbalance_below=0")
    assert first is not None
    assert first["option"] == "several_classes"
    monkeypatch.setattr("medexp.engine.loss_choice.fingerprint_of", lambda *_, **__: pytest.fail("chosen again"))
    assert chosen(tmp_path, "loss.imbalance_below=0", "seed=1", "fold=2")[1] == first


@pytest.mark.parametrize(
    ("regions", "option"), [("{whole: [1, 2]}", "two_classes"), ("{whole: [1, 2], core: [2]}", "several_classes")]
)
def test_overlapping_regions_have_their_own_shares(tmp_path: Path, regions: str, option: str) -> None:
    config, choice = chosen(tmp_path, "task=semantic_regions", f"task.regions={regions}", "post_processing=[threshold]")
    assert choice is not None
    assert choice["option"] == option
    assert set(choice["shares"]) == set(OmegaConf.to_container(config.task.regions))
    assert choice["shares"]["whole"] > 0.01
    assert config.task.loss.loss.loss.sigmoid is True


def test_a_task_without_classes_of_voxels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="loss=auto chooses for classes of voxels, and this task has none"):
        medexp.train(
            medexp.compose(
                None,
                [
                    "dataset=lesion_labels",
                    "task=classification",
                    "loss=auto",
                    "metrics=[accuracy]",
                    "inferer=whole",
                    "post_processing=[]",
                    "model=densenet",
                    f"paths.runs={tmp_path}/runs",
                    f"paths.cache={tmp_path}/cache",
                ],
            )
        )
