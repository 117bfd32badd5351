"""Logging a comparison to Weights & Biases: its files as an artifact, its tables as tables, in a run of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from medexp.core.wandb_artifacts import REPORT_TYPE
from medexp.engine.log import LOGGER
from medexp.engine.shared_record import WHO, names_in
from medexp.engine.wandb_session import Session, log_table, logged_files, open_run, remove_logs, resolved_mode

_NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)


def log_report(
    files: Sequence[Path],
    tables: Mapping[str, pd.DataFrame],
    *,
    study: str,
    project: str,
    entity: str | None,
    folder: Path,
    rename: Mapping[str, str],
    mode: str = "auto",
    timeout_s: float = 30.0,
) -> str | None:
    """Log a comparison of runs; a run of job type "comparison" in the group of the study.

    In tables, cases and groups get other names in the columns `case_id` and `group`. A file that has the id of a case
    anywhere is left out with a warning; one that was computed from `shared_copies` has none. Pictures are not looked
    into: give none that may not be told.

    Args:
        files: The report's files.
        tables: Tables by name.
        study: The study, or what the comparison is called.
        project: Name of the project.
        entity: User or team; None for the user's default.
        folder: The study's folder; wandb's own files go to its folder `wandb`, where `medexp wandb sync` finds them.
        rename: What others may know each case and group by, see `told_names`.
        mode: "auto", "online" or "offline", as `tracking.tracker.mode`.
        timeout_s: How long the service may take to answer before the report is kept offline, in seconds.

    Returns:
        Where the report can be seen; None where it is kept offline or tracking is switched off.
    """
    resolved = resolved_mode(mode)
    if resolved == "disabled":
        return None
    session = Session(
        project=project, entity=entity, folder=folder, group=study, job_type="comparison",
        name=f"comparison of {study}", tags=(), config={"study": study}, id=None, system_metrics=False,
        timeout_s=timeout_s,
    )  # fmt: skip
    run = open_run(session, resolved)
    for name, table in tables.items():
        log_table(run, name, _told(table, rename))
    url: str | None = None if run.offline else run.url
    place = Path(run.dir).parent
    contents = {file.name: file.read_bytes() for file in files if _may_be_told(file, rename)}
    artifact = _NOT_IN_NAMES.sub("-", f"{REPORT_TYPE}-{study}")
    with logged_files(run, artifact, contents, type=REPORT_TYPE, metadata={"study": study}):
        run.finish()
    remove_logs(place)
    return url


def _told(table: pd.DataFrame, rename: Mapping[str, str]) -> pd.DataFrame:
    columns = [column for column in WHO if column in table]
    return table.assign(**{column: [rename.get(name, name) for name in table[column]] for column in columns})


def _may_be_told(file: Path, rename: Mapping[str, str]) -> bool:
    text = file.read_text(errors="replace")
    found = names_in(text, {name: other for name, other in rename.items() if name != other})
    if found is None or found.search(text) is None:
        return True
    LOGGER.warning("%s is not told to Weights & Biases, since it names cases", file)
    return False
