from __future__ import annotations

import errno
import gc
import importlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import cloudpickle
import numpy as np
import pytest

from medexp.core.errors import DataError, MedexpError
from medexp.core.geometry import Geometry
from medexp.core.leftovers import half_written
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Case, Image
from medexp.data._code import code_of
from medexp.data.cache import PreparedCases
from medexp.data.derive.derived import Derived
from medexp.data.normalisation.by_channel import ByChannel
from medexp.data.normalisation.ct import CT
from medexp.data.normalisation.window import Window
from medexp.data.normalisation.zscore import ZScore
from medexp.data.preprocessing import Preprocessing

processes = multiprocessing.get_context("fork")


def prepared_cases(source, folder: Path, *, identity: str = "source", training=(), **knobs) -> PreparedCases:
    chosen = {"orient": False, "spacing_mm": None, "normalisation": ZScore()} | knobs
    return PreparedCases(
        folder=folder, source=source, preprocessing=Preprocessing(**chosen), identity=identity, training=training
    )


def folders(cache: Path) -> list[Path]:
    """Complete cases in the cache."""
    return sorted(path.parent for path in cache.rglob("case.json") if not path.parent.name.startswith("."))


def test_a_case_is_prepared_as_without_the_cache_and_read_back(numpy_source, tmp_path):
    source = numpy_source(shape=(12, 10), spacing_mm=(1.0, 2.0))
    cases = prepared_cases(source, tmp_path / "cache", orient=True, spacing_mm=(2.0, 1.0))
    case = source.cases()[1]
    expected = cases.preprocessing(source.read(case))
    for _ in range(2):
        prepared, foreground = cases.load(case)
        assert np.array_equal(prepared.pixels, expected.pixels)
        assert np.array_equal(prepared.annotation.mask, expected.annotation.mask)
        assert prepared.placement == expected.placement
        rows = {tuple(row) for row in foreground.tolist()}
        assert rows == {
            (expected.annotation.mask[tuple(at)], *at) for at in np.argwhere(expected.annotation.mask).tolist()
        }


def test_cases_beyond_what_memory_holds_stay_mapped_and_are_the_same(numpy_source, tmp_path, monkeypatch):
    source = numpy_source(n_cases=3)
    in_memory = prepared_cases(source, tmp_path / "cache")
    kept = [in_memory.load(case) for case in source.cases()]
    one_case = kept[0][0].pixels.nbytes + kept[0][0].annotation.mask.nbytes + kept[0][1].nbytes
    monkeypatch.setattr("medexp.data.cache._KEPT_BYTES", one_case)
    limited = prepared_cases(source, tmp_path / "cache")
    loaded = [limited.load(case) for case in source.cases()]
    assert [isinstance(prepared.pixels, np.memmap) for prepared, _ in loaded] == [False, True, True]
    assert not kept[0][0].pixels.flags.writeable
    for (ours, positions), (theirs, expected) in zip(loaded, kept, strict=True):
        assert np.array_equal(ours.pixels, theirs.pixels)
        assert np.array_equal(ours.annotation.mask, theirs.annotation.mask)
        assert np.array_equal(positions, expected)


def test_a_prepared_case_is_not_prepared_again(numpy_source, tmp_path):
    source = numpy_source()
    case = source.cases()[0]
    prepared_cases(source, tmp_path / "cache").load(case)
    (folder,) = folders(tmp_path / "cache")
    before = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    prepared_cases(source, tmp_path / "cache").load(case)
    assert [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())] == before


def test_foreground_positions_are_limited_for_each_label(numpy_source, tmp_path):
    source = numpy_source(n_cases=1, shape=(300, 300))
    _, foreground = prepared_cases(source, tmp_path / "cache").load(source.cases()[0])
    mask = source.read(source.cases()[0]).annotation.mask
    counts = {label: int((foreground[:, 0] == label).sum()) for label in (1, 5)}
    assert counts == {1: 4096, 5: min(4096, int((mask == 5).sum()))}
    assert all(mask[tuple(at)] == label for label, *at in foreground.tolist())
    assert len({tuple(row) for row in foreground.tolist()}) == len(foreground)


