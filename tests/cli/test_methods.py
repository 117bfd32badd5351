from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from medexp.cli.composition import Composer, compose
from medexp.core.errors import UsageError

Write = Callable[..., str]

TWO = """
defaults: [{override /optimizer: sgd}]
methods:
  whole: [task=semantic, 'post_processing=[argmax,{keep_largest: {}}]']
  parts:
    - task=instance/split
    - metrics=[pq]
    - optimizer.lr=0.25
    - post_processing=[argmax,components]
"""


def _steps(config: DictConfig) -> list[str]:
    return [step["_target_"].rsplit(".", 1)[-1] for step in config.post_processing.steps]


def test_a_method_sets_several_things_at_once(experiment: Write) -> None:
    config = compose(experiment(TWO), ["method=parts"])
    assert (config.method, config.options.task, config.optimizer.lr) == ("parts", "instance/split", 0.25)
    assert (list(config.metrics), config.options.optimizer) == (["pq"], "sgd")
    assert _steps(config) == ["Argmax", "Components"]
    assert dict(config.axes) == {"method": "parts"}
    other = compose(experiment(TWO), ["method=whole"])
    assert _steps(other) == ["Argmax", "KeepLargest"]


def test_what_is_typed_wins_over_the_method(experiment: Write) -> None:
    config = compose(experiment(TWO), ["optimizer.lr=0.5", "method=parts", "post_processing=argmax", "metrics=[dice]"])
    assert (config.optimizer.lr, list(config.metrics)) == (0.5, ["dice"])
    assert _steps(config) == ["Argmax"]


def test_methods_are_swept_like_any_key(experiment: Write) -> None:
    path = experiment(TWO + "sweep: {method: [whole, parts], seed: 0..1}\n")
    jobs = Composer(path, []).compose_jobs()
    told = [(job.method, job.seed, job.options.task) for job in jobs]
    both = [
        (name, seed, task) for name, task in (("whole", "semantic"), ("parts", "instance/split")) for seed in (0, 1)
    ]
    assert told == both
    assert dict(jobs[3].axes) == {"method": "parts", "seed": "1"}


def test_all_folds_of_a_method_are_those_of_its_own_split(experiment: Write) -> None:
    path = experiment("methods: {a: [dataset.split.n_folds=3]}\n")
    assert [job.fold for job in Composer(path, ["method=a", "fold=all"]).compose_jobs()] == [0, 1, 2]


def test_a_run_without_methods_has_none(here: Path) -> None:
    assert compose(None, []).method is None


@pytest.mark.parametrize(
    ("text", "overrides", "told"),
    [
        (TWO, (), "has several methods; choose method=NAME, or sweep them with -m (whole, parts)"),
        (TWO, ("method=part",), "method=part: no such method; did you mean parts"),
        ("seed: 1\n", ("method=a",), "method=a: no such method; an experiment file names its own under `methods`"),
        ("methods: [a]\n", (), "methods needs a mapping of names to lists of overrides"),
        ("methods: {a: {seed: 1}}\n", (), "methods.a needs a list of overrides as on the command line"),
        ("methods: {a: [seed]}\n", (), "cannot read the override seed"),
        ("methods: {a: ['seed=1,2']}\n", (), "methods.a: seed takes several values; sweep it beside the methods"),
        ("methods: {a: [method=b]}\n", (), "methods.a: method=b is no part of a method"),
        ("methods: {a: [paths.runs=here]}\n", (), "methods.a: paths.runs=here is no part of a method"),
        ("methods: {a: [los=dice]}\n", ("method=a",), "there is no key los"),
        ("method: a\n", (), "sets method, which chooses one of the methods; give it on the command line"),
    ],
)
def test_methods_that_mean_nothing_are_refused(
    text: str, overrides: tuple[str, ...], told: str, experiment: Write
) -> None:
    with pytest.raises(UsageError) as refused:
        Composer(experiment(text), overrides).compose_jobs()
    assert told in str(refused.value)
