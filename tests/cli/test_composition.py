from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import getbase
from omegaconf import DictConfig, OmegaConf

import medexp
from medexp.cli.composition import Composer, compose
from medexp.cli.places import conf_folder, groups, option_names
from medexp.core.errors import UsageError
from medexp.core.schema import PRECISIONS, RULES

_OPTIONS = [
    (group, option)
    for group in groups([conf_folder()])
    for option in option_names(group, [conf_folder()])
    if group != "post_processing"
]
_STEPS = option_names("post_processing", [conf_folder()])
# Values other than the default that a rule of the schema lets pass.
_OTHER: dict[str, Any] = {
    "precision": "16-mixed",
    "threads": 3,
    "init_skip": ["head.*"],
    "freeze": ["encoder.*"],
    "on_change": "new",
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
    "dataset.workers": 2,
}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping) and node:
        for name, value in node.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, node


def _other(key: str, value: Any) -> Any:
    if key in _OTHER:
        return _OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 if math.isfinite(value) and value else 0.5
    return [*value, *value] if isinstance(value, list) and value else "another"


def _typed(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_typed, value))}]"
    return f"'{value}'" if isinstance(value, str) else str(value).lower()


def _refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        compose("quickstart", overrides)
    return str(told.value)


# --- what there is --------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "option"), _OPTIONS, ids=[f"{group}={option}" for group, option in _OPTIONS])
def test_each_option_composes_and_each_of_its_leaves_can_be_overridden(group: str, option: str, here: Path) -> None:
    composer = Composer(None, [f"{group}={option}"])
    with composer.hydra():
        config = hydra.compose("train", overrides=composer.hydra_overrides())
    plain = OmegaConf.to_container(config[group])
    wanted = {key: _other(key, value) for key, value in _leaves(plain, group)}
    assert wanted
    changed = compose(None, [f"{group}={option}", *(f"{key}={_typed(value)}" for key, value in wanted.items())])
    assert {key: _plain(OmegaConf.select(changed, key)) for key in wanted} == wanted


def test_each_knob_outside_the_groups_can_be_overridden(here: Path) -> None:
    default = OmegaConf.to_container(compose())
    assert isinstance(default, dict)
    knobs = {key: value for key, value in default.items() if not isinstance(value, dict)}
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


def test_the_rules_and_the_engine_know_the_same_precisions() -> None:
    from medexp.engine import precision

    assert precision.PRECISIONS == PRECISIONS


# --- what there is not ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seeed=1", "seeed=1: there is no key seeed; did you mean seed"),
        ("+foo=1", "+foo=1: there is no key foo"),
        ("++foo=1", "++foo=1: there is no key foo"),
        ("+experiment=typo", "+experiment=typo: there is no key experiment"),
        ("los=dice", "los=dice: there is no key los; did you mean loss"),
        ("loss=dise", "loss=dise: no such option; did you mean dice? (known: "),
        ("metrics=[dice,hd59]", "metrics=hd59: no such option; did you mean hd95? (known: "),
        ("metrics.dise.both_empty=1", "there is no key metrics.dise.both_empty; did you mean metrics.dice.both_empty"),
        ("dataset=_base", "dataset=_base: no such option"),
        ("loss=[dice,focal]", "loss takes the name of an option, got ['dice', 'focal'] (known: "),
        ("loss=null", "loss takes the name of an option, got null (known: "),
        ("trainer=null", "trainer takes the name of an option, got null (known: default)"),
        ("optimizer.lr.x=1", "there is no key optimizer.lr.x; did you mean optimizer.lr"),
        ("axes={loss: dice}", "axes is filled in by medexp"),
        ("~loss", "~loss: an experiment needs its loss"),
        ("~callbacks", "~callbacks: an experiment needs its callbacks; write callbacks=[]"),
        ("~seed", "~seed: seed cannot be removed"),
        ("~optimizer.lr", "~optimizer.lr: optimizer.lr cannot be removed"),
        ("metrics=[]", "metrics is empty; choose one at least"),
    ],
)
def test_an_override_of_what_does_not_exist_is_refused_with_the_nearest_name(
    override: str, told: str, here: Path
) -> None:
    assert told in _refusal(override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("hydra/launcher=typo", "hydra/launcher"),
        ("hydra.foo=1", "hydra.foo"),
        ("+seed=1", "'seed'"),
        ("loss@foo=dice", "loss@foo"),
        ("optimizer.lr=${nope}", "optimizer.lr"),
        ("optimizer.lr=${seed", "optimizer.lr"),
    ],
)
def test_what_hydra_itself_refuses_is_told_on_one_line_with_the_key(override: str, key: str, here: Path) -> None:
    told = _refusal(override)
    assert key in told
    assert "\n" not in told


@pytest.mark.parametrize("override", ["~callbacks.progress", "~metrics.hd95"])
def test_an_entry_of_a_mapping_of_objects_can_be_removed(override: str, here: Path) -> None:
    config = compose(None, [override])
    group, name = override.removeprefix("~").split(".")
    assert name not in config[group]