def test_a_case_without_reference_or_foreground_has_no_positions(numpy_source, tmp_path):
    source = numpy_source(n_cases=2)
    empty, bare = source.cases()
    np.save(empty.references["mask"], np.zeros(source.shape, dtype=np.int16))
    prepared, foreground = prepared_cases(source, tmp_path / "cache").load(empty)
    assert (foreground.shape, prepared.annotation.mask.max()) == ((0, 3), 0)

    class WithoutReference(type(source)):
        def read(self, case):
            return replace(super().read(case), annotation=Annotation())

    without = WithoutReference(source.folder, 2, source.shape)
    prepared, foreground = prepared_cases(without, tmp_path / "other").load(bare)
    assert (foreground.shape, prepared.annotation.mask) == ((0, 3), None)


@pytest.mark.parametrize(
    "knobs",
    [
        {"orient": True},
        {"spacing_mm": (1.0, 1.0)},
        {"normalisation": ZScore(nonzero=True)},
        {"normalisation": Window(lower=0.0, upper=1.0)},
        {"identity": "another source"},
    ],
)
def test_a_changed_knob_is_another_case(numpy_source, tmp_path, knobs):
    source = numpy_source()
    prepared_cases(source, tmp_path / "cache").load(source.cases()[0])
    prepared_cases(source, tmp_path / "cache", **knobs).load(source.cases()[0])
    assert len(folders(tmp_path / "cache")) == 2


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_changed_file_is_another_case(numpy_source, tmp_path, kind):
    source = numpy_source()
    case = source.cases()[0]
    prepared_cases(source, tmp_path / "cache").load(case)
    file = case.images[0] if kind == "image" else case.references["mask"]
    changed = np.load(file)
    changed[..., 3, 3] += 1
    np.save(file, changed)
    prepared, _ = prepared_cases(source, tmp_path / "cache").load(case)
    assert len(folders(tmp_path / "cache")) == 2
    assert np.array_equal(prepared.annotation.mask, np.load(case.references["mask"]))


def test_the_place_of_the_files_does_not_matter(numpy_source, tmp_path):
    source = numpy_source()
    prepared_cases(source, tmp_path / "cache").load(source.cases()[0])
    source.folder.rename(tmp_path / "elsewhere")
    moved = replace(source, folder=tmp_path / "elsewhere")
    prepared_cases(moved, tmp_path / "cache").load(moved.cases()[0])
    assert len(folders(tmp_path / "cache")) == 1


@pytest.mark.parametrize("kind", ["image", "mask"])
def test_a_missing_file_is_told_with_its_case(numpy_source, tmp_path, kind):
    source = numpy_source()
    case = source.cases()[2]
    file = case.images[0] if kind == "image" else case.references["mask"]
    file.unlink()
    with pytest.raises(DataError, match=rf"case case_2: .*2_{kind}\.npy needs to be a file .* got nothing") as told:
        prepared_cases(source, tmp_path / "cache").load(case)
    assert [(fault.check, fault.case_id, fault.file) for fault in told.value.faults] == [
        ("missing_file", "case_2", file)
    ]
    assert not (tmp_path / "cache").exists()


