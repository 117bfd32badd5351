"""Fetching the records of runs that were logged to Weights & Biases elsewhere, to compare them as local ones."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medexp.core.errors import RecordError, UsageError
from medexp.core.files import write_json
from medexp.core.record import RunFolder, run_folder
from medexp.core.wandb_artifacts import RUN_FILES, RUN_TYPE
from medexp.core.wandb_login import wandb_login

_MARKER = "fetched.json"
_TIMEOUT_S = 60


def fetch_runs(project: str, folder: Path, *, group: str | None) -> list[Path]:
    """Fetch the records of finished runs; what was fetched before and has not changed stays as it is.

    Of several runs of one study with the same axes the newest counts.

    Args:
        project: ENTITY/PROJECT.
        folder: Where records are kept; each gets the folder ENTITY/PROJECT/STUDY/AXES in it.
        group: Only runs of this group, which is the study; None for all.

    Returns:
        The folders of the runs, in the order in which the runs were started.

    Raises:
        UsageError: The project is not given as ENTITY/PROJECT, or no login is known.
        RecordError: The project cannot be read, or holds no record of such a run.
    """
    entity, name = _parts(project)
    if not wandb_login(environment=os.environ, home=Path.home(), folder=Path.cwd())["logged_in"]:
        raise UsageError("no login for Weights & Biases is known; run `wandb login`, or set WANDB_API_KEY")
    place = folder / quote(entity, safe=" ") / quote(name, safe=" ")
    with _told(project):
        found = {_target(artifact, place): artifact for artifact in _records(project, group)}
        for target, artifact in found.items():
            _fetch(artifact, target, scratch=place)
    if not found:
        of_group = "" if group is None else f" of the group {group}"
        raise RecordError(
            f"{project} holds no record of a finished run{of_group}; medexp logs one with every run that finishes and "
            "is tracked, and `medexp wandb sync STUDY` sends those that were tracked offline"
        )
    return list(found)


def _parts(project: str) -> tuple[str, str]:
    match project.split("/"):
        case [str(entity), str(name)] if entity.strip(".") and name.strip("."):
            return entity, name
    raise UsageError(f"--from wandb needs ENTITY/PROJECT, got {project!r}")


@contextmanager
def _told(project: str) -> Iterator[None]:
    """Errors of wandb as errors that a user can act on."""
    from wandb.errors import Error
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except (Error, WandbApiFailedError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{project} cannot be read from Weights & Biases: {reason}; check the name, the login and the connection"
        ) from error


def _records(project: str, group: str | None) -> Iterator[Any]:
    """The newest record of each run that has one, oldest run first."""
    import wandb

    filters = {} if group is None else {"group": group}
    for run in wandb.Api(timeout=_TIMEOUT_S).runs(project, filters=filters, order="+created_at"):
        _drop_empty(Path(run.dir))
        records = [artifact for artifact in run.logged_artifacts() if artifact.type == RUN_TYPE]
        committed = [artifact for artifact in records if artifact.state == "COMMITTED"]
        if committed:
            yield max(committed, key=lambda artifact: int(artifact.version.removeprefix("v")))


def _drop_empty(made: Path) -> None:
    """Remove the folders ENTITY/PROJECT/RUN that wandb makes among the temporary files for each run that it lists."""
    for folder in (made, *made.parents[:2]):
        with suppress(OSError):
            folder.rmdir()


def _target(artifact: Any, place: Path) -> Path:
    study, axes = artifact.metadata.get("study"), artifact.metadata.get("axes")
    if not isinstance(study, str) or not isinstance(axes, Mapping):
        raise RecordError(f"{artifact.qualified_name} names no study and axes; it was not logged by medexp")
    return run_folder(place, study, {str(key): str(value) for key, value in axes.items()}).path


def _fetch(artifact: Any, target: Path, *, scratch: Path) -> None:
    """Fetch a record unless it is there; a folder is there as a whole or not at all."""
    known = {"artifact": artifact.id, "digest": artifact.digest}
    marker = target / _MARKER
    if marker.exists() and json.loads(marker.read_text()) == known:
        return
    scratch.mkdir(parents=True, exist_ok=True)
    half = Path(tempfile.mkdtemp(prefix=".", dir=scratch))
    try:
        _download(artifact, half)
        if run_folder(target.parents[1], (record := RunFolder(half).read()).study, record.axes).path != target:
            raise RecordError(f"{artifact.qualified_name} is of another run than it says")
        write_json(half / _MARKER, known)
        half.chmod(0o755)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        half.rename(target)
    finally:
        shutil.rmtree(half, ignore_errors=True)


def _download(artifact: Any, folder: Path) -> None:
    listed = artifact.manifest.entries
    for file in RUN_FILES:
        # A reference would be followed to wherever it points, to files of this machine too.
        if file not in listed or listed[file].ref is not None:
            raise RecordError(f"{artifact.qualified_name} holds no file {file}; it was not logged by medexp")
        artifact.get_entry(file).download(root=str(folder), skip_cache=True)
        if (folder / file).stat().st_size != listed[file].size:
            raise RecordError(f"{file} of {artifact.qualified_name} did not arrive as a whole; try again")
