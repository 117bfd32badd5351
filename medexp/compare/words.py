"""A comparison in words: numbers, the verdict of a pair, and what was compared."""

from __future__ import annotations

import math

from medexp.compare.comparison import Answer, Comparison, MetricFacts, Pair

UNDEFINED = "-"


def number(value: float, unit: str = "", *, sign: bool = False) -> str:
    """A number as tables show it: fractions with four decimals, others with four digits.

    >>> number(0.81234, "fraction"), number(12.3456, "mm"), number(float("nan"))
    ('0.8123', '12.35', '-')

    Args:
        value: The number.
        unit: Its unit.
        sign: Show a plus too.

    Returns:
        The text.
    """
    if not math.isfinite(value):
        return UNDEFINED
    plus = "+" if sign else ""
    return f"{value:{plus}.4f}" if unit == "fraction" else f"{value:{plus}.4g}"


def p_value(p: float) -> str:
    """A p-value as tables show it.

    >>> p_value(0.0312), p_value(0.00001)
    ('.031', '< .001')
    """
    if not math.isfinite(p):
        return UNDEFINED
    return "< .001" if p < 0.0005 else "1" if p > 0.9995 else f"{p:.3f}".lstrip("0")


def interval(low: float, high: float, unit: str = "", *, sign: bool = False) -> str:
    """An interval; nothing to tell where an end is undefined."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return UNDEFINED
    return f"{number(low, unit, sign=sign)} to {number(high, unit, sign=sign)}"


def counted(count: int, word: str) -> str:
    """A number with its noun.

    >>> counted(1, "case"), counted(2, "case")
    ('1 case', '2 cases')
    """
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def basis(pair: Pair) -> str:
    """What a pair rests on."""
    groups = "" if pair.n_groups == pair.n_cases else f" of {counted(pair.n_groups, 'group')}"
    folds = "" if pair.n_folds == 1 else f" in {counted(pair.n_folds, 'fold')}"
    return f"{counted(pair.n_cases, 'case')}{groups}, {counted(pair.n_trainings, 'training')}{folds}"


def verdict(pair: Pair, facts: MetricFacts) -> str:
    """The verdict of a pair in a sentence.

    Args:
        pair: The pair.
        facts: Its metric.

    Returns:
        The sentence, without a full stop.
    """
    decided, unit = pair.verdict, facts.unit
    shown = number(decided.difference, unit, sign=True)
    inside = interval(decided.low, decided.high, unit, sign=True)
    if decided.answer is not Answer.NOT_SEPARABLE:
        return (
            f"{pair.first} is {decided.answer} than {pair.second}: {shown} (95 % {inside}), "
            f"p {p_value(decided.p_holm)} after Holm, {basis(pair)}"
        )
    start = f"{pair.first} and {pair.second} are not separable: {shown}"
    if decided.reason:
        return f"{start}, {basis(pair)}; {decided.reason}"
    least = number(decided.smallest_difference, unit)
    return (
        f"{start} (95 % {inside}), p {p_value(decided.p_holm)} after Holm, {basis(pair)}; a difference of {least} "
        "would have shown with a chance of 80 %"
    )


def summary(found: Comparison) -> str:
    """What was compared, in a line."""
    used = [run for run in found.runs if run.used]
    states = len(found.runs) - len(used)
    fallen = sum(bool(run.collapsed) for run in found.runs)
    return (
        f"{len(found.methods)} methods by {', '.join(found.by)}: {counted(len(used), 'finished run')}, {states} not "
        f"finished, {fallen} collapsed"
    )
