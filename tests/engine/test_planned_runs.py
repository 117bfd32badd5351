"""Runs whose network and input are planned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import medexp
from medexp.core.errors import UsageError
from medexp.engine.run import Run
from medexp.models.dynunet import dynunet

_PLANNED = (
    "model=auto",
    "model.plan.base_filters=4",
    "dataset.source.n_cases=8",
    "dataset.source.shape=[30,40]",
    "dataset.patch_size=auto",
    "dataset.batch_size=auto",
    "dataset.preprocessing.spacing_mm=auto",
    "dataset.split.n_folds=4",
    "dataset.workers=0",
    "metrics=dice",
    "precision=32-true",
    "threads=1",
    "overlays=0",
    "trainer.max_steps=2",
)


def train(tmp_path: Path, *overrides: str) -> Run:
    places = [f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}"]
    given = {item.partition("=")[0] for item in overrides}
    replaced = tuple(
        f"{key}." for key, group in (("model", "model"), ("dataset.split", "dataset/split")) if group in given
    )
    kept = [
        item
        for item in _PLANNED
        if item.partition("=")[0] not in given and not (replaced and item.startswith(replaced))
    ]
    return medexp.train(medexp.compose(None, [*kept, *places, *overrides]))


def pinned(tmp_path: Path) -> dict[str, Any]:
    content = json.loads((tmp_path / "runs" / "default" / "study.json").read_text())
    return {name: entry for name, entry in content.items() if name.startswith("plan ")}


def test_what_is_planned_stands_in_the_record_and_is_pinned_for_the_study(tmp_path: Path) -> None:
    run = train(tmp_path)
    config = run.config
    # 30 x 40 pooled three times is padded to 32 x 40.
    assert list(config.dataset.patch_size) == [32, 40]
    assert list(config.inferer.window) == [32, 40]
    assert list(config.dataset.preprocessing.spacing_mm) == [1.0, 1.0]
    assert list(config.model.filters) == [4, 8, 16, 32]
    assert [list(stride) for stride in config.model.strides] == [[1, 1], [2, 2], [2, 2], [2, 2]]
    plan = json.loads((run.path / "plan.json").read_text())
    assert (plan["patch_size"], plan["batch_size"]) == ([32, 40], config.dataset.batch_size)
    (entry,) = pinned(tmp_path).values()
    assert entry["value"] == plan
    assert "Patch 32 x 40 of a median image of 30 x 40" in entry["reason"]


def test_a_run_that_is_planned_is_the_one_with_the_same_values_given(tmp_path: Path) -> None:
    planned = train(tmp_path)
    knobs = planned.config.model
    given = [f"model.{name}={list(map(_plain, knobs[name]))}" for name in ("filters", "strides", "kernel_size")]
    given += [f"dataset.{name}={_plain(planned.config.dataset[name])}" for name in ("patch_size", "batch_size")]
    same = train(
        tmp_path,
        "model=dynunet",
        "dataset.preprocessing.spacing_mm=[1.0,1.0]",
        f"model.deep_supervision_levels={knobs.deep_supervision_levels}",
        *(item.replace(" ", "") for item in given),
    )
    assert same.record.fingerprint["initial_weights"] == planned.record.fingerprint["initial_weights"]
    assert same.results == planned.results


def _plain(value: Any) -> Any:
    return value if isinstance(value, int) else list(value)


def test_single_values_can_be_given_and_the_rest_fits_them(tmp_path: Path) -> None:
    config = train(tmp_path, "dataset.batch_size=3", "dataset.patch_size=[16,24]", "model.filters=[4,6,8]").config
    assert (config.dataset.batch_size, list(config.dataset.patch_size)) == (3, [16, 24])
    assert (list(config.model.filters), len(config.model.strides), len(config.model.kernel_size)) == ([4, 6, 8], 3, 3)


def test_the_same_command_finds_the_run_done_and_reads_no_case_for_its_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(tmp_path)
    monkeypatch.setattr("medexp.data.plan.configured.fingerprint_of", lambda *_, **__: pytest.fail("planned again"))
    assert train(tmp_path).record.ended == first.record.ended
    train(tmp_path, "seed=1")
    assert len(pinned(tmp_path)) == 1


def test_another_budget_makes_another_plan_in_the_same_study(tmp_path: Path) -> None:
    wide, narrow = train(tmp_path), train(tmp_path, "model.plan.base_filters=2")
    assert (wide.config.model.filters[0], narrow.config.model.filters[0]) == (4, 2)
    assert len(pinned(tmp_path)) == 2


def test_the_trained_network_is_built_again_from_its_record(tmp_path: Path) -> None:
    run = train(tmp_path)
    network = run.module().model
    knobs = {name: run.config.model[name] for name in ("filters", "strides", "kernel_size", "deep_supervision_levels")}
    plain = {
        name: [_plain(item) for item in value] if not isinstance(value, int) else value for name, value in knobs.items()
    }
    reference = dynunet(
        spatial_dims=2, in_channels=1, heads=network.heads, norm="instance", residual=False, dropout=None, **plain
    )
    reference.load_state_dict(network.state_dict())
    images = torch.randn(1, 1, 32, 40)
    with torch.no_grad():
        expected = reference.eval()(images)
        found = network.eval()(images)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_spacing_alone_can_be_planned_for_any_network(tmp_path: Path) -> None:
    run = train(
        tmp_path,
        "model=unet",
        "model.channels=[4,8]",
        "model.strides=[2]",
        "model.num_res_units=0",
        "dataset.patch_size=[16,16]",
        "dataset.batch_size=2",
        "dataset.source.spacing_mm=[2.0,0.5]",
    )
    assert list(run.config.dataset.preprocessing.spacing_mm) == [2.0, 0.5]
    assert json.loads((run.path / "plan.json").read_text())["spacing_mm"] == [2.0, 0.5]


def test_sizes_are_not_planned_for_another_network(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.patch_size, dataset\.batch_size=auto needs model=auto"):
        train(tmp_path, "model=dynunet")


def test_a_task_without_maps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model=auto plans a network that gives maps, and this task has none"):
        train(tmp_path, "dataset=lesion_labels", "task=classification", "loss=cross_entropy", "metrics=[accuracy]")


def test_the_parts_of_the_split_stand_in_the_record_and_can_be_given_to_another_run(tmp_path: Path) -> None:
    run = train(tmp_path, "dataset.split.n_train=3", "fold=1")
    parts = json.loads((run.path / "split.json").read_text())
    assert (len(parts["train"]), len(parts["val"]), parts["hash"]) == (3, 2, run.record.fingerprint["split"])
    again = train(
        tmp_path,
        "dataset/split=given",
        f"dataset.split.file='{run.path}/split.json'",
        "dataset.split.unlisted=leave_out",
    )
    assert again.record.fingerprint["split"] == run.record.fingerprint["split"]
