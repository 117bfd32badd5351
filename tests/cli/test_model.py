from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medexp.cli.main import main
from medexp.cli.model_list import header, model_list
from medexp.cli.model_show import model_show
from medexp.cli.places import conf_folder
from medexp.core.errors import DataError, UsageError

_SMALL = ["dataset=phantom_2d", "model.channels=[4,8,8]", "model.strides=[2,2]", "model.num_res_units=0"]


def _shown(*words: str, code: int = 0) -> dict[str, Any]:
    assert model_show([*words, "--json", "model.json"]) == code
    found: dict[str, Any] = json.loads(Path("model.json").read_text())
    return found


def test_what_is_shown_follows_from_the_configuration(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _shown(*_SMALL, "dataset.patch_size=[32,24]", "dataset.source.n_channels=2", "model.norm=null")
    # Kernels of 3 x 3, their biases, and the slope of each PReLU; maps are joined before they are enlarged.
    convolutions = [(2, 4), (4, 8), (8, 8), (8 + 8, 4), (4 + 4, 3)]
    assert found["parameters"] == sum(9 * before * after + after for before, after in convolutions) + 4
    assert found["heads"] == {"semantic": 3}
    assert (found["in_channels"], found["strides"], found["passes"]) == (2, [4, 4], True)
    printed = capsys.readouterr().out
    assert "patch            32 x 24 passes (strides of 4 x 4), 8 a step" in printed.splitlines()
    assert f"parameters       {found['parameters']:,}" in printed.splitlines()


def test_a_patch_that_does_not_pass_ends_in_code_1_and_is_told_the_nearest(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = _shown(*_SMALL, "dataset.patch_size=[30,21]", code=1)
    assert (found["passes"], found["nearest_patch_size"]) == (False, [32, 20])
    assert "30 x 21 DOES NOT PASS (strides of 4 x 4); choose dataset.patch_size=[32,20]" in capsys.readouterr().out
    assert _shown(*_SMALL, "dataset.patch_size=[32,20]")["gflops"] == found["gflops"]


def test_the_card_serves_where_the_images_are_not_here(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["dataset.patch_size=[8,8,8]", "model.channels=[2,4]", "model.strides=[2]"]
    found = _shown("dataset=msd_task01_brain_tumour", f"dataset.root={here}/none", f"paths.data={here}/none", *small)
    assert (found["from_card"], found["spatial_dims"], found["in_channels"]) == (True, 3, 4)
    assert found["heads"] == {"semantic": 4}
    assert "which is not on this machine" in capsys.readouterr().out


def test_a_dataset_without_a_card_must_be_here(here: Path) -> None:
    with pytest.raises((DataError, UsageError), match="none"):
        _shown("dataset=msd", f"dataset.root={here}/none")


def test_a_network_without_maps_is_run_once(here: Path) -> None:
    found = _shown("dataset=lesion_labels", "task=classification", "model=densenet", "loss=cross_entropy",
                   "metrics=accuracy", "inferer=whole", "post_processing=[]")  # fmt: skip
    assert found["gflops"] > 0
    assert found["receptive_field"] is None


def test_what_is_left_to_the_plan_is_planned(here: Path) -> None:
    found = _shown(
        "dataset=phantom_2d", "dataset.source.n_cases=6", "dataset.source.shape=[30,40]", f"paths.cache={here}/cache",
        "model=auto", "model.plan.base_filters=4", "dataset.patch_size=auto", "dataset.batch_size=auto",
    )  # fmt: skip
    assert (found["patch_size"], found["passes"]) == ([32, 40], True)


def test_the_list_names_every_option_and_what_it_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert model_list(["--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert set(listed) == {file.stem for file in (conf_folder() / "model").glob("*.yaml")}
    assert listed["segresnet"]["spatial_dims"] == [2, 3]
    assert listed["mask_rcnn"]["spatial_dims"] == [2]
    assert listed["mask_retinanet"]["spatial_dims"] == [2, 3]
    assert "plan" in listed["auto"]["refusal"]
    assert listed["segresnet"]["text"] == "MONAI's SegResNet (Myronenko, BrainLes 2018), without the autoencoder"


def test_every_option_opens_with_a_line_that_says_what_it_is() -> None:
    assert [file.stem for file in (conf_folder() / "model").glob("*.yaml") if not header(file)] == []


def test_a_wrong_second_word_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "shw"]) == 2
    assert "no command model shw; did you mean show? (known: list, show)" in capsys.readouterr().err
    assert main(["model", "--help"]) == 0
    assert "usage: medexp model COMMAND" in capsys.readouterr().out
