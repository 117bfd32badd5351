from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from medexp.cli.composition import Composer, compose
from medexp.cli.places import conf_folder, groups, key_of, option_names
from medexp.core.errors import UsageError
from medexp.core.schema import RULES


def _is_preset(group: str, option: str) -> bool:
    """Whether a dataset is another one with some of its knobs set; test_presets.py composes those."""
    file = conf_folder() / group / f"{option}.yaml"
    return group == "dataset" and "_base" not in OmegaConf.load(file).defaults


_OPTIONS = [
    (group, option)
    for group in groups([conf_folder()])
    for option in option_names(group, [conf_folder()])
    if group not in ("post_processing", "derive") and not _is_preset(group, option)
]
# Options of the groups of a line do not ask for each other, so that one of each is composed at a time.
_TOGETHER = (
    ("task", "search"),
    ("task/representation", "search/pruner", "search/sampler"),
    (
        "augmentation",
        "callbacks",
        "dataset",
        "dataset/preprocessing/normalisation",
        "dataset/split",
        "inferer",
        "launcher",
        "loss",
        "metrics",
        "model",
        "optimizer",
        "parameter_groups",
        "paths",
        "scheduler",
        "tracking",
        "trainer",
    ),
)
_ROUNDS = [
    [option for option in options if option is not None]
    for together in _TOGETHER
    for options in zip_longest(*([option for option in _OPTIONS if option[0] == group] for group in together))
]
_STEPS = option_names("post_processing", [conf_folder()])
# Values other than the default that a rule of the schema lets pass.
_OTHER: dict[str, Any] = {
    "precision": "16-mixed",
    "threads": 3,
    "init_skip": ["head.*"],
    "freeze": ["encoder.*"],
    "on_change": "new",
    "retry": "failed",
    "preflight": "build",
    "fold": 1,
    "paths.modules": ["mine"],
    "paths.conf": ["theirs"],
    "post_processing.steps": [],
    "trainer.max_steps": 7,
    "trainer.steps_per_epoch": 7,
    "trainer.validate_every_epochs": 7,
    "trainer.checkpoints.every_steps": 7,
    "trainer.checkpoints.every_epochs": 7,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint": "best",
    "dataset.preprocessing.spacing_mm": [1.5, 2],
    "dataset.balance": "label",
    "dataset.preprocessing.interpolation": "linear",
    "dataset.preprocessing.mask_interpolation": "argmax",
    "dataset.split.n_groups": 7,
    "dataset.split.n_train": 7,
    "dataset.split.stratify": "load",
    "dataset.split.stratify_classes": ["lesion"],
    "dataset.workers": 2,
    "dataset.derive": [],
    "dataset.integrity": "warn",
    "dataset.pin_memory": True,
    "task.representation.n_rays": 16,
    "task.representation.anisotropy": [1.0, 2.0],
    "parameter_groups.no_decay": ["head.*"],
    "parameter_groups.layers": ["encoder.*", "*"],
}


# An option that needs another than the default beside it.
_BESIDE = {
    "task=detection/density": ["loss=mse"],
    "task=instance/detect": ["loss=detector_terms"],
    **{f"{group}={option}": ["task=instance/parallel"] for group, option in _OPTIONS if group == "task/representation"},
    **{f"{group}={option}": ["search=optuna"] for group, option in _OPTIONS if group.startswith("search/")},
}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    # Keys that are numbers (label ids) have no place on the command line; the mapping is given whole.
    if isinstance(node, Mapping) and node and all(isinstance(name, str) for name in node):
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def _other(key: str, value: Any) -> Any:
    if key in _OTHER:
        return _OTHER[key]
    if isinstance(value, Mapping) and value:
        return {name: _other("", item) for name, item in value.items()}
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if math.isfinite(value) and value else 0.5
    return [*value, *value] if isinstance(value, list) and value else "another"


