"""Predictions of a recorded run: read as they were saved, or computed anew, they are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pictures import TWO, halves, image_of, predicted, with_instances, with_objects
from tiny import train_tiny

from medexp.core.errors import RecordError, UsageError
from medexp.core.record import RunFolder
from medexp.core.types import Prediction, StructureClass
from medexp.engine.evaluation import save_prediction
from medexp.engine.run import Run
from medexp.engine.run_cases import RunCases, load_prediction


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a few steps that saved its predictions."""
    runs = tmp_path_factory.mktemp("shown") / "runs"
    return train_tiny(runs, "trainer.max_steps=8", "save_predictions=true", "metrics=[dice,hd95]", "fold=1")


def _copy(run: Run, folder: Path) -> Run:
    return Run(shutil.copytree(run.path, folder / "copy"))


def test_what_was_saved_is_what_the_checkpoint_predicts(run: Run, tmp_path: Path) -> None:
    other = _copy(run, tmp_path)
    shutil.rmtree(other.folder.predictions)
    saved, anew = RunCases(run), RunCases(other)
    for case_id in run.cases["case_id"]:
        one, two = saved.read(case_id), anew.read(case_id)
        assert (one.recomputed, two.recomputed) == (False, True)
        assert np.array_equal(one.prediction.mask, two.prediction.mask)
        assert one.prediction.classes == two.prediction.classes
        assert np.array_equal(one.reference.mask, two.reference.mask)


def test_a_training_case_is_predicted_too(run: Run) -> None:
    judged = set(run.cases["case_id"])
    cases = RunCases(run)
    training = next(case.case_id for case in cases.parts.data.parts.train if case.case_id not in judged)
    found = cases.read(training)
    assert found.recomputed
    assert found.prediction.mask.shape[1:] == found.image.pixels.shape[1:]


@pytest.mark.parametrize(("metric", "worst"), [("dice", "min"), ("hd95", "max")])
def test_the_worst_case_is_that_of_the_first_metric_in_its_own_direction(
    run: Run, tmp_path: Path, metric: str, worst: str
) -> None:
    other = _copy(run, tmp_path)
    table = other.cases
    for name in [name for name in table.columns if "/" in name]:
        table[name] = np.arange(len(table), dtype=float) if name.startswith(metric) else np.nan
    table.to_csv(other.folder.cases, index=False)
    assert RunCases(other).worst() == str(table["case_id"].iloc[0 if worst == "min" else -1])


def test_an_unknown_case_is_told_with_the_nearest_ones(run: Run) -> None:
    with pytest.raises(UsageError, match=r"has no case case_001; did you mean case_000\d"):
        RunCases(run).read("case_001")


def test_without_prediction_and_checkpoint_the_remedy_is_told(run: Run, tmp_path: Path) -> None:
    other = _copy(run, tmp_path)
    shutil.rmtree(other.folder.predictions)
    shutil.rmtree(other.folder.checkpoints)
    with pytest.raises(RecordError, match="no intact last checkpoint"):
        RunCases(other).read(str(run.cases["case_id"].iloc[0]))


def test_a_run_that_judged_nothing_has_no_worst_case(run: Run, tmp_path: Path) -> None:
    other = _copy(run, tmp_path)
    RunFolder(other.path).cases.unlink()
    with pytest.raises(RecordError, match="the run has not come that far"):
        RunCases(other).worst()


def _each_kind() -> list[Prediction]:
    """A prediction of each kind, in 2D and 3D."""
    flat, deep = image_of((40, 60)), image_of((5, 6, 7), spacing=(1.0, 2.0, 3.0), unit="mm")
    mask = np.random.default_rng(0).integers(0, 3, (1, 5, 6, 7))
    regions = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(("whole", "core")))
    layers = np.random.default_rng(1).integers(0, 2, (2, 40, 60))
    overlapping = Prediction("case", "group", flat.geometry, regions, mask=layers, exclusive=False)
    return [
        predicted(deep, mask, TWO),
        overlapping,
        with_instances(flat, halves(), {1: 2, 2: 1}, TWO),
        with_objects(deep, [[0, 1, 2, 3, 4, 5.5]], [2], [0.25], TWO),
        with_objects(flat, [], [], None, TWO),
        Prediction("case", "group", flat.geometry, TWO, scores=np.array([0.125, 0.875])),
    ]


@pytest.mark.parametrize("number", range(6))
def test_a_prediction_is_read_as_it_was_written(number: int, tmp_path: Path) -> None:
    written = _each_kind()[number]
    save_prediction(written, tmp_path)
    found = load_prediction(written, tmp_path)
    assert found is not None
    for name in ("mask", "instances", "scores"):
        one, other = getattr(found, name), getattr(written, name)
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    if written.objects is not None:
        for name in ("boxes", "labels", "scores"):
            assert np.allclose(getattr(found.objects, name), getattr(written.objects, name))


def test_a_prediction_that_was_not_saved_is_none_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    shown = _each_kind()[3]
    assert load_prediction(shown, tmp_path) is None
    (file,) = save_prediction(shown, tmp_path)
    pd.read_csv(file).assign(label="bone").to_csv(file, index=False)
    with pytest.raises(RecordError, match=r"is damaged .*'bone'.*; remove it, or run again"):
        load_prediction(shown, tmp_path)
    mask = _each_kind()[0]
    (tmp_path / "case.nii.gz").write_bytes(b"nothing")
    with pytest.raises(RecordError, match="is damaged"):
        load_prediction(mask, tmp_path)
