from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medexp.core.errors import DataError, MedexpError, UsageError
from medexp.core.faults import Fault
from medexp.core.types import Case
from medexp.data import _parallel
from medexp.data._parallel import for_each_case

CASES = [Case(f"case_{number}", "p", (Path(f"{number}.nii"),)) for number in range(10)]


@pytest.fixture
def two_processes(monkeypatch):
    """Processes are started for the second case on."""
    monkeypatch.setattr(_parallel, "_ALONE_S", 0.0)
    monkeypatch.setattr(_parallel, "_WORTH_S", 0.0)
    monkeypatch.setenv(_parallel.PROCESSES, "2")


def number_of(case: Case) -> int:
    return int(case.case_id.removeprefix("case_"))


def fails_at_odd(case: Case, wait: bool) -> int:
    if number_of(case) % 4 == 1:
        raise DataError.of(Fault("odd", "an even number", "an odd one", "add one", case.case_id))
    if number_of(case) % 4 == 3:
        raise KeyError("a reader of the user's with a bug")
    return 100


def check_told(error: DataError) -> None:
    assert [(fault.case_id, fault.check) for fault in error.faults] == [
        ("case_1", "odd"),
        ("case_3", "unreadable"),
        ("case_5", "odd"),
        ("case_7", "unreadable"),
        ("case_9", "odd"),
    ]
    lines = str(error).splitlines()
    assert lines[0] == "case case_1: it needs an even number, got an odd one; add one"
    assert "KeyError: 'a reader of the user's with a bug'" in lines[1].replace('"', "'")
    assert len(lines) == 5


def test_all_failures_are_told_at_once_and_in_order():
    done = []

    def work(case: Case, wait: bool) -> int:
        done.append(case)
        return fails_at_odd(case, wait)

    with pytest.raises(DataError) as told:
        for_each_case(work, CASES, doing="preparing")
    check_told(told.value)
    assert done == CASES


@pytest.mark.usefixtures("two_processes")
def test_all_failures_of_processes_are_told_at_once_and_in_order():
    with pytest.raises(DataError) as told:
        for_each_case(fails_at_odd, CASES, doing="preparing")
    check_told(told.value)


def test_of_very_many_failures_the_first_are_told_and_all_are_faults():
    cases = [Case(f"case_{4 * number + 1}", "p", ()) for number in range(200)]
    with pytest.raises(DataError, match="and 150 more cases") as told:
        for_each_case(fails_at_odd, cases, doing="preparing")
    assert len(told.value.faults) == 200


def test_what_is_wrong_with_all_cases_is_told_with_the_first():
    done = []

    def work(case: Case, wait: bool) -> int:
        done.append(case)
        raise UsageError("preprocessing.spacing_mm needs 3 values")

    with pytest.raises(UsageError, match="needs 3 values"):
        for_each_case(work, CASES, doing="preparing")
    assert done == CASES[:1]


def killed(case: Case, wait: bool) -> int:
    if number_of(case) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return 100


@pytest.mark.usefixtures("two_processes")
def test_a_killed_process_is_told_with_the_remedy():
    with pytest.raises(MedexpError, match=r"one of 2 processes was killed.*MEDEXP_PREPARE_PROCESSES=1"):
        for_each_case(killed, CASES, doing="preparing")


def test_cases_that_another_run_is_at_come_last_and_are_waited_for():
    seen = []

    def work(case: Case, wait: bool) -> int | None:
        seen.append((number_of(case), wait))
        return None if number_of(case) in (0, 3) and not wait else 100

    for_each_case(work, CASES, doing="preparing")
    assert seen == [*((number, False) for number in range(10)), (0, True), (3, True)]


def test_short_work_starts_no_processes_and_says_nothing(monkeypatch, caplog):
    monkeypatch.setattr(_parallel, "_in_processes", lambda *_: pytest.fail("processes were started"))
    with caplog.at_level(logging.INFO, logger="medexp"):
        for_each_case(lambda case, wait: 100, CASES, doing="preparing")
    assert caplog.messages == []


def test_long_work_says_how_far_it_is_and_how_long_it_takes(monkeypatch, caplog):
    clock = iter(range(0, 100_000, 3))
    monkeypatch.setattr(_parallel.time, "monotonic", lambda: float(next(clock)))
    monkeypatch.setenv(_parallel.PROCESSES, "1")
    with caplog.at_level(logging.INFO, logger="medexp"):
        for_each_case(lambda case, wait: 100, CASES, doing="preparing")
    assert len(caplog.messages) > 2
    assert all(message.startswith("preparing: ") for message in caplog.messages)
    assert "of 10 cases, about" in caplog.messages[0]
    assert caplog.messages[-1].startswith("preparing: 10 cases in ")


