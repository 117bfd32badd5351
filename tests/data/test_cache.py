from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medexp.core.errors import DataError
from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data.cache import PreparedCases
from medexp.data.preprocessing import Preprocessing, Window, ZScore

processes = multiprocessing.get_context("fork")


def prepared_cases(source, folder: Path, *, identity: str = "source", **knobs) -> PreparedCases:
    chosen = {"orient": False, "spacing_mm": None, "normalisation": ZScore()} | knobs
    return PreparedCases(folder=folder, source=source, preprocessing=Preprocessing(**chosen), identity=identity)


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
    with pytest.raises(DataError, match=rf"case case_2: .*2_{kind}\.npy is missing"):
        prepared_cases(source, tmp_path / "cache").load(case)
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


def test_writers_of_one_case_at_once_all_succeed(numpy_source, tmp_path):
    source, cache = numpy_source(n_cases=1), tmp_path / "cache"
    expected = source.read(source.cases()[0]).annotation.mask
    together = processes.Barrier(4)

    class Meeting(type(source)):
        def read(self, case):
            image = super().read(case)
            # All writers have seen that the case is not there yet.
            together.wait(timeout=30)
            return image

    meeting = Meeting(source.folder, 1, source.shape)

    def write() -> None:
        prepared, _ = prepared_cases(meeting, cache).load(meeting.cases()[0])
        os._exit(0 if np.array_equal(prepared.annotation.mask, expected) else 1)

    writers = [processes.Process(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    (folder,) = folders(cache)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


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
