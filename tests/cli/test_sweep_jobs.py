from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from medexp.cli.composition import Composer, compose
from medexp.core.errors import UsageError


def _refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        compose(None, overrides)
    return str(told.value)


def test_composing_one_run_refuses_a_sweep(here: Path) -> None:
    assert "loss, seed takes several values" in _refusal("loss=dice,focal", "seed=0..1")


def _values(key: str, *overrides: str) -> list[Any]:
    return [OmegaConf.select(config, key) for config in Composer(None, overrides).compose_jobs()]


def test_all_folds_are_those_of_the_split_that_the_overrides_make(here: Path) -> None:
    assert _values("fold", "fold=all") == [0, 1, 2, 3, 4]
    assert _values("fold", "dataset.split.n_folds=3", "fold=all") == [0, 1, 2]
    assert _values("fold", "dataset=phantom_3d", "loss=dice,focal", "fold=all") == [0, 1, 2, 3, 4] * 2


def test_all_folds_of_splits_with_different_numbers_are_refused(here: Path) -> None:
    assert "fold=all needs one number of folds" in _refusal("fold=all", "dataset.split.n_folds=3,4")


def test_all_folds_with_a_mistyped_key_tell_the_key(here: Path) -> None:
    assert "there is no key dataset.splt.n_folds" in _refusal("fold=all", "dataset.splt.n_folds=3")


def test_a_pattern_stands_for_all_options_that_match(here: Path) -> None:
    names = Composer(None, ["optimizer=glob(adam*)"]).sweep.jobs()
    assert names == [["optimizer=adam"], ["optimizer=adamw"]]
    assert "loss=glob(x*) matches no option" in _refusal("loss=glob(x*)")


def test_each_job_of_a_sweep_is_checked_before_the_first_one_starts(here: Path) -> None:
    with pytest.raises(UsageError, match=r"loss\.gamma=1: there is no key loss\.gamma"):
        Composer(None, ["loss=focal,dice", "loss.gamma=1"]).compose_jobs()
