from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medexp.cli.composition import compose
from medexp.core.errors import UsageError


def _refusal(*overrides: str) -> str:
    with pytest.raises(UsageError) as told:
        compose(None, overrides)
    return str(told.value)


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
        ("dataset.batch_size=0", "dataset.batch_size needs a whole number from 1 on or auto, got 0"),
        ("dataset.patch_size=32", "dataset.patch_size needs a list of whole numbers from 1 on or auto, got 32"),
        ("dataset.balance=often", 'dataset.balance needs null or label or presence, got "often"'),
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
    assert compose(None, ["tracking=off"]).tracking.tracker is None