def test_a_killed_writer_leaves_no_half_case(numpy_source, tmp_path):
    source, cache = numpy_source(n_cases=1, shape=(2000, 2000)), tmp_path / "cache"
    case = source.cases()[0]
    # Sorting four million labels takes a while between the first file and the last.
    writer = processes.Process(target=lambda: prepared_cases(source, cache).load(case))
    writer.start()
    while not list(cache.rglob("mask.npy")) and writer.is_alive():
        time.sleep(0.0005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert writer.exitcode == -signal.SIGKILL
    assert folders(cache) == []
    prepared, _ = prepared_cases(source, cache).load(case)
    assert np.array_equal(prepared.annotation.mask, source.read(case).annotation.mask)
    assert len(folders(cache)) == 1


def test_all_missing_files_are_told_at_once(numpy_source, tmp_path):
    source = numpy_source()
    gone = [source.cases()[1].images[0], source.cases()[4].references["mask"], source.cases()[4].images[0]]
    for file in gone:
        file.unlink()
    listed = source.cases()
    for file in gone:
        file.unlink(missing_ok=True)
    with pytest.raises(DataError) as told:
        prepared_cases(source, tmp_path / "cache").prepare(listed)
    assert {fault.file for fault in told.value.faults} == set(gone)


def logging_source(numpy_source, file: Path, *, seconds: float = 0.0, **knobs):
    """A source that notes each case that it reads, and takes its time."""

    class Logging(type(numpy_source(**knobs))):
        def read(self, case):
            with file.open("a") as stream:
                stream.write(f"{case.case_id}\n")
            time.sleep(seconds)
            return super().read(case)

    plain = numpy_source(**knobs)
    return Logging(plain.folder, plain.n_cases, plain.shape)


def in_processes(*works) -> list[int]:
    """Exit codes of processes that each do one thing, all at once."""
    started = [processes.Process(target=work) for work in works]
    for process in started:
        process.start()
    for process in started:
        process.join()
    return [process.exitcode for process in started]


def test_two_runs_that_start_at_once_share_the_work_and_compute_each_case_once(numpy_source, tmp_path):
    source = logging_source(numpy_source, tmp_path / "log", seconds=0.03, n_cases=12)
    cases, cache = source.cases(), tmp_path / "cache"

    def prepare() -> None:
        prepared = prepared_cases(source, cache)
        prepared.prepare(cases)
        here = [prepared.load(case)[0].annotation.mask for case in cases]
        same = all(
            np.array_equal(mask, np.load(case.references["mask"])) for mask, case in zip(here, cases, strict=True)
        )
        os._exit(0 if same else 1)

    assert in_processes(prepare, prepare, prepare) == [0, 0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == sorted(case.case_id for case in cases)
    assert len(folders(cache)) == 12
    assert left_behind(cache) == []


def left_behind(cache: Path) -> list[Path]:
    """Hidden files and folders."""
    return [path for path in cache.rglob("*") if path.name.startswith(".")]


def test_writers_of_one_case_at_once_wait_for_the_first(numpy_source, tmp_path):
    source, cache = logging_source(numpy_source, tmp_path / "log", seconds=0.3, n_cases=1), tmp_path / "cache"
    (case,) = source.cases()

    def load() -> None:
        prepared, _ = prepared_cases(source, cache).load(case)
        os._exit(0 if np.array_equal(prepared.annotation.mask, np.load(case.references["mask"])) else 1)

    assert in_processes(*[load] * 4) == [0] * 4
    assert (tmp_path / "log").read_text().split() == ["case_0"]
    assert left_behind(cache) == []


def test_killed_wherever_it_is_a_writer_leaves_whole_cases_or_none(numpy_source, tmp_path):
    source, cache = numpy_source(n_cases=4, shape=(60, 70)), tmp_path / "cache"
    cases = source.cases()
    expected = {case.case_id: prepared_cases(source, tmp_path / "other").load(case) for case in cases}

    def write() -> None:
        prepared = prepared_cases(source, cache)
        for case in cases:
            prepared.load(case)
        os._exit(0)

    before = time.monotonic()
    assert in_processes(write) == [0]
    whole_s = time.monotonic() - before
    random, killed, found = np.random.default_rng(0), 0, set()
    for _ in range(15):
        shutil.rmtree(cache)
        writer = processes.Process(target=write)
        writer.start()
        time.sleep(random.uniform(0.1, 1.0) * whole_s)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        killed += writer.exitcode == -signal.SIGKILL
        found.add(len(folders(cache)))
        again = prepared_cases(source, cache)
        for case in cases:
            ours, positions = again.load(case)
            theirs, expected_positions = expected[case.case_id]
            assert np.array_equal(ours.pixels, theirs.pixels)
            assert np.array_equal(ours.annotation.mask, theirs.annotation.mask)
            assert np.array_equal(positions, expected_positions)
    assert killed > 0
    assert len(found) > 1, "all were killed at the same point"


def test_what_a_killed_writer_leaves_is_found_by_gc(numpy_source, tmp_path):
    source, cache = logging_source(numpy_source, tmp_path / "log", seconds=60, n_cases=1), tmp_path / "cache"
    writer = processes.Process(target=lambda: prepared_cases(source, cache).load(source.cases()[0]))
    writer.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    left = left_behind(cache)
    for path in left:
        os.utime(path, (0, 0))
    assert sorted(item.path for item in half_written(cache)) == sorted(left)
    assert len(left) == 2


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "pixels.npy").write_bytes((folder / "pixels.npy").read_bytes()[:-1]),
        lambda folder: (folder / "foreground.npy").write_bytes(b""),
        lambda folder: (folder / "mask.npy").unlink(),
        lambda folder: (folder / "mask.npy").write_bytes(b"something else"),
        lambda folder: (folder / "case.json").write_bytes(b""),
        lambda folder: (folder / "case.json").write_text("{}"),
    ],
)
def test_a_damaged_case_is_computed_again(numpy_source, tmp_path, harm):
    source = numpy_source(n_cases=1)
    (case,) = source.cases()
    expected, _ = prepared_cases(source, tmp_path / "cache").load(case)
    (folder,) = folders(tmp_path / "cache")
    harm(folder)
    for _ in range(2):
        again, _ = prepared_cases(source, tmp_path / "cache").load(case)
        assert np.array_equal(again.pixels, expected.pixels)
        assert np.array_equal(again.annotation.mask, expected.annotation.mask)
    assert folders(tmp_path / "cache") == [folder]
    assert left_behind(tmp_path / "cache") == []


