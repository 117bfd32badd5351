"""The batches of one run: training patches from the stream, whole cases for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medexp.core.errors import UsageError
from medexp.core.hashing import hash_plain
from medexp.core.types import Annotation, Batch, Case, Source
from medexp.data.augmentation import Augmentation, Drawn, cut_patch
from medexp.data.cache import PreparedCases
from medexp.data.derive.derived import Derivation
from medexp.data.integrity import Policy, Store, Training, check_dataset, checked_parts
from medexp.data.preprocessing import Prepared, Preprocessing
from medexp.data.sampling import Order, SampleOrder, StreamBatches, balanced_order, draw_center
from medexp.data.splits import Split, Strata

SampleTargets = Callable[[Annotation], dict[str, Any]]


class TrainingSamples(Dataset[tuple[str, Tensor, dict[str, Any]]]):
    """Sample number n of the training stream, made from (seed, n) alone."""

    def __init__(
        self,
        *,
        cases: Sequence[Case],
        prepared: PreparedCases,
        order: Order,
        patch_size: tuple[int, ...],
        foreground_fraction: float,
        ignored_label: int | None,
        augmentation: Augmentation,
        sample_targets: SampleTargets,
    ) -> None:
        self.cases = cases
        self.prepared = prepared
        self.order = order
        self.patch_size = patch_size
        self.foreground_fraction = foreground_fraction
        self.ignored_label = ignored_label
        self.augmentation = augmentation
        self.sample_targets = sample_targets

    def __getitem__(self, number: int) -> tuple[str, Tensor, dict[str, Any]]:
        case = self.cases[self.order.case_of(number)]
        prepared, foreground = self.prepared.load(case)
        center, drawn = self._draw(number, prepared, foreground)
        pixels, annotation = cut_patch(
            prepared.pixels,
            prepared.annotation,
            center=center,
            patch_size=self.patch_size,
            drawn=drawn,
            spacing_mm=prepared.spacing_mm,
        )
        return case.case_id, pixels, self.sample_targets(annotation)

    def parameters_of(self, number: int) -> dict[str, Any]:
        """What sample number `number` is made from, for a log: case, centre and the parameters of its augmentation."""
        case = self.cases[self.order.case_of(number)]
        center, drawn = self._draw(number, *self.prepared.load(case))
        return {"sample": number, "case_id": case.case_id, "center": list(center), **drawn.as_plain()}

    def _draw(self, number: int, prepared: Prepared, foreground: np.ndarray) -> tuple[tuple[float, ...], Drawn]:
        random = np.random.default_rng((self.order.seed, 1, number))
        center = draw_center(
            random,
            shape=prepared.pixels.shape[1:],
            patch_size=self.patch_size,
            foreground=foreground if self.ignored_label is None else foreground[foreground[:, 0] != self.ignored_label],
            foreground_fraction=self.foreground_fraction,
        )
        n_channels = len(prepared.pixels)
        return center, self.augmentation.draw(random, spatial_dims=len(self.patch_size), n_channels=n_channels)


class EvaluationCases(Dataset[Batch]):
    """Whole cases, one a batch, with what is needed to bring predictions back to the image's own grid.

    Of several processes each gets its own cases, in turns; where they do not divide evenly the last ones get a batch
    without a case, as all processes have to take the same number of steps.
    """

    def __init__(self, *, cases: Sequence[Case], prepared: PreparedCases, rank: int = 0, world_size: int = 1) -> None:
        self.cases = cases
        self.prepared = prepared
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return -(-len(self.cases) // self.world_size)

    def __getitem__(self, index: int) -> Batch:
        number = index * self.world_size + self.rank
        if number >= len(self.cases):
            channels, dims = len(self.prepared.source.channels), self.prepared.source.spatial_dims
            return Batch(images=torch.zeros(0, channels, *[1] * dims), targets=None, case_ids=())
        case = self.cases[number]
        prepared, _ = self.prepared.load(case)
        return Batch(
            images=torch.from_numpy(np.array(prepared.pixels))[None],
            targets=None,
            case_ids=(case.case_id,),
            images_read=(self.prepared.source.read(case),),
            placements=(prepared.placement,),
        )


class ImageData(pl.LightningDataModule):
    """A dataset, its split, its preparation and its batches.

    Args:
        source: Lists and reads the cases.
        split: Divides them.
        preprocessing: Brings an image to the network's grid.
        patch_size: Spatial shape of a training patch; images that are smaller are padded with zeros.
        batch_size: Patches per batch and process.
        foreground_fraction: Probability that a patch is centred on a foreground voxel.
        workers: Processes that load batches; 0 loads in the main process. Results do not depend on it.
        pin_memory: Batches in page-locked memory; "auto": where there is CUDA.
        root: Folder of the dataset, for the source.
        derive: Steps that the source makes its annotations with.
        augmentation: Changes training patches.
        fold: Number of the fold that is held out.
        seed: Seed of the training stream.
        batches_per_epoch: Batches of an epoch; None means one pass over the training cases.
        accumulate: Batches that make one optimiser step; an epoch holds whole steps.
        processes: How many train together; an epoch's pass over the training cases is shared between them.
        cache_folder: Where prepared cases lie.
        identity: The source's configuration, for the key of the cache.
        sample_targets: The task's verb that turns a reference into what the loss sees.
        ignored_label: Label id of voxels that nobody annotated, on which no patch is centred; None where there is none.
        strides: Factor by which the network shrinks a patch along each axis, where it is known.
        balance: Of what each class is drawn equally often in training: "label" (labels of the image) or "presence"
            (classes that occur in it); None draws each case equally often.
        integrity: What an error in the data does: "error" stops, "warn" tells, "quarantine" leaves the case out.
        checks: "error", "warning" or "ignore" by name of a check, see `medexp.data.integrity.CHECKS`.

    Attributes:
        report: What the check of the data found.

    Raises:
        UsageError: A knob has an unfit value.
        DataError: Names everything that is wrong with the data.
    """

    def __init__(
        self,
        *,
        source: Source,
        split: Split,
        preprocessing: Preprocessing,
        patch_size: Sequence[int],
        batch_size: int,
        foreground_fraction: float,
        workers: int,
        pin_memory: bool | str,
        root: str | None,
        derive: Sequence[Derivation] = (),
        augmentation: Augmentation,
        fold: int,
        seed: int,
        batches_per_epoch: int | None,
        accumulate: int,
        processes: int,
        cache_folder: Path,
        identity: str,
        sample_targets: SampleTargets,
        ignored_label: int | None = None,
        strides: Sequence[int] | None = None,
        balance: str | None = None,
        integrity: str = "error",
        checks: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        if len(patch_size) != source.spatial_dims or min(patch_size) < 1:
            raise UsageError(
                f"dataset.patch_size needs {source.spatial_dims} values >= 1 for {source.name}, got {list(patch_size)}"
            )
        _check_numbers(batch_size=batch_size, accumulate=accumulate, batches_per_epoch=batches_per_epoch)
        if not 0 <= foreground_fraction <= 1:
            raise UsageError(f"dataset.foreground_fraction needs a value in [0, 1], got {foreground_fraction}")
        augmentation.check_dims(source.spatial_dims)
        self.source = source
        self.root = root
        self.derive = tuple(derive)
        self.report = check_dataset(
            source,
            split=split,
            fold=fold,
            policy=Policy.of(integrity, checks),
            training=Training(
                patch_size=tuple(patch_size),
                strides=None if strides is None else tuple(strides),
                spacing_mm=preprocessing.spacing_mm,
                orient=preprocessing.orient,
                ignored_label=ignored_label,
            ),
            store=Store(folder=cache_folder, source=source, identity=identity),
        )
        self.parts = checked_parts(self.report)
        left_out = set(self.report.quarantined)
        self.cases = [case for case in self.report.cases if case.case_id not in left_out]
        self.prepared = PreparedCases(
            folder=cache_folder,
            source=source,
            preprocessing=preprocessing,
            identity=identity,
            training=self.parts.train,
        )
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = torch.cuda.is_available() if pin_memory == "auto" else bool(pin_memory)
        self.order = self._order(balance, seed=seed)
        one_pass = -(-len(self.parts.train) // (batch_size * accumulate * processes)) * accumulate
        self.batches_per_epoch = batches_per_epoch or one_pass
        self.samples = TrainingSamples(
            cases=self.parts.train,
            prepared=self.prepared,
            order=self.order,
            patch_size=tuple(patch_size),
            foreground_fraction=foreground_fraction,
            ignored_label=ignored_label,
            augmentation=augmentation,
            sample_targets=sample_targets,
        )

    @property
    def hash(self) -> str:
        """Hash over the case ids and contents of all cases."""
        return hash_plain(self.prepared.content_hashes(self.cases))

    def prepare_data(self) -> None:
        """Fill the cache, so that workers find every case prepared."""
        self.prepared.prepare([*self.parts.train, *self.parts.val, *self.parts.test])

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The batch on the device that computes; from page-locked memory while the one before is computed."""
        return batch.to(device, non_blocking=device.type == "cuda")

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of an epoch from where training stands."""
        rank, world_size = self._rank
        batches = StreamBatches(
            batch_size=self.batch_size,
            batches_per_epoch=self.batches_per_epoch,
            position=self._batches_trained,
            rank=rank,
            world_size=world_size,
        )
        return DataLoader(
            self.samples,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
            pin_memory=self.pin_memory,
            worker_init_fn=_one_thread,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Whole cases of the held-out fold, also where a test part is reported on."""
        return self._evaluation(self.parts.val)

    def test_dataloader(self) -> DataLoader[Any]:
        """Whole cases of the part that results are reported on."""
        return self._evaluation(self.parts.evaluated[1])

    def _evaluation(self, cases: Sequence[Case]) -> DataLoader[Any]:
        rank, world_size = self._rank
        return DataLoader(
            EvaluationCases(cases=cases, prepared=self.prepared, rank=rank, world_size=world_size),
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=_one_thread,
        )

    def _order(self, balance: str | None, *, seed: int) -> Order:
        """Which case each sample is cut from."""
        if balance is None:
            return SampleOrder(n_cases=len(self.parts.train), seed=seed)
        strata = Strata(by=balance, classes=None, quantiles=2, known=self.report.known, key="dataset.balance")
        names = strata(self.parts.train)
        return balanced_order([names[case.case_id] for case in self.parts.train], seed=seed)

    @property
    def _rank(self) -> tuple[int, int]:
        """Number of this process, and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _batches_trained(self) -> int:
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.ready


def collate(samples: Sequence[tuple[str, Tensor, dict[str, Any]]]) -> Batch:
    """Stack training samples to a batch; targets that are mappings, as their sizes differ, become a list."""
    case_ids, images, targets = zip(*samples, strict=True)
    return Batch(
        images=torch.stack(images),
        targets={name: _joined([target[name] for target in targets]) for name in targets[0]},
        case_ids=tuple(case_ids),
    )


def _joined(targets: list[Any]) -> Any:
    return torch.stack(targets) if isinstance(targets[0], Tensor) else targets


def _one_thread(_: int) -> None:
    """Each worker computes with one thread; the network has the others."""
    torch.set_num_threads(1)


def _check_numbers(**numbers: int | None) -> None:
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} needs a value >= 1, got {number}")
