from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import medexp
from medexp.cli.main import COMMANDS, main

_HEAVY = ("torch", "pytorch_lightning", "monai", "pandas")
_PROBE = f"""
import sys
from medexp.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = [name for name in {_HEAVY!r} if name in sys.modules]
sys.exit(f"imported {{heavy}}" if heavy else code)
"""


def _run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which fails with code 1 if it imported anything heavy."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _PROBE, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **environment},
    )


_PROBE_ALL = f"""
import contextlib, io, json, sys
from medexp.cli.main import main
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as stop:
            code = stop.code
    told.append([code, out.getvalue(), err.getvalue()])
heavy = [name for name in {_HEAVY!r} if name in sys.modules]
print(json.dumps(told))
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""


def _run_all(*commands: Sequence[str]) -> list[tuple[int, str, str]]:
    """Code, output and errors of command lines, one after the other in a process that imports nothing heavy."""
    command = [sys.executable, "-W", "error", "-c", _PROBE_ALL, json.dumps(commands)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return [(code, out, err) for code, out, err in json.loads(done.stdout)]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_help_names_every_command_and_ends_well(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    told = capsys.readouterr()
    assert all(name in told.out for name in COMMANDS)
    assert told.err == ""


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"medexp {medexp.__version__}\n"


def test_an_unknown_command_is_told_with_the_nearest_one_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("medexp trian: no command trian; did you mean train")


def test_each_command_explains_itself_without_importing_anything_heavy(here: Path) -> None:
    commands = sorted(COMMANDS)
    for command, (code, out, err) in zip(commands, _run_all(*([each, "--help"] for each in commands)), strict=True):
        assert (code, err) == (0, ""), command
        assert out.startswith(f"usage: medexp {command}")


def test_wrong_use_is_told_on_stderr_with_code_2_without_importing_anything_heavy(here: Path) -> None:
    wrong = [
        (["train", "quickstart", "seeed=1"], "seeed=1: there is no key seeed; did you mean seed"),
        (["train", "quickstart", "loss=dise"], "loss=dise: no such option; did you mean dice?"),
        (["train", "quikstart"], "no experiment quikstart"),
        (["train", "quickstart", "+experiment=typo"], "there is no key experiment"),
        (["train", "quickstart", "trainer.max_epochs=abc"], "trainer.max_epochs needs null or a whole number"),
        (["train", "quickstart", "loss=dice,focal"], "loss takes several values; add -m to run them all"),
        (["train", "-m", "loss=dice,focal", "loss.gamma=1"], "there is no key loss.gamma"),
        (["train", "-m", "tracking=off,off"], "tracking takes several values but changes nothing that is computed"),
        (["train", "one", "two"], "one experiment at a time, got one, two; overrides read KEY=VALUE"),
        (["train", "--config-name", "x"], "--config-name has no meaning here; name an experiment instead"),
        (["train", "--config-dir", "nowhere"], "--config-dir nowhere is no folder"),
        (["train", "--resolve"], "--resolve goes with --cfg job"),
        (["train", "--cfg", "job", "seeed=1"], "there is no key seeed"),
        (["train", "--cfg", "job", "seed=1,2"], "seed takes several values, and one job is shown"),
        (["train", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["train", "-sc", "install=nosuchshell"], "nosuchshell"),
        (["status", "nosuchstudy"], "no study nosuchstudy"),
        (["gc", "--keep", "-1"], "--keep needs a whole number from 0 on"),
    ]
    for (words, told), (code, out, err) in zip(wrong, _run_all(*(words for words, _ in wrong)), strict=True):
        assert (code, out) == (2, ""), words
        assert told in err
        assert "Traceback" not in err


def test_the_configuration_is_shown_with_and_without_its_references_resolved(here: Path) -> None:
    shown = _run("train", "quickstart", "loss=focal", "loss.gamma=3", "--cfg", "job")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "gamma: 3" in shown.stdout
    assert "sigmoid: ${task.sigmoid}" in shown.stdout
    resolved = _run("train", "quickstart", "loss=focal", "--cfg", "job", "--resolve")
    assert "sigmoid: false" in resolved.stdout
    assert "${" not in resolved.stdout


def test_flags_may_stand_anywhere(here: Path) -> None:
    one = _run("train", "--cfg", "job", "quickstart", "loss=focal", "seed=3")
    other = _run("train", "quickstart", "loss=focal", "--cfg", "job", "seed=3")
    assert one.returncode == 0
    assert one.stdout == other.stdout


def test_a_part_of_the_configuration_is_shown(here: Path) -> None:
    assert _run("train", "--cfg", "job", "-p", "loss", "loss=focal").stdout.startswith("# @package loss\n_target_: ")
    missed = _run("train", "--cfg", "job", "-p", "los")
    assert (missed.returncode, missed.stdout) == (2, "")
    assert "los" in missed.stderr


def test_a_configuration_with_a_missing_value_is_shown(here: Path) -> None:
    assert "root: ???" in _run("train", "dataset=msd", "--cfg", "job").stdout


@pytest.mark.parametrize(
    ("topic", "shown"), [("defaults", "loss/focal"), ("searchpath", "main"), ("defaults-tree", "loss")]
)
def test_hydra_accounts_for_the_composition(topic: str, shown: str, here: Path) -> None:
    done = _run("train", "quickstart", "loss=focal", "--info", topic)
    assert done.returncode == 0
    assert shown in done.stdout


def test_hydras_own_help_is_shown(here: Path) -> None:
    done = _run("train", "--hydra-help")
    assert done.returncode == 0
    assert done.stdout.startswith("Hydra (")


def test_options_of_ones_own_are_found_through_the_flag(here: Path) -> None:
    (here / "conf" / "loss").mkdir(parents=True)
    (here / "conf" / "loss" / "mine.yaml").write_text("_target_: my_losses.Mine\nalpha: 0.5\n")
    for flag in ("--config-dir", "-cd"):
        done = _run("train", flag, "conf", "loss=mine", "--cfg", "job", "-p", "loss")
        assert done.stdout.splitlines()[1:] == ["_target_: my_losses.Mine", "alpha: 0.5"]


def test_a_reader_that_stops_reading_causes_no_traceback(here: Path) -> None:
    command = f"{sys.executable} -m medexp.cli.main train --hydra-help | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("Hydra (")
    assert done.stderr == ""


def test_a_folder_that_cannot_be_written_is_told_with_the_remedy(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "file").write_text("no folder")
    assert main(["train", "paths.runs=file"]) == 1
    told = capsys.readouterr().err
    assert "file" in told
    assert "paths.runs" in told
