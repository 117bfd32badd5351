from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medexp.core.errors import DataError, UsageError
from medexp.core.objects import Objects
from medexp.core.types import Annotation
from medexp.data.augmentation import Augmentation
from medexp.data.module import ImageData, collate
from medexp.data.normalisation.zscore import ZScore
from medexp.data.preprocessing import Preprocessing
from medexp.data.splits import KFold


def augmentation(probability: float = 0.0) -> Augmentation:
    return Augmentation(
        flip_axes=[0] if probability else [],
        rotation_probability=probability,
        rotation_degrees=15.0,
        scale_probability=probability,
        scale_range=[0.7, 1.4],
        brightness_probability=probability,
        brightness=0.2,
        contrast_probability=probability,
        contrast_range=[0.75, 1.25],
        gamma_probability=probability,
        gamma_range=[0.7, 1.5],
        noise_probability=probability,
        noise_std=0.1,
    )


def targets_of(annotation: Annotation) -> dict[str, torch.Tensor]:
    return {"semantic": torch.from_numpy(annotation.mask[None].astype(np.int16))}


@pytest.fixture
def data_of(numpy_source, tmp_path):
    """Makes the data of a run on a small dataset."""

    def make(source=None, **knobs) -> ImageData:
        chosen = {
            "source": source or numpy_source(),
            "split": KFold(n_folds=3, seed=0),
            "preprocessing": Preprocessing(orient=False, spacing_mm=None, normalisation=ZScore()),
            "patch_size": [8, 6],
            "batch_size": 2,
            "foreground_fraction": 0.5,
            "workers": 0,
            "pin_memory": "auto",
            "processes": 1,
            "root": None,
            "augmentation": augmentation(0.5),
            "fold": 1,
            "seed": 7,
            "batches_per_epoch": None,
            "accumulate": 1,
            "cache_folder": tmp_path / "cache",
            "identity": "numpy",
            "sample_targets": targets_of,
        } | knobs
        return ImageData(**chosen)

    return make


def equal(first, second) -> bool:
    return (
        first.case_ids == second.case_ids
        and torch.equal(first.images, second.images)
        and torch.equal(first.targets["semantic"], second.targets["semantic"])
    )


def test_batches_do_not_depend_on_the_number_of_workers(data_of):
    expected = list(data_of(batches_per_epoch=5).train_dataloader())
    assert [tuple(batch.images.shape) for batch in expected] == [(2, 2, 8, 6)] * 5
    for workers in (1, 2):
        loader = data_of(batches_per_epoch=5, workers=workers).train_dataloader()
        batches = list(loader)
        assert len(batches) == 5
        assert all(equal(a, b) for a, b in zip(batches, expected, strict=True))


def test_evaluation_does_not_depend_on_the_number_of_workers(data_of):
    for loader in ("val_dataloader", "test_dataloader"):
        alone, helped = (list(getattr(data_of(workers=workers), loader)()) for workers in (0, 2))
        assert [batch.case_ids for batch in alone] == [batch.case_ids for batch in helped]
        assert all(torch.equal(a.images, b.images) for a, b in zip(alone, helped, strict=True))


def test_a_sample_depends_on_seed_and_number_alone(data_of):
    samples, again, other = data_of().samples, data_of().samples, data_of(seed=8).samples
    forward = [samples[number] for number in range(12)]
    backward = [again[number] for number in reversed(range(12))][::-1]
    for (case_a, pixels_a, targets_a), (case_b, pixels_b, targets_b) in zip(forward, backward, strict=True):
        assert case_a == case_b
        assert torch.equal(pixels_a, pixels_b)
        assert torch.equal(targets_a["semantic"], targets_b["semantic"])
    assert any(not torch.equal(forward[number][1], other[number][1]) for number in range(12))


def test_torch_and_numpy_generators_are_not_touched(data_of):
    data = data_of()
    data.prepare_data()
    torch.manual_seed(0)
    np.random.seed(0)
    before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    data.samples[3]
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_an_epoch_is_one_pass_over_the_training_cases(data_of):
    data = data_of(batch_size=1)
    seen = [case_id for batch in data.train_dataloader() for case_id in batch.case_ids]
    assert sorted(seen) == sorted(case.case_id for case in data.parts.train)


@pytest.mark.parametrize(
    ("n_cases", "batch_size", "accumulate", "batches"),
    [(6, 2, 1, 2), (6, 3, 1, 2), (9, 2, 2, 4), (9, 1, 4, 8), (6, 8, 3, 3)],
)
def test_an_epoch_holds_whole_optimiser_steps(data_of, numpy_source, n_cases, batch_size, accumulate, batches):
    data = data_of(numpy_source(n_cases=n_cases), batch_size=batch_size, accumulate=accumulate)
    assert len(data.parts.train) == n_cases * 2 // 3
    assert data.batches_per_epoch == batches == len(data.train_dataloader())
    assert batches % accumulate == 0
    assert batches * batch_size >= len(data.parts.train)


