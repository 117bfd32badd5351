"""Tracks drawn from the command line: `medexp show` of a folder with tracks, and `medexp track --pictures`."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import tifffile
from omegaconf import OmegaConf
from PIL import Image

import medexp
from medexp.cli.main import main
from medexp.core.record import Record, RunFolder, Status

_SHAPE = (24, 32)


def _frames(count: int = 3) -> np.ndarray:
    """A square that moves, and one that does not."""
    frames = np.zeros((count, *_SHAPE), dtype=np.uint16)
    for number, frame in enumerate(frames):
        frame[4:9, 4 + number : 9 + number] = 1
        frame[15:20, 20:25] = 2
    return frames


def _write(folder: Path, pattern: str, frames: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(frames):
        tifffile.imwrite(folder / pattern.format(number), frame, photometric="minisblack")


@pytest.fixture
def root(here: Path) -> Path:
    """A sequence in the layout of the Cell Tracking Challenge, images with a bright lower half."""
    images = np.zeros((3, *_SHAPE), dtype=np.uint16)
    images[:, 12:] = 1000
    _write(here / "data" / "01", "t{:03d}.tif", images)
    _write(here / "data" / "01_GT" / "TRA", "man_track{:03d}.tif", _frames())
    _write(here / "data" / "01_GT" / "SEG", "man_seg{:03d}.tif", _frames())
    (here / "data" / "01_GT" / "TRA" / "man_track.txt").write_text("1 0 2 0\n2 0 2 0\n")
    return here / "data"


def _shown(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[Path]:
    assert main([*map(str, words)]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


def _corners(path: Path) -> tuple[list[int], list[int]]:
    """Colours near the upper and the lower left corner of a frame that is shown 20 times as large."""
    with Image.open(path) as picture:
        assert picture.size == (32 * 20, 24 * 20 + 18)
        pixels = np.asarray(picture.convert("RGB"))
    return pixels[5, 5].tolist(), pixels[24 * 20 - 5, 5].tolist()


@pytest.mark.parametrize("inner", [".", "01_GT", "01_GT/TRA"])
def test_a_reference_is_drawn_over_the_images_beside_it(root: Path, capsys, inner: str) -> None:
    found = _shown(capsys, "show", root / inner, "-o", "out")
    assert found == [Path("out") / f"01_tracks.{form}" for form in ("gif", "html", "png")]
    assert _corners(found[2]) == ([0, 0, 0], [255, 255, 255])
    with Image.open(found[0]) as gif:
        assert (gif.n_frames, gif.info["duration"]) == (3, 200)


def test_a_result_is_drawn_on_black_unless_its_images_are_named(root: Path, here: Path, capsys) -> None:
    _write(here / "out" / "01_RES", "mask{:03d}.tif", _frames())
    (here / "out" / "01_RES" / "res_track.txt").write_text("1 0 2 0\n2 0 2 0\n")
    assert main(["show", "out", "--format", "png"]) == 0
    told = capsys.readouterr()
    assert told.out == "out/shown/01_tracks.png\n"
    assert "01: no images beside the tracks, so they are drawn on black" in told.err
    assert _corners(here / "out/shown/01_tracks.png") == ([0, 0, 0], [0, 0, 0])
    for images in (root, root / "01"):
        (found,) = _shown(capsys, "show", "out/01_RES", "--images", images, "-o", "new/one.png")
        assert found == Path("new/one.png")
        assert _corners(found) == ([0, 0, 0], [255, 255, 255])
    assert [path.name for path in (here / "new").iterdir()] == ["one.png"]


def test_speed_and_trails_and_ids_are_as_asked_for(root: Path, capsys) -> None:
    (plain,) = _shown(
        capsys, "show", root, "--format", "html", "-o", "a.html", "--trail", "0", "--no-ids", "--fps", "20"
    )
    assert "1000 / 50" in plain.read_text()
    assert "A line follows" not in plain.read_text()
    (usual,) = _shown(capsys, "show", root, "--format", "html", "-o", "b.html")
    assert "A line follows the last 10 steps" in usual.read_text()
    assert plain.read_text().count("data:image/png") == usual.read_text().count("data:image/png") == 3


def test_linking_draws_what_it_links(root: Path, here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    found = _shown(capsys, "track", root / "01_GT" / "SEG", "-o", "out", "--pictures")
    assert found[1:] == [
        Path("out") / name for name in ("01_tracks.gif", "01_tracks.html", "01_tracks.png", "tracks.csv")
    ]
    assert _corners(found[3]) == ([0, 0, 0], [255, 255, 255])


def test_what_was_missed_is_drawn_where_there_is_a_reference(root: Path, here: Path, capsys) -> None:
    _write(here / "out" / "01_RES", "mask{:03d}.tif", np.where(_frames() == 1, 1, 0).astype(np.uint16))
    (here / "out" / "01_RES" / "res_track.txt").write_text("1 0 2 0\n")
    words = ("show", "out", "--format", "png", "--images", root)
    (with_marks,) = _shown(capsys, *words, "--reference", root, "-o", "a.png")
    (without,) = _shown(capsys, *words, "-o", "b.png")
    both = [np.asarray(Image.open(path).convert("RGB"))[: 24 * 20] for path in (with_marks, without)]
    rows, columns = np.nonzero((both[0] != both[1]).any(axis=-1))
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (15 * 20, 20 * 20, 20 * 20, 25 * 20)


def test_predictions_of_a_run_are_drawn_over_the_images_of_its_dataset(root: Path, here: Path, capsys) -> None:
    pytest.importorskip("laptrack")
    config = medexp.compose(
        None, ["dataset=ctc_fluo_n2dh_sim", f"dataset.root={root}", "task=instance/split", "study=s"]
    )
    run = RunFolder(here / "run")
    run.predictions.mkdir(parents=True)
    OmegaConf.save(config, run.config)
    run.write(Record(study="s", axes={}, status=Status.FINISHED))
    for number, frame in enumerate(_frames()):
        nib.save(
            nib.Nifti1Image(frame.astype(np.int32), np.eye(4)), run.predictions / f"01_t{number:03d}_instances.nii.gz"
        )

    found = _shown(capsys, "track", "run", "-o", "out", "--pictures")

    assert _corners(found[3]) == ([0, 0, 0], [255, 255, 255])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["show", "data", "--case", "x"], "--case is for runs, and data holds tracks"),
        (["show", "data", "--without-errors"], "--without-errors is for runs"),
        (["show", "data", "--format", "svg"], "--format svg is for cases of runs; choose gif, html, png"),
        (["show", "data", "--format", "gif", "-o", "a.png"], "-o a.png does not end in .gif"),
        (["show", "data", "--spacing-mm", "1"], "--spacing-mm needs 2 values"),
        (["show", "data", "--fps", "0"], "frames_per_second needs a value above 0"),
        (["show", "data", "--images", "data/01_GT/SEG"], "--images data/01_GT/SEG needs an image t000 or 01_t000"),
        (["show", "data", "--channel", "1"], "channel needs a value from 0 to 0"),
        (["show", "two", "-o", "a.gif"], "-o a.gif is one file, and 2 sequences are drawn"),
        (["show", "twice"], "twice has sequence 01 in "),
        (["show", "nothing", "--trail", "3"], "--trail is for tracks, and nothing holds none"),
        (["show", "nothing", "--reference", "data"], "--reference is for tracks, and nothing holds none"),
        (["show", "data", "--reference", "nothing"], "needs nothing/01_GT/TRA"),
        (["show", "nothing", "--format", "gif"], "--format gif is for tracks, and nothing holds none"),
        (["track", "data/01_GT/SEG", "-o", "out", "--trail", "3"], "--trail needs --pictures"),
        (["track", "data/01_GT/SEG", "-o", "out", "--over", "slices", "--pictures"], "draws nothing"),
    ],
)
def test_wrong_use_is_told(root: Path, here: Path, capsys, words: list[str], told: str) -> None:
    (here / "nothing").mkdir()
    for place in ("two/01_RES", "two/02_RES", "twice/01_RES", "twice/01_GT/TRA"):
        _write(here / place, "mask{:03d}.tif", _frames())
        (here / place / "res_track.txt").write_text("1 0 2 0\n2 0 2 0\n")
    assert main(words) == 2
    assert told in capsys.readouterr().err
