"""What runs and reports are called as artifacts of Weights & Biases, for who logs them and who fetches them."""

from __future__ import annotations

RUN_TYPE = "medexp-run"
REPORT_TYPE = "medexp-report"
# What a comparison reads of a run, in the order in which it is written: run.json says that the rest is there.
RUN_FILES = ("config.yaml", "evidence.csv", "cases.csv", "history.csv", "run.json")


def run_artifact(run_id: str) -> str:
    """Name of the artifact that holds a run's record.

    Args:
        run_id: The run's id with the tracker.

    Returns:
        The name.
    """
    return f"{RUN_TYPE}-{run_id}"
