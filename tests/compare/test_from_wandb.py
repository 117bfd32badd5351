"""Fetching of records, with wandb itself and a local server in place of the service."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
from wandb_server import WandbServer

from medexp.cli.main import main
from medexp.compare.from_wandb import fetch_runs
from medexp.compare.status import read_study
from medexp.core.errors import RecordError, UsageError
from medexp.core.record import Record, RunFolder, Status
from medexp.core.wandb_artifacts import RUN_TYPE, run_artifact
from medexp.engine.wandb_session import Session, logged_files, open_run


def _files(axes: Mapping[str, str], *, study: str = "first", value: float = 0.5) -> dict[str, bytes]:
    record = Record(study=study, axes=dict(axes), status=Status.FINISHED, results={"dice": {"mean": value}})
    evidence = f"case_id,group,metric,label,value,part\n0a,0a,dice,organ,{value},val\n"
    return {
        "config.yaml": b"options: {loss: dice}\n", "evidence.csv": evidence.encode(), "cases.csv": b"",
        "history.csv": b"", "run.json": json.dumps(record.__dict__).encode(),
    }  # fmt: skip


def _log(folder: Path, run_id: str, files: Mapping[str, bytes]) -> None:
    known = json.loads(files["run.json"])
    session = Session(
        project="lesions", entity=None, folder=folder, group=known["study"], job_type="train", name="a run", tags=(),
        config={}, id=run_id, system_metrics=False, timeout_s=20.0,
    )  # fmt: skip
    run = open_run(session, "online")
    metadata = {key: known[key] for key in ("study", "axes")}
    with logged_files(run, run_artifact(run_id), files, type=RUN_TYPE, metadata=metadata):
        run.finish()


def test_records_are_fetched_once_in_the_layout_of_a_study(wandb_server: WandbServer, tmp_path: Path) -> None:
    dice, focal = _files({"loss": "dice", "seed": "0"}), _files({"loss": "focal"}, value=0.25)
    _log(tmp_path / "a", "aaaa1111", dice)
    _log(tmp_path / "b", "bbbb2222", focal)
    _log(tmp_path / "c", "cccc3333", _files({}, study="second"))
    found = fetch_runs("someone/lesions", tmp_path / "cache", group="first")
    study = tmp_path / "cache" / "someone" / "lesions" / "first"
    assert found == [study / "loss=dice,seed=0", study / "loss=focal"]
    assert [state.score for state in read_study(study)] == ["dice 0.5000", "dice 0.2500"]
    for file, content in dice.items():
        assert (found[0] / file).read_bytes() == content

    asked = wandb_server.asked.count("FetchArtifactManifest")
    assert asked == 2
    assert fetch_runs("someone/lesions", tmp_path / "cache", group="first") == found
    assert wandb_server.asked.count("FetchArtifactManifest") == asked
    assert len(fetch_runs("someone/lesions", tmp_path / "cache", group=None)) == 3
    assert not (Path(tempfile.gettempdir()) / "someone" / "lesions").exists()


def test_the_newest_record_of_the_same_axes_counts(wandb_server: WandbServer, tmp_path: Path) -> None:
    def fetched() -> str:
        (folder,) = fetch_runs("someone/lesions", tmp_path / "cache", group=None)
        return RunFolder(folder).read().results["dice"]["mean"]

    _log(tmp_path / "a", "aaaa1111", _files({"seed": "0"}, value=0.1))
    assert fetched() == 0.1
    _log(tmp_path / "a", "aaaa1111", _files({"seed": "0"}, value=0.2))
    assert fetched() == 0.2
    _log(tmp_path / "b", "bbbb2222", _files({"seed": "0"}, value=0.3))
    assert fetched() == 0.3


def test_a_record_that_points_to_files_of_this_machine_is_refused(wandb_server: WandbServer, tmp_path: Path) -> None:
    _log(tmp_path / "a", "aaaa1111", _files({}))
    secret = tmp_path / "secret.txt"
    secret.write_text("nobody's business")
    (artifact,) = wandb_server.artifacts
    manifest = json.loads(artifact.manifest)
    manifest["contents"]["evidence.csv"] = {"digest": "x", "ref": secret.as_uri(), "size": secret.stat().st_size}
    artifact.manifest = json.dumps(manifest).encode()
    with pytest.raises(RecordError, match=r"holds no file evidence\.csv"):
        fetch_runs("someone/lesions", tmp_path / "cache", group=None)
    assert list((tmp_path / "cache").rglob("*.csv")) == []


def test_a_record_of_another_run_than_it_says_is_refused(wandb_server: WandbServer, tmp_path: Path) -> None:
    _log(tmp_path / "a", "aaaa1111", _files({"seed": "0"}))
    wandb_server.artifacts[0].metadata = json.dumps({"study": "../../elsewhere", "axes": {"seed": "0"}})
    with pytest.raises(RecordError, match="of another run than it says"):
        fetch_runs("someone/lesions", tmp_path / "cache", group=None)
    assert [path for path in tmp_path.rglob("*elsewhere*") if path.name == "run.json"] == []


def test_what_cannot_be_fetched_is_told(
    wandb_server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _log(tmp_path / "a", "aaaa1111", _files({}))
    with pytest.raises(RecordError, match="no record of a finished run of the group other"):
        fetch_runs("someone/lesions", tmp_path / "cache", group="other")
    with pytest.raises(RecordError, match=r"someone/polyps cannot be read .*Could not find project"):
        fetch_runs("someone/polyps", tmp_path / "cache", group=None)
    for project in ("lesions", "a/b/c", "/lesions", "../lesions"):
        with pytest.raises(UsageError, match="needs ENTITY/PROJECT"):
            fetch_runs(project, tmp_path / "cache", group=None)
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UsageError, match="run `wandb login`"):
        fetch_runs("someone/lesions", tmp_path / "cache", group=None)


def test_runs_that_were_logged_elsewhere_are_compared_as_local_ones(
    wandb_server: WandbServer,
    dice_study: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    dice_study(0.05, seeds=(0, 1))
    for number, run in enumerate(sorted((tmp_path / "runs" / "study").glob("*/run.json"))):
        files = {name: (run.parent / name).read_bytes() for name in ("config.yaml", "evidence.csv", "history.csv")}
        _log(tmp_path / "wandb", f"run{number}", {**files, "cases.csv": b"", "run.json": run.read_bytes()})
    command = ["--by", "loss", "--resamples", "200", "--json"]
    assert main(["compare", "study", *command]) == 0
    local = json.loads(capsys.readouterr().out)
    assert main(["compare", "--from", "wandb", "someone/lesions", *command]) == 0
    fetched = json.loads(capsys.readouterr().out)
    assert fetched["pairs"] == local["pairs"]
    assert (tmp_path / "comparison" / "comparison.md").exists()


def test_a_comparison_is_logged_without_ids_of_cases(
    wandb_server: WandbServer, dice_study: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice_study(0.05, seeds=(0, 1), config={"tracking": {"case_ids": "hashed"}})
    for run in (tmp_path / "runs" / "study").glob("*/run.json"):
        (run.parent / "cases.csv").write_text("case_id,group\n")
    words = ["compare", "study", "--by", "loss", "--resamples", "200", "--runs", str(tmp_path / "runs")]
    assert main([*words, "--log", "someone/lesions"]) == 0
    assert "logged to http" in capsys.readouterr().out
    (artifact,) = wandb_server.artifacts
    files = artifact.named_files()
    assert {"comparison.md", "pairs.csv", "cases.csv"} <= set(files)
    (case, *_) = pd.read_csv(tmp_path / "runs" / "study" / "comparison" / "cases.csv")["case_id"]
    assert not any(str(case).encode() in content for content in files.values())
