"""Scores of methods and what is said of their pairs, in one metric and label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float

from medexp.compare.bootstrap import Resampling, interval, within_unit
from medexp.compare.comparison import Answer, Description, MetricFacts, Pair, Score, Verdict
from medexp.compare.paired_tests import (
    effect_size,
    group_means,
    holm,
    permutation_p,
    rank_biserial,
    wilcoxon_p,
    without_rounding,
)
from medexp.compare.runs import Training
from medexp.compare.units import Cells
from medexp.compare.verdict import Spread, spread_of

DIRECTIONS = ("higher", "lower")


def _judged(values: Float[np.ndarray, "units trainings"]) -> Bool[np.ndarray, "units trainings"]:
    """Where there is a value."""
    found: np.ndarray = np.isfinite(values)
    return found


@dataclass(frozen=True, eq=False)
class Judge:
    """Says what holds of methods and pairs in one metric and label.

    Attributes:
        facts: The metric.
        label: Class or region, or "mean".
        cells: Its values.
        resampling: Draws of groups and trainings.
        alpha: Level at which the rule decides.
    """

    facts: MetricFacts
    label: str
    cells: Cells
    resampling: Resampling
    alpha: float

    def scores(self, totals: Mapping[str, Mapping[Training, float]]) -> list[Score]:
        """Each method's score.

        Args:
            totals: The runs' own aggregates by method and training.

        Returns:
            The scores, in the order of the methods.
        """
        low, high = within_unit(interval(self.resampling.means(list(self.cells.values))), self.facts.unit)
        found = []
        for place, (method, values) in enumerate(zip(self.cells.methods, self.cells.values, strict=True)):
            spread = spread_of(values, self.cells.group_of, self.cells.seed_of)
            defined = int(_judged(values).any(axis=1).sum())
            found.append(
                Score(
                    metric=self.facts.name,
                    label=self.label,
                    method=method,
                    value=spread.mean,
                    low=float(low[place]),
                    high=float(high[place]),
                    training_sd=spread.training_sd,
                    case_sd=_sd(group_means(values, self.cells.group_of)),
                    n_defined=defined,
                    n_undefined=len(values) - defined,
                    by_run=totals.get(method, {}),
                )
            )
        return found

    def pairs(self, chosen: Sequence[tuple[str, str]]) -> list[Pair]:
        """What is said of pairs; Holm's correction runs over these.

        Args:
            chosen: First and second method of each pair.

        Returns:
            The pairs, in their order.
        """
        differences = [self.cells.difference(*pair) for pair in chosen]
        spreads = [spread_of(one, self.cells.group_of, self.cells.seed_of) for one in differences]
        verdicts = self._verdicts(spreads)
        descriptions = self._descriptions(differences)
        return [
            self._pair(pair, difference, spread.training_sd, verdict, description)
            for pair, difference, spread, verdict, description in zip(
                chosen, differences, spreads, verdicts, descriptions, strict=True
            )
        ]

    def _verdicts(self, spreads: Sequence[Spread]) -> list[Verdict]:
        directed = self.facts.better in DIRECTIONS
        p = [spread.p if directed else math.nan for spread in spreads]
        level = self.alpha / max(1, len(spreads))
        found = []
        for spread, own, corrected in zip(spreads, p, holm(p), strict=True):
            width = spread.half_width(self.alpha)
            found.append(
                Verdict(
                    answer=self._answer(spread.mean, corrected),
                    difference=spread.mean,
                    standard_error=spread.standard_error,
                    df=spread.df,
                    p=own,
                    p_holm=corrected,
                    low=spread.mean - width,
                    high=spread.mean + width,
                    smallest_difference=spread.smallest_difference(level),
                    reason=spread.reason if directed else "the metric has no direction",
                )
            )
        return found

    def _answer(self, difference: float, p: float) -> Answer:
        if not p <= self.alpha:
            return Answer.NOT_SEPARABLE
        return Answer.BETTER if (difference > 0) == (self.facts.better == "higher") else Answer.WORSE

    def _descriptions(self, differences: Sequence[Float[np.ndarray, "units trainings"]]) -> list[Description]:
        of_groups = [group_means(difference, self.cells.group_of) for difference in differences]
        low, high = interval(self.resampling.means(differences))
        flips = permutation_p(of_groups, resamples=self.resampling.resamples, seed=self.resampling.seed)
        found = [
            self._description(own, (float(low[place]), float(high[place])), float(flips[place]))
            for place, own in enumerate(of_groups)
        ]
        corrected = zip(
            found,
            holm([one.wilcoxon_p for one in found]),
            holm([one.permutation_p for one in found]),
            strict=True,
        )
        return [replace(one, wilcoxon_p_holm=w, permutation_p_holm=p) for one, w, p in corrected]

    def _description(
        self, of_groups: Float[np.ndarray, "groups"], ends: tuple[float, float], permutation: float
    ) -> Description:
        signs = np.sign(without_rounding(of_groups)) * (1 if self.facts.better == "higher" else -1)
        by_case = self.facts.by_case
        return Description(
            low=ends[0],
            high=ends[1],
            wilcoxon_p=wilcoxon_p(of_groups) if by_case else math.nan,
            wilcoxon_p_holm=math.nan,
            permutation_p=permutation,
            permutation_p_holm=math.nan,
            effect_size=effect_size(of_groups),
            rank_biserial=rank_biserial(of_groups) if by_case else math.nan,
            wins=int((signs > 0).sum()) if by_case else 0,
            ties=int((signs == 0).sum()) if by_case else 0,
            losses=int((signs < 0).sum()) if by_case else 0,
        )

    def _pair(
        self,
        pair: tuple[str, str],
        difference: Float[np.ndarray, "units trainings"],
        training_sd: float,
        verdict: Verdict,
        description: Description,
    ) -> Pair:
        present = _judged(difference)
        either = _judged(self.cells.of(pair[0])).any(axis=1) | _judged(self.cells.of(pair[1])).any(axis=1)
        used, trainings = present.any(axis=1), present.any(axis=0)
        folds = {self.cells.trainings[place][0] for place in np.flatnonzero(trainings)}
        return Pair(
            metric=self.facts.name,
            label=self.label,
            first=pair[0],
            second=pair[1],
            verdict=verdict,
            description=description,
            n_cases=int(used.sum()),
            n_groups=len(np.unique(self.cells.group_of[used])),
            n_trainings=int(trainings.sum()),
            n_folds=len(folds),
            left_out=int((either & ~used).sum()),
            case_sd=_sd(group_means(difference, self.cells.group_of)),
            training_sd=training_sd,
        )


def _sd(values: Float[np.ndarray, "groups"]) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan
