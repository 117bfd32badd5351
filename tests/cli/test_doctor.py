from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medexp.cli import doctor as doctor_module
from medexp.cli.dependencies import Dependency, check_requirements, declared_requirements, dependency_findings
from medexp.cli.doctor import allocator_note, doctor, folder_findings, shared_memory_findings
from medexp.core.hardware import hardware_precision
from medexp.core.wandb_login import wandb_login

SECRET = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test looks at the logins of the user who runs it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_BASE_URL", "WANDB_CONFIG_DIR", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any], str]:
    code = doctor(["--json", *arguments])
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def status_of(requirement: str, installed: str | None) -> str:
    return check_requirements([requirement], installed_version=lambda name: installed)[0].status


def test_the_report_tells_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    code, facts, _ = report(capsys)
    assert code == (0 if facts["ok"] else 1)
    assert facts["machine"]["python"] == platform.python_version()
    assert 1 <= facts["machine"]["cores_available"] <= facts["machine"]["cores_of_machine"]
    assert facts["torch"]["version"] == torch.__version__
    assert len(facts["torch"]["devices"]) == torch.cuda.device_count()
    assert facts["precision"]["auto"] in ("bf16-mixed", "16-mixed", "32-true")
    assert facts["precision"]["reason"]
    assert facts["storage"]["runs"]["free_gib"] > 0


def test_each_declared_package_is_reported_with_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    _, facts, _ = report(capsys)
    entries = {entry["name"]: entry for entry in facts["dependencies"]}
    assert entries["pytorch-lightning"]["required"] == ">=2.6.6"
    assert entries["pytorch-lightning"]["installed"] == importlib.metadata.version("pytorch-lightning")
    assert entries["pytorch-lightning"]["status"] == "ok"
    assert entries["optuna"]["extras"][-1] == "optuna"


def test_the_tables_name_what_the_json_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    doctor([])
    shown = capsys.readouterr().out
    for expected in (
        platform.python_version(),
        str(torch.__version__),
        "pytorch-lightning",
        ">=2.6.6",
        "precision=auto",
    ):
        assert expected in shown


def test_a_package_below_its_floor_fails_with_what_and_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = {"pytorch-lightning": "2.6.5"}
    monkeypatch.setattr(
        doctor_module, "version_of", lambda name: installed.get(name) or importlib.metadata.version("rich")
    )
    monkeypatch.setattr(doctor_module, "declared_requirements", lambda: ["pytorch-lightning>=2.6.6", "rich>=1"])
    code, facts, errors = report(capsys)
    assert code == 1
    assert not facts["ok"]
    assert "error: pytorch-lightning is 2.6.5, medexp needs pytorch-lightning>=2.6.6; run: pip install" in errors
    assert "rich" not in errors


def test_a_missing_package_fails() -> None:
    found = check_requirements(["torch>=2.10"], installed_version=lambda name: None)
    assert [finding.what for finding in dependency_findings(found)] == ["torch is missing, medexp needs torch>=2.10"]
    assert all(finding.failure for finding in dependency_findings(found))


@pytest.mark.parametrize(
    ("requirement", "installed", "status"),
    [
        ("torch>=2.10", "2.10.0", "ok"),
        ("torch>=2.10", "2.9.1", "unfit"),
        ("torch>=2.10", "2.14.1+cu130", "ok"),
        ("torch>=2.10", "2.11.0.dev20260101", "ok"),
        ("omegaconf>=2.3,<2.4", "2.4.0", "unfit"),
        ("scipy", "0.1", "ok"),
        ("scipy", None, "missing"),
        ('onnx>=1.17; extra == "export"', None, "optional, missing"),
        ('onnx>=1.17; extra == "export"', "1.16", "optional, unfit"),
        ('onnx>=1.17; python_version >= "3.8" and extra == "export"', "1.18", "ok"),
    ],
)
def test_versions_are_held_against_what_is_declared(requirement: str, installed: str | None, status: str) -> None:
    assert status_of(requirement, installed) == status


def test_a_requirement_for_another_platform_is_left_out() -> None:
    assert check_requirements(['colorama; sys_platform == "none"'], installed_version=lambda name: None) == []


def test_a_package_that_several_extras_ask_for_is_listed_once() -> None:
    asked = ['onnx>=1.17; extra == "dev"', 'onnx>=1.18; extra == "export"']
    assert check_requirements(asked, installed_version=lambda name: "1.17.2") == [
        Dependency("onnx", ">=1.18,>=1.17", "1.17.2", ("dev", "export"), "optional, unfit")
    ]


def test_extras_are_nobodys_duty() -> None:
    asked = ['onnx>=1.17; extra == "export"', 'ruff>=0.9; extra == "dev"']
    assert dependency_findings(check_requirements(asked, installed_version=lambda name: None)) == []


def test_what_is_declared_holds_the_floors_that_close_holes() -> None:
    declared = [text.replace(" ", "") for text in declared_requirements()]
    assert "pytorch-lightning>=2.6.6" in declared
    assert any(text.startswith("onnx>=1.17;extra==") for text in declared)