def _typed(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{name}:{_typed(item)}' for name, item in value.items())}}}"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def test_each_option_is_in_a_round() -> None:
    assert sorted(option for options in _ROUNDS for option in options) == sorted(_OPTIONS)


def _refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        compose(None, overrides)
    return str(told.value)


@pytest.mark.parametrize("options", _ROUNDS, ids=[",".join(map("=".join, options)) for options in _ROUNDS])
def test_each_option_composes_and_each_of_its_leaves_can_be_overridden(
    options: list[tuple[str, str]], here: Path
) -> None:
    chosen = [*dict.fromkeys(word for option in map("=".join, options) for word in (option, *_BESIDE.get(option, [])))]
    (config,) = Composer(None, chosen).check()
    wanted: dict[str, Any] = {}
    for key in {key_of(group) for group, _ in options}:
        plain = OmegaConf.to_container(OmegaConf.select(config, key))
        own = {leaf: _other(leaf, value) for leaf, value in _leaves(plain, key)}
        assert own
        wanted |= own
    changed = compose(None, [*chosen, *(f"{key}={_typed(value)}" for key, value in wanted.items())])
    assert {key: _plain(OmegaConf.select(changed, key)) for key in wanted} == wanted


def test_each_knob_outside_the_groups_can_be_overridden(here: Path) -> None:
    default = OmegaConf.to_container(compose())
    assert isinstance(default, dict)
    # Methods are an experiment's own.
    knobs = {key: value for key, value in default.items() if not isinstance(value, dict) and key != "method"}
    assert {"seed", "fold", "precision", "threads", "study"} <= knobs.keys()
    wanted = {key: _other(key, value) for key, value in knobs.items()}
    changed = compose(None, [f"{key}={_typed(value)}" for key, value in wanted.items()])
    assert {key: _plain(changed[key]) for key in wanted} == wanted


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def test_every_knob_outside_the_groups_and_of_the_trainer_has_a_rule(here: Path) -> None:
    default = OmegaConf.to_container(compose())
    assert isinstance(default, dict)
    knobs = {key for key, value in default.items() if not isinstance(value, dict)}
    knobs |= {key for key, _ in _leaves(default["trainer"], "trainer")}
    assert knobs - RULES.keys() == set()


@pytest.mark.parametrize("step", _STEPS)
def test_each_step_can_stand_in_a_chain_and_each_of_its_knobs_can_be_set(step: str, here: Path) -> None:
    (whole,) = compose(None, [f"post_processing=[{step}]"]).post_processing.steps
    knobs = {key: _other(key, value) for key, value in whole.items() if key != "_target_"}
    typed = ",".join(f"{key}: {_typed(value)}" for key, value in knobs.items())
    (changed,) = compose(None, [f"post_processing=[{{{step}: {{{typed}}}}}]"]).post_processing.steps
    assert OmegaConf.to_container(changed) == {"_target_": whole["_target_"], **knobs}


def test_a_step_may_occur_twice_with_knobs_of_its_own(here: Path) -> None:
    chain = (
        "[argmax,keep_largest,{remove_small: {min_volume_mm3: 20}},keep_largest,{remove_small: {min_volume_mm3: 5}}]"
    )
    steps = compose(None, [f"post_processing={chain}"]).post_processing.steps
    names = [step["_target_"].rsplit(".", 1)[-1] for step in steps]
    assert names == ["Argmax", "KeepLargest", "RemoveSmall", "KeepLargest", "RemoveSmall"]
    assert [step.min_volume_mm3 for step in steps if "min_volume_mm3" in step] == [20, 5]


@pytest.mark.parametrize(
    ("chain", "told"),
    [
        ("[argmx]", "post_processing[0] is argmx: no such step; did you mean argmax? (known: "),
        (
            "[argmax,{remove_small: {min_volume: 2}}]",
            "post_processing[1]: step remove_small has no knob min_volume; did",
        ),
        ("[argmax,{remove_small: 20}]", "post_processing[1] needs the knobs of remove_small as a mapping"),
        ("[{argmax: {}, keep_largest: {}}]", "post_processing[0] needs a step's name"),
        ("null", "post_processing[0] needs a step's name"),
    ],
)
def test_an_unknown_step_or_knob_is_refused_with_its_place_in_the_chain(chain: str, told: str, here: Path) -> None:
    assert told in _refusal(f"post_processing={chain}")


def test_a_chain_that_is_no_list_is_refused(here: Path) -> None:
    assert "post_processing needs a list of steps" in _refusal("post_processing.steps=argmax")
