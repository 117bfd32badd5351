"""What is left of a judged case: evidence, tables, pictures and masks on the image's own grid."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import UsageError
from medexp.engine.evaluation import chosen_cases


@pytest.fixture
def msd_task(tmp_path: Path) -> Path:
    """Six volumes with a bright ball, stored with swapped and flipped axes and anisotropic voxels."""
    root = tmp_path / "Task99_ball"
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    affine = np.array([[0.0, 0.0, -2.0, 40.0], [1.5, 0.0, 0.0, -7.0], [0.0, -1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
    random = np.random.default_rng(0)
    training = []
    for number in range(6):
        shape = (20, 24 + number, 16)
        center = np.array(shape) / 2 + random.uniform(-2, 2, 3)
        grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
        millimetres = (grid - center) * np.array([1.5, 1.0, 2.0])
        mask = (np.linalg.norm(millimetres, axis=-1) < 8).astype(np.uint8)
        image = mask * 2.0 + random.normal(0, 0.3, shape)
        name = f"ball_{number:03d}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), root / "imagesTr" / name)
        nib.save(nib.Nifti1Image(mask, affine), root / "labelsTr" / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    labels = {"0": "background", "1": "ball"}
    content = {"name": "Ball", "modality": {"0": "CT"}, "labels": labels, "training": training}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def _knobs(root: Path) -> tuple[str, ...]:
    return (
        "dataset=msd",
        f"dataset.root={root.as_posix()!r}",
        "dataset.patch_size=[16,16,16]",
        "dataset.batch_size=2",
        "dataset.split.n_folds=3",
        "dataset.preprocessing.orient=true",
        "dataset.preprocessing.spacing_mm=[2.0,2.0,2.0]",
        "optimizer.lr=0.02",
        "trainer.max_epochs=25",
        "save_predictions=true",
        "overlays=2",
    )


def _train(runs: Path, root: Path, *more: str) -> medexp.engine.run.Run:
    without_phantom = [item for item in tiny(runs, *_knobs(root), *more) if not item.startswith("dataset.source.")]
    return medexp.train(medexp.compose(None, without_phantom))


def test_predictions_lie_on_the_images_own_grid_and_the_scores_are_theirs(tmp_path: Path, msd_task: Path) -> None:
    run = _train(tmp_path / "runs", msd_task)
    cases = run.cases.set_index("case_id")
    assert len(cases) == 2
    for case_id, row in cases.iterrows():
        prediction = nib.load(run.folder.predictions / f"{case_id}.nii.gz")
        reference = nib.load(msd_task / "labelsTr" / f"{case_id}.nii.gz")
        assert prediction.shape == reference.shape
        np.testing.assert_allclose(prediction.affine, reference.affine, atol=1e-6)
        ours, truth = (np.asarray(image.dataobj) == 1 for image in (prediction, reference))
        dice = 2 * np.sum(ours & truth) / (np.sum(ours) + np.sum(truth))
        assert row["dice/ball"] == pytest.approx(dice, abs=1e-9)
        # A prediction flipped or shifted by the undoing of the grid would not cover the ball.
        assert dice > 0.8


def test_results_are_aggregates_of_the_evidence(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", "metrics=[dice,volume_difference]", "trainer.max_epochs=1")
    evidence = run.evidence
    assert set(evidence["part"]) == {"val"}
    assert set(evidence["metric"]) == set(run.results) == {"dice", "volume_difference_ml"}
    for (metric, label), rows in evidence.groupby(["metric", "label"]):
        mean = rows["value"].mean()
        stored = run.results[metric][label]
        assert (stored is None) == pd.isna(mean)
        assert stored is None or stored == pytest.approx(mean, abs=1e-12)
    assert set(run.record.metrics) == set(run.results)


def test_overlays_are_drawn_for_as_many_cases_as_asked_for(tmp_path: Path) -> None:
    run = train_tiny(tmp_path / "runs", "trainer.max_epochs=1", "overlays=2")
    names = {path.name for path in run.folder.overlays.iterdir()}
    ids = sorted(run.cases["case_id"])
    assert names == {f"{case_id}_{kind}.png" for case_id in ids for kind in ("contour", "fill")}


def test_chosen_cases_are_spread_over_the_ids_or_named() -> None:
    ids = [f"case_{number}" for number in range(9)]
    assert chosen_cases(3, ids) == ["case_0", "case_4", "case_8"]
    assert chosen_cases(0, ids) == []
    assert chosen_cases(20, ids) == ids
    assert chosen_cases(["case_7"], ids) == ["case_7"]
    with pytest.raises(UsageError, match="did you mean case_8"):
        chosen_cases(["case_88"], ids)


def test_a_chain_that_does_not_fit_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    config = medexp.compose(None, tiny(tmp_path / "runs", "post_processing=[keep_largest]"))
    with pytest.raises(UsageError, match=r"takes mask.*argmax"):
        medexp.train(config)
    assert not list((tmp_path / "runs").glob("*/*/run.json"))


def test_overlapping_regions_are_trained_and_judged_by_region(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "task=semantic_regions",
        "task.regions={whole:[1,2],lesion:[2]}",
        "post_processing=[threshold,keep_largest]",
        "trainer.max_epochs=12",
        "optimizer.lr=0.02",
        "model.channels=[8,16]",
        "save_predictions=true",
    )
    assert set(run.results["dice"]) == {"whole", "lesion", "mean"}
    assert (run.results["dice"]["whole"] or 0) > 0.4
    stored = nib.load(next(run.folder.predictions.iterdir()))
    assert stored.shape == (32, 32, 2)


_OWN_SPLIT = """
from medexp.data.splits import KFold, Parts


class WithTest(KFold):
    def __call__(self, cases, *, fold):
        parts = super().__call__(cases[2:], fold=fold)
        return Parts(train=parts.train, val=parts.val, test=tuple(cases[:2]))
"""


def test_where_there_is_a_test_part_the_best_checkpoint_is_chosen_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_split.py").write_text(_OWN_SPLIT)
    run = train_tiny(
        tmp_path / "runs",
        "dataset.split._target_=own_split.WithTest",
        "dataset.split.n_folds=3",
        "trainer.max_epochs=2",
        "trainer.validate_every_epochs=1",
        "trainer.checkpoint=best",
        "trainer.checkpoints.keep_best=true",
    )
    assert (run.record.part, run.record.notes) == ("test", [])
    assert set(run.cases["case_id"]) == {"case_0000", "case_0001"}
    assert run.record.fingerprint["code"].keys() == {"medexp", "own_split.py"}