def test_a_cache_that_cannot_be_written_is_told_with_the_remedy(numpy_source, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    source = numpy_source()
    with pytest.raises(MedexpError, match=r"the cache .* cannot be written .*paths\.cache=FOLDER"):
        prepared_cases(source, tmp_path / "cache").prepare(source.cases())


def test_a_full_disk_is_told_at_once_and_leaves_no_half_case(numpy_source, tmp_path, monkeypatch):
    source, saved = numpy_source(), []

    def save(file, array):
        if saved:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(file)

    monkeypatch.setattr(np, "save", save)
    cases = [Case(f"case_{n}", "p", (tmp_path / "source" / f"{n}_image.npy",)) for n in range(2)]
    for case in cases:
        case.images[0].parent.mkdir(exist_ok=True)
        case.images[0].write_bytes(b"image")
    pixels = np.ones((2, 12, 10), dtype=np.float32)
    source.read = lambda case: Image(case, pixels, None, Geometry.from_spacing((12, 10), (1.0, 1.0)))
    with pytest.raises(MedexpError, match="No space left on device"):
        prepared_cases(source, tmp_path / "cache").prepare(cases)
    assert len(saved) == 1
    assert folders(tmp_path / "cache") == []
    assert left_behind(tmp_path / "cache") == []


def test_the_memory_of_a_process_does_not_grow_with_the_dataset(numpy_source, tmp_path, monkeypatch):
    source = numpy_source(n_cases=40, shape=(250, 250))
    monkeypatch.setattr("medexp.data.cache._KEPT_BYTES", 2**20)
    monkeypatch.setattr("medexp.data.cache._OPEN_CASES", 4)
    prepared = prepared_cases(source, tmp_path / "cache")
    prepared.prepare(source.cases())
    used = []
    for cases in (source.cases()[:8], source.cases()):
        for case in cases:
            assert np.isfinite(prepared.load(case)[0].pixels).all()
        gc.collect()
        used.append((private_bytes(), len(os.listdir("/proc/self/fd"))))
    one_case = 250 * 250 * 10
    assert used[1][0] - used[0][0] < 8 * one_case
    assert used[1][1] <= used[0][1] + 3


def private_bytes() -> int:
    """Memory of this process that is no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_cases_beyond_memory_stay_open_as_far_as_files_may(numpy_source, tmp_path, monkeypatch):
    source = numpy_source(n_cases=4)
    monkeypatch.setattr("medexp.data.cache._KEPT_BYTES", 0)
    monkeypatch.setattr("medexp.data.cache._OPEN_CASES", 2)
    prepared = prepared_cases(source, tmp_path / "cache")
    first, second, third, _ = source.cases()
    opened = prepared.load(first)
    assert prepared.load(first) is opened
    prepared.load(second)
    assert prepared.load(first) is opened
    prepared.load(third)
    assert prepared.load(first) is opened  # the second was used longer ago
    prepared.load(second)
    prepared.load(third)
    assert prepared.load(first) is not opened


@pytest.mark.parametrize("kept_bytes", [2**29, 0])
def test_a_process_is_sent_no_voxels(numpy_source, tmp_path, monkeypatch, kept_bytes):
    monkeypatch.setattr("medexp.data.cache._KEPT_BYTES", kept_bytes)
    source = numpy_source(n_cases=3, shape=(400, 300))
    here = prepared_cases(source, tmp_path / "cache", normalisation=CT(), training=source.cases())
    here.prepare(source.cases())
    expected = [here.load(case) for case in source.cases()]
    sent = cloudpickle.dumps(here)
    assert len(sent) < 50_000
    monkeypatch.setattr(type(source), "read", lambda *_: pytest.fail("a case was prepared again"))
    there = pickle.loads(sent)
    for case, (prepared, positions) in zip(source.cases(), expected, strict=True):
        again, again_positions = there.load(case)
        assert np.array_equal(again.pixels, prepared.pixels)
        assert np.array_equal(again_positions, positions)


def test_numbers_of_the_preprocessing_come_from_the_training_cases_alone(numpy_source, tmp_path):
    source = logging_source(numpy_source, tmp_path / "log", n_cases=5)
    train, held_out = source.cases()[:3], source.cases()[3:]
    knobs = {"normalisation": CT(), "training": train}
    first = prepared_cases(source, tmp_path / "cache", **knobs)
    first.prepare(source.cases())
    scales = first.fitted.normalisation.scales
    values = [np.load(case.images[0])[:, np.load(case.references["mask"]) > 0] for case in train]
    for scale, intensities in zip(scales, np.concatenate(values, axis=1).astype(np.float64), strict=True):
        assert (scale.lower, scale.upper) == pytest.approx(tuple(np.percentile(intensities, [0.5, 99.5])), rel=1e-5)
        assert (scale.mean, scale.std) == pytest.approx((intensities.mean(), intensities.std()), rel=1e-5)
    # Three cases are read for their intensities, and all five to be prepared.
    assert len((tmp_path / "log").read_text().split()) == 8

    np.save(held_out[0].images[0], 100 * np.load(held_out[0].images[0]))
    changed = prepared_cases(source, tmp_path / "cache", **knobs)
    changed.prepare(source.cases())
    assert changed.fitted.normalisation.scales == scales
    assert len((tmp_path / "log").read_text().split()) == 9

    np.save(train[0].images[0], 100 * np.load(train[0].images[0]))
    other = prepared_cases(source, tmp_path / "cache", **knobs)
    other.prepare(source.cases())
    assert other.fitted.normalisation.scales != scales
    assert len((tmp_path / "log").read_text().split()) == 9 + 1 + 5


def test_damaged_intensities_are_measured_again(numpy_source, tmp_path):
    source = numpy_source()
    knobs = {"normalisation": CT(), "training": source.cases()}
    scales = prepared_cases(source, tmp_path / "cache", **knobs).fitted.normalisation.scales
    files = sorted((tmp_path / "cache").rglob("intensities.npy"))
    assert len(files) == 6
    files[0].write_bytes(b"")
    files[1].unlink()
    assert prepared_cases(source, tmp_path / "cache", **knobs).fitted.normalisation.scales == scales
    assert all(np.load(file).shape[0] == 2 for file in files)


def test_another_reader_or_normalisation_of_the_user_s_is_another_case(numpy_source, tmp_path, monkeypatch):
    source = numpy_source()
    (tmp_path / "mine_of_cache.py").write_text("class Mine:\n    def read(self, case):\n        return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("mine_of_cache")

    class Wrapped(type(source)):
        pass

    wrapped = Wrapped(source.folder, 2, source.shape)
    alone, before = code_of(source), code_of(wrapped, mine.Mine())
    assert code_of(wrapped, mine.Mine()) == before != code_of(wrapped)
    assert code_of(source) == alone
    (tmp_path / "mine_of_cache.py").write_text("class Mine:\n    def read(self, case):\n        return 2\n")
    assert code_of(wrapped, mine.Mine()) != before
    assert code_of(source) == alone


def test_the_code_of_what_a_reader_or_a_scheme_holds_counts(numpy_source, tmp_path, monkeypatch):
    file = tmp_path / "inner_of_cache.py"
    file.write_text(
        "class Scale:\n    def fit(self, *, channels, foreground): ...\n"
        "class Step:\n    def labels(self, labels): return labels\n    def __call__(self, image, labels): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    inner = importlib.import_module("inner_of_cache")
    holders = [
        ByChannel(of_channel={"CT": inner.Scale()}, otherwise=ZScore()),
        ByChannel(of_channel={}, otherwise=inner.Scale()),
        Derived(source=numpy_source(), steps=[inner.Step()]),
    ]
    others = [numpy_source(), ByChannel(of_channel={"CT": CT()}, otherwise=ZScore())]
    before = [code_of(value) for value in (*holders, *others)]
    file.write_text(file.read_text().replace("...", "return None"))
    after = [code_of(value) for value in (*holders, *others)]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, False, False, True, True]


def test_others_may_read_a_prepared_case(numpy_source, tmp_path):
    source = numpy_source()
    prepared_cases(source, tmp_path / "cache").load(source.cases()[0])
    (folder,) = folders(tmp_path / "cache")
    assert folder.stat().st_mode & 0o055 == 0o055
    assert json.loads((folder / "case.json").read_text())["placement"]["image_shape"] == [12, 10]


def source_of(known: Annotation, source):
    """The same images with another annotation."""

    class Known(type(source)):
        def read(self, case):
            return replace(super().read(case), annotation=known)

    return Known(source.folder, 1, source.shape)


def two_instances() -> Annotation:
    instances = np.zeros((12, 10), dtype=np.uint16)
    instances[2:5, 1:4], instances[6:11, 5:9] = 1, 2
    return Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 5, 2: 1}), image_labels=(1, 5))


@pytest.mark.parametrize("kept_bytes", [2**29, 0])
def test_instances_objects_and_labels_of_the_image_are_kept(numpy_source, tmp_path, monkeypatch, kept_bytes):
    monkeypatch.setattr("medexp.data.cache._KEPT_BYTES", kept_bytes)
    known = two_instances()
    source = source_of(known, numpy_source())
    cases = prepared_cases(source, tmp_path / "cache", spacing_mm=(0.5, 0.5))
    for _ in range(2):
        (kept, _) = cases.load(source.cases()[0])
        assert isinstance(kept.annotation.instances, np.memmap) is (kept_bytes == 0)
        assert kept.annotation.mask is None
        assert kept.annotation.instances.dtype == np.uint16
        assert np.array_equal(kept.annotation.instances, np.kron(known.instances, np.ones((2, 2), dtype=int)))
        assert kept.annotation.objects.boxes.tolist() == [[4, 2, 10, 8], [12, 10, 22, 18]]
        assert kept.annotation.objects.labels.tolist() == [5, 1]
        assert kept.annotation.objects.scores.tolist() == [1.0, 1.0]
        assert kept.annotation.image_labels == (1, 5)


@pytest.mark.parametrize(
    "known",
    [
        Annotation(),
        Annotation(image_labels=()),
        Annotation(image_labels=(5,)),
        Annotation(objects=Objects.none(2)),
        Annotation(instances=np.zeros((12, 10), np.int32), objects=Objects.none(2)),
        Annotation(objects=Objects.of(np.array([[0.1, 0.2, 0.1, 0.2], [1 / 3, 2, 11, 9.7]]), np.array([5, 1]))),
    ],
)
def test_what_is_known_of_an_image_is_neither_more_nor_less_when_read_back(numpy_source, tmp_path, known):
    source = source_of(known, numpy_source())
    for _ in range(2):
        kept = prepared_cases(source, tmp_path / "cache").load(source.cases()[0])[0].annotation
        assert kept.image_labels == known.image_labels
        assert (kept.mask is None, kept.instances is None) == (known.mask is None, known.instances is None)
        assert (kept.objects is None) == (known.objects is None)
        if known.objects is not None:
            assert np.array_equal(kept.objects.boxes, known.objects.boxes)
            assert kept.objects.boxes.shape[1] == 4
            assert np.array_equal(kept.objects.labels, known.objects.labels)


def test_patches_are_centred_on_objects_where_there_is_no_mask(numpy_source, tmp_path):
    places = Objects.of(np.array([[3.2, 4.9, 3.2, 4.9], [2, 5, 9, 8]]), np.array([5, 1]))
    source = source_of(Annotation(objects=places), numpy_source())
    _, foreground = prepared_cases(source, tmp_path / "cache").load(source.cases()[0])
    # The middle of [2, 9) is 5.5, in voxel 5; that of [5, 8) is 6.5.
    assert foreground.tolist() == [[5, 3, 4], [1, 5, 6]]
    nothing = source_of(Annotation(objects=Objects.none(2)), numpy_source())
    _, foreground = prepared_cases(nothing, tmp_path / "cache", identity="none").load(nothing.cases()[0])
    assert foreground.shape == (0, 3)
