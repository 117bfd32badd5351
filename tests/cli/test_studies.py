"""The studies that medexp ships are fair comparisons: their jobs differ in what is compared, and in nothing else."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object
from omegaconf import DictConfig

from medexp.cli.composition import Composer
from medexp.cli.places import conf_folder, option_names
from medexp.core.config import differences, plain
from medexp.engine.build import build

# Of other tasks, or of labels that may hold at once.
OF_OTHER_TASKS = {"mse", "detector_terms", "one_stage_terms", "bce", "asymmetric"}
STUDIES = {"studies/losses_all": 18, "studies/dice_vs_focal": 30}
# Composing a job takes long; these stand for all.
SOME = {
    "studies/losses_all": "loss=cross_entropy,generalised_dice,dice_boundary",
    "studies/dice_vs_focal": "loss=dice,focal",
}


@functools.cache
def jobs_of(study: str) -> list[DictConfig]:
    small = ["dataset.source.n_cases=10", "dataset.workers=0"]
    return Composer(study, [*small, "fold=1", "seed=3", SOME[study]]).compose_jobs()


@pytest.mark.parametrize("study", STUDIES)
def test_the_jobs_share_split_initial_weights_data_order_and_budget(study: str, here: Path) -> None:
    shared = set()
    for config in jobs_of(study):
        config.paths.cache = str(here)
        parts = build(config)
        order = parts.data.order.hash(parts.total_steps * parts.data.batch_size)
        shared.add((parts.data.parts.hash, parts.initial_weights_hash(), order, parts.total_steps))
    assert len(jobs_of(study)) > 1
    assert len(shared) == 1


@pytest.mark.parametrize("study", STUDIES)
def test_the_jobs_differ_in_the_loss_alone(study: str) -> None:
    first, *others = map(plain, jobs_of(study))
    for other in others:
        keys = {item.partition(":")[0] for item in differences(first, other)}
        # The task's loss is the configured one.
        own = {key for key in keys if not key.startswith(("loss", "task.loss.loss.loss"))}
        assert own == {"axes.loss", "options.loss"}


@pytest.mark.parametrize(("study", "count"), STUDIES.items())
def test_a_study_is_one_command_and_takes_a_learning_rate_as_another_axis(study: str, count: int) -> None:
    assert len(Composer(study, ["optimizer.lr=0.001,0.01"]).sweep.jobs()) == 2 * count


def test_the_study_of_all_losses_has_every_loss_that_trains_alone() -> None:
    swept = {job[0].removeprefix("loss=") for job in Composer("studies/losses_all", []).sweep.jobs()}
    known = set(option_names("loss", [conf_folder()])) - OF_OTHER_TASKS - {"auto"}
    content = {name: yaml.safe_load((conf_folder() / "loss" / f"{name}.yaml").read_text()) for name in known}
    auxiliary = {
        name
        for name, option in content.items()
        if "_target_" in option and getattr(get_object(option["_target_"]), "auxiliary", False)
    }
    assert swept == known - auxiliary
