"""Groups inside an option: dataset/split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medexp.cli.composition import Composer, compose
from medexp.cli.places import conf_folder, groups, option_names
from medexp.core.errors import UsageError


def _refusal(*overrides: str, experiment: str | None = None, **knobs: Any) -> str:
    with pytest.raises(UsageError) as told:
        compose(experiment, overrides, **knobs)
    return str(told.value)


def test_the_options_of_the_inner_group_are_none_of_the_outer() -> None:
    assert "dataset/split" in groups([conf_folder()])
    names = option_names("dataset/split", [conf_folder()])
    assert {"kfold", "holdout", "leave_one_group_out", "given", "prescribed"} <= set(names)
    assert not [name for name in option_names("dataset", [conf_folder()]) if name.startswith("split")]
    assert "instance/parallel" in option_names("task", [conf_folder()])


def test_a_split_is_chosen_by_its_name_and_replaces_the_default_whole(here: Path) -> None:
    config = compose(None, ["dataset=phantom_3d", "dataset/split=holdout", "dataset.split.val=8"])
    assert config.dataset.split["_target_"] == "medexp.data.splits.HoldOut"
    assert (config.dataset.split.val, "n_folds" in config.dataset.split) == (8, False)
    assert (config.options["dataset"], config.options["dataset/split"]) == ("phantom_3d", "holdout")


def test_knobs_of_the_default_split_are_set_as_ever(here: Path) -> None:
    config = compose(None, ["dataset.split.n_folds=4", "dataset.split.seed=2"])
    assert (config.dataset.split["_target_"], config.dataset.split.n_folds) == ("medexp.data.splits.KFold", 4)
    assert config.options["dataset/split"] == "kfold"


def test_the_choice_is_an_axis_that_can_stand_in_the_name_of_a_folder(here: Path) -> None:
    assert compose(None, ["dataset/split=holdout"]).axes == {"dataset.split": "holdout"}


def test_splits_can_be_swept(here: Path) -> None:
    jobs = Composer(None, ["dataset/split=kfold,prescribed", "seed=0..1"]).compose_jobs()
    assert [(job.options["dataset/split"], job.seed) for job in jobs] == [
        ("kfold", 0),
        ("kfold", 1),
        ("prescribed", 0),
        ("prescribed", 1),
    ]


def test_all_folds_are_those_of_the_chosen_split(here: Path) -> None:
    overrides = ["fold=all", "dataset/split=leave_one_group_out", "dataset.split.n_groups=3"]
    assert [job.fold for job in Composer(None, overrides).compose_jobs()] == [0, 1, 2]
    assert "fold=all needs one number of folds" in _refusal("fold=all", "dataset/split=holdout")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("dataset/split=kfolds", "dataset/split=kfolds: no such option; did you mean kfold? (known: given, holdout, "),
        ("dataset/split=null", "dataset/split takes the name of an option, got null"),
        ("~dataset/split", "~dataset/split: an experiment needs its dataset/split"),
        ("dataset/spit=kfold", "there is no key dataset/spit; did you mean dataset/split"),
        ("dataset=split/kfold", "dataset=split/kfold: no such option"),
        ("dataset.split.stratify=size", 'dataset.split.stratify needs null or label or presence or load, got "size"'),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_name(override: str, told: str, here: Path) -> None:
    assert told in _refusal(override)


def test_a_knob_of_another_split_is_refused(here: Path) -> None:
    assert "there is no key dataset.split.n_folds" in _refusal("dataset/split=holdout", "dataset.split.n_folds=4")


def test_an_experiment_chooses_a_split_and_sets_its_knobs(experiment: Any) -> None:
    path = experiment("defaults: [{override /dataset/split: holdout}]\ndataset: {split: {val: 5}}\n")
    config = compose(path)
    assert (config.options["dataset/split"], config.dataset.split.val) == ("holdout", 5)
    assert "dataset.split.val, but dataset/split is swept" in _swept(path, "dataset/split=kfold,holdout")
    wrong = experiment("defaults: [{override /dataset/split: holdout}]\ndataset: {split: {n_folds: 5}}\n", "wrong.yaml")
    assert "sets dataset.split.n_folds, which does not exist" in _refusal(experiment=wrong)


def _swept(experiment: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        Composer(experiment, overrides)
    return str(told.value)


def test_an_experiment_may_define_a_split_of_its_own_in_full(experiment: Any) -> None:
    path = experiment("seed: 1\ndataset: {batch_size: 3, split: {_target_: mine.Split, share: 0.5}}\n")
    config = compose(path)
    assert config.dataset.split == {"_target_": "mine.Split", "share": 0.5}
    assert (config.dataset.batch_size, config.seed) == (3, 1)
    both = experiment(
        "defaults: [{override /dataset/split: holdout}]\ndataset: {split: {_target_: mine.Split}}\n", "both.yaml"
    )
    assert "chooses dataset/split=holdout and defines dataset/split with a _target_ of its own" in _refusal(
        experiment=both
    )


def test_a_split_that_is_named_as_a_value_is_told_where_it_belongs(experiment: Any) -> None:
    told = _refusal(experiment=experiment("dataset: {split: holdout}\n"))
    assert "sets dataset.split: holdout; an option is chosen under defaults, as `- override /dataset/split" in told


def test_a_split_of_ones_own_joins_the_shipped_ones(here: Path) -> None:
    file = here / "conf" / "dataset" / "split" / "mine.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("_target_: mine.Split\nshare: 0.5\n")
    config = compose(None, ["dataset/split=mine", "dataset.split.share=0.25"], config_dir=here / "conf")
    assert config.dataset.split == {"_target_": "mine.Split", "share": 0.25}
    assert "no such option; did you mean mine" in _refusal("dataset/split=mien", config_dir=here / "conf")


def test_what_is_derived_is_no_choice_of_a_group() -> None:
    with pytest.raises(UsageError, match=r"derive=components chooses nothing; .*dataset.derive=\[components\]"):
        compose(None, ["derive=components"])
