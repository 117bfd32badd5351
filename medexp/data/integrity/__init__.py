"""Integrity of a dataset: every bad input found before the first training step, and all of them named in one pass."""

from medexp.data.integrity.checks import CHECKS
from medexp.data.integrity.dataset import check_dataset, checked_parts, unlistable
from medexp.data.integrity.demands import Training, model_strides, total_strides
from medexp.data.integrity.policy import Mode, Policy
from medexp.data.integrity.report import Report
from medexp.data.integrity.store import Store

__all__ = [
    "CHECKS",
    "Mode",
    "Policy",
    "Report",
    "Store",
    "Training",
    "check_dataset",
    "checked_parts",
    "model_strides",
    "total_strides",
    "unlistable",
]
