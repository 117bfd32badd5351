from __future__ import annotations

import pytest

from medexp.cli.overrides import axes_of, expand_range, parse, rewrite
from medexp.core.errors import UsageError
from medexp.core.record import axes_name


@pytest.mark.parametrize(
    ("typed", "expanded"),
    [
        ("seed=0..4", "seed=0,1,2,3,4"),
        ("seed=3..3", "seed=3"),
        ("dataset.split.seed=-1..1", "dataset.split.seed=-1,0,1"),
        ("seed=0,1", "seed=0,1"),
        ("init_from=../runs/a", "init_from=../runs/a"),
        ("dataset.root=a..b", "dataset.root=a..b"),
    ],
)
def test_a_range_of_whole_numbers_becomes_a_list_and_nothing_else_is_touched(typed: str, expanded: str) -> None:
    assert expand_range(typed) == expanded


def test_a_range_that_runs_backwards_is_refused_with_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"seed=4\.\.0 is an empty range; write seed=0\.\.4"):
        expand_range("seed=4..0")


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("post_processing=[argmax,keep_largest]", "post_processing.steps=[argmax,keep_largest]"),
        ("post_processing=argmax", "post_processing.steps=[argmax]"),
        ("post_processing=[argmax],[threshold]", "post_processing.steps=[argmax],[threshold]"),
        ("post_processing.steps=[argmax]", "post_processing.steps=[argmax]"),
        ("loss=dice", "loss=dice"),
    ],
)
def test_a_chain_by_its_groups_name_becomes_a_list_of_steps(typed: str, written: str) -> None:
    assert rewrite(typed) == written


def test_jobs_are_all_combinations_the_last_key_fastest() -> None:
    assert parse(["loss=dice,focal", "fold=2", "seed=0..1"]).jobs() == [
        ["loss=dice", "fold=2", "seed=0"],
        ["loss=dice", "fold=2", "seed=1"],
        ["loss=focal", "fold=2", "seed=0"],
        ["loss=focal", "fold=2", "seed=1"],
    ]


def test_chains_are_swept_as_lists() -> None:
    jobs = parse(["post_processing=[argmax],[argmax,keep_largest]"]).jobs()
    assert jobs == [["post_processing.steps=[argmax]"], ["post_processing.steps=[argmax,keep_largest]"]]


def test_of_two_values_for_a_key_the_last_one_counts() -> None:
    assert parse(["seed=0,1", "loss=dice", "seed=7"]).jobs() == [["seed=7", "loss=dice"]]


def test_an_interval_is_refused_since_its_values_cannot_be_listed() -> None:
    with pytest.raises(UsageError, match=r"optimizer\.lr=interval\(0\.1,1\) .* write optimizer\.lr=A,B,C"):
        parse(["optimizer.lr=interval(0.1,1)"]).jobs()


@pytest.mark.parametrize("typed", ["loss.gamma=[1,2", "loss=dice=3", "=3", "loss={gamma"])
def test_what_cannot_be_read_is_told_with_the_override(typed: str) -> None:
    with pytest.raises(UsageError) as told:
        parse([typed])
    assert str(told.value).startswith(f"cannot read the override {typed}: ")


@pytest.mark.parametrize(
    "typed",
    [
        "paths.runs=elsewhere",
        "study=first",
        "tracking=off",
        "tracking.media=true",
        "on_change=new",
        "dataset.root=/data",
        "dataset.workers=4",
        "dataset.source.cache_dir=/tmp",
        "launcher=joblib",
        "launcher.n_jobs=2",
        "retry=failed",
        "preflight=build",
        "hydra.verbose=true",
        "+experiment='mine'",
    ],
)
def test_places_launcher_tracking_and_speed_are_no_axes(typed: str) -> None:
    assert axes_of([typed, "seed=1"]) == {"seed": "1"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr=0.001"),
        ("loss='dice'", "loss=dice"),
        ("trainer.deterministic=TRUE", "trainer.deterministic=true"),
        ("model.channels=[4, 8]", "model.channels=[4,8]"),
        ("post_processing=[argmax]", "post_processing.steps=[argmax]"),
        ("++seed=1", "seed=1"),
    ],
)
def test_two_spellings_of_a_value_are_one_axis(one: str, other: str) -> None:
    assert axes_of([one]) == axes_of([other])


def test_a_removed_key_is_an_axis_of_its_own() -> None:
    assert axes_of(["~metrics.hd95"]) == {"~metrics.hd95": ""}


def test_a_folder_is_named_by_its_axes_sorted() -> None:
    axes = axes_of(["seed=1", "loss=dice", "fold=0", "post_processing=[argmax,keep_largest]", "study=x"])
    assert axes_name(axes) == "fold=0,loss=dice,post_processing=[argmax,keep_largest],seed=1"


def test_no_overrides_are_named_default() -> None:
    assert axes_name(axes_of(["tracking=off"])) == "default"


@pytest.mark.parametrize(
    ("value", "named"),
    [("runs/a/b", "runs%2Fa%2Fb"), ("../up", "..%2Fup"), ("a=b", "a%3Db"), ("50%", "50%25"), ("é?*", "%C3%A9%3F%2A")],
)
def test_a_folder_name_holds_no_character_that_is_special_to_a_path(value: str, named: str) -> None:
    assert axes_name(axes_of([f"init_from='{value}'"])) == f"init_from={named}"
