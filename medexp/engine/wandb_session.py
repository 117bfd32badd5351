"""Opening a run with Weights & Biases and logging tables and files, so that nothing of the machine is told."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, cast

import pandas as pd

from medexp.core.errors import RecordError
from medexp.core.wandb_login import wandb_login
from medexp.engine.log import LOGGER

Mode = Literal["online", "offline", "disabled"]
# Folders whose name says nothing of the user.
_NEUTRAL = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass(frozen=True)
class Session:
    """Where a run with Weights & Biases belongs, and what it is called.

    Attributes:
        project: Name of the project.
        entity: User or team; None for the user's default.
        folder: Where wandb's own files go; made where it does not exist.
        group: The study.
        job_type: What kind of run it is.
        name: Its name.
        tags: Its tags.
        config: Its configuration, plain.
        id: Its id, for a run that may be gone on with; None for a new one.
        system_metrics: Whether use of processors, memory and network is told.
        timeout_s: How long the service may take to answer before the run is kept offline, in seconds.
    """

    project: str
    entity: str | None
    folder: Path
    group: str
    job_type: str
    name: str
    tags: Sequence[str]
    config: Mapping[str, Any]
    id: str | None
    system_metrics: bool
    timeout_s: float


def resolved_mode(asked: str) -> Mode:
    """Whether a run is online.

    Args:
        asked: "online", "offline", or "auto": online where a key is known, else offline; WANDB_MODE is followed.

    Returns:
        The mode.
    """
    environment = os.environ.get("WANDB_MODE", "").lower()
    if environment in ("offline", "disabled", "dryrun"):
        return "disabled" if environment == "disabled" else "offline"
    if asked in ("online", "offline"):
        return cast(Mode, asked)
    login = wandb_login(environment=os.environ, home=Path.home(), folder=Path.cwd())
    return "online" if login["logged_in"] else "offline"


def open_run(session: Session, mode: Mode) -> Any:
    """Open a run, or go on with it; offline where the service cannot be reached.

    Args:
        session: Where it belongs.
        mode: "online" or "offline".

    Returns:
        wandb's run.
    """
    import wandb

    try:
        return _opened(session, mode)
    except (wandb.errors.Error, OSError) as error:
        if mode == "offline":
            raise
        LOGGER.warning("Weights & Biases cannot be reached; the run is kept offline: %s", " ".join(str(error).split()))
        return _opened(session, "offline")


def _opened(session: Session, mode: Mode) -> Any:
    import wandb

    session.folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        mode=mode,
        silent=True,
        console="off",
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        host="",
        init_timeout=session.timeout_s,
        program="medexp",
        program_relpath="medexp",
        reinit="create_new",
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=not session.system_metrics,
        x_save_requirements=False,
    )
    with _own_hooks():
        return wandb.init(
            project=session.project,
            entity=session.entity,
            id=session.id,
            resume=None if session.id is None else "allow",
            dir=session.folder,
            group=session.group,
            job_type=session.job_type,
            name=session.name,
            tags=list(session.tags),
            config=dict(session.config),
            settings=settings,
        )


@contextmanager
def _own_hooks() -> Iterator[None]:
    """What Python calls at its end stays as it is; wandb replaces it, to learn an exit code that it is told here."""
    kept = sys.excepthook, sys.exit
    try:
        yield
    finally:
        sys.excepthook, sys.exit = kept


def log_table(run: Any, name: str, frame: pd.DataFrame) -> None:
    """Log a table, undefined cells empty.

    Args:
        run: wandb's run.
        name: Name of the table.
        frame: The table.
    """
    import wandb

    rows = frame.astype(object).where(frame.notna(), None).values.tolist()
    table = wandb.Table(columns=list(frame.columns), data=rows, allow_mixed_types=True)
    # A table that is bound already becomes a file of the run alone; else wandb makes an artifact of it, too, whose
    # record names a folder of this machine.
    table.bind_to_run(run, name, "summary")
    run.log({name: table})


@contextmanager
def logged_files(
    run: Any, name: str, files: Mapping[str, bytes], *, type: str, metadata: Mapping[str, Any]
) -> Iterator[None]:
    """Log files as an artifact; wandb may read them until the run is closed, which is to be done inside.

    wandb tells the service where each file of an artifact lay. So an online run reads them from a temporary folder
    whose name says nothing, and an offline one by paths relative to its own folder, where `medexp wandb sync` sends it
    from.

    Args:
        run: wandb's run.
        name: Name of the artifact.
        files: Content by name; none for no artifact.
        type: Type of the artifact.
        metadata: What is known of the artifact without fetching it.

    Yields:
        Nothing, while the files are there.
    """
    with ExitStack() as stack:
        if files:
            try:
                _log_files(run, name, files, type=type, metadata=metadata, stack=stack)
            except Exception as error:
                told = " ".join(str(error).split())
                LOGGER.warning("%s is not told to Weights & Biases: %s: %s", name, error.__class__.__name__, told)
        yield


def _log_files(
    run: Any, name: str, files: Mapping[str, bytes], *, type: str, metadata: Mapping[str, Any], stack: ExitStack
) -> None:
    import wandb

    if run.offline:
        told = Path("artifacts", name)
        folder = Path(run.dir).parent / told
        folder.mkdir(parents=True, exist_ok=True)
    else:
        told = folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="medexp-", dir=_neutral_folder())))
    artifact = wandb.Artifact(name, type, metadata=dict(metadata))
    for file, content in files.items():
        # Under another name, so that nobody takes the folder for a run's.
        copy = f"{file}.copy"
        (folder / copy).write_bytes(content)
        entry = artifact.add_file(str(folder / copy), name=file, policy="immutable", skip_cache=True)
        entry.local_path = str(told / copy)
    run.log_artifact(artifact)


def _neutral_folder() -> str:
    """A folder for temporary files whose name says nothing of the user."""
    for folder in _NEUTRAL:
        if os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise RecordError(f"none of {', '.join(_NEUTRAL)} can be written to, and other folders may name the user")


def remove_logs(folder: Path) -> None:
    """Remove wandb's own logs of a run that ended well, which name folders of this machine.

    Args:
        folder: The run's own folder of wandb.
    """
    rmtree(folder / "logs", ignore_errors=True)
    for link in folder.parent.glob("debug*.log"):
        link.unlink(missing_ok=True)
