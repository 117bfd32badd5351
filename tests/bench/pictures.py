"""Train on generated volumes for a minute and draw the pictures of docs/pictures.md and docs/instances.md.

Run by `make pictures`. The screenshot of the page needs Chromium; without one only the overlay is drawn.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from scipy.ndimage import gaussian_filter

import medexp
from medexp.cli.main import main as command_line
from medexp.engine.run import Run

FOLDER = Path(__file__).parents[2] / "docs" / "pictures"
_KNOBS = (
    "dataset=phantom_3d", "dataset.source.n_cases=12", "dataset.source.spacing_mm=[1.0,1.0,2.5]",
    "dataset.source.shape=[48,48,24]", "dataset.patch_size=[32,32,24]", "dataset.split.n_folds=4",
    "model.channels=[8,16]", "model.strides=[2]", "model.num_res_units=0", "optimizer.lr=0.01",
    "trainer.max_steps=80", "precision=32-true", "metrics=dice", "overlays=0", "save_predictions=true",
    "tracking=off", "study=pictures",
)  # fmt: skip
_CELLS, _FRAMES = (64, 96), 10
_MOST_BYTES = 200_000


def _trained(folder: Path) -> Run:
    return medexp.train(medexp.compose(None, [*_KNOBS, f"paths.runs={folder / 'runs'}", f"paths.cache={folder}"]))


def _show(path: Path, *words: str) -> None:
    code = command_line(["show", str(path), *words])
    if code:
        raise SystemExit(code)


def _write_cells(folder: Path) -> Path:
    """A sequence of generated cells that wander, and of which some divide, in the Cell Tracking Challenge's layout."""
    images, tables = folder / "01", folder / "01_GT" / "TRA"
    images.mkdir(parents=True)
    tables.mkdir(parents=True)
    random, grid = np.random.default_rng(4), np.moveaxis(np.indices(_CELLS), 0, -1)
    begun, ended, parents = dict.fromkeys(range(1, 5), 0), {}, {}
    places = {1 + i: np.array([18.0 + 28 * (i // 2), 26.0 + 44 * (i % 2)]) for i in range(4)}
    speeds = {identity: random.normal(0, 1.5, size=2) for identity in places}
    for frame in range(_FRAMES):
        for mother in [name for name in places if frame and frame == 3 * name]:
            way = random.normal(size=2)
            for side in (-1, 1):
                daughter = len(begun) + 1
                begun[daughter], parents[daughter] = frame, mother
                places[daughter] = places[mother] + side * 9 * way / np.linalg.norm(way)
                speeds[daughter] = side * 1.5 * way / np.linalg.norm(way)
            ended[mother] = frame - 1
            del places[mother]
        ids = np.zeros(_CELLS, dtype=np.uint16)
        distance = np.stack([((grid - place) ** 2).sum(axis=-1) for place in places.values()])
        near = distance.min(axis=0) < 81
        ids[near] = np.array(list(places))[distance.argmin(axis=0)[near]]
        image = gaussian_filter((ids > 0) * 0.6 + (distance.min(axis=0) < 16) * 0.4, 1.5)
        tifffile.imwrite(images / f"t{frame:03d}.tif", image.astype(np.float32), photometric="minisblack")
        tifffile.imwrite(tables / f"man_track{frame:03d}.tif", ids, photometric="minisblack")
        for name in places:
            speeds[name] += random.normal(0, 0.4, size=2)
            places[name] = np.clip(places[name] + speeds[name], 10, np.array(_CELLS) - 11)
    lines = [f"{name} {first} {ended.get(name, _FRAMES - 1)} {parents.get(name, 0)}\n" for name, first in begun.items()]
    (tables / "man_track.txt").write_text("".join(lines))
    return tables


def photographed(page: Path, picture: Path, *, folder: Path, height: int = 720) -> None:
    """Open a page in Chromium and keep what is seen; `folder` is the browser's own."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        print(f"no Chromium, so {picture} stays as it is")
        return
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size=1440,{height}",
        "--virtual-time-budget=10000", f"--user-data-dir={folder / 'browser'}", f"--screenshot={picture}",
        page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)


def weigh(*pictures: Path) -> None:
    """See that files are small enough for a repository."""
    for picture in pictures:
        size = picture.stat().st_size
        print(f"{picture}: {size / 1000:.0f} kB")
        if size > _MOST_BYTES:
            raise SystemExit(f"{picture} is larger than {_MOST_BYTES / 1000:.0f} kB")


def main() -> None:
    """Train, draw, and see that the files are small."""
    FOLDER.mkdir(exist_ok=True)
    overlay, viewer = FOLDER / "overlay.png", FOLDER / "viewer.png"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        run = _trained(folder)
        _show(run.path, "--style", "contour", "-o", str(overlay))
        _show(run.path, "--format", "html", "-o", str(folder / "viewer.html"))
        photographed(folder / "viewer.html", viewer, folder=folder)
        cells = _write_cells(folder / "cells")
        for form in ("gif", "png"):
            _show(cells, "--format", form, "-o", str(FOLDER / f"tracks.{form}"))
    weigh(overlay, viewer, FOLDER / "tracks.gif", FOLDER / "tracks.png")


if __name__ == "__main__":
    main()
