from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from medexp.cli.composition import Composer, compose
from medexp.cli.places import experiment_names
from medexp.core.errors import UsageError

Write = Callable[..., str]


def _refusal(path: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        Composer(path, overrides).compose_jobs()
    return str(told.value)


@pytest.mark.parametrize("name", [name for name in experiment_names() if "/" not in name or "baseline" not in name])
def test_each_shipped_experiment_composes(name: str, here: Path) -> None:
    first = Composer(name, ["dataset.root=somewhere"]).sweep.jobs()[0]
    assert compose(name, first).study == name.replace("/", "-")


def test_an_experiment_chooses_options_and_sets_values(experiment: Write) -> None:
    path = experiment("defaults:\n  - override /loss: focal\nloss: {gamma: 3}\ntrainer:\n  max_epochs: 7\n")
    config = compose(path)
    assert (config.loss.gamma, config.trainer.max_epochs, config.study) == (3, 7, "mine")
    assert config.loss["_target_"].endswith("Focal")


def test_the_command_line_wins_over_the_experiment(experiment: Write) -> None:
    path = experiment("defaults:\n  - override /loss: focal\nloss: {gamma: 3}\nseed: 5\n")
    assert compose(path, ["loss.gamma=1", "seed=0"]).loss.gamma == 1
    assert compose(path, ["seed=0"]).seed == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "defaults: [{override /loss: focal}]\nloss: {gama: 3}\n",
            "sets loss.gama, which does not exist; did you mean loss.gamma or ",
        ),
        ("seeed: 1\n", "sets seeed, which does not exist; did you mean seed"),
        (
            "seeed: 1\ntrainer: {max_epoch: 3}\n",
            "it sets trainer.max_epoch, which does not exist; did you mean trainer.",
        ),
        (
            "metrics: {dise: {both_empty: 1.0}}\n",
            "sets metrics.dise, which does not exist (an entry of your own in metrics",
        ),
        ("metrics: {dice: {both: 1.0}}\n", "sets metrics.dice.both, which does not exist; did you mean metrics.dice."),
        ("loss.gamma: 3\n", "sets loss.gamma; in a file, write it nested: loss: {gamma: 3}"),
        ("loss: focal\n", "sets loss: focal; an option is chosen under defaults, as `- override /loss: focal`"),
        ("loss: 3\n", "sets loss to 3, but it is a mapping"),
        ("trainer: null\n", "sets trainer to null, but it is a mapping (of max_epochs, "),
        ("seed: {a: 1}\n", "sets seed to a mapping, but it is a single value (0)"),
        ("axes: {loss: dice}\n", "sets axes, which medexp fills in"),
        ("hydra: {job: {num: 1}}\n", "sets hydra, which has no effect in an experiment; give it on the command line"),
        ("defaults: [{override /los: dice}]\n", "defaults names los, which is no group; did you mean loss?"),
        ("defaults: [{override /hydra/launcher: joblib}]\n", "which has no part here; jobs run where launcher=local"),
        ("defaults: [loss]\n", "each entry reads `- override /GROUP: OPTION`"),
        ("defaults: loss\n", "defaults needs a list of entries"),
        ("- seed\n", "needs a mapping of overrides at its top, got a ListConfig"),
        ("seed: [\n", "is no valid YAML"),
        ("seed: 1\nseed: 2\n", "found duplicate key seed"),
        (
            "defaults: [{override /loss: dice}]\nloss: {_target_: a.B}\n",
            "chooses loss=dice and defines loss with a _tar",
        ),
    ],
)
def test_what_a_file_cannot_mean_is_refused_with_the_file_and_the_remedy(
    text: str, told: str, experiment: Write
) -> None:
    path = experiment(text)
    message = _refusal(path)
    assert message.startswith(path)
    assert told in message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("defaults: [{override /loss: dise}]\n", "loss=dise: no such option; did you mean dice?"),
        ("optimizer: {lr: fast}\n", 'optimizer.lr needs a number, got "fast"'),
        ("seed: 1.5\n", "seed needs a whole number from 0 on, got 1.5"),
        ("optimizer: {lr: '${nope}'}\n", "optimizer.lr reads what is not there (Interpolation key 'nope' not found)"),
        (
            "post_processing: [argmax, keep_largst]\n",
            "post_processing[1] is keep_largst: no such step; did you mean ke",
        ),
        (
            "post_processing: [argmax, {remove_small: {min_volume: 2}}]\n",
            "has no knob min_volume; did you mean min_volume_",
        ),
    ],
)
def test_a_wrong_option_or_value_in_a_file_is_refused_with_its_key(text: str, told: str, experiment: Write) -> None:
    assert told in _refusal(experiment(text))


