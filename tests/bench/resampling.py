"""How images and masks are best brought to another spacing; the tables of docs/decisions/0005-preparing-a-case.md.

Volumes of the hippocampus set (`--root`, MSD Task04) and the MNI152 average at 1 mm (from nilearn).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nilearn.datasets import load_mni152_template
from scipy import ndimage

from medexp.core.hardware import cpu_model
from medexp.core.resample import resize_argmax, resize_linear, resize_nearest, resize_smooth

Shape = tuple[int, ...]
Resize = Callable[[np.ndarray, Shape], np.ndarray]


def of_torch(resize: Callable[[torch.Tensor, Shape], torch.Tensor]) -> Resize:
    """A function of tensors with channels as one of volumes."""
    return lambda volume, shape: resize(torch.from_numpy(np.ascontiguousarray(volume))[None], shape)[0].numpy()


def spline(volume: np.ndarray, shape: Shape) -> np.ndarray:
    """Cubic B-spline interpolation."""
    factors = [want / have for have, want in zip(volume.shape, shape, strict=True)]
    zoomed: np.ndarray = ndimage.zoom(volume, factors, order=3, mode="reflect", grid_mode=True)
    return zoomed


def spline_of_smoothed(volume: np.ndarray, shape: Shape) -> np.ndarray:
    """The same after a Gaussian as wide as scikit-image chooses it."""
    widths = [max(0.0, (have / want - 1) / 2) for have, want in zip(volume.shape, shape, strict=True)]
    return spline(ndimage.gaussian_filter(volume, widths), shape)


IMAGES: dict[str, Resize] = {
    "nearest": of_torch(resize_nearest),
    "linear, torch": of_torch(resize_linear),
    "linear, kernel widened": of_torch(partial(resize_smooth, interpolation="linear")),
    "cubic, kernel widened": of_torch(partial(resize_smooth, interpolation="cubic")),
    "cubic spline, scipy": spline,
    "cubic spline after a Gaussian": spline_of_smoothed,
}
MASKS: dict[str, Resize] = {
    "nearest": of_torch(resize_nearest),
    "argmax, linear": of_torch(partial(resize_argmax, interpolation="linear")),
    "argmax, cubic": of_torch(partial(resize_argmax, interpolation="cubic")),
}


def volumes(root: Path) -> tuple[dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Normalised images by dataset, cut to multiples of 12 voxels, and masks of the hippocampus."""
    images, masks = [], []
    for file in sorted((root / "imagesTr").glob("hippocampus*.nii.gz"))[:30]:
        image = np.asarray(nib.load(file).dataobj, dtype=np.float32)
        mask = np.asarray(nib.load(root / "labelsTr" / file.name).dataobj).round().astype(np.uint8)
        window = tuple(slice(0, n // 12 * 12) for n in image.shape)
        images.append(normalised(image[window]))
        masks.append(mask[window])
    brain = np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float32)[:192, :228, :180]
    return {"hippocampus": images, "MNI152": [normalised(brain)]}, masks


def normalised(image: np.ndarray) -> np.ndarray:
    """Mean 0 and SD 1."""
    scaled: np.ndarray = (image - image.mean()) / image.std()
    return scaled


def averaged(volume: np.ndarray, block: Shape) -> np.ndarray:
    """Means of blocks of voxels."""
    parts = [n for size, width in zip(volume.shape, block, strict=True) for n in (size // width, width)]
    means: np.ndarray = volume.reshape(parts).mean(axis=(1, 3, 5))
    return means


def error(ours: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(ours - truth))))


def enlarged(resize: Resize, volume: np.ndarray, block: Shape) -> float:
    """Error of a volume that was averaged in blocks and brought back."""
    return error(resize(averaged(volume, block), volume.shape), volume)


def shrunk(resize: Resize, volume: np.ndarray) -> float:
    """Error of a volume that was brought to a third and back by a spline."""
    return error(spline(resize(volume, tuple(n // 3 for n in volume.shape)), volume.shape), volume)


def seconds(resize: Resize, shape: Shape) -> float:
    """Time for a large volume."""
    volume = np.random.default_rng(0).normal(size=(256, 256, 128)).astype(np.float32)
    begin = time.perf_counter()
    resize(volume, shape)
    return time.perf_counter() - begin


def lesions(seed: int) -> np.ndarray:
    """Ellipsoids with radii of 1 to 4 voxels."""
    random = np.random.default_rng(seed)
    mask = np.zeros((60, 60, 60), dtype=bool)
    for _ in range(20):
        center, radii = random.uniform(5, 55, (3, 1, 1, 1)), random.uniform(1, 4, (3, 1, 1, 1))
        mask |= np.square((np.indices(mask.shape) - center) / radii).sum(axis=0) < 1
    return mask.astype(np.uint8)


def vessels(seed: int) -> np.ndarray:
    """Straight tubes with radii of 1 to 2 voxels."""
    random = np.random.default_rng(seed)
    mask = np.zeros((60, 60, 60), dtype=bool)
    for _ in range(6):
        place, direction = random.uniform(0, 60, 3), random.normal(size=3)
        direction /= np.linalg.norm(direction)
        from_axis = np.moveaxis(np.indices(mask.shape), 0, -1) - place
        from_axis = from_axis - (from_axis @ direction)[..., None] * direction
        mask |= np.linalg.norm(from_axis, axis=-1) < random.uniform(1, 2)
    return mask.astype(np.uint8)


def dice(ours: np.ndarray, truth: np.ndarray) -> float:
    """Overlap of two boolean masks."""
    return float(2 * np.logical_and(ours, truth).sum() / (ours.sum() + truth.sum()))


def there_and_back(resize: Resize, mask: np.ndarray, factor: float) -> list[tuple[float, float]]:
    """Dice of each class on a grid of another spacing and back by its probabilities, and its share of the volume."""
    coarse = resize(mask, tuple(round(n / factor) for n in mask.shape))
    labels = range(int(mask.max()) + 1)
    back = np.stack([IMAGES["linear, torch"]((coarse == k).astype(np.float32), mask.shape) for k in labels]).argmax(
        axis=0
    )
    return [(dice(back == k, mask == k), (coarse == k).mean() / (mask == k).mean()) for k in labels[1:]]


def print_images(images: Mapping[str, Sequence[np.ndarray]]) -> None:
    """The table of interpolations."""
    noise = np.random.default_rng(0).normal(size=(60, 60, 60)).astype(np.float32)
    columns = [f"{what}, {name}" for name in images for what in ("enlarged", "shrunk")]
    print(f"| | {' | '.join(columns)} | SD left of noise | s, shrinking | s, enlarging |")
    for name, resize in IMAGES.items():
        errors = [
            f"{np.mean([function(volume) for volume in found]):.3f}"
            for found in images.values()
            for function in (lambda volume: enlarged(resize, volume, (2, 2, 2)), partial(shrunk, resize))  # noqa: B023
        ]
        left = resize(noise, (20, 20, 20)).std()
        spent = [f"{seconds(resize, shape):.2f}" for shape in ((170, 170, 128), (300, 300, 256))]
        print(f"| {name} | {' | '.join(errors)} | {left:.2f} | {' | '.join(spent)} |", flush=True)


def print_masks(masks: Mapping[str, Sequence[np.ndarray]]) -> None:
    """The table of masks."""
    print(f"\n| spacing | mask | {' | '.join(masks)} |")
    for factor in (0.8, 1.25, 2, 3):
        for name, resize in MASKS.items():
            found = [
                np.mean([row for m in some for row in there_and_back(resize, m, factor)], axis=0)
                for some in masks.values()
            ]
            print(
                f"| x {factor} | {name} | {' | '.join(f'{one:.3f} ({volume:.2f})' for one, volume in found)} |",
                flush=True,
            )


def print_slices(images: Mapping[str, Sequence[np.ndarray]]) -> None:
    """The table of thick slices."""
    chosen = ("nearest", "linear, torch", "cubic, kernel widened")
    print(f"\n| voxels a slice | {' | '.join(chosen)} |")
    for thickness in (3, 4, 6):
        cells = [
            " / ".join(
                f"{np.mean([enlarged(IMAGES[name], volume, (1, 1, thickness)) for volume in found]):.3f}"
                for found in images.values()
            )
            for name in chosen
        ]
        print(f"| {thickness} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of MSD Task04")
    images, masks = volumes(parser.parse_args().root)
    torch.set_num_threads(1)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {cpu_model()}, one thread, torch {torch.__version__}\n")
    print_images(images)
    print_masks(
        {"hippocampus": masks, "lesions": [lesions(s) for s in range(8)], "vessels": [vessels(s) for s in range(8)]}
    )
    print_slices(images)


if __name__ == "__main__":
    main()
