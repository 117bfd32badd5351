"""Runs that finished and learnt nothing: what counts as collapsed, from evidence rows and the learning curve."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from medexp.core.types import Outcome

_OF_IMAGES = (Outcome.POSITIVE, Outcome.NEGATIVE)
# How the definitions of accuracy begin, whatever it is called.
_OF_DECISIONS = ("mean over images", "mean over classes")


def collapsed(
    evidence: pd.DataFrame, definitions: Mapping[str, Mapping[str, object]], history: pd.DataFrame
) -> list[str]:
    """What of a run collapsed; it stays in the comparison and is counted.

    A label has collapsed in a metric where, in all cases that have it:
    - a value per case from 0 to 1 of which higher is better (Dice, IoU, NSD) is 0: nothing was found anywhere;
    - there are objects to be found, and none was matched;
    - every image has the same score, so that images cannot be told apart.
    A training has collapsed where its loss is no finite number in the last line of its history.
    Accuracy is left out: a class of few images may be missed by a model that learnt.

    Args:
        evidence: The run's rows.
        definitions: What the run recorded of each metric.
        history: Its learning curve.

    Returns:
        What collapsed, in words; nothing where all is well.
    """
    found = []
    for (metric, label), rows in evidence.groupby(["metric", "label"], sort=False):
        definition = definitions.get(metric, {})
        decisions = str(definition.get("aggregation", "")).startswith(_OF_DECISIONS)
        what = "" if decisions or metric == "accuracy" else _of_label(rows, definition)
        if what:
            found.append(f"{metric} of {label}: {what}")
    if "train/loss" in history and len(history) and not np.isfinite(history["train/loss"].iloc[-1]):
        found.append("the training loss is no finite number at the end")
    return found


def _of_label(rows: pd.DataFrame, definition: Mapping[str, object]) -> str:
    outcomes = rows["outcome"]
    if (outcomes == "").all():
        values = rows["value"].dropna()
        is_share = definition.get("better") == "higher" and definition.get("unit") == "fraction"
        return "0 in every case" if is_share and len(values) and (values == 0).all() else ""
    if outcomes.isin(_OF_IMAGES).all():
        return "the same score for every image" if len(rows) > 1 and rows["score"].nunique(dropna=False) == 1 else ""
    wanted = outcomes == Outcome.MISS
    return "no object was matched" if wanted.any() and not (outcomes == Outcome.MATCH).any() else ""