def test_an_experiment_that_is_not_there_is_refused_with_the_nearest_name(here: Path) -> None:
    with pytest.raises(UsageError, match=r"no experiment quikstart: .*; did you mean quickstart"):
        compose("quikstart")


def test_a_leaf_of_a_group_may_not_be_set_while_the_group_is_swept(experiment: Write) -> None:
    path = experiment("defaults: [{override /loss: focal}]\nloss: {gamma: 3}\n")
    told = _refusal(path, "loss=dice,focal")
    assert told.startswith(f"{path} sets loss.gamma, but loss is swept")
    assert "option file" in told


def test_a_leaf_may_be_set_while_another_group_or_a_knob_of_the_same_group_is_swept(experiment: Write) -> None:
    path = experiment("defaults: [{override /loss: focal}]\nloss: {gamma: 3}\n")
    jobs = Composer(path, ["optimizer=adam,sgd", "loss.alpha=0.2,0.3"]).compose_jobs()
    assert [(job.loss.gamma, job.loss.alpha) for job in jobs] == [(3, 0.2), (3, 0.3)] * 2


def test_an_object_of_ones_own_may_be_swept_away(experiment: Write) -> None:
    path = experiment("loss: {_target_: mine.Loss, k: 1}\n")
    jobs = Composer(path, ["loss=dice,focal"]).compose_jobs()
    assert [job.loss["_target_"].rsplit(".", 1)[-1] for job in jobs] == ["Dice", "Focal"]


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("post_processing: [argmax, keep_largest, keep_largest]\n", ["Argmax", "KeepLargest", "KeepLargest"]),
        ("post_processing: {steps: [argmax]}\n", ["Argmax"]),
        ("post_processing: argmax\n", ["Argmax"]),
        ("defaults: [{override /post_processing: [argmax, remove_small]}]\n", ["Argmax", "RemoveSmall"]),
        ("post_processing: [argmax, {_target_: mine.Step, k: 1}]\n", ["Argmax", "Step"]),
    ],
)
def test_a_chain_can_be_written_in_a_file(text: str, steps: list[str], experiment: Write) -> None:
    chain = compose(experiment(text)).post_processing.steps
    assert [step["_target_"].rsplit(".", 1)[-1] for step in chain] == steps


def test_a_step_may_occur_twice_in_a_file_with_knobs_of_its_own(experiment: Write) -> None:
    path = experiment(
        "post_processing:\n  - argmax\n  - remove_small: {min_volume_mm3: 20}\n  - remove_small: {min_volume_mm3: 5}\n"
    )
    steps = compose(path).post_processing.steps
    assert [step.get("min_volume_mm3") for step in steps] == [None, 20, 5]
    assert [step.get("connectivity") for step in steps] == [None, "corners", "corners"]


@pytest.mark.parametrize("option", ["off", '"off"'])
def test_tracking_off_in_a_file_is_a_name_though_yaml_reads_a_boolean(option: str, experiment: Write) -> None:
    assert compose(experiment(f"defaults:\n  - override /tracking: {option}\n")).tracking.tracker is None


def test_an_object_of_ones_own_replaces_a_group_whole(experiment: Write) -> None:
    path = experiment("loss: {_target_: my_losses.Mine, alpha: 0.3}\n")
    assert compose(path).loss == {"_target_": "my_losses.Mine", "alpha": 0.3}
    assert compose(path, ["loss.alpha=0.7"]).loss.alpha == 0.7
    assert "no key loss.alhpa=" not in _refusal(path, "loss.alhpa=1")
    assert "there is no key loss.alhpa; did you mean loss.alpha" in _refusal(path, "loss.alhpa=1")


def test_an_entry_of_ones_own_joins_the_metrics_and_its_knobs_can_be_overridden(experiment: Write) -> None:
    path = experiment("metrics:\n  mine: {_target_: my_metrics.Mine, k: 1}\n")
    metrics = compose(path, ["metrics.mine.k=2"]).metrics
    assert metrics.mine == {"_target_": "my_metrics.Mine", "k": 2}
    assert "dice" in metrics


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("task: {regions: {whole: [1, 2], core: [2]}}\n", "task.regions", {"whole": [1, 2], "core": [2]}),
        ("loss: {weights: {dice: 2.0}}\n", "loss.weights.dice", 2.0),
        ("inferer: {window: [16, 16]}\n", "inferer.window", [16, 16]),
        ("dataset: {root: /data}\n", "dataset.root", "/data"),
    ],
)
def test_values_may_replace_null_a_reference_and_what_is_missing(
    text: str, key: str, value: Any, experiment: Write
) -> None:
    found = OmegaConf.select(compose(experiment(text)), key)
    assert (OmegaConf.to_container(found) if OmegaConf.is_config(found) else found) == value


def test_a_study_is_named_in_the_file_or_else_after_it(experiment: Write) -> None:
    assert compose(experiment("study: ours\n")).study == "ours"
    assert compose(experiment("study: ours\n"), ["study=theirs"]).study == "theirs"
    assert compose(experiment("seed: 1\n", "deep/er/first_try.yml")).study == "first_try"


def test_experiments_of_one_file_name_in_two_folders_are_two_studies(experiment: Write) -> None:
    experiment("seed: 1\n", "experiments/liver/unet.yaml")
    experiment("seed: 2\n", "experiments/heart/unet.yaml")
    assert (compose("liver/unet").study, compose("liver/unet").seed) == ("liver-unet", 1)
    assert (compose("experiments/heart/unet.yaml").study, compose("heart/unet").seed) == ("heart-unet", 2)


@pytest.mark.parametrize("name", ["my exp.yaml", "lr=0.1, v1.2.yaml", "it's.yaml", "ümlaut.yaml", "[a].yaml"])
def test_a_file_may_have_any_name(name: str, experiment: Write) -> None:
    config = compose(experiment("loss: {_target_: mine.Loss, k: 1}\nseed: 4\n", name))
    assert (config.study, config.seed, config.loss.k) == (Path(name).stem, 4, 1)


def test_two_files_of_one_name_do_not_mix(experiment: Write) -> None:
    first = Composer(experiment("seed: 1\nloss: {_target_: mine.A, k: 1}\n", "a/x.yaml"), [])
    second = Composer(experiment("seed: 2\nloss: {_target_: mine.B, j: 2}\n", "b/x.yaml"), [])
    assert (first.compose_jobs()[0].seed, second.compose_jobs()[0].seed) == (1, 2)
    assert first.compose_jobs()[0].loss == {"_target_": "mine.A", "k": 1}


def test_an_empty_file_is_the_default(experiment: Write) -> None:
    assert compose(experiment("")).seed == compose().seed


STUDY = "sweep: {loss: [dice, focal], seed: 0..1, optimizer.lr: [0.1]}\n"


def test_an_experiment_may_sweep_by_itself(experiment: Write) -> None:
    jobs = Composer(experiment(STUDY), []).compose_jobs()
    assert [(job.axes.loss, job.seed, job.optimizer.lr) for job in jobs] == [
        ("dice", 0, 0.1),
        ("dice", 1, 0.1),
        ("focal", 0, 0.1),
        ("focal", 1, 0.1),
    ]


def test_the_command_line_adds_axes_to_a_study_and_gives_values_for_its_own(experiment: Write) -> None:
    path = experiment(STUDY)
    jobs = Composer(path, ["seed=3", "optimizer.lr=0.01,0.02"]).compose_jobs()
    assert [(job.options.loss, job.seed, job.optimizer.lr) for job in jobs] == [
        ("dice", 3, 0.01),
        ("dice", 3, 0.02),
        ("focal", 3, 0.01),
        ("focal", 3, 0.02),
    ]
    assert compose(path, ["loss=dice", "seed=0"]).axes == {"loss": "dice", "seed": "0", "optimizer.lr": "0.1"}


def test_a_study_has_the_runs_of_the_same_sweep_typed(experiment: Write) -> None:
    of_file = Composer(experiment("sweep: {loss: [dice, focal], dataset.patch_size: [[32, 32], [48, 64]]}\n"), [])
    typed = Composer(experiment(""), ["loss=dice,focal", "dataset.patch_size=[32,32],[48,64]"])
    assert [job.axes for job in of_file.compose_jobs()] == [job.axes for job in typed.compose_jobs()]


def test_one_run_of_a_study_needs_one_value_for_each_axis(experiment: Write) -> None:
    with pytest.raises(UsageError, match="loss, seed takes several values"):
        compose(experiment(STUDY))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sweep: [loss]\n", "sweep needs a mapping of keys to values"),
        ("sweep: {loss: []}\n", "sweep.loss needs a list of values, or a range such as 0..4, got []"),
        ("sweep: {loss: {dice: 1}}\n", "sweep.loss needs a list of values"),
        ("sweep: {loss: [dice, focl]}\n", "loss=focl: no such option; did you mean focal"),
        ("sweep: {loss.gama: [1, 2]}\n", "there is no key loss.gama"),
        ("sweep: {loss: [dice, focal]}\nloss: {gamma: 3}\n", "but loss is swept, so every loss would get it"),
    ],
)
def test_axes_without_meaning_are_refused(text: str, told: str, experiment: Write) -> None:
    assert told in _refusal(experiment(text))