def test_the_precision_is_the_one_that_the_engine_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = {"name": "Some GPU", "capability": [7, 5], "memory_gib": 15.0}
    told = {"version": "2.14", "cuda_build": "13.0", "cuda_available": True, "devices": [device], "threads": 2}
    monkeypatch.setattr(doctor_module, "_torch_facts", lambda: (told | {"mps_available": False}, []))
    _, facts, _ = report(capsys)
    expected = hardware_precision(capabilities=[(7, 5)], native_bf16=False, mps=False)
    assert (facts["precision"]["auto"], facts["precision"]["reason"]) == expected
    monkeypatch.setenv("COLUMNS", "200")
    doctor([])
    assert "Some GPU, capability 7.5, 15.0 GiB" in capsys.readouterr().out


def test_a_torch_that_cannot_be_loaded_is_a_failure_and_no_crash(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # makes `import torch` fail
    code, facts, errors = report(capsys)
    assert code == 1
    assert facts["precision"]["auto"] is None
    assert "error: torch cannot be used" in errors
    assert doctor([]) == 1


def test_no_login_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    _, facts, errors = report(capsys)
    assert facts["wandb"] == {"logged_in": False, "source": None, "host": "https://api.wandb.ai", "mode": "online"}
    assert "wandb" not in errors


def login(folder: Path, **environment: str) -> dict[str, Any]:
    return wandb_login(environment=environment, home=folder, folder=folder / "work")


def test_a_key_in_the_environment_is_a_login(tmp_path: Path) -> None:
    assert login(tmp_path, WANDB_API_KEY=SECRET)["source"] == "WANDB_API_KEY"
    assert not login(tmp_path, WANDB_API_KEY="")["logged_in"]


def test_a_netrc_entry_for_the_host_is_a_login(tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text(f"machine api.wandb.ai\n  login user\n  password {SECRET}\n")
    assert login(tmp_path)["source"] == str(tmp_path / ".netrc")
    assert not login(tmp_path, WANDB_BASE_URL="https://wandb.hospital.org")["logged_in"]
    assert not login(tmp_path, NETRC=str(tmp_path / "other"))["logged_in"]


def test_wandbs_own_settings_are_read(tmp_path: Path) -> None:
    settings = tmp_path / ".config" / "wandb" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"[default]\nbase_url = https://wandb.hospital.org\nmode = offline\napi_key = {SECRET}\n")
    assert login(tmp_path) == {
        "logged_in": True,
        "source": "wandb settings",
        "host": "https://wandb.hospital.org",
        "mode": "offline",
    }
    local = tmp_path / "work" / "wandb" / "settings"
    local.parent.mkdir(parents=True)
    local.write_text("[default]\nmode = online\n")
    assert login(tmp_path)["mode"] == "online"


@pytest.mark.parametrize("text", [f"machine api.wandb.ai passwort {SECRET}", "\x00\xff", f"[default\napi_key={SECRET}"])
def test_broken_files_are_no_login_and_leak_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "netrc").write_text(text, encoding="latin-1")
    (tmp_path / ".config" / "wandb").mkdir(parents=True)
    (tmp_path / ".config" / "wandb" / "settings").write_text(text, encoding="latin-1")
    doctor([])
    out, err = capsys.readouterr()
    assert "not logged in" in out
    assert SECRET not in out + err


def test_the_key_is_never_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {SECRET}\n")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    doctor([])
    doctor(["--json"])
    out, err = capsys.readouterr()
    assert "WANDB_API_KEY" in out
    assert SECRET not in out + err


def test_little_shared_memory_is_a_warning_with_a_remedy() -> None:
    assert shared_memory_findings(1.0) == []
    (finding,) = shared_memory_findings(64 / 1024)
    assert not finding.failure
    assert "0.06 GiB" in finding.what
    assert "--shm-size" in finding.remedy


def test_folders_are_measured_where_they_will_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, facts, _ = report(capsys, "--runs", str(tmp_path / "not" / "yet"), "--cache", str(tmp_path))
    assert facts["storage"]["runs"]["folder"] == str(tmp_path / "not" / "yet")
    assert facts["storage"]["runs"]["writable"]
    assert not (tmp_path / "not").exists()


def test_a_folder_below_a_file_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code, _, errors = report(capsys, "--runs", str(tmp_path / "file" / "runs"))
    assert code == 1
    assert f"the runs folder {tmp_path / 'file' / 'runs'} cannot be written" in errors


def test_a_nearly_full_disk_is_a_warning() -> None:
    facts = {"folder": "/data/runs", "free_gib": 1.5, "writable": True}
    (finding,) = folder_findings("runs", facts)
    assert not finding.failure
    assert finding.what == "the runs folder /data/runs has 1.5 GiB free"
    assert folder_findings("runs", facts | {"free_gib": 500.0}) == []


def test_the_allocator_is_named() -> None:
    assert allocator_note(libc="glibc", preloaded="").startswith("glibc malloc; medexp keeps freed memory")
    assert allocator_note(libc="glibc", preloaded="/usr/lib/libjemalloc.so.2").startswith("jemalloc")
    assert allocator_note(libc="", preloaded="").startswith("malloc of the system")


def test_a_wrong_option_is_wrong_use(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        doctor(["--jsno"])
    assert stopped.value.code == 2
    assert "usage: medexp doctor" in capsys.readouterr().err


def test_help_imports_no_torch() -> None:
    code = """
import sys
from medexp.cli.doctor import doctor
try:
    doctor(["-h"])
except SystemExit:
    sys.exit("torch" in sys.modules)
"""
    checkout = Path(doctor_module.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, cwd=checkout).returncode == 0
