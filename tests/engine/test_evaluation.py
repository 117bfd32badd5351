"""What is left of a judged case: evidence, tables, pictures and masks on the image's own grid."""

import json
import math
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.core.objects import Objects
from medexp.core.record import RunFolder
from medexp.core.types import EvidenceRow, Outcome, Prediction, StructureClass
from medexp.engine.evaluation import cases_table, chosen_cases, save_prediction, write_evidence
from medexp.metrics.auroc import AUROC
from medexp.metrics.dice import Dice
from medexp.metrics.pq import PanopticQuality


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


AFFINE = np.array([[0.0, 0.0, -2.0, 40.0], [1.5, 0.0, 0.0, -7.0], [0.0, -1.0, 0.0, 3.0], [0.0, 0.0, 0.0, 1.0]])
TWO = (StructureClass("organ", 0, 1), StructureClass("lesion", 0, 2))


def two_objects() -> tuple[np.ndarray, Objects]:
    """Instance 1 is a lesion, 2 an organ."""
    instances = np.zeros((5, 6, 7), dtype=np.uint8)
    instances[1:3, 2:4, 3:6], instances[3:5, 0:2, 0:2] = 1, 2
    objects = Objects.of_instances(instances, {1: 2, 2: 1})
    return instances, Objects.of(objects.boxes, objects.labels, np.array([0.875, 0.25]))


def test_masks_and_instances_are_saved_as_nifti_and_objects_and_scores_as_tables(tmp_path: Path) -> None:
    instances, objects = two_objects()
    prediction = Prediction(
        "a/b 1",
        "group",
        Geometry(instances.shape, AFFINE),
        TWO,
        mask=np.array([0, 2, 1])[instances][None],
        instances=instances,
        objects=objects,
        scores=np.array([0.5, 0.125]),
    )
    folder = tmp_path / "predictions"
    written = save_prediction(prediction, folder)
    names = ["a%2Fb 1.nii.gz", "a%2Fb 1_instances.nii.gz", "a%2Fb 1_objects.csv", "a%2Fb 1_scores.csv"]
    assert [path.name for path in written] == names
    assert sorted(folder.iterdir()) == sorted(written)
    for path, expected in zip(written[:2], (np.array([0, 2, 1])[instances], instances), strict=True):
        stored = nib.load(path)
        assert np.array_equal(np.asarray(stored.dataobj), expected)
        assert np.issubdtype(stored.get_data_dtype(), np.integer)
        np.testing.assert_allclose(stored.affine, AFFINE)
    table = pd.read_csv(written[2])
    ends = ["low_0", "low_1", "low_2", "high_0", "high_1", "high_2"]
    assert list(table.columns) == ["label", "score", *ends]
    assert table["label"].tolist() == ["lesion", "organ"]
    assert table["score"].tolist() == [0.875, 0.25]
    for number, row in enumerate(table[ends].to_numpy().astype(int), start=1):
        box = tuple(slice(low, high) for low, high in zip(row[:3], row[3:], strict=True))
        assert (instances[box] == number).sum() == (instances == number).sum() == instances[box].size
    scores = pd.read_csv(written[3])
    assert scores.to_dict("list") == {"label": ["organ", "lesion"], "score": [0.5, 0.125]}


def test_a_picture_is_saved_with_its_place_in_two_of_three_axes(tmp_path: Path) -> None:
    geometry = Geometry((4, 5), np.array([[0.0, 2.0, 3.0], [0.5, 0.0, -1.0], [0.0, 0.0, 1.0]]))
    instances = np.zeros((4, 5), dtype=np.int64)
    instances[1:3, 2:5] = 1
    objects = Objects.of_instances(instances, {1: 2})
    only_instances = Prediction("a", "a", geometry, TWO, instances=instances, objects=objects)
    path, _ = save_prediction(only_instances, tmp_path)
    stored = nib.load(path)
    assert path.name == "a_instances.nii.gz"
    assert np.array_equal(np.asarray(stored.dataobj), instances)
    np.testing.assert_allclose(stored.affine @ [2, 3, 0, 1], [*(geometry.affine @ [2, 3, 1])[:2], 0, 1])


