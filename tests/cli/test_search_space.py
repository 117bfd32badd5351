from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from medexp.cli.composition import Composer
from medexp.cli.main import main
from medexp.cli.overrides import axes_of, parse
from medexp.core.config import differences, plain
from medexp.core.errors import UsageError
from medexp.search.space import Choices, Domain, Numbers, combinations, count_combinations


@pytest.mark.parametrize(
    ("typed", "domain"),
    [
        ("optimizer.lr=interval(0.001,0.1)", Numbers(0.001, 0.1, whole=False)),
        ("optimizer.lr=tag(log,interval(1e-4,1e-1))", Numbers(1e-4, 1e-1, whole=False, log=True)),
        ("model.depth=int(interval(1,8))", Numbers(1, 8, whole=True)),
        ("model.depth=tag(log,int(interval(1,8)))", Numbers(1, 8, whole=True, log=True)),
        ("model.depth=int(tag(log,interval(1,8)))", Numbers(1, 8, whole=True, log=True)),
        ("model.depth=range(2,9,3)", Numbers(2, 8, whole=True, step=3)),
        ("model.depth=range(2,8,3)", Numbers(2, 5, whole=True, step=3)),
        ("loss.gamma=range(0,1,0.25)", Numbers(0.0, 0.75, whole=False, step=0.25)),
        ("loss=dice,focal", Choices(("dice", "focal"))),
        ("loss=dice,focal,dice", Choices(("dice", "focal"))),
        ("loss=choice(dice,focal)", Choices(("dice", "focal"))),
        ("model.channels=[8,16],[16,32]", Choices(("[8,16]", "[16,32]"))),
        ("optimizer.lr=1e-3,0.1", Choices(("0.001", "0.1"))),
    ],
)
def test_what_hydra_sweeps_is_what_a_search_varies(typed: str, domain: Domain) -> None:
    assert parse([typed, "seed=3"]).space() == {typed.partition("=")[0]: domain}


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("optimizer.lr=interval(1,0.1)", "the interval from 1.0 to 0.1 is empty"),
        ("optimizer.lr=tag(log,interval(0,1))", "a logarithmic scale needs numbers above 0"),
        ("model.depth=tag(log,range(1,9,2))", "a logarithmic scale has no step"),
    ],
)
def test_an_interval_without_values_is_refused(typed: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        parse([typed]).space()


def test_a_job_has_the_values_of_its_trial_and_the_other_overrides() -> None:
    sweep = parse(["seed=3", "optimizer.lr=interval(0,1)", "post_processing=[argmax],[argmax,keep_largest]"])
    values = {"optimizer.lr": "0.25", "post_processing.steps": "[argmax]"}
    assert sweep.with_values(values) == ["seed=3", "optimizer.lr=0.25", "post_processing.steps=[argmax]"]


@pytest.mark.parametrize("typed", ["a=range(2,9,3)", "a=range(0,1,0.25)", "a=range(5)", "a=x,y", "a=range(10,20,5)"])
def test_listed_values_are_those_that_hydra_lists(typed: str) -> None:
    sweep = parse([typed])
    (domain,) = sweep.space().values()
    assert list(domain.listed or ()) == list(sweep.parsed[0].sweep_string_iterator())


def test_all_combinations_are_those_of_the_sweep_in_its_order() -> None:
    sweep = parse(["loss=dice,focal", "seed=7", "model.depth=range(1,4)"])
    combined = [sweep.with_values(values) for values in combinations(sweep.space())]
    assert combined == sweep.jobs()
    assert count_combinations(sweep.space()) == 6
    with pytest.raises(UsageError, match=r"a grid needs values, and optimizer\.lr is an interval"):
        list(combinations(parse(["optimizer.lr=interval(0,1)"]).space()))


def test_the_search_is_no_part_of_what_distinguishes_its_runs() -> None:
    job = ["search=optuna", "search.n_trials=3", "search/sampler=random", "loss=dice"]
    assert axes_of(job) == {"loss": "dice"}


def test_a_trial_is_the_run_of_its_values(here: Path, experiment: Callable[..., str]) -> None:
    path = experiment("optimizer: {lr: 0.5}\n")
    searched = Composer(path, ["loss=dice,focal", "optimizer.lr=interval(0,1)"])
    trial = searched.compose_trial({"loss": "focal", "optimizer.lr": "0.25"}, number=4)
    alone = Composer(path, ["loss=focal", "optimizer.lr=0.25"]).compose_jobs()[0]
    assert differences(plain(alone), plain(trial)) == ["trial: {} -> (absent)", "trial.number: (absent) -> 4"]


def test_an_experiment_file_may_carry_a_search(here: Path, experiment: Callable[..., str]) -> None:
    path = experiment(
        "defaults: [override /search: optuna, override /search/pruner: hyperband]\n"
        "search: {n_trials: 20, pruner: {reduction_factor: 4}}\n"
        "sweep: {optimizer.lr: 'tag(log,interval(1e-4,1e-1))', loss: [dice, focal]}\n"
    )
    composer = Composer(path, ["loss=dice,dice_ce", "search.seed=3"])
    assert composer.chosen("search") == "optuna"
    assert Composer(path, ["search=none"]).chosen("search") == "none"
    assert composer.sweep.space() == {
        "optimizer.lr": Numbers(1e-4, 1e-1, whole=False, log=True),
        "loss": Choices(("dice", "dice_ce")),
    }
    config = composer.compose_trial({"optimizer.lr": "0.01", "loss": "dice"}, number=0)
    assert (config.search.n_trials, config.search.seed, config.search.pruner.reduction_factor) == (20, 3, 4)
    assert config.options["search/pruner"] == "hyperband"


def _told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["train", *words]) == 2
    return capsys.readouterr().err


def test_an_interval_without_a_search_is_told_with_the_remedy(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "or search in it with search=optuna" in _told(capsys, "-m", "optimizer.lr=interval(0,1)")


def test_a_search_that_cannot_be_is_told_with_the_remedy(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("optuna")
    search = ("search=optuna", "search.n_trials=3")
    assert "add -m" in _told(capsys, *search)
    assert "a search needs a key with several values" in _told(capsys, "-m", *search)
    assert "the luckiest" in _told(capsys, "-m", *search, "seed=0..3")
    assert "changes nothing that is computed" in _told(capsys, "-m", *search, "dataset.workers=0,1")
    assert "search.n_trials needs a whole number" in _told(capsys, "-m", "search=optuna", "loss=dice,focal")
    assert "trainer.validate_every_epochs is null" in _told(capsys, "-m", *search, "loss=dice,focal")
    grid = ("search=optuna", "search/sampler=grid", "search/pruner=none")
    assert "optimizer.lr is an interval" in _told(capsys, "-m", *grid, "optimizer.lr=interval(0,1)")
    for knob in ("search.n_trials=3", "search/sampler=grid"):
        assert f"{knob} is of a search, and none is chosen; add search=optuna" in _told(capsys, knob)
    assert "trial is filled in by medexp" in _told(capsys, "trial.number=3")
