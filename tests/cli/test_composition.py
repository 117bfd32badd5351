from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime
from hydra.version import getbase
from omegaconf import DictConfig, OmegaConf

import medexp
from medexp.cli.composition import Composer, compose
from medexp.cli.places import conf_folder
from medexp.core.errors import UsageError


def _refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        compose(None, overrides)
    return str(told.value)


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
        ("options.loss=dice", "options is filled in by medexp"),
        ("~loss", "~loss: an experiment needs its loss"),
        ("~callbacks", "~callbacks: an experiment needs its callbacks; write callbacks=[]"),
        ("~seed", "~seed: seed cannot be removed"),
        ("~optimizer.lr", "~optimizer.lr: optimizer.lr cannot be removed"),
        ("metrics=[]", "metrics is empty; choose one at least"),
        (
            "task=detection/density",
            "loss.terms.dice.sigmoid reads what is not there (Interpolation key 'task.sigmoid' not found)",
        ),
    ],
)
def test_an_override_of_what_does_not_exist_is_refused_with_the_nearest_name(
    override: str, told: str, here: Path
) -> None:
    assert told in _refusal(override)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("hydra/job_logging=typo", "hydra/job_logging"),
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


def test_an_option_that_is_edited_between_two_compositions_is_read_again(own_options: Path) -> None:
    first = compose(None, ["loss=mine"], config_dir=own_options)
    (own_options / "loss" / "mine.yaml").write_text("_target_: my_losses.Mine\nalpha: 0.75\n")
    assert [first.loss.alpha, compose(None, ["loss=mine"], config_dir=own_options).loss.alpha] == [0.5, 0.75]


def test_a_configuration_that_is_changed_does_not_change_the_next_one(here: Path) -> None:
    first = compose(None, ["loss=focal"])
    first.loss.gamma, first.paths.modules = 5.0, ["elsewhere"]
    second = compose(None, ["loss=focal"])
    assert (second.loss.gamma, list(second.paths.modules)) == (2.0, [str(here)])


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


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3", "optimizer.lr=1e-2", "loss.weights.dice=2"],
        ["loss=focal", "loss.gamma=3", "fold=2", "launcher=joblib"],
        ["loss.weights={dice: 3.0}", "model.channels=[4,8]", "model.strides=[2]"],
        ["init_from='a, b=c'", "overlays=[x,'y z']", "study=\\$it"],
        ["optimizer.lr=${seed}", "dataset.source.n_cases=${dataset.batch_size}", "metrics.nsd.both_empty=nan"],
        ["+loss.weights.other=1.0", "~metrics.hd95", "++seed=4", "seed=5"],
    ],
)
def test_the_configuration_is_what_hydra_composes(overrides: list[str], here: Path) -> None:
    composer = Composer("quickstart", overrides)
    (config,) = composer.compose_jobs()
    with composer.hydra():
        hydras = hydra.compose("train", overrides=composer.hydra_overrides())
    mine, theirs = (OmegaConf.to_container(node) for node in (config, hydras))
    assert isinstance(mine, dict)
    assert isinstance(theirs, dict)
    for filled_in in ("axes", "options", "paths", "post_processing"):
        del mine[filled_in], theirs[filled_in]
    assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("override", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper=basic"])
def test_hydras_own_launchers_are_refused_with_ours_as_the_remedy(override: str, here: Path) -> None:
    told = _refusal(override)
    assert override in told
    assert "launcher=local|slurm|ray|joblib" in told


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
        _refusal("hydra/job_logging=typo")
        assert GlobalHydra.instance().hydra is theirs


def test_nothing_of_an_experiment_is_left_in_hydras_store(here: Path) -> None:
    (here / "mine.yaml").write_text("loss: {_target_: mine.Loss, k: 1}\n")
    compose("mine.yaml")
    repo = ConfigStore.instance().repo
    assert repo.get("experiment", {}) == {}
    assert repo.get("loss", {}) == {}
    assert not GlobalHydra.instance().is_initialized()