def test_regions_and_labels_that_overlap_are_saved_one_by_one(tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((4, 5), (1.0, 1.0))
    regions = tuple(StructureClass(name, layer, 1) for layer, name in enumerate(("whole", "core")))
    mask = np.random.default_rng(0).integers(0, 2, (2, 4, 5))
    scores = np.array([0.75, 0.5])
    prediction = Prediction("a", "a", geometry, regions, mask=mask, exclusive=False, scores=scores)
    volume, table = save_prediction(prediction, tmp_path)
    assert np.array_equal(np.moveaxis(np.asarray(nib.load(volume).dataobj), -1, 0), mask)
    assert pd.read_csv(table).to_dict("list") == {"label": ["whole", "core"], "score": [0.75, 0.5]}


def test_no_object_is_a_table_without_lines(tmp_path: Path) -> None:
    geometry = Geometry.from_spacing((4, 5), (1.0, 1.0))
    (path,) = save_prediction(Prediction("a", "a", geometry, TWO, objects=Objects.none(2)), tmp_path)
    table = pd.read_csv(path)
    assert (len(table), list(table.columns)) == (0, ["label", "score", "low_0", "low_1", "high_0", "high_1"])


def row_of(case: str, metric: str, label: str, value: float = math.nan, **rest) -> EvidenceRow:
    return EvidenceRow(case, f"group of {case}", metric, label, value, **rest)


def matches_and_misses() -> list[EvidenceRow]:
    """Case a: IoU .8 and .6 of the organ, one missed; of case b no lesion, a missed organ; case c was not judged."""
    return [
        row_of("a", "pq", "organ", 0.8, outcome=Outcome.MATCH),
        row_of("a", "pq", "organ", 0.6, outcome=Outcome.MATCH),
        row_of("a", "pq", "organ", outcome=Outcome.MISS),
        row_of("a", "pq", "lesion", 0.5625, outcome=Outcome.MATCH),
        row_of("b", "pq", "organ", outcome=Outcome.MISS),
        row_of("b", "pq", "lesion", outcome=Outcome.NONE),
    ]


def test_a_case_has_one_line_with_its_own_values() -> None:
    rows = [*matches_and_misses(), row_of("c", "dice", "organ", 0.25), row_of("a", "dice", "organ", 0.5)]
    table = cases_table(rows, [PanopticQuality(), Dice()])
    assert list(table.columns) == ["case_id", "group", "pq/organ", "pq/lesion", "dice/organ"]
    assert table[["case_id", "group"]].to_numpy().tolist() == [[case, f"group of {case}"] for case in "abc"]
    expected = {
        "pq/organ": [1.4 / 2.5, 0.0, math.nan],
        "pq/lesion": [0.5625, math.nan, math.nan],
        "dice/organ": [0.5, math.nan, 0.25],
    }
    for column, values in expected.items():
        np.testing.assert_allclose(table[column], values, err_msg=column)


def test_a_metric_without_a_value_per_case_has_no_column_and_its_cases_have_a_line() -> None:
    scores = [
        row_of(case, "auroc", "organ", score=score, outcome=outcome)
        for case, score, outcome in (("a", 0.9, Outcome.POSITIVE), ("d", 0.2, Outcome.NEGATIVE))
    ]
    table = cases_table([*matches_and_misses(), *scores], [AUROC(), PanopticQuality()])
    assert list(table.columns) == ["case_id", "group", "pq/organ", "pq/lesion"]
    assert table["case_id"].tolist() == ["a", "b", "d"]
    assert cases_table(scores, [AUROC()]).to_numpy().tolist() == [["a", "group of a"], ["d", "group of d"]]


def test_evidence_is_written_row_by_row_and_aggregates_to_the_same_when_read_back(tmp_path: Path) -> None:
    folder, metrics = RunFolder(tmp_path), [PanopticQuality()]
    write_evidence(matches_and_misses(), metrics, folder, part="val")
    evidence = pd.read_csv(folder.evidence)
    # No row has a score or a threshold.
    assert list(evidence.columns) == ["case_id", "group", "metric", "label", "value", "outcome", "part"]
    assert set(evidence.pop("part")) == {"val"}
    again = [EvidenceRow(**row) for row in evidence.to_dict("records")]
    assert metrics[0].aggregate(again) == metrics[0].aggregate(matches_and_misses())
    cases = pd.read_csv(folder.cases)
    assert list(cases.columns) == ["case_id", "group", "part", "pq/organ", "pq/lesion"]


def test_evidence_of_values_alone_has_no_empty_columns(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    rows = [row_of("a", "dice", "organ", 0.5), row_of("b", "dice", "organ")]
    write_evidence(rows, [Dice()], folder, part="test")
    assert pd.read_csv(folder.evidence).columns.tolist() == ["case_id", "group", "metric", "label", "value", "part"]
    write_evidence([*rows, row_of("a", "auroc", "organ", score=0.5, outcome="positive")], [Dice()], folder, part="test")
    evidence = pd.read_csv(folder.evidence)
    assert evidence["outcome"].fillna("").tolist() == ["", "", "positive"]
    assert evidence["score"].isna().tolist() == [True, True, False]
