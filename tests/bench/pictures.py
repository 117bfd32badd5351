"""Train on generated volumes for a minute and draw the pictures of docs/pictures.md.

Run by `make pictures`. The screenshot of the page needs Chromium; without one only the overlay is drawn.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

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
_MOST_BYTES = 200_000


def _trained(folder: Path) -> Run:
    return medexp.train(medexp.compose(None, [*_KNOBS, f"paths.runs={folder / 'runs'}", f"paths.cache={folder}"]))


def _show(run: Run, *words: str) -> None:
    code = command_line(["show", str(run.path), *words])
    if code:
        raise SystemExit(code)


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
        _show(run, "--style", "contour", "-o", str(overlay))
        _show(run, "--format", "html", "-o", str(folder / "viewer.html"))
        photographed(folder / "viewer.html", viewer, folder=folder)
    weigh(overlay, viewer)


if __name__ == "__main__":
    main()
