"""Rules of plain configurations, and what every option file under conf/ promises."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from medexp.core.config import comparable, differences, is_place, leaves
from medexp.core.instantiate import check_targets

CONF = Path(__file__).parents[2] / "conf"
GROUPS = (
    "augmentation",
    "callbacks",
    "dataset",
    "dataset/preprocessing",
    "dataset/preprocessing/normalisation",
    "dataset/split",
    "derive",
    "inferer",
    "loss",
    "metrics",
    "model",
    "optimizer",
    "parameter_groups",
    "post_processing",
    "scheduler",
    "search/pruner",
    "search/sampler",
    "task",
    "task/representation",
)


def is_preset(file: Path) -> bool:
    """Whether a dataset is another one with some of its knobs set; test_presets.py composes those."""
    return file.parent.name == "dataset" and "_base" not in OmegaConf.load(file).defaults


OPTIONS = [
    f"{group}/{file.stem}"
    for group in GROUPS
    for file in sorted((CONF / group).glob("*.yaml"))
    if not file.stem.startswith("_") and not is_preset(file)
]

OF_DATASET_AND_TASK = "follows from dataset and task"
OF_THE_RUN = "follows from the run"
# Knobs of an object that its option file leaves out, and why.
EXEMPT: dict[str, dict[str, str]] = {
    "medexp.data.module.ImageData": {
        "augmentation": "a group of its own",
        "fold": OF_THE_RUN,
        "seed": OF_THE_RUN,
        "batches_per_epoch": OF_THE_RUN,
        "accumulate": OF_THE_RUN,
        "cache_folder": OF_THE_RUN,
        "identity": OF_THE_RUN,
        "sample_targets": OF_DATASET_AND_TASK,
        "ignored_label": OF_DATASET_AND_TASK,
        "processes": OF_THE_RUN,
        "strides": "follows from the model",
    },
    "torch.optim.Adam": {"decoupled_weight_decay": "AdamW is the option for it"},
    "pytorch_lightning.callbacks.EMAWeightAveraging": {
        "kwargs": "of torch's AveragedModel: avg_fn, which it sets itself"
    },
}
# A model's factory is given these by `build_model`.
EXEMPT_IN_MODELS = dict.fromkeys(
    ("spatial_dims", "in_channels", "out_channels", "heads", "img_size"), OF_DATASET_AND_TASK
)
EXEMPT_IN_OPTIMIZERS = {
    "params": "of the model",
    "foreach": "how fast it computes",
    "fused": "how fast it computes",
    "capturable": "for CUDA graphs, which medexp does not record",
    "differentiable": "for gradients through the optimiser itself",
    "maximize": "a loss is minimised",
}


@functools.cache
def contents() -> dict[str, dict[str, Any]]:
    """Uninterpolated content of every option file, its defaults merged by Hydra; composed at once, to save time."""
    places = {option: f"option_{number}" for number, option in enumerate(OPTIONS)}
    parted = [(*option.rsplit("/", 1), place) for option, place in places.items()]
    probes = [f"+{group}@{place}={name}" for group, name, place in parted]
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3", job_name="test"):
        # Nothing else of an experiment is there but the group that an optimiser may choose another option of.
        composed = compose(overrides=["+parameter_groups=alike", *probes])
    found = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(found, dict)
    return {option: found[place] for option, place in places.items()}


@pytest.fixture(params=OPTIONS, scope="module")
def option(request) -> tuple[str, dict[str, Any]]:
    """Group and content of an option file."""
    return request.param.rpartition("/")[0], contents()[request.param]


def nodes(content: Any) -> Iterator[Mapping[str, Any]]:
    """All mappings with a target."""
    if isinstance(content, Mapping):
        if "_target_" in content:
            yield content
        content = list(content.values())
    for item in content if isinstance(content, list) else []:
        yield from nodes(item)


def exempt(group: str, node: Mapping[str, Any]) -> set[str]:
    by_group = {
        "model": EXEMPT_IN_MODELS,
        "optimizer": EXEMPT_IN_OPTIMIZERS,
        "task": {"labels": OF_DATASET_AND_TASK, "spatial_dims": OF_DATASET_AND_TASK},
        "task/representation": {"spatial_dims": OF_DATASET_AND_TASK},
    }.get(group, {})
    return set(EXEMPT.get(node["_target_"], {})) | set(by_group)


def test_option_lists_every_knob_of_its_objects(option):
    group, content = option
    found = list(nodes(content))
    assert found
    for node in found:
        parameters = inspect.signature(get_object(node["_target_"])).parameters
        listed = {key for key in node if not key.startswith("_")}
        assert listed - set(parameters) == set(), f"{node['_target_']} has no such knob"
        assert set(parameters) - listed - exempt(group, node) == set(), f"{node['_target_']} is not listed in full"


def test_option_takes_its_objects_from_trusted_modules(option):
    check_targets(option[1], option[0])


def test_option_leaves_out_what_the_engine_gives(option):
    group, content = option
    for node in nodes(content):
        assert not exempt(group, node) & set(node)


def test_no_exemption_is_left_over():
    used = {node["_target_"] for content in contents().values() for node in nodes(content)}
    for target, knobs in EXEMPT.items():
        assert target in used
        assert set(knobs) <= set(inspect.signature(get_object(target)).parameters)


def test_leaves_have_dotted_keys_and_empty_containers_count():
    config = {"loss": {"terms": [{"gamma": 2.0}, 1]}, "init_skip": [], "axes": {}, "seed": 0}
    assert dict(leaves(config)) == {
        "loss.terms[0].gamma": 2.0,
        "loss.terms[1]": 1,
        "init_skip": [],
        "axes": {},
        "seed": 0,
    }


@pytest.mark.parametrize(
    "key",
    [
        "paths.runs",
        "study",
        "axes.seed",
        "search.n_trials",
        "trial.number",
        "tracking.name",
        "dataset.root",
        "dataset.source.cache_dir",
        "dataset.workers",
    ],
)
def test_places_do_not_distinguish_experiments(key):
    assert is_place(key)
    *parents, last = key.split(".")
    config: dict[str, Any] = {"seed": 0}
    node = config
    for parent in parents:
        node = node.setdefault(parent, {})
    node[last] = "somewhere"
    assert "somewhere" not in dict(leaves(comparable(config))).values()


@pytest.mark.parametrize(
    "key", ["seed", "dataset.patch_size", "dataset.source.n_cases", "loss.roots", "threads", "precision"]
)
def test_what_is_computed_distinguishes_experiments(key):
    assert not is_place(key)


def test_comparable_keeps_the_rest_as_it_is():
    config = {
        "seed": 0,
        "chain": [{"root": "x", "kept": 1}],
        "paths": {"runs": "y"},
        "dataset": {"root": "z", "n": None},
    }
    assert comparable(config) == {"seed": 0, "chain": [{"kept": 1}], "dataset": {"n": None}}
    assert config["dataset"] == {"root": "z", "n": None}


def test_differences_name_changed_added_and_removed_leaves():
    old = {"a": {"b": 1, "gone": 2}, "list": [1, 2]}
    new = {"a": {"b": 3}, "list": [1], "come": None}
    assert differences(old, new) == [
        "a.b: 1 -> 3",
        "a.gone: 2 -> (absent)",
        "list[1]: 2 -> (absent)",
        "come: (absent) -> None",
    ]


def test_equal_values_do_not_differ_though_their_types_do():
    assert differences({"lr": 1, "x": math.nan}, {"lr": 1.0, "x": math.nan}) == []


@pytest.mark.parametrize(
    ("old", "new"), [(True, 1), (0, False), (None, 0), ("1", 1), (math.nan, 1.0), ([], {}), ([], None)]
)
def test_values_that_mean_something_else_differ(old, new):
    assert len(differences({"a": old}, {"a": new})) == 1
