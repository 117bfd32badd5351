"""The networks of all folds as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny import train_tiny

from medexp.cli.main import main
from medexp.core.errors import UsageError
from medexp.core.objects import Objects
from medexp.core.types import Prediction
from medexp.data.module import EvaluationCases
from medexp.engine.build import build
from medexp.engine.ensemble import averaged, judge_ensemble
from medexp.engine.run import Run, load_run

_SPLIT = ("dataset.split.n_folds=2", "dataset.split.test=0.3", "study=folds", "trainer.max_steps=4")


def _trained(runs: Path, fold: int, *overrides: str) -> Run:
    return train_tiny(runs, *_SPLIT, f"fold={fold}", *overrides)


def test_the_mean_of_the_probabilities_of_all_folds_is_judged_on_the_test_part(tmp_path: Path) -> None:
    members = [_trained(tmp_path, fold) for fold in (0, 1)]
    ensemble = judge_ensemble(members)
    assert ensemble.record.axes == {**members[0].record.axes, "fold": "ensemble"}
    assert (ensemble.record.part, ensemble.record.status.value) == ("test", "finished")

    parts = build(members[0].config)
    cases = EvaluationCases(cases=parts.data.parts.test, prepared=parts.data.prepared)
    assert len(cases) > 1
    modules = [member.module() for member in members]
    for number in range(len(cases)):
        batch = cases[number]
        soft = [module.soft_predictions(batch)[0].probabilities for module in modules]
        found = np.mean(soft, axis=0).argmax(axis=0)
        reference = parts.module.task.reference(batch)[0]
        own = ensemble.evidence.query("case_id == @reference.case_id and metric == 'dice'").set_index("label")["value"]
        for structure in reference.classes:
            wanted, got = reference.binary(structure), found == structure.value
            total = wanted.sum() + got.sum()
            dice = 2 * (wanted & got).sum() / total if total else float("nan")
            assert own[structure.name] == pytest.approx(dice, nan_ok=True)


def test_an_ensemble_of_a_cross_validation_without_a_test_part_is_refused(tmp_path: Path) -> None:
    members = [
        train_tiny(tmp_path, "dataset.split.n_folds=2", "study=folds", f"fold={fold}", "trainer.max_steps=1")
        for fold in (0, 1)
    ]
    with pytest.raises(UsageError, match=r"has no test part: .* dataset\.split\.test=0\.2"):
        judge_ensemble(members)


def test_an_ensemble_of_each_combination_of_the_other_axes_is_a_row_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss in ("dice", "focal"):
        for fold in (0, 1):
            _trained(tmp_path / "runs", fold, f"loss={loss}", "seed=1")
    monkeypatch.chdir(tmp_path)
    assert main(["ensemble", "folds"]) == 0
    assert capsys.readouterr().out.count("2 networks: dice") == 2
    assert main(["ensemble", "folds"]) == 0
    assert main(["compare", "folds", "--by", "loss", "--resamples", "200"]) == 0
    assert "4 finished runs" in capsys.readouterr().out
    assert main(["compare", "folds", "--by", "loss", "--resamples", "200", "--ensembles"]) == 0
    assert "2 finished runs" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "runs" / "folds").iterdir() if "fold=ensemble" in path.name)
    assert len(names) == 2
    assert load_run(tmp_path / "runs" / "folds" / names[0]).record.notes[0].startswith("ensemble of ")


def test_objects_have_no_mean(tmp_path: Path) -> None:
    run = _trained(tmp_path, 0)
    parts = build(run.config)
    batch = EvaluationCases(cases=parts.data.parts.test, prepared=parts.data.prepared)[0]
    found: Prediction = run.module().soft_predictions(batch)[0]
    boxes = Prediction(
        case_id=found.case_id, group=found.group, geometry=found.geometry, classes=found.classes,
        objects=Objects.none(2),
    )  # fmt: skip
    with pytest.raises(UsageError, match="predicts objects or masks"):
        averaged([boxes, boxes])
