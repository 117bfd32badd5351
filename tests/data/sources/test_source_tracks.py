from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as Picture
from skimage.measure import regionprops

from medexp.core.errors import DataError, UsageError
from medexp.core.faults import Severity
from medexp.core.types import Image
from medexp.data.sources.tracks import Tracks

SHAPE = (20, 30)
# Track 4 divides after frame 0 into 9 and 700.
TABLE = "4 0 0 0\n9 1 1 4\n700 1 2 4\n"
PLACES = {4: (slice(2, 9), slice(3, 10)), 9: (slice(2, 6), slice(12, 20)), 700: (slice(12, 18), slice(2, 9))}
PRESENT = {0: (4,), 1: (9, 700), 2: (700,)}


def frame_of(*tracks: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    ids = np.zeros(shape, np.uint16)
    for track in tracks:
        ids[(..., *PLACES[track])] = track
    return ids


def grey(frame: int) -> np.ndarray:
    return np.random.default_rng(frame).integers(0, 60_000, SHAPE).astype(np.uint16)


def save(path: Path, values: np.ndarray) -> None:
    """A TIFF as the challenge publishes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.fromarray(values).save(path, compression="tiff_lzw")


def write(root: Path, sequence: str = "01", *, table: str | None = TABLE) -> Path:
    for frame, tracks in PRESENT.items():
        save(root / sequence / f"t{frame:03d}.tif", grey(frame))
        save(root / f"{sequence}_GT/SEG/man_seg{frame:03d}.tif", frame_of(*tracks))
        save(root / f"{sequence}_GT/TRA/man_track{frame:03d}.tif", frame_of(*tracks))
    if table is not None:
        (root / f"{sequence}_GT/TRA/man_track.txt").write_text(table)
    return root


def read_all(root: Path, **knobs: Any) -> list[Image]:
    source = Tracks(root=root, **knobs)
    return [source.read(case) for case in source.cases()]


def checks(root: Path, **knobs: Any) -> dict[str, list[str]]:
    """The checks that fail at listing, by case."""
    return {case.case_id: [fault.check for fault in case.faults] for case in Tracks(root=root, **knobs).cases()}


def test_a_case_is_a_frame_and_its_group_the_sequence(tmp_path: Path) -> None:
    for sequence in ("02", "01"):
        write(tmp_path, sequence)
    source = Tracks(root=tmp_path)
    cases = source.cases()
    assert [case.case_id for case in cases] == [f"{s}_t{n:03d}" for s in ("01", "02") for n in range(3)]
    assert [case.group for case in cases] == ["01"] * 3 + ["02"] * 3
    assert not any(case.faults for case in cases)
    assert [case.group for case in Tracks(root=tmp_path, sequences=["02"]).cases()] == ["02"] * 3
    np.testing.assert_array_equal(source.read(cases[1]).pixels, grey(1)[None])


@pytest.mark.parametrize("instances", ["segmentation", "tracking"])
def test_instances_are_numbered_from_one_with_their_boxes(tmp_path: Path, instances: str) -> None:
    read = read_all(write(tmp_path), instances=instances)[1].annotation
    np.testing.assert_array_equal(np.array([0, 9, 700])[read.instances], frame_of(9, 700))
    np.testing.assert_array_equal(read.mask, frame_of(9, 700) > 0)
    assert read.objects.boxes.tolist() == [list(region.bbox) for region in regionprops(frame_of(9, 700))]
    assert read.objects.labels.tolist() == [1, 1]


@pytest.mark.parametrize("instances", ["segmentation", "tracking"])
def test_facts_hold_what_linking_needs(tmp_path: Path, instances: str) -> None:
    read = read_all(write(tmp_path), instances=instances)
    rows = {int(line.split()[0]): [int(word) for word in line.split()] for line in TABLE.splitlines()}
    for frame, image in enumerate(read):
        facts = image.case.facts
        assert (facts["sequence"], facts["frame"]) == ("01", frame)
        assert [list(track.values()) for track in facts["tracks"]] == [rows[track] for track in PRESENT[frame]]
        assert [list(track) for track in facts["tracks"]] == [["identity", "first", "last", "parent"]] * len(
            PRESENT[frame]
        )
        assert facts["instance_tracks"] == list(PRESENT[frame])
        assert image.case.faults == ()


def test_a_segmentation_with_ids_of_its_own_is_linked_by_the_markers(tmp_path: Path) -> None:
    root = write(tmp_path)
    other = np.where(frame_of(9, 700) == 9, 2, np.where(frame_of(9, 700) == 700, 1, 0)).astype(np.uint16)
    save(root / "01_GT/SEG/man_seg001.tif", other)
    marker = np.zeros(SHAPE, np.uint16)
    marker[14:16, 4:6], marker[4:7, 14:16] = 700, 9  # 700 in the middle of instance 1; 2 of 3 rows of 9 in instance 2
    save(root / "01_GT/TRA/man_track001.tif", marker)
    image = read_all(root)[1]
    assert image.case.facts["instance_tracks"] == [700, 9]
    assert image.case.faults == ()


def test_a_marker_belongs_to_the_instance_that_covers_more_than_half_of_it(tmp_path: Path) -> None:
    root = write(tmp_path)
    marker = np.zeros(SHAPE, np.uint16)
    marker[14:16, 4:6], marker[4:8, 14:16] = 700, 9  # half of 9 lies in its instance
    save(root / "01_GT/TRA/man_track001.tif", marker)
    image = read_all(root)[1]
    assert image.case.facts["instance_tracks"] == [0, 700]
    (fault,) = image.case.faults
    assert (fault.check, fault.severity, fault.case_id) == ("track_ids", Severity.WARNING, "01_t001")
    assert fault.found == "1 tracks marked without an instance (9), 1 instances without a marker (1)"


def test_two_markers_in_one_instance_are_told(tmp_path: Path) -> None:
    root = write(tmp_path)
    save(root / "01_GT/SEG/man_seg001.tif", (frame_of(9, 700) > 0).astype(np.uint16))
    image = read_all(root)[1]
    assert image.case.facts["instance_tracks"] == [700]  # the larger of the two
    assert [fault.found for fault in image.case.faults] == ["1 tracks marked without an instance (9)"]


@pytest.mark.parametrize("instances", ["segmentation", "tracking"])
def test_markers_and_table_that_contradict_each_other_are_told(tmp_path: Path, instances: str) -> None:
    read = read_all(write(tmp_path, table="4 0 1 0\n700 1 2 0\n"), instances=instances)
    found = [[fault.found for fault in image.case.faults] for image in read]
    assert found == [
        [],
        ["1 tracks in the table without a marker (4), 1 tracks marked but not in the table (9)"],
        [],
    ]


def test_frames_without_reference_are_faults_listed_or_left_out(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "01_GT/SEG/man_seg001.tif").unlink()
    assert checks(root) == {"01_t000": [], "01_t001": ["missing_label"], "01_t002": []}
    assert list(checks(root, unannotated="leave_out")) == ["01_t000", "01_t002"]
    assert checks(root, unannotated="list")["01_t001"] == []
    image = read_all(root, unannotated="list")[1]
    assert image.annotation is None
    np.testing.assert_array_equal(image.pixels, grey(1)[None])


def test_a_reference_without_frame_is_a_fault(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "01/t001.tif").unlink()
    assert checks(root) == {"01_t000": [], "01_t001": ["missing_image"], "01_t002": []}
    with pytest.raises(DataError, match="case 01_t001"):
        read_all(root)


def test_silver_truth_lies_in_a_folder_of_its_own(tmp_path: Path) -> None:
    root = write(tmp_path)
    save(root / "01_ST/SEG/man_seg002.tif", frame_of(700, 4))
    (image,) = read_all(root, instances="silver", unannotated="leave_out")
    assert image.case.case_id == "01_t002"
    assert len(image.annotation.objects) == 2
    assert image.case.facts["instance_tracks"] == [0, 700]


def test_a_sequence_without_tracks_has_instances(tmp_path: Path) -> None:
    root = write(tmp_path)
    for path in (root / "01_GT/TRA").iterdir():
        path.unlink()
    image = read_all(root)[1]
    assert len(image.annotation.objects) == 2
    assert image.case.facts == {"sequence": "01", "frame": 1, "tracks": []}
    assert image.case.faults == ()
    assert set(checks(root, instances="tracking", unannotated="list")) == {f"01_t00{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "missing"),
        ("4 0 0 0\n9 1 one 4\n", "'9 1 one 4' in line 2"),
        ("4 0 0\n", "'4 0 0' in line 1"),
        ("0 0 0 0\n", "'0 0 0 0' in line 1"),
        ("4 0 0 0\n4 1 1 0\n", "an id that occurs twice"),
        ("4 2 0 0\n", "track 4 from frame 2 to 0"),
        ("4 0 0 3\n", "parent 3, which is not listed"),
        ("4 0 1 0\n9 1 1 4\n", "whose parent 4 ends in 1"),
        ("4 0 1 4\n", "whose parent 4 ends in 1"),
    ],
)
def test_what_is_wrong_with_the_table_is_told_with_the_first_frame(
    tmp_path: Path, table: str | None, message: str
) -> None:
    cases = Tracks(root=write(tmp_path, table=table), instances="tracking").cases()
    assert [len(case.faults) for case in cases] == [1, 0, 0]
    assert cases[0].faults[0].case_id == "01_t000"
    assert message in str(cases[0].faults[0])


def test_a_table_that_is_no_text_is_told(tmp_path: Path) -> None:
    root = write(tmp_path)
    (root / "01_GT/TRA/man_track.txt").write_bytes(b"\xff\xfe\x00")
    assert checks(root)["01_t000"] == ["unreadable"]


@pytest.mark.parametrize("folder", ["SEG/man_seg001.tif", "TRA/man_track001.tif"])
def test_references_of_another_shape_or_damaged_are_refused(tmp_path: Path, folder: str) -> None:
    path = write(tmp_path) / "01_GT" / folder
    content = path.read_bytes()
    source = Tracks(root=tmp_path)
    case = source.cases()[1]
    for damaged, check in ((content[: len(content) // 2], "unreadable"), (b"", "unreadable"), (None, "shape_mismatch")):
        path.write_bytes(damaged or b"")
        if damaged is None:
            save(path, frame_of(9)[:-1])
        with pytest.raises(DataError, match="case 01_t001") as caught:
            source.read(case)
        assert [fault.check for fault in caught.value.faults] == [check]
        assert caught.value.faults[0].file == path


def test_negative_ids_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(write(tmp_path) / "01_GT/SEG/man_seg001.tif", frame_of(9).astype(np.int16) - 1)
    with pytest.raises(DataError, match="ids from 0 on, got -1"):
        read_all(tmp_path)


def test_volumes_have_a_page_for_each_plane(tmp_path: Path) -> None:
    volume = np.stack([grey(0), grey(1), grey(2)])
    ids = frame_of(9, 700, shape=(3, *SHAPE))
    ids[0] = 0
    for path, values in (("01/t000.tif", volume), ("01_GT/SEG/man_seg000.tif", ids)):
        (tmp_path / path).parent.mkdir(parents=True)
        tifffile.imwrite(tmp_path / path, values, photometric="minisblack")
    (image,) = read_all(tmp_path, spatial_dims=3, spacing_mm=[0.001, 0.0002, 0.0002])
    np.testing.assert_array_equal(image.pixels, volume[None])
    np.testing.assert_array_equal(np.array([0, 9, 700])[image.annotation.instances], ids)
    assert image.annotation.objects.boxes.tolist() == [list(region.bbox) for region in regionprops(ids)]
    assert image.geometry.spacing_mm == pytest.approx((0.001, 0.0002, 0.0002))
    assert image.geometry.unit == "mm"


def test_a_folder_without_sequences_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t000\.tif"):
        Tracks(root=tmp_path).cases()
    write(tmp_path)
    with pytest.raises(DataError, match=r"t000\.tif"):
        Tracks(root=tmp_path, sequences=["03"]).cases()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"root": None}, "root"),
        ({"instances": "SEG"}, "instances"),
        ({"unannotated": "skip"}, "unannotated"),
        ({"spatial_dims": 4}, "spatial_dims"),
        ({"spacing_mm": [1.0]}, "spacing_mm"),
        ({"spacing_mm": [1.0, 0.0]}, "spacing_mm"),
        ({"sequences": "01"}, "sequences"),
    ],
)
def test_unfit_knobs_are_refused(tmp_path: Path, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Tracks(**{"root": tmp_path} | knobs)


@pytest.mark.real_data
def test_real_simulated_nuclei_are_whole(shared_data: Callable[[str], Path]) -> None:
    source = Tracks(root=shared_data("ctc/Fluo-N2DH-SIM+"), class_name="nucleus")
    cases = source.cases()
    assert len(cases) == 65
    assert not any(case.faults for case in cases)
    tracks = {track["identity"]: track for case in cases for track in case.facts["tracks"]}
    assert (len(tracks), sum(track["parent"] > 0 for track in tracks.values())) == (95, 59)
    for case in cases[::8]:
        read = source.read(case)
        assert read.case.facts["instance_tracks"] == [track["identity"] for track in case.facts["tracks"]]
        assert read.case.faults == ()
