"""`medexp wandb sync STUDY`: send what was tracked offline."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from medexp.cli.subcommands import run_subcommand
from medexp.compare.status import read_study, study_folder
from medexp.core.errors import RecordError, UsageError
from medexp.core.wandb_login import wandb_login
from medexp.engine.wandb_sync import pending_folders, send_pending

_COMMANDS = {
    "sync": ("medexp.cli.wandb", "sync_command", "send the runs of a study that were tracked offline, each once"),
}
_OF_STUDY = "(comparisons)"


def wandb_command(words: Sequence[str]) -> int:
    """Run a command about Weights & Biases.

    Args:
        words: Words after `medexp wandb`.

    Returns:
        The exit code.
    """
    return run_subcommand("wandb", _COMMANDS, words)


def sync_command(words: Sequence[str]) -> int:
    """Send the runs of a study that were tracked offline.

    Args:
        words: Words after `medexp wandb sync`.

    Returns:
        0 where all that can be sent was sent, else 1.

    Raises:
        UsageError: There is no such study, or no login is known.
    """
    arguments = _parser().parse_args(list(words))
    study = study_folder(arguments.study, arguments.runs)
    pending = [(name, owner, folders) for name, owner in _owners(study) if (folders := pending_folders(owner))]
    if not pending:
        print("nothing to send")
        return 0
    if arguments.dry_run:
        for name, _, folders in pending:
            for folder in folders:
                print(f"{name}: {folder.name} would be sent")
        return 0
    if not wandb_login(environment=os.environ, home=Path.home(), folder=Path.cwd())["logged_in"]:
        raise UsageError("no login for Weights & Biases is known; run `wandb login`, or set WANDB_API_KEY")
    outcomes = [_send(name, owner) for name, owner, _ in pending]
    return 0 if all(outcomes) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="medexp wandb sync",
        description="Send the runs of a study that were tracked offline to Weights & Biases, each once, however often "
        "it was interrupted. The same command again sends what is left. Runs that are being written are left out.",
    )
    parser.add_argument("study", help="name of a study, or its folder")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all studies (default: runs)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be sent")
    return parser


def _owners(study: Path) -> Iterator[tuple[str, Path]]:
    """Name and folder of each run that nobody writes, and of the study, whose comparisons may have been tracked."""
    for state in read_study(study):
        if state.folder.is_locked():
            print(f"{state.name}: left out, it is being written", file=sys.stderr)
        else:
            yield state.name, state.folder.path
    yield _OF_STUDY, study


def _send(name: str, owner: Path) -> bool:
    """Send what is pending of one run and say so; whether it succeeded."""
    try:
        for sending in send_pending(owner):
            if sending.failed:
                print(f"{name}: {sending.folder.name} was not sent: {sending.problem}", file=sys.stderr)
                return False
            print(f"{name}: {sending.folder.name} {'holds nothing' if sending.empty else 'sent'}", flush=True)
    except RecordError as error:
        print(f"{name}: left out: {error}", file=sys.stderr)
        return False
    return True
