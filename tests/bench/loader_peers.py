"""Loaders of other projects with the knobs of medexp's `augmentation=full`: equal operations, probabilities and ranges.

Labels take the nearest voxel everywhere, also where a project's default is a slower interpolation. All of them get the
prepared volumes, and give batches of two patches and their masks without end.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

N_CLASSES = 3
_INDICES_PER_CLASS = 4096
# What cubic B-splines between random control points, a distance d apart and displaced by up to a, amount to: their
# standard deviation is 0.19 a, their largest 0.51 a, their smoothness that of noise blurred by 0.61 d (64 voxels).
_RMS_OF_LARGEST, _LARGEST_OF_PATCH, _SIGMA_OF_SPACING = 0.19, 0.51, 0.61

Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """What is loaded.

    Attributes:
        pixels: Prepared images, each (1, *spatial).
        masks: Their masks.
        patch: Voxels of a patch along each axis.
        foreground: Share of patches that are centred on a class, drawn uniformly.
        knobs: Of medexp's augmentation.
        folder: For files.
        workers: Processes that load.
        batch: Patches of a batch.
    """

    pixels: list[np.ndarray]
    masks: list[np.ndarray]
    patch: int
    foreground: float
    knobs: dict[str, Any]
    folder: Path
    workers: int = 2
    batch: int = 2

    def chance(self, name: str) -> float:
        """Probability of an ingredient."""
        return float(self.knobs[f"{name}_probability"])

    @property
    def class_shares(self) -> list[float]:
        """Share of patches that are centred on each class."""
        return [1 - self.foreground] + [self.foreground / (N_CLASSES - 1)] * (N_CLASSES - 1)

    @property
    def degrees(self) -> float:
        """Largest angle."""
        return float(self.knobs["rotation_degrees"])

    @property
    def shrinking(self) -> tuple[float, float]:
        """Range of the factor on coordinates, which is one over that on the size of objects."""
        low, high = self.knobs["scale_range"]
        return 1 / high, 1 / low

    @property
    def window(self) -> int:
        """Voxels along each axis that nnU-Net cuts to have some around a patch when it is turned."""
        turned = self.patch * (math.cos(math.radians(self.degrees)) + math.sin(math.radians(self.degrees)))
        return int(turned / 0.85)


def nnunet(task: Task) -> Batches:
    """nnU-Net's loader: blosc2 files, its patch sampling, batchgeneratorsv2, its processes."""
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    folder = task.folder / "blosc2"
    if not folder.exists():
        # In a process of its own: blosc2's threads do not live through the fork of the loading processes.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(_write_blosc2, task, folder).result()
    loader = nnUNetDataLoader(
        nnUNetDatasetBlosc2(str(folder)),
        task.batch,
        (task.window,) * 3,
        (task.patch,) * 3,
        SimpleNamespace(all_labels=list(range(N_CLASSES)), has_ignore_label=False),
        oversample_foreground_percent=task.foreground,
        probabilistic_oversampling=True,
        transforms=_batchgenerators(task),
    )
    augmenter = NonDetMultiThreadedAugmenter(loader, None, task.workers, max(6, task.workers // 2), wait_time=0.002)
    return ((batch["data"], batch["target"]) for batch in augmenter)


def _write_blosc2(task: Task, folder: Path) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder.mkdir()
    for number, (pixels, mask) in enumerate(zip(task.pixels, task.masks, strict=True)):
        found = {label: np.argwhere(mask[None] == label) for label in range(1, N_CLASSES)}
        at = {label: rows[:: max(1, len(rows) // _INDICES_PER_CLASS)] for label, rows in found.items()}
        blocks, chunks = comp_blosc2_params(pixels.shape, (task.window,) * 3)
        blocks_seg, chunks_seg = comp_blosc2_params(pixels.shape, (task.window,) * 3, bytes_per_pixel=1)
        nnUNetDatasetBlosc2.save_case(
            np.array(pixels), mask[None].astype(np.int8), {"class_locations": at}, str(folder / f"case{number}"),
            chunks=chunks, blocks=blocks, chunks_seg=chunks_seg, blocks_seg=blocks_seg,
        )  # fmt: skip


def _batchgenerators(task: Task) -> Any:
    """nnU-Net's transforms in its order, and its elastic deformation, which it leaves out by default."""
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import BGContrast, ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform
    from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform

    knobs, chance = task.knobs, task.chance
    spacing, largest = knobs["elastic_spacing_mm"], knobs["elastic_mm"]
    spatial = SpatialTransform(
        (task.patch,) * 3,
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=chance("elastic"),
        elastic_deform_scale=lambda *_, **__: _SIGMA_OF_SPACING * spacing / task.patch,
        elastic_deform_magnitude=lambda *_, **__: random.random() * largest * _LARGEST_OF_PATCH,
        p_rotation=chance("rotation"),
        rotation=(-math.radians(task.degrees), math.radians(task.degrees)),
        p_scaling=chance("scale"),
        scaling=BGContrast(task.shrinking),
        p_synchronize_scaling_across_axes=1,
        mode_seg="nearest",
        border_mode_seg="constant",
        padding_value_seg=-1,
    )
    gamma = {"gamma": BGContrast(knobs["gamma_range"]), "synchronize_channels": False, "p_per_channel": 1}
    sometimes = [
        (GaussianNoiseTransform((0, knobs["noise_std"]), 1, True), "noise"),
        (GaussianBlurTransform(tuple(knobs["blur_sigma_voxels"]), benchmark=True), "blur"),
        (MultiplicativeBrightnessTransform(BGContrast(knobs["brightness_range"]), False), "brightness"),
        (ContrastTransform(BGContrast(knobs["contrast_range"]), True, False), "contrast"),
        (SimulateLowResolutionTransform(tuple(knobs["low_resolution_range"]), False, True, None), "low_resolution"),
        (GammaTransform(**gamma, p_invert_image=1, p_retain_stats=1), "gamma_inverted"),
        (GammaTransform(**gamma, p_invert_image=0, p_retain_stats=1), "gamma"),
    ]
    steps = [RandomTransform(transform, chance(name)) for transform, name in sometimes]
    mirror = MirrorTransform(tuple(knobs["flip_axes"]))
    return ComposeTransforms([spatial, *steps, mirror, RemoveLabelTansform(-1, 0)])


def torchio_queue(task: Task) -> Batches:
    """TorchIO's Queue: whole volumes are augmented, and eight patches cut from each."""
    import torchio as tio

    subjects = [
        tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(np.array(pixels))),
                    mask=tio.LabelMap(tensor=torch.from_numpy(mask[None].astype(np.int16))))
        for pixels, mask in zip(task.pixels, task.masks, strict=True)
    ]  # fmt: skip
    queue = tio.Queue(
        tio.SubjectsDataset(subjects, transform=_torchio_transforms(task)),
        max_length=64,
        samples_per_volume=8,
        sampler=tio.LabelSampler(task.patch, "mask", dict(enumerate(task.class_shares))),
        num_workers=task.workers,
    )
    loader = tio.SubjectsLoader(queue, batch_size=task.batch)
    return (
        (batch["image"][tio.DATA], batch["mask"][tio.DATA])
        for batch in itertools.chain.from_iterable(itertools.repeat(loader))
    )


def _torchio_transforms(task: Task) -> Any:
    """TorchIO's transforms, and plain torch for what it has not: brightness, contrast, low resolution, this gamma."""
    import torchio as tio

    knobs, chance = task.knobs, task.chance
    affine = {"scales": (1, 1), "degrees": 0, "isotropic": True, "default_pad_value": 0}
    elastic = {"num_control_points": round(160 / knobs["elastic_spacing_mm"]) + 3, "locked_borders": 0}
    elastic["max_displacement"] = knobs["elastic_mm"] / 2
    choices = {}
    for turned, scaled, deformed in itertools.product((False, True), repeat=3):
        weight = math.prod(
            chance(name) if on else 1 - chance(name)
            for name, on in (("rotation", turned), ("scale", scaled), ("elastic", deformed))
        )
        moved = affine | ({"degrees": task.degrees} if turned else {})
        moved |= {"scales": tuple(knobs["scale_range"])} if scaled else {}
        if deformed and (turned or scaled):
            transform = tio.RandomAffineElasticDeformation(affine_kwargs=moved, elastic_kwargs=elastic)
        elif deformed:
            transform = tio.RandomElasticDeformation(**elastic)
        else:
            transform = tio.RandomAffine(**moved) if turned or scaled else tio.RandomNoise(p=0)
        choices[transform] = weight
    plain = [
        tio.Lambda(partial(function, limits=tuple(knobs[knob])), [tio.INTENSITY], p=chance(name))
        for function, knob, name in (
            (_brighter, "brightness_range", "brightness"),
            (_stretched, "contrast_range", "contrast"),
            (_coarse, "low_resolution_range", "low_resolution"),
            (_bent_inverted, "gamma_range", "gamma_inverted"),
            (_bent, "gamma_range", "gamma"),
        )
    ]
    noise = tio.RandomNoise(std=(0, knobs["noise_std"]), p=chance("noise"))
    blur = tio.RandomBlur(tuple(knobs["blur_sigma_voxels"]), p=chance("blur"))
    flip = tio.RandomFlip(axes=tuple(knobs["flip_axes"]), flip_probability=0.5)
    return tio.Compose([tio.OneOf(choices), noise, blur, *plain, flip])


def _factor(limits: tuple[float, float]) -> float:
    low, high = limits
    return random.uniform(low, 1) if random.random() < 0.5 else random.uniform(1, high)


def _brighter(x: Tensor, limits: tuple[float, float]) -> Tensor:
    return x * _factor(limits)


def _stretched(x: Tensor, limits: tuple[float, float]) -> Tensor:
    return ((x - x.mean()) * _factor(limits) + x.mean()).clamp(x.min(), x.max())


def _coarse(x: Tensor, limits: tuple[float, float]) -> Tensor:
    factor = random.uniform(*limits)
    small = torch.nn.functional.interpolate(x[None], [round(n * factor) for n in x.shape[1:]], mode="nearest-exact")
    return torch.nn.functional.interpolate(small, x.shape[1:], mode="trilinear")[0]


def _bent(x: Tensor, limits: tuple[float, float]) -> Tensor:
    bent = ((x - x.min()) / (x.max() - x.min())) ** _factor(limits)
    return (bent - bent.mean()) * (x.std() / bent.std()) + x.mean()


def _bent_inverted(x: Tensor, limits: tuple[float, float]) -> Tensor:
    return -_bent(-x, limits)


def monai_tutorial(task: Task) -> Batches:
    """MONAI's CacheDataset as its tutorials use it: metadata, indices anew, four crops of each volume."""
    from monai import transforms as mt
    from monai.data import CacheDataset, list_data_collate

    pair = ["image", "mask"]
    crop = mt.RandCropByLabelClassesd(
        pair, "mask", (task.window,) * 3, ratios=task.class_shares, num_classes=N_CLASSES, num_samples=4, warn=False
    )
    dataset = CacheDataset(
        [{"image": np.array(pixels), "mask": mask[None].astype(np.int16)}
         for pixels, mask in zip(task.pixels, task.masks, strict=True)],
        mt.Compose([mt.EnsureTyped(pair), crop, *_monai_spatial(task), *_monai_intensities(task)]),
        progress=False,
    )  # fmt: skip
    loader = DataLoader(
        dataset, batch_size=task.batch, shuffle=True, num_workers=task.workers, collate_fn=list_data_collate
    )
    return ((batch["image"], batch["mask"]) for batch in itertools.chain.from_iterable(itertools.repeat(loader)))


def monai_tuned(task: Task) -> Batches:
    """MONAI's CacheDataset tuned by hand: cached indices, no metadata, no copies, all in memory, workers kept."""
    from monai import transforms as mt
    from monai.data import CacheDataset, set_track_meta

    set_track_meta(False)
    pair = ["image", "mask"]
    cached = mt.Compose([
        mt.EnsureTyped(pair, track_meta=False),
        mt.ClassesToIndicesd("mask", num_classes=N_CLASSES, max_samples_per_class=_INDICES_PER_CLASS),
    ])  # fmt: skip
    crop = mt.RandCropByLabelClassesd(
        pair, "mask", (task.window,) * 3, ratios=task.class_shares, num_classes=N_CLASSES,
        indices_key="mask_cls_indices", warn=False,
    )  # fmt: skip
    # So many samples an epoch that starting one does not count; the cached volumes are the same tensors.
    dataset = CacheDataset(
        [cached({"image": np.array(pixels), "mask": mask[None].astype(np.int16)})
         for pixels, mask in zip(task.pixels, task.masks, strict=True)] * 500,
        mt.Compose([crop, *_monai_spatial_tuned(task), *_monai_intensities(task)]),
        progress=False,
        cache_num=0,
        copy_cache=False,
    )  # fmt: skip
    loader = DataLoader(
        dataset,
        batch_size=task.batch,
        shuffle=True,
        num_workers=task.workers,
        collate_fn=_stacked,
        worker_init_fn=_seeded,
    )
    return itertools.chain.from_iterable(itertools.repeat(loader))


def _stacked(samples: list[list[dict[str, Any]]]) -> tuple[Tensor, Tensor]:
    crops = [crop for crops in samples for crop in crops]
    return torch.stack([crop["image"] for crop in crops]), torch.stack([crop["mask"] for crop in crops])


def _seeded(_: int) -> None:
    """Draw other numbers in each worker, and compute with one thread."""
    torch.set_num_threads(1)
    found = torch.utils.data.get_worker_info()
    found.dataset.transform.set_random_state(found.seed % 2**32)


def _monai_spatial(task: Task) -> list[Any]:
    """A transform for each ingredient, on windows, then the patch in their middle."""
    from monai import transforms as mt

    pair, common = ["image", "mask"], {"mode": ["bilinear", "nearest"], "padding_mode": "zeros"}
    sigma = _SIGMA_OF_SPACING * task.knobs["elastic_spacing_mm"]
    # Noise in [-1, 1] has a standard deviation of 1 / sqrt(3), and keeps so much of it when it is blurred.
    kept = (2 * math.sqrt(math.pi) * sigma) ** -1.5 / math.sqrt(3)
    largest = task.knobs["elastic_mm"] * _RMS_OF_LARGEST / kept
    low, high = task.knobs["scale_range"]
    return [
        mt.Rand3DElasticd(pair, (sigma, sigma), (0, largest), prob=task.chance("elastic"), **common),
        mt.RandRotated(pair, *[math.radians(task.degrees)] * 3, prob=task.chance("rotation"), **common),
        mt.RandZoomd(pair, task.chance("scale"), low, high, mode=["trilinear", "nearest"], padding_mode="constant"),
        mt.CenterSpatialCropd(pair, (task.patch,) * 3),
    ]


def _monai_spatial_tuned(task: Task) -> list[Any]:
    """One resampling from window to patch where it is turned or scaled, and a coarse field where it is deformed."""
    from monai import transforms as mt

    pair, modes, size = ["image", "mask"], ["bilinear", "nearest"], (task.patch,) * 3
    angles = {"rotate_range": (math.radians(task.degrees),) * 3}
    scales = {"scale_range": ((task.shrinking[0] - 1, task.shrinking[1] - 1),) * 3}
    common = {"spatial_size": size, "mode": modes, "padding_mode": "zeros", "prob": 1.0, "cache_grid": True}
    turned, scaled = task.chance("rotation"), task.chance("scale")
    moves = {
        mt.CenterSpatialCropd(pair, size): (1 - turned) * (1 - scaled),
        mt.RandAffined(pair, **angles, **common): turned * (1 - scaled),
        mt.RandAffined(pair, **scales, **common): (1 - turned) * scaled,
        mt.RandAffined(pair, **angles, **scales, **common): turned * scaled,
    }
    # The largest displacement is drawn up to elastic_mm there and fixed here, which divides by the root of 3; linear
    # interpolation between values in [-r, r] leaves a standard deviation of r * (2 / 3)^1.5 / sqrt(3).
    largest = task.knobs["elastic_mm"] * _RMS_OF_LARGEST * 1.5**1.5 * 2 / task.patch  # the grid's extent is 2
    points = round(task.patch / task.knobs["elastic_spacing_mm"]) + 1
    deform = mt.RandSmoothDeformd(
        pair, size, (points,) * 3, field_mode="trilinear", align_corners=True, prob=task.chance("elastic"),
        def_range=largest, grid_mode=modes, grid_padding_mode="zeros",
    )  # fmt: skip
    return [mt.OneOf(list(moves), list(moves.values())), deform]


def _monai_intensities(task: Task) -> list[Any]:
    from monai import transforms as mt

    knobs, chance = task.knobs, task.chance
    gamma = {"gamma": tuple(knobs["gamma_range"]), "retain_stats": True}
    low_resolution = {"prob": chance("low_resolution"), "zoom_range": tuple(knobs["low_resolution_range"])}
    brighter, stretched = knobs["brightness_range"][1] - 1, knobs["contrast_range"][1] - 1
    return [
        mt.RandGaussianNoised("image", prob=chance("noise"), std=knobs["noise_std"]),
        mt.RandGaussianSmoothd("image", *[tuple(knobs["blur_sigma_voxels"])] * 3, prob=chance("blur")),
        mt.RandScaleIntensityd("image", factors=brighter, prob=chance("brightness")),
        mt.RandScaleIntensityFixedMeand("image", factors=stretched, preserve_range=True, prob=chance("contrast")),
        mt.RandSimulateLowResolutiond("image", **low_resolution),
        mt.RandAdjustContrastd("image", prob=chance("gamma_inverted"), invert_image=True, **gamma),
        mt.RandAdjustContrastd("image", prob=chance("gamma"), **gamma),
        *(mt.RandFlipd(["image", "mask"], prob=0.5, spatial_axis=axis) for axis in knobs["flip_axes"]),
        mt.CastToTyped("mask", dtype=torch.int16),
    ]


PEERS: dict[str, tuple[str, Callable[[Task], Batches]]] = {
    "nnU-Net": ("nnunetv2", nnunet),
    "TorchIO": ("torchio", torchio_queue),
    "MONAI, as in tutorials": ("monai", monai_tutorial),
    "MONAI, tuned": ("monai", monai_tuned),
}
