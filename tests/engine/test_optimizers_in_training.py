"""Optimisers and schedules in real trainings: which weights are judged, what is refused."""

from pathlib import Path

import pytest
import torch
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import UsageError
from medexp.engine.build import build
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint


def test_validation_and_results_use_the_average_and_every_checkpoint_holds_it(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "optimizer=schedule_free",
        "optimizer.lr=0.01",
        "scheduler=constant",
        "trainer.max_epochs=3",
        "trainer.validate_every_epochs=1",
        "trainer.checkpoints.every_steps=4",
        "trainer.checkpoints.keep_last=100",
        "trainer.checkpoints.keep_best=true",
        "callbacks=[]",
    )
    folder = CheckpointFolder(run.folder.checkpoints)
    index = folder.index()
    assert {entry["role"] for entry in index.values()} == {"last", "best"}
    assert len(index) >= 5
    names = [name for name, _ in run.module().model.named_parameters()]
    for name in index:
        checkpoint = load_checkpoint(folder.path / name)
        (states,) = checkpoint["optimizer_states"]
        assert len(states["state"]) == len(names)
        for number, key in enumerate(names):
            state, kept = states["state"][number], checkpoint["state_dict"][f"model.{key}"]
            assert torch.equal(kept, state["x"])
            assert not torch.equal(kept, torch.lerp(state["z"], state["x"], 0.9))
    # The last validation and the results, from the last checkpoint, judge the same weights.
    assert run.results["dice"]["mean"] == run.history["val/dice/mean"].iloc[-1]


def test_the_learning_rate_drops_after_the_validation_in_which_the_score_has_stopped_to_rise(tmp_path: Path) -> None:
    run = train_tiny(
        tmp_path / "runs",
        "optimizer=sgd",
        "scheduler=plateau",
        "scheduler.patience=0",
        "scheduler.min_gain=1.0",
        "scheduler.drop_factor=0.5",
        "trainer.max_epochs=4",
        "trainer.validate_every_epochs=1",
        "callbacks=[]",
    )
    # The first score is a gain over none; the third epoch is the first after a drop.
    assert list(run.history["lr"]) == pytest.approx([0.01, 0.01, 0.005, 0.0025])


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["scheduler=plateau"], r"scheduler\.metric=dice needs validations.*trainer\.validate_every_epochs"),
        (["scheduler=plateau", "scheduler.metric=hd95"], r"scheduler\.metric=hd95 is none of the metrics \(dice\)"),
        (["scheduler=one_cycle", "optimizer=sgd"], r"scheduler\.momentum"),
        (["scheduler=one_cycle", "optimizer=schedule_free"], r"scheduler\.momentum"),
        (["optimizer=schedule_free", "callbacks=ema"], r"callbacks\.ema averages the weights, and so does Sched"),
        (["optimizer=schedule_free", "model.norm=BATCH"], r"model layer .* keeps batch statistics"),
        (["optimizer.lr=-1.0"], "optimizer cannot be built: Invalid learning rate"),
        (["parameter_groups.no_decay=[nothing]"], r"parameter_groups\.no_decay: pattern nothing"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_built(tmp_path: Path, overrides: list[str], told: str) -> None:
    config = medexp.compose(None, tiny(tmp_path / "runs", *overrides))
    with pytest.raises(UsageError, match=told):
        build(config)


def test_an_optimiser_may_choose_the_parameter_groups_and_the_command_line_chooses_last(tmp_path: Path) -> None:
    layer_wise = medexp.compose(None, ["optimizer=sgd_layer_wise"])
    assert (layer_wise.parameter_groups.layer_decay, layer_wise.options.parameter_groups) == (0.9, "layer_wise")
    assert (
        medexp.compose(None, ["optimizer=sgd_layer_wise", "parameter_groups=alike"]).parameter_groups.layer_decay == 1
    )