@pytest.mark.parametrize("given", ["0", "-1", "many", "1.5", ""])
def test_a_number_of_processes_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setattr(_parallel, "_ALONE_S", 0.0)
    monkeypatch.setattr(_parallel, "_WORTH_S", 0.0)
    monkeypatch.setenv(_parallel.PROCESSES, given)
    with pytest.raises(UsageError, match="MEDEXP_PREPARE_PROCESSES needs a whole number from 1 on"):
        for_each_case(lambda case, wait: 100, CASES, doing="preparing")


def test_there_are_no_more_processes_than_cores_and_memory_allow(monkeypatch):
    monkeypatch.delenv(_parallel.PROCESSES, raising=False)
    monkeypatch.setattr(_parallel, "available_cores", lambda: 16)
    for free, limit, largest, expected in (
        (64e9, None, 1e6, 16),
        (64e9, None, 1e9, 7),
        (64e9, 20e9, 1e9, 2),
        (1e9, None, 1e9, 1),
        (None, None, 1e9, 16),
    ):
        monkeypatch.setattr(_parallel, "free_memory_bytes", lambda free=free: free)
        monkeypatch.setattr(_parallel, "cgroup_memory_bytes", lambda limit=limit: limit)
        tally = _parallel._Tally("preparing", total=1)
        tally.add(_parallel._Outcome(CASES[0], n_bytes=int(largest)))
        assert tally.processes() == expected


SCRIPT = '''
import os
from pathlib import Path

import numpy as np

from medexp.core.geometry import Geometry
from medexp.core.types import Annotation, Case, Image
from medexp.data import _parallel
from medexp.data.cache import PreparedCases
from medexp.data.normalisation.ct import CT
from medexp.data.preprocessing import Preprocessing


class Own:
    """A source of the user's own, in a script without a guard."""

    name, spatial_dims, channels, labels, public = "own", 2, ("CT",), {0: "background", 1: "organ"}, True

    def cases(self):
        return [Case(f"case_{number}", "p", (Path(f"{number}.npy"),)) for number in range(6)]

    def read(self, case):
        with open("read", "a") as stream:
            stream.write(f"{case.case_id} {os.getpid()}\\n")
        values = np.load(case.images[0])
        mask = (values > 0).astype(np.uint8)
        return Image(case, values[None], Annotation(mask=mask), Geometry.from_spacing(values.shape, (1.0, 1.0)))


for case in Own().cases():
    np.save(case.images[0], np.random.default_rng(int(case.case_id[-1])).normal(size=(40, 50)).astype(np.float32))
knobs = {"orient": True, "spacing_mm": (1.5, 0.7), "mask_interpolation": "argmax"}
for folder, processes in (("alone", "1"), ("together", "2")):
    os.environ["MEDEXP_PREPARE_PROCESSES"] = processes
    _parallel._ALONE_S = _parallel._WORTH_S = 0.0
    prepared = PreparedCases(
        folder=Path(folder),
        source=Own(),
        preprocessing=Preprocessing(normalisation=CT(lower=-1.0, upper=1.0, mean=0.0, std=1.0), **knobs),
        identity="own",
    )
    prepared.prepare(Own().cases())
'''


def test_processes_of_a_script_without_a_guard_prepare_what_one_process_does(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, check=True, timeout=120)
    alone, together = (
        {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name).rglob("*.*")
            if "sqlite" not in file.name
        }
        for name in ("alone", "together")
    )
    assert len(alone) == 6 * 4
    assert together == alone
    read = [line.split() for line in (tmp_path / "read").read_text().splitlines()]
    assert len({pid for _, pid in read[:6]}) == 1
    assert len({pid for _, pid in read[6:]}) >= 2
    assert sorted(case for case, _ in read) == sorted(2 * [f"case_{number}" for number in range(6)])


ENDLESS = """
import os
import time
from pathlib import Path

from medexp.core.types import Case
from medexp.data import _parallel


def work(case, wait):
    Path(case.case_id).write_text(str(os.getpid()))
    time.sleep(0 if case.case_id == "0" else 300)
    return 100


_parallel._ALONE_S = _parallel._WORTH_S = 0.0
_parallel.for_each_case(work, [Case(str(number), "p", ()) for number in range(3)], doing="preparing")
"""


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path):
    (tmp_path / "script.py").write_text(ENDLESS)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), _parallel.PROCESSES: "2"}
    first = subprocess.Popen([sys.executable, "script.py"], cwd=tmp_path, env=environment)
    others = [tmp_path / "1", tmp_path / "2"]
    wait_for(lambda: all(file.exists() and file.read_text() for file in others))
    first.kill()
    first.wait()
    wait_for(lambda: not any(Path("/proc", file.read_text()).exists() for file in others))


def wait_for(happened: Callable[[], bool], *, seconds: float = 90) -> None:
    give_up = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.05)
