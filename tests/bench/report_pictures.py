"""Compare the runs of a study and take the pictures of its report that docs/comparing.md shows.

Run by `make report-pictures STUDY=FOLDER`; needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pictures import FOLDER, photographed, weigh
from PIL import Image, ImageChops

from medexp.cli.main import main as command_line

_PICTURES = {"report_verdict.png": ("verdict", "fairness", "scores"), "report_spread.png": ("cases", "spread")}
_HEIGHT = 1600


def _with_sections(page: Path, names: tuple[str, ...]) -> Path:
    """The page with these sections alone."""
    others = f"main > section{''.join(f':not(#{name})' for name in names)}"
    top = "nav" if "verdict" in names else "header, #filters"
    hidden = f"{others}, {top}, .modebar {{ display: none !important; }}"
    part = page.with_name(f"{names[0]}.html")
    part.write_text(page.read_text().replace("</style>", f"{hidden}</style>", 1))
    return part


def _trimmed(picture: Path) -> None:
    """Without the white below and beside, in 256 colours."""
    image = Image.open(picture).convert("RGB")
    box = ImageChops.difference(image, Image.new("RGB", image.size, "white")).getbbox()
    assert box is not None, f"{picture} is white"
    image.crop((0, 0, image.width, min(image.height, box[3] + 20))).quantize().save(picture, optimize=True)


def main() -> None:
    """Compare, photograph, and see that the files are small."""
    study = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if code := command_line(["compare", str(study), "--by", "loss", "--out", str(folder)]):
            raise SystemExit(code)
        for picture, sections in _PICTURES.items():
            part = _with_sections(folder / "report.html", sections)
            photographed(part, FOLDER / picture, folder=folder, height=_HEIGHT)
            _trimmed(FOLDER / picture)
    weigh(*(FOLDER / picture for picture in _PICTURES))


if __name__ == "__main__":
    main()
