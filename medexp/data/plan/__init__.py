"""A network and its input, planned from the fingerprint of a dataset."""

from medexp.data.plan.planner import plan
from medexp.data.plan.values import AUTO, Budget, Given, Plan

__all__ = ["AUTO", "Budget", "Given", "Plan", "plan"]