def test_the_length_of_an_epoch_can_be_given(data_of):
    assert len(list(data_of(batches_per_epoch=7).train_dataloader())) == 7


def training_at(batches: int, *, rank: int = 0, world_size: int = 1) -> SimpleNamespace:
    """What the data asks of Lightning's trainer."""
    progress = SimpleNamespace(total=SimpleNamespace(ready=batches))
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress))
    return SimpleNamespace(fit_loop=loop, global_rank=rank, world_size=world_size)


def test_training_goes_on_with_the_batches_that_are_left(data_of):
    whole = data_of(batches_per_epoch=4)
    first = list(whole.train_dataloader())
    whole.trainer = training_at(4)
    second = list(whole.train_dataloader())
    resumed = data_of(batches_per_epoch=4)
    resumed.trainer = training_at(6)
    tail = list(resumed.train_dataloader())
    assert len(tail) == 2
    assert all(equal(a, b) for a, b in zip(tail, second[2:], strict=True))
    assert not any(equal(a, b) for a, b in zip(first, second, strict=True))


def test_two_processes_share_the_batch_of_one(data_of):
    alone = list(data_of(batch_size=4, batches_per_epoch=3).train_dataloader())
    shares = []
    for rank in (0, 1):
        data = data_of(batch_size=2, batches_per_epoch=3)
        data.trainer = training_at(0, rank=rank, world_size=2)
        shares.append(list(data.train_dataloader()))
    for whole, first, second in zip(alone, *shares, strict=True):
        assert whole.case_ids == first.case_ids + second.case_ids
        assert torch.equal(whole.images, torch.cat([first.images, second.images]))


def test_training_sees_training_cases_and_evaluation_the_held_out_ones(data_of):
    data = data_of(batches_per_epoch=6)
    trained = {case_id for batch in data.train_dataloader() for case_id in batch.case_ids}
    judged = [batch.case_ids[0] for batch in data.val_dataloader()]
    assert trained == {case.case_id for case in data.parts.train}
    assert judged == [case.case_id for case in data.parts.val]
    assert trained.isdisjoint(judged)


def test_evaluation_gives_whole_cases_with_image_and_reference(data_of, numpy_source):
    source = numpy_source(spacing_mm=(1.0, 2.0))
    preprocessing = Preprocessing(orient=False, spacing_mm=(2.0, 1.0), normalisation=ZScore())
    (batch, *_) = data_of(source, preprocessing=preprocessing).test_dataloader()
    assert batch.images.shape == (1, 2, 6, 20)
    assert batch.targets is None
    assert batch.images_read[0].annotation.mask.shape == (12, 10)
    assert (batch.placements[0].image_shape, batch.placements[0].resized_shape) == ((12, 10), (6, 20))


def test_no_patch_is_centred_on_voxels_that_nobody_annotated(data_of, numpy_source):
    source = numpy_source(n_cases=3, shape=(60, 60))
    source.labels = {**source.labels, 9: "unclear"}
    for case in source.cases():
        mask = np.zeros(source.shape, dtype=np.int16)
        mask[5:30, 5:55], mask[45, 45] = 9, 1
        np.save(case.references["mask"], mask)
    knobs = {"patch_size": [3, 3], "foreground_fraction": 1.0, "augmentation": augmentation()}
    middles = {
        ignored: [
            int(data_of(source, **knobs, ignored_label=ignored).samples[n][2]["semantic"][0, 1, 1]) for n in range(30)
        ]
        for ignored in (None, 9)
    }
    assert set(middles[None]) == {1, 9}
    assert set(middles[9]) == {1}


def test_the_hash_follows_the_content_of_all_cases(data_of, numpy_source, tmp_path):
    source = numpy_source()
    before = data_of(source).hash
    assert data_of(source, fold=2, seed=9).hash == before
    file = source.cases()[4].images[0]
    np.save(file, np.load(file) + 1)
    assert data_of(source).hash != before


def test_the_cache_is_filled_before_workers_start(data_of, tmp_path):
    data = data_of()
    data.prepare_data()
    assert len(list((tmp_path / "cache").rglob("case.json"))) == len(data.parts.train) + len(data.parts.val)


def test_a_case_id_that_occurs_twice_is_refused(data_of, numpy_source):
    class Twice(type(numpy_source())):
        def cases(self):
            first, *rest = super().cases()
            return [first, *rest, replace(first, group="another")]

    twice = Twice(numpy_source().folder, 6, (12, 10))
    with pytest.raises(DataError, match=r"0_image\.npy needs an id of its own, got 'case_0' for 2 cases"):
        data_of(twice)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"patch_size": [8, 8, 8]}, r"patch_size needs 2 values >= 1 for numpy, got \[8, 8, 8\]"),
        ({"patch_size": [8, 0]}, r"patch_size needs 2 values >= 1 for numpy, got \[8, 0\]"),
        ({"batch_size": 0}, "batch_size needs a value >= 1, got 0"),
        ({"accumulate": 0}, "accumulate needs a value >= 1, got 0"),
        ({"batches_per_epoch": 0}, "batches_per_epoch needs a value >= 1, got 0"),
        ({"foreground_fraction": 1.5}, r"foreground_fraction needs a value in \[0, 1\], got 1\.5"),
        ({"fold": 3}, r"fold needs 0\.\.2"),
    ],
)
def test_values_out_of_range_are_refused(data_of, knobs, message):
    with pytest.raises(UsageError, match=message):
        data_of(**knobs)