def test_no_callbacks_is_an_empty_mapping(here: Path) -> None:
    assert compose(None, ["callbacks=[]"]).callbacks == {}


def test_an_entry_of_ones_own_can_be_added_to_a_mapping_of_objects(here: Path) -> None:
    config = compose(None, ["+metrics.mine={_target_: mine.Metric, k: 1}", "+metrics.other._target_=mine.Other"])
    assert config.metrics.mine == {"_target_": "mine.Metric", "k": 1}
    assert config.metrics.other == {"_target_": "mine.Other"}


# --- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("trainer.max_epochs=abc", 'trainer.max_epochs needs null or a whole number from 1 on, got "abc"'),
        ("trainer.max_epochs=0", "trainer.max_epochs needs null or a whole number from 1 on, got 0"),
        ("trainer.max_epochs=null", "one of trainer.max_epochs and trainer.max_steps needs a whole number"),
        ("trainer.max_steps=1.5", "trainer.max_steps needs null or a whole number from 1 on, got 1.5"),
        ("trainer.accumulate=0", "trainer.accumulate needs a whole number from 1 on, got 0"),
        ("trainer.gradient_clip_norm=0", "trainer.gradient_clip_norm needs null or a number above 0, got 0"),
        ("trainer.deterministic=1", "trainer.deterministic needs true or false, got 1"),
        ("trainer.checkpoint=newest", 'trainer.checkpoint needs last or best, got "newest"'),
        ("trainer.checkpoints.keep_last=0", "trainer.checkpoints.keep_last needs a whole number from 1 on, got 0"),
        ("trainer.devices=[0,a]", "trainer.devices needs auto or a whole number"),
        ("fold=x", 'fold needs a whole number from 0 on, got "x"'),
        ("fold=-1", "fold needs a whole number from 0 on, got -1"),
        ("fold=5", "fold needs 0..4 with dataset.split.n_folds=5, got 5"),
        ("seed=1.5", "seed needs a whole number from 0 on, got 1.5"),
        ("seed=true", "seed needs a whole number from 0 on, got true"),
        ("seed=null", "seed needs a whole number from 0 on, got null"),
        ("overlays=foo", 'overlays needs a whole number from 0 on or a list of case ids, got "foo"'),
        ("precision=fp16", 'precision needs auto or 32-true or bf16-mixed or 16-mixed, got "fp16"'),
        ("threads=0", "threads needs auto or a whole number from 1 on, got 0"),
        ("on_change=ask", 'on_change needs refuse or resume or new, got "ask"'),
        ("save_predictions=yes", 'save_predictions needs true or false, got "yes"'),
        ("study=''", 'study needs a text, got ""'),
        ("dataset.batch_size=0", "dataset.batch_size needs a whole number from 1 on, got 0"),
        ("dataset.patch_size=32", "dataset.patch_size needs a list of whole numbers from 1 on, got 32"),
        ("dataset.foreground_fraction=2", "dataset.foreground_fraction needs a number from 0 to 1, got 2"),
        ("dataset.workers=-1", "dataset.workers needs auto or a whole number from 0 on, got -1"),
        ("dataset.split.n_folds=1", "dataset.split.n_folds needs a whole number from 2 on, got 1"),
        ("optimizer.lr=abc", 'optimizer.lr needs a number, got "abc"'),
        ("optimizer.amsgrad=1", "optimizer.amsgrad needs true or false, got 1"),
        ("dataset.source.noise=true", "dataset.source.noise needs a number, got true"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(override: str, told: str, here: Path) -> None:
    assert told in _refusal(override)


def test_all_wrong_values_are_told_at_once(here: Path) -> None:
    told = _refusal("seed=x", "fold=x", "trainer.accumulate=x")
    assert all(key in told for key in ("seed needs", "fold needs", "trainer.accumulate needs"))


@pytest.mark.parametrize(
    "override",
    ["seed=0", "overlays=[a,b]", "threads=2", "dataset.workers=auto", "trainer.devices=[0,1]", "optimizer.lr=1"],
)
def test_a_value_of_the_right_kind_passes(override: str, here: Path) -> None:
    key, _, value = override.partition("=")
    shown = OmegaConf.select(compose("quickstart", [override]), key)
    assert str(shown).replace(" ", "").replace("'", "") == value


@pytest.mark.parametrize("override", ["trainer.max_steps=5", "trainer.max_epochs=null"])
def test_a_length_by_steps_or_by_epochs_is_enough(override: str, here: Path) -> None:
    assert compose(None, ["trainer.max_steps=5", override]).trainer.max_steps == 5


def test_a_missing_folder_of_a_dataset_is_told_with_the_remedy(here: Path) -> None:
    told = _refusal("dataset=msd")
    assert told.startswith("dataset.root has no value; give one on the command line (dataset.root=...)")
    assert compose(None, ["dataset=msd", "dataset.root=/data"]).dataset.root == "/data"


def test_tracking_off_is_a_name_and_no_boolean(here: Path) -> None:
    assert compose(None, ["tracking=off"]).tracking.name == "off"


# --- chains ---------------------------------------------------------------------------------------


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


# --- sweeps ---------------------------------------------------------------------------------------


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
    names = Composer(None, ["loss=glob(dice*)"]).sweep.jobs()
    assert names == [["loss=dice"], ["loss=dice_ce"], ["loss=dice_focal"]]
    assert "loss=glob(x*) matches no option" in _refusal("loss=glob(x*)")


def test_each_job_of_a_sweep_is_checked_before_the_first_one_starts(here: Path) -> None:
    with pytest.raises(UsageError, match=r"loss\.gamma=1: there is no key loss\.gamma"):
        Composer(None, ["loss=focal,dice", "loss.gamma=1"]).compose_jobs()


# --- options of one's own, and a caller with a Hydra of its own -------------------------------------


@pytest.fixture
def own_options(here: Path) -> Path:
    """A folder with a loss and a dataset of one's own."""
    for name, text in {
        "loss/mine.yaml": "_target_: my_losses.Mine\nalpha: 0.5\n",
        "dataset/mine.yaml": "defaults: [_base, _self_]\nroot: null\nsource: {_target_: mine.Source}\n"
        "patch_size: [8, 8]\nbatch_size: 2\n",
        "post_processing/mine.yaml": "_target_: mine.Step\nk: 1\n",
    }.items():
        file = here / "conf" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return here / "conf"


def test_options_of_ones_own_join_the_shipped_ones(own_options: Path) -> None:
    config = compose(
        None, ["loss=mine", "loss.alpha=0.3", "dataset=mine", "post_processing=[mine]"], config_dir=own_options
    )
    assert config.loss == {"_target_": "my_losses.Mine", "alpha": 0.3}
    assert (config.dataset.source["_target_"], config.dataset.split.n_folds) == ("mine.Source", 5)
    assert config.post_processing.steps == [{"_target_": "mine.Step", "k": 1}]
    assert list(config.paths.conf) == [str(own_options)]


def test_an_option_of_ones_own_may_not_take_the_name_of_a_shipped_one(own_options: Path) -> None:
    (own_options / "loss" / "dice.yaml").write_text("_target_: my_losses.Dice\n")
    with pytest.raises(UsageError, match=r"loss/dice\.yaml has the name of an option that medexp ships"):
        compose(None, [], config_dir=own_options)
    (own_options / "loss" / "dice.yaml").write_bytes((conf_folder() / "loss" / "dice.yaml").read_bytes())
    assert compose(None, ["loss=dice"], config_dir=own_options).loss["_target_"].endswith("Dice")


def test_keys_and_names_of_ones_own_options_are_checked_too(own_options: Path) -> None:
    with pytest.raises(UsageError, match=r"no key loss\.alhpa; did you mean loss\.alpha"):
        compose(None, ["loss=mine", "loss.alhpa=1"], config_dir=own_options)
    with pytest.raises(UsageError, match="loss=mien: no such option; did you mean mine"):
        compose(None, ["loss=mien"], config_dir=own_options)


def test_a_folder_of_options_that_is_not_there_is_refused(here: Path) -> None:
    with pytest.raises(UsageError, match="--config-dir nowhere is no folder"):
        compose(None, [], config_dir="nowhere")


def test_modules_are_looked_for_in_the_working_directory_and_beside_the_experiment(here: Path) -> None:
    (here / "elsewhere").mkdir()
    (here / "elsewhere" / "mine.yaml").write_text("seed: 1\n")
    assert list(compose("elsewhere/mine.yaml").paths.modules) == [str(here), str(here / "elsewhere")]


def test_a_hydra_that_the_caller_has_initialised_stays_as_it_was(here: Path) -> None:
    (here / "theirs").mkdir()
    (here / "theirs" / "top.yaml").write_text("a: 1\n")
    with hydra.initialize_config_dir(config_dir=str(here / "theirs"), version_base="1.2", job_name="notebook"):
        theirs = GlobalHydra.instance().hydra
        config = medexp.compose("quickstart", ["loss=focal"])
        assert isinstance(config, DictConfig)
        assert config.loss.gamma == 2.0
        assert GlobalHydra.instance().hydra is theirs
        assert (str(getbase()), JobRuntime.instance().get("name")) == ("1.2", "notebook")
        assert hydra.compose("top", overrides=["a=2"]).a == 2


def test_a_failed_composition_leaves_the_callers_hydra_too(here: Path) -> None:
    (here / "theirs").mkdir()
    with hydra.initialize_config_dir(config_dir=str(here / "theirs"), version_base="1.2", job_name="notebook"):
        theirs = GlobalHydra.instance().hydra
        _refusal("hydra/launcher=typo")
        assert GlobalHydra.instance().hydra is theirs


def test_nothing_of_an_experiment_is_left_in_hydras_store(here: Path) -> None:
    (here / "mine.yaml").write_text("loss: {_target_: mine.Loss, k: 1}\n")
    compose("mine.yaml")
    repo = ConfigStore.instance().repo
    assert repo.get("experiment", {}) == {}
    assert repo.get("loss", {}) == {}
    assert not GlobalHydra.instance().is_initialized()
