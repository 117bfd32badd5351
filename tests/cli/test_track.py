from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import tifffile

from medexp.cli.main import main


def _frames() -> np.ndarray:
    """Two squares of which one moves, in 4 frames."""
    frames = np.zeros((4, 32, 32), dtype=np.int32)
    for number, frame in enumerate(frames):
        frame[4:9, 4 + number : 9 + number] = 1
        frame[20:25, 20:25] = 2
    return frames


def _save(folder: Path, frames: np.ndarray, pattern: str = "01_t{:03d}_instances.nii.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        path = folder / pattern.format(number)
        if path.suffix == ".gz":
            nib.save(nib.Nifti1Image(frame, np.eye(4)), path)
        else:
            tifffile.imwrite(path, frame.astype(np.uint16), photometric="minisblack")
    return folder


def _reference(root: Path) -> Path:
    _save(root / "01_GT" / "SEG", _frames(), "man_seg{:03d}.tif")
    _save(root / "01_GT" / "TRA", _frames(), "man_track{:03d}.tif")
    (root / "01_GT" / "TRA" / "man_track.txt").write_text("1 0 3 0\n2 0 3 0\n")
    return root


def test_saved_predictions_of_a_run_become_tracks_with_scores(here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    _save(here / "run" / "predictions", np.where(_frames() > 0, 3 - _frames(), 0))
    _save(here / "run" / "predictions", (_frames() > 0).astype(np.int16), "01_t{:03d}.nii.gz")  # masks of classes
    root = _reference(here / "data")

    code = main(["track", "run", "-o", "out", "--reference", str(root), "--spacing-mm", "0.5", "0.5"])

    assert code == 0, capsys.readouterr().err
    assert "SEG 1.0000  DET 1.0000  TRA 1.0000" in capsys.readouterr().out
    assert (here / "out" / "01_RES" / "res_track.txt").read_text() == "1 0 3 0\n2 0 3 0\n"
    assert tifffile.imread(here / "out" / "01_RES" / "mask003.tif").dtype == np.uint16
    tracks = pd.read_csv(here / "out" / "tracks.csv")
    assert sorted(tracks["path_length_mm"]) == [0.0, 1.5]
    assert len(pd.read_csv(here / "out" / "places.csv")) == 8
    assert pd.read_csv(here / "out" / "scores.csv")["TRA"].tolist() == [1.0]


def test_references_of_the_challenge_are_linked_from_their_own_folder(here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    root = _reference(here / "data")

    assert main(["track", str(root / "01_GT" / "SEG"), "-o", "out", "--reference", str(root / "01_GT")]) == 0
    assert "01: 2 tracks in 4 frames" in capsys.readouterr().out
    assert "path_length_px" in pd.read_csv(here / "out" / "tracks.csv")


def test_frames_that_were_predicted_are_judged_by_the_same_frames_of_the_reference(here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    root, later = _reference(here / "data"), here / "run" / "predictions"
    _save(later, _frames())
    for number in range(2):
        (later / f"01_t{number:03d}_instances.nii.gz").unlink()

    assert main(["track", "run", "-o", "out", "--reference", str(root)]) != 0
    assert "the same frames" in capsys.readouterr().err
    assert main(["track", "run", "-o", "out", "--reference", str(root), "--frames", "2", "3"]) == 0
    assert "SEG 1.0000  DET 1.0000  TRA 1.0000" in capsys.readouterr().out
    assert main(["track", "run", "-o", "out", "--frames", "0", "1"]) != 0
    assert "--frames 0 1 leaves no frame of sequence 01, which has 2 to 3" in capsys.readouterr().err


def test_slices_are_joined_to_a_volume(here: Path, capsys) -> None:
    _save(here / "slices", _frames(), "liver_z{:03d}.tif")

    assert main(["track", "slices", "-o", "out", "--over", "slices", "--slice-distance-mm", "2.5"]) == 0

    volume = nib.load(here / "out" / "liver_instances.nii.gz")
    assert np.array_equal(np.asarray(volume.dataobj), np.moveaxis(_frames(), 0, -1))
    assert volume.header.get_zooms() == (1.0, 1.0, 2.5)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["nowhere", "-o", "out", "--over", "slices"], 2, "nowhere needs to be a folder"),
        (["empty", "-o", "out", "--over", "slices"], 2, "save_predictions=true"),
        (["holey", "-o", "out", "--over", "slices"], 1, "got none of 2"),
        (["good", "-o", "out", "--spacing-mm", "1"], 2, "--spacing-mm needs 2 values"),
        (["good", "-o", "out", "--spacing-mm", "1", "0"], 2, "--spacing-mm needs values above 0"),
        (["good", "-o", "out", "--over", "slices", "--dims", "3"], 2, "--over slices joins images of 2 axes"),
        (["good", "-o", "out", "--over", "slices", "--slice-distance-mm", "0"], 2, "--slice-distance-mm needs"),
        (["good", "-o", "out", "--over", "slices", "--min-iou", "0"], 2, "min_iou needs"),
    ],
)
def test_errors_say_what_is_needed_and_what_was_got(here: Path, capsys, arguments, code, told) -> None:
    (here / "empty").mkdir()
    _save(here / "good", _frames())
    _save(here / "holey", _frames())
    (here / "holey" / "01_t002_instances.nii.gz").unlink()

    assert main(["track", *arguments]) == code
    assert told in capsys.readouterr().err
    assert not (here / "out" / "tracks.csv").exists()


def test_a_reference_that_is_not_there_is_named(here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    _save(here / "good", _frames())

    assert main(["track", "good", "-o", "out", "--reference", "nowhere"]) == 2
    assert "nowhere/01_GT/TRA" in capsys.readouterr().err
