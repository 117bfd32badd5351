from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def _completions(line: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "medexp.cli.main", "-sc", "query=bash"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "COMP_LINE": line},
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("medexp ", "train"),
        ("medexp sta", "status"),
        ("medexp train quick", "quickstart"),
        ("medexp train ", "loss="),
        ("medexp train loss=dice_", "loss=dice_ce"),
        ("medexp train quickstart optimizer.l", "optimizer.lr="),
        ("medexp train quickstart loss=focal loss.g", "loss.gamma="),
        ("medexp train -m quickstart loss=focal loss.g", "loss.gamma="),
    ],
)
def test_the_shell_is_told_what_may_follow(line: str, word: str, here: Path) -> None:
    assert word in _completions(line)


def test_completion_knows_the_options_of_the_experiment(here: Path) -> None:
    (here / "mine.yaml").write_text("loss: {_target_: my_losses.Mine, alpha: 0.3}\n")
    assert _completions("medexp train mine.yaml loss.al") == ["loss.alpha="]


def test_completion_knows_options_of_ones_own(here: Path) -> None:
    (here / "conf" / "loss").mkdir(parents=True)
    (here / "conf" / "loss" / "mine.yaml").write_text("_target_: my_losses.Mine\nalpha: 0.5\n")
    assert _completions("medexp train -cd conf loss=mi") == ["loss=mine"]


@pytest.mark.parametrize("line", ["medexp status ", "medexp train nosuchexperiment loss", "medexp train [ loss="])
def test_where_nothing_may_follow_nothing_is_told(line: str, here: Path) -> None:
    assert _completions(line) == []


def test_bash_completes_a_line(here: Path) -> None:
    script = """
    eval "$(medexp train -sc install=bash)"
    COMP_LINE="medexp train quickstart loss=f" COMP_WORDS=(medexp train quickstart loss=f) COMP_CWORD=3
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PATH": path},
    )
    assert (done.stdout.strip(), done.stderr) == ("loss=focal loss=focal_tversky", "")
