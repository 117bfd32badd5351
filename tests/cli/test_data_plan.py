from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.data_plan import data_plan
from medexp.core.errors import UsageError

_SMALL = ["dataset=phantom_2d", "dataset.source.n_cases=6", "dataset.source.shape=[30,40]"]


def _plan(here: Path, *words: str) -> dict[str, Any]:
    assert data_plan([*_SMALL, f"paths.cache={here}/cache", "--json", "plan.json", *words]) == 0
    plain: dict[str, Any] = json.loads(Path("plan.json").read_text())
    return plain


def test_all_is_planned_that_the_command_line_does_not_give(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = _plan(here)
    assert (plan["patch_size"], plan["batch_size"], plan["spacing_mm"]) == ([32, 40], 2, [1.0, 1.0])
    assert plan["model"]["strides"] == [[1, 1], [2, 2], [2, 2], [2, 2]]
    printed = capsys.readouterr().out
    assert "Patch 32 x 40 of a median image of 30 x 40" in printed
    assert "model.strides=[[1,1],[2,2],[2,2],[2,2]]" in printed.splitlines()
    given = _plan(here, "dataset.patch_size=[16,16]", "dataset.batch_size=5")
    assert (given["patch_size"], given["batch_size"], len(given["model"]["filters"])) == ([16, 16], 5, 3)


def test_the_printed_values_are_overrides_that_train(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from medexp.cli.composition import compose

    plan = _plan(here)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("dataset.", "model."))]
    config = compose(None, [*_SMALL, "model=dynunet", *lines])
    assert list(config.dataset.patch_size) == plan["patch_size"]
    assert [list(stride) for stride in config.model.strides] == plan["model"]["strides"]


def test_with_the_planned_model_all_that_the_configuration_gives_is_kept(here: Path) -> None:
    assert _plan(here, "model=auto")["patch_size"] == [64, 64]
    assert _plan(here, "model=auto", "dataset.patch_size=auto", "model.filters=[8,8,8]")["model"]["filters"] == [
        8,
        8,
        8,
    ]
    assert _plan(here, "model=auto", "model.plan.base_filters=8")["model"]["filters"][0] == 8


def test_the_budget_is_given_in_gigabytes(here: Path) -> None:
    large = ["dataset.source.shape=[512,512]", "dataset.source.n_cases=2", "model=auto", "dataset.patch_size=auto"]
    narrow, wide = (_plan(here, *large, "--memory-gb", memory) for memory in ("1.5", "16"))
    assert narrow["patch_size"] < wide["patch_size"] == [512, 512]
    with pytest.raises(UsageError, match=r"more than the .* GB that model\.plan\.memory_gb=0\.1 leaves for it"):
        _plan(here, "--memory-gb", "0.1")


def test_an_experiment_names_the_dataset(experiment: Any, here: Path) -> None:
    path = experiment(
        "defaults: [{override /dataset: phantom_3d}, {override /model: auto}]\n"
        "dataset: {source: {n_cases: 2, shape: [16, 20, 18]}, patch_size: auto, batch_size: 2}\n"
    )
    assert data_plan([path, f"paths.cache={here}/cache", "--json", "plan.json"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    assert (plan["patch_size"], plan["batch_size"], plan["spacing_mm"]) == ([16, 20, 20], 2, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["seed=0,1"], "seed takes several values"),
        (["dataset=lesion_labels", "task=classification", "loss=cross_entropy", "metrics=[accuracy]"], "gives maps"),
        (["model=auto", "dataset.patch_size=[8,8,8]"], "patch_size needs 2 values for"),
    ],
)
def test_words_that_describe_nothing_that_can_be_planned_are_refused(words: list[str], told: str, here: Path) -> None:
    with pytest.raises(UsageError, match=told):
        data_plan([*words, f"paths.cache={here}/cache"])


@pytest.mark.soak
@pytest.mark.real_data
def test_the_plan_of_the_real_hippocampus_set_is_nnunets(shared_data: Any, here: Path) -> None:
    root = shared_data("msd_task04_hippocampus")
    words = ["dataset=msd", f"dataset.root='{root}'", f"paths.cache={here}/cache", "--json", "plan.json"]
    assert data_plan(words) == 0
    plan = json.loads(Path("plan.json").read_text())
    assert (plan["median_shape"], plan["spacing_mm"]) == ([35, 50, 36], [1.0, 1.0, 1.0])
    assert (plan["patch_size"], plan["batch_size"]) == ([40, 56, 40], 9)
    assert plan["model"]["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
