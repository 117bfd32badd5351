"""Post-processing chosen on validation cases: what is tried, what is chosen, and what it is said to gain."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tiny import train_tiny

from medexp.cli.main import main
from medexp.core.errors import UsageError
from medexp.core.geometry import Geometry
from medexp.core.types import Kind, Prediction, StructureClass
from medexp.engine.candidates import grid_chains, usual_chains
from medexp.engine.tuning import Tuning
from medexp.metrics.dice import Dice
from medexp.metrics.volume_difference import VolumeDifference

ONE = (StructureClass("lesion", 0, 1),)
THRESHOLD = "medexp.post_processing.threshold.Threshold"
REMOVE = {
    "_target_": "medexp.post_processing.remove_small.RemoveSmall",
    "connectivity": "faces",
    "joint": False,
    "classes": None,
}
OWN = [{"_target_": THRESHOLD, "threshold": 0.5}]
REMOVING = [*OWN, {**REMOVE, "min_volume_mm3": 3.0}]
LOW = [{"_target_": THRESHOLD, "threshold": 0.2}]


def case(number: int, *, specks: int, group: str | None = None) -> tuple[Prediction, Prediction]:
    """A lesion of nine pixels that is found, with some false specks of one pixel."""
    truth = np.zeros((1, 12, 12), dtype=np.uint8)
    truth[0, 1:4, 1:4] = 1
    likely = truth[0] * 0.8
    flat = np.zeros((3, 6))
    flat.ravel()[:specks] = 0.7
    likely[6::2, ::2] = flat
    grid = Geometry.from_spacing((12, 12), (1.0, 1.0))
    name = f"case_{number}"
    shared = {"case_id": name, "group": group or name, "geometry": grid, "classes": ONE}
    soft = Prediction(**shared, probabilities=np.stack([1 - likely, likely]))
    return soft, Prediction(**shared, mask=truth)


def tuning(*chains, metrics=None, objective: str = "dice") -> Tuning:
    metrics = metrics or [Dice()]
    return Tuning(chains, takes=Kind.PROBABILITIES, gives=Kind.MASK, metrics=metrics, objective=objective)


def test_the_best_chain_on_validation_is_chosen_and_its_gain_is_that_on_the_test_cases():
    val, test = [case(1, specks=3)], [case(2, specks=1), case(3, specks=9)]
    tuned = tuning(OWN, REMOVING, LOW).tune(val, test, resamples=200, seed=0)
    assert (tuned.chosen, tuned.nested) == (1, False)
    assert [value for _, value in tuned.candidates] == pytest.approx([18 / 21, 1.0, 18 / 21])
    (gain,) = tuned.gains
    before = (18 / 19 + 18 / 27) / 2
    assert (gain.before, gain.after, gain.gain) == pytest.approx((before, 1.0, 1 - before))
    # Two groups: resamples hold one twice, or both.
    assert (gain.low, gain.high) == pytest.approx((1 - 18 / 19, 1 - 18 / 27))
    assert tuned.optimistic == pytest.approx(1 - 18 / 21)


def test_test_cases_have_no_say():
    val, test = [case(1, specks=0)], [case(2, specks=9)]
    tuned = tuning(OWN, REMOVING).tune(val, test, resamples=10, seed=0)
    assert tuned.chosen == 0  # of equal chains the run's own
    assert tuned.gains[0].gain == 0


def test_without_a_test_part_each_group_is_judged_by_what_the_others_chose():
    # The chain that takes all specks away also takes the one small lesion, of case 2, away.
    small, truth = case(2, specks=0)
    small.probabilities[:, 1:4, 1:4] = np.array([1, 0])[:, None, None]
    small.probabilities[:, 1, 1] = [0.2, 0.8]
    truth.mask[0] = 0
    truth.mask[0, 1, 1] = 1
    tuned = tuning(OWN, REMOVING).tune([case(1, specks=5), (small, truth)], None, resamples=100, seed=0)
    # Case 1 alone prefers removing, and spoils case 2 with it; case 2 alone prefers the run's own chain for case 1.
    first = 18 / 23
    assert [value for _, value in tuned.candidates] == pytest.approx([(first + 1) / 2, 0.5])
    assert (tuned.chosen, tuned.optimistic, tuned.nested) == (0, 0.0, True)
    (gain,) = tuned.gains
    assert (gain.before, gain.after) == pytest.approx(((first + 1) / 2, (first + 0) / 2))
    assert gain.gain < tuned.optimistic


def test_groups_are_left_out_and_resampled_as_a_whole():
    val = [case(number, specks=number, group="ab"[number % 2]) for number in range(4)]
    tuned = tuning(OWN, REMOVING).tune(val, None, resamples=100, seed=0)
    assert (tuned.n_groups, tuned.n_cases) == (2, 4)
    of_group = [1 - (18 / (18 + n) + 18 / (20 + n)) / 2 for n in (0, 1)]
    assert (tuned.gains[0].low, tuned.gains[0].high) == pytest.approx(tuple(of_group))
    alone = tuning(OWN, REMOVING).tune(val[:1], val[1:2], resamples=100, seed=0)
    assert math.isnan(alone.gains[0].low)
    assert alone.as_plain()["gains"][0]["low"] is None


def test_a_metric_where_less_is_better_gains_by_falling():
    val = [case(1, specks=3), case(2, specks=4)]
    metrics = [Dice(), VolumeDifference()]
    tuned = tuning(OWN, REMOVING, metrics=metrics, objective=metrics[1].name).tune(val, val, resamples=20, seed=0)
    assert tuned.chosen == 1
    assert tuned.gains[1].before > tuned.gains[1].after == 0
    assert tuned.gains[1].gain == pytest.approx(tuned.gains[1].before)


def test_steps_that_chains_share_give_what_whole_chains_give():
    chains = [OWN, REMOVING, [*REMOVING[:1], {**REMOVE, "min_volume_mm3": 20.0}], LOW, [*LOW, REMOVING[1]], OWN]
    made = tuning(*chains)
    soft, _ = case(1, specks=5)
    for final, chain in zip(made._finals(soft), made.chains, strict=True):
        assert np.array_equal(final.mask, chain(soft).mask)


def test_a_grid_is_all_combinations_behind_the_runs_own_chain():
    grid = {"post_processing.steps.0.threshold": [0.5, 0.6], "post_processing.steps.1.min_volume_mm3": [3.0, 9.0]}
    found = grid_chains(REMOVING, [], grid)
    assert found[0] == REMOVING
    values = {(chain[0]["threshold"], chain[1]["min_volume_mm3"]) for chain in found}
    assert values == {(0.5, 3.0), (0.5, 9.0), (0.6, 3.0), (0.6, 9.0)}
    assert len(found) == 4
    assert grid_chains(OWN, [REMOVING], {"post_processing.steps.1.joint": [True]})[0] == OWN


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("post_processing.steps.1.min_volume", "RemoveSmall has no knob min_volume; did you mean min_volume_mm3"),
        ("post_processing.steps.2.joint", "the chain has 2 steps, the first is 0"),
        ("loss.gamma", "loss.gamma is not tuned; write post_processing.steps.PLACE.KNOB=A,B,C"),
    ],
)
def test_a_grid_of_what_is_not_there_is_refused(key, told):
    with pytest.raises(UsageError, match=told):
        grid_chains(REMOVING, [], {key: [1]})


def test_usual_chains_vary_each_knob_and_add_steps():
    found = usual_chains(REMOVING, [[REMOVE]])
    assert found[0] == REMOVING
    assert {chain[0]["threshold"] for chain in found} == {0.3, 0.4, 0.5, 0.6, 0.7}
    assert {chain[1]["min_volume_mm3"] for chain in found} >= {0.0, 3.0, 9.0}
    assert found[-1] == [*REMOVING, REMOVE]


def test_the_command_tells_the_gain_writes_it_and_leaves_the_run_as_it_is(tmp_path: Path, capsys):
    run = train_tiny(tmp_path / "runs", "trainer.max_epochs=2", "post_processing=[argmax]")
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    grid = "post_processing=[argmax,keep_largest],[argmax,{remove_small:{min_volume_mm3:20.0}}]"
    assert main(["tune-postprocessing", str(run.path), grid, "--resamples", "20"]) == 0
    told = capsys.readouterr().out
    assert "each group left out of the choice in turn" in told
    assert "which is optimistic" in told
    assert "[argmax,{remove_small:{min_volume_mm3:20.0}}]" in told
    file = run.path / "tuned_post_processing.json"
    written = json.loads(file.read_text())
    assert {path: path.read_bytes() for path in before} == before
    own = run.results["dice"]["mean"]
    assert written["candidates"][0]["value"] == pytest.approx(own)
    assert written["gains"][0]["before"] == pytest.approx(own)
    assert main(["tune-postprocessing", str(run.path), "--metric", "pq"]) == 2
    assert "--metric pq is none of the run's metrics (dice)" in capsys.readouterr().err