def test_a_flip_along_an_axis_that_the_images_have_not_is_refused(data_of):
    flipping = augmentation()
    flipping.flip_axes = (2,)
    with pytest.raises(UsageError, match=r"flip_axes needs axes 0\.\.1 for 2D images"):
        data_of(augmentation=flipping)


def box_targets(annotation: Annotation) -> dict:
    """A tensor, and a mapping whose tensors differ in size between the images."""
    boxes = torch.from_numpy(annotation.objects.boxes)
    return {"count": torch.tensor([len(boxes)]), "objects": {"boxes": boxes, "labels": torch.arange(len(boxes))}}


def test_targets_that_differ_in_size_become_a_list_and_the_others_are_stacked():
    samples = [
        (f"case_{n}", torch.full((1, 4, 5), float(n)), box_targets(Annotation(objects=Objects.of(boxes, boxes[:, 0]))))
        for n, boxes in enumerate([np.zeros((2, 4)), np.zeros((0, 4)), np.ones((5, 4))])
    ]
    batch = collate(samples)
    assert batch.case_ids == ("case_0", "case_1", "case_2")
    assert batch.images[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0]
    assert batch.targets["count"].tolist() == [[2], [0], [5]]
    assert [tuple(target["boxes"].shape) for target in batch.targets["objects"]] == [(2, 4), (0, 4), (5, 4)]
    assert all(
        target["labels"] is sample[2]["objects"]["labels"]
        for target, sample in zip(batch.targets["objects"], samples, strict=True)
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_boxes_reach_the_batch_by_workers_too(data_of, numpy_source, workers):
    class WithObjects(type(numpy_source())):
        def read(self, case):
            image = super().read(case)
            number = int(case.case_id.removeprefix("case_"))
            boxes = np.tile([2.0, 3.0, 7.0, 6.0], (number, 1))
            return replace(image, annotation=Annotation(objects=Objects.of(boxes, np.ones(number))))

    source = WithObjects(numpy_source().folder, 6, (12, 10))
    knobs = {"patch_size": [12, 10], "augmentation": augmentation(), "sample_targets": box_targets, "batch_size": 4}
    (batch,) = data_of(source, **knobs, workers=workers).train_dataloader()
    numbers = [int(case_id.removeprefix("case_")) for case_id in batch.case_ids]
    assert batch.targets["count"].ravel().tolist() == numbers
    for number, target in zip(numbers, batch.targets["objects"], strict=True):
        assert target["boxes"].tolist() == [[2, 3, 7, 6]] * number


def labelled(source, labels) -> None:
    """Give each case of a source the labels of its whole image."""
    of_case = {f"case_{number}": own for number, own in enumerate(labels)}
    read = source.read
    source.read = lambda case: replace(
        read(case), annotation=replace(read(case).annotation, image_labels=of_case[case.case_id])
    )


def test_labels_of_images_are_drawn_alike_and_training_goes_on_in_the_same_order(data_of, numpy_source):
    source = numpy_source(n_cases=9)
    labelled(source, [(5,) if number % 3 == 0 else (1,) for number in range(9)])
    knobs = {"source": source, "balance": "label", "batch_size": 2, "batches_per_epoch": 4}
    batches = list(data_of(**knobs).train_dataloader())
    assert all(sorted(int(name[5:]) % 3 == 0 for name in batch.case_ids) == [False, True] for batch in batches)
    resumed = data_of(**knobs)
    resumed.trainer = training_at(2)
    assert all(equal(a, b) for a, b in zip(resumed.train_dataloader(), batches[2:], strict=True))


def test_classes_that_occur_are_drawn_alike_beside_the_cases_without_any(data_of, numpy_source):
    source = numpy_source(n_cases=9)
    for number, case in enumerate(source.cases()):
        np.save(case.references["mask"], np.full(source.shape, 5 if number % 3 == 0 else 0, dtype=np.int16))
    data = data_of(
        source=source, balance="presence", batch_size=2, batches_per_epoch=4, checks={"class_absent": "ignore"}
    )
    for batch in data.train_dataloader():
        assert sorted(int(name[5:]) % 3 == 0 for name in batch.case_ids) == [False, True]


def test_balance_needs_what_it_goes_by(data_of):
    with pytest.raises(UsageError, match=r"dataset\.balance needs label, presence"):
        data_of(balance="often")
    with pytest.raises(DataError, match=r"dataset\.balance=label needs labels of images"):
        data_of(balance="label")
