from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import medexp.data
from medexp.core.errors import UsageError
from medexp.core.faults import Fault, Severity
from medexp.data.integrity import CHECKS, Mode, Policy
from medexp.data.integrity.checks import Level, fault

CODE = Path(medexp.data.__file__).parent


def of(check: str) -> Fault:
    return fault(check, expected="x", found="y", remedy="z")


def test_each_check_has_its_own_severity_unless_told_otherwise() -> None:
    told = Policy().judged([of("not_finite"), of("empty_label"), of("no_objects")])
    assert [(one.check, one.severity) for one in told] == [
        ("not_finite", Severity.ERROR),
        ("empty_label", Severity.WARNING),
    ]


def test_the_configuration_changes_the_severity() -> None:
    policy = Policy.of("warn", {"not_finite": "ignore", "empty_label": "error", "no_objects": "warning"})
    assert policy.mode is Mode.WARN
    told = policy.judged([of("not_finite"), of("empty_label"), of("no_objects"), of("constant_image")])
    assert [(one.check, one.severity) for one in told] == [
        ("empty_label", Severity.ERROR),
        ("no_objects", Severity.WARNING),
        ("constant_image", Severity.ERROR),
    ]


def test_a_fault_that_is_told_twice_is_one() -> None:
    assert len(Policy().judged([of("not_finite"), of("not_finite")])) == 1


def test_a_sources_own_check_keeps_its_severity() -> None:
    own = [Fault("odd_header", "x", "y", "z", severity=severity) for severity in Severity]
    assert Policy().judged(own) == own


@pytest.mark.parametrize(
    ("integrity", "checks", "told"),
    [
        ("eror", {}, "dataset.integrity needs error or warn or quarantine, got eror; did you mean error?"),
        ("error", {"empty_lable": "ignore"}, "names empty_lable, which is no check; did you mean empty_label?"),
        (
            "error",
            {"empty_label": "warn"},
            "checks.empty_label needs error or warning or ignore, got warn; did you mean",
        ),
        ("error", {"empty_label": False}, "checks.empty_label needs error or warning or ignore, got False"),
        ("error", {"unreadable": "ignore"}, "checks.unreadable cannot be changed"),
        ("error", "empty_label:ignore", "dataset.checks needs error, warning or ignore by check"),
    ],
)
def test_words_that_are_not_known_are_refused_with_the_nearest(integrity: str, checks: dict, told: str) -> None:
    with pytest.raises(UsageError, match=told.replace("?", r"\?")):
        Policy.of(integrity, checks)


def test_all_wrong_words_are_named_at_once() -> None:
    with pytest.raises(UsageError, match=r"no_such.*other_one"):
        Policy.of("error", {"no_such": "ignore", "other_one": "ignore"})


def names_in(tree: ast.AST) -> Iterator[str]:
    """Names of checks that are written out in code that tells faults."""
    for call in ast.walk(tree):
        if isinstance(call, ast.Call):
            function = getattr(call.func, "id", getattr(call.func, "attr", ""))
            first = call.args[:1] if function in ("Fault", "fault", "tell", "UnfitCellError") else []
            given = [*first, *(keyword.value for keyword in call.keywords if keyword.arg == "check")]
            yield from (name.value for name in given if isinstance(name, ast.Constant) and isinstance(name.value, str))


def test_every_fault_that_is_told_is_one_of_the_checks() -> None:
    told = {name: file for file in CODE.rglob("*.py") for name in names_in(ast.parse(file.read_text()))}
    assert len(told) > 50
    assert {name: file.name for name, file in told.items() if name not in CHECKS} == {}


def test_every_check_says_what_it_finds() -> None:
    for name, check in CHECKS.items():
        assert name.isidentifier()
        assert check.about[0].islower()
        assert not check.about.endswith(".")
        assert not check.fixed or check.level is Level.ERROR
