from __future__ import annotations

import os
from pathlib import Path

import pytest

from medexp.core.errors import UsageError
from medexp.launchers.gpus import Gpu, Room, chosen_gpus, visible_gpus

TWO = (Gpu(0, 10_000.0), Gpu(1, 20_000.0))


def test_a_job_of_which_nothing_is_known_has_a_gpu_alone() -> None:
    room = Room(TWO)
    taken = [room.take(devices=1, memory_mb=None) for _ in range(3)]
    assert [None if each is None else list(each) for each in taken] == [[1], [0], None]
    room.give_back(taken[1] or {})
    assert list(room.take(devices=1, memory_mb=None) or ()) == [0]


def test_jobs_share_a_gpu_as_long_as_they_fit() -> None:
    room = Room(TWO)
    taken = [room.take(devices=1, memory_mb=4_000.0) for _ in range(7)]
    # 4,600 MB a job with what a process needs beside: two on the first, four on the second.
    places = [next(iter(each)) for each in taken if each is not None]
    assert (sorted(places), taken[6]) == ([0, 0, 1, 1, 1, 1], None)


def test_a_limit_of_jobs_per_gpu_holds_though_more_would_fit() -> None:
    room = Room(TWO, jobs_per_gpu=1)
    assert [room.take(devices=1, memory_mb=10.0) is None for _ in range(3)] == [False, False, True]


def test_room_is_left_until_no_gpu_could_take_any_job() -> None:
    room = Room(TWO)
    for memory_mb, left in ((4_000.0, True), (None, True), (18_000.0, False)):
        assert room.is_left
        taken = room.take(devices=1, memory_mb=memory_mb)
        assert (taken is not None) is left
    limited = Room(TWO[:1], jobs_per_gpu=2)
    for _ in range(2):
        assert limited.is_left
        taken = limited.take(devices=1, memory_mb=1.0)
    assert not limited.is_left
    limited.give_back(taken or {})
    assert limited.is_left


def test_a_job_that_is_larger_than_any_gpu_is_tried_alone() -> None:
    room = Room(TWO)
    assert room.take(devices=1, memory_mb=90_000.0) is not None
    assert room.take(devices=2, memory_mb=10.0) is None


def test_a_job_of_several_devices_takes_as_many_gpus() -> None:
    room = Room(TWO)
    taken = room.take(devices=2, memory_mb=None)
    assert list(taken or ()) == [0, 1]
    assert room.take(devices=1, memory_mb=1.0) is None
    room.give_back(taken or {})
    assert room.take(devices=1, memory_mb=1.0) is not None


def test_the_wanted_gpus_must_be_there() -> None:
    assert chosen_gpus(TWO, "auto") == list(TWO)
    assert chosen_gpus(TWO, [1]) == [TWO[1]]
    with pytest.raises(UsageError, match=r"launcher\.gpus names \[7\], and the GPUs here are \[0, 1\]"):
        chosen_gpus(TWO, [1, 7])


@pytest.mark.parametrize(("visible", "numbers"), [(None, [0, 1]), ("1", [1]), ("", [])])
def test_gpus_are_those_that_the_driver_lists_and_that_are_visible(
    visible: str | None, numbers: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho '0, 81559'\necho '1, 40960'\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = visible_gpus()
    assert [gpu.number for gpu in found] == numbers
    assert all(gpu.memory_mb == pytest.approx({0: 81559, 1: 40960}[gpu.number] * 2**20 / 1e6) for gpu in found)


def test_without_a_driver_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
