from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from scipy.stats import norm

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image, Kind
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex
from medexp.losses.mse import MeanSquaredError
from medexp.models.adapter import build_model
from medexp.post_processing.peaks import Peaks
from medexp.tasks.density import DensityDetection, density_of

LABELS = {0: "background", 3: "round", 7: "long"}


def task_of(*, labels=LABELS, sigma_px: float = 2.0, scale: float = 100.0) -> DensityDetection:
    loss = DeepSupervision(loss=IgnoreIndex(loss=MeanSquaredError(), ignore_index=None), decay=0.5)
    return DensityDetection(labels=labels, loss=loss, sigma_px=sigma_px, scale=scale)


def scene() -> Annotation:
    """Two round objects and a long one, one of them without an extent."""
    boxes = np.array([[4.0, 6, 14, 16], [18, 20, 28, 36], [22, 8, 22, 8]])
    return Annotation(objects=Objects.of(boxes, np.array([3, 7, 3])))


def batch_of(*annotations: Annotation | None, placement: Placement | None = None) -> Batch:
    placement = placement or Placement.identity((32, 40))
    shape = placement.image_shape
    images = tuple(
        Image(
            case=Case(case_id=f"case{place}", group="patient", images=()),
            pixels=np.zeros((1, *shape), dtype=np.float32),
            annotation=annotation,
            geometry=Geometry.from_spacing(shape, (1.0,) * len(shape)),
        )
        for place, annotation in enumerate(annotations)
    )
    pixels = torch.zeros(len(images), 1, *placement.resized_shape)
    return Batch(pixels, None, tuple(image.case.case_id for image in images), images, (placement,) * len(images))


def targets_of(task: DensityDetection, *annotations: Annotation) -> dict:
    return {"density": [task.sample_targets(annotation)["density"] for annotation in annotations]}


def wanted(task: DensityDetection, annotation: Annotation, shape=(32, 40)) -> torch.Tensor:
    target = task.sample_targets(annotation)["density"]
    return density_of(target["centers"], target["channels"], shape=(2, *shape), sigma_px=task.sigma_px)


@pytest.mark.parametrize("shape", [(32, 40), (24, 20, 28)])
def test_a_gaussian_far_from_the_border_is_the_normal_density(shape):
    center = np.array([12.3, 9.8, 13.1][: len(shape)])
    (found,) = density_of(
        torch.tensor(center[None]), torch.zeros(1, dtype=torch.int64), shape=(1, *shape), sigma_px=1.5
    )
    grid = np.stack(np.meshgrid(*(np.arange(n) + 0.5 for n in shape), indexing="ij"))
    expected = np.prod([norm.pdf(axis, at, 1.5) for axis, at in zip(grid, center, strict=True)], axis=0)
    assert found.numpy() == pytest.approx(expected, abs=1e-6)


def test_the_integral_of_each_channel_is_the_number_of_its_objects_also_at_the_border():
    at_corner = Annotation(objects=Objects.of(np.array([[0.0, 0, 0, 0], [31.9, 39.9, 32, 40]]), np.array([7, 7])))
    assert wanted(task_of(), scene()).sum(dim=(1, 2)).tolist() == pytest.approx([2, 1])
    assert wanted(task_of(), at_corner).sum(dim=(1, 2)).tolist() == pytest.approx([0, 2])


def test_a_gaussian_narrower_than_a_voxel_keeps_its_sum():
    assert wanted(task_of(sigma_px=0.01), scene()).sum(dim=(1, 2)).tolist() == pytest.approx([2, 1])


def test_targets_are_the_middles_of_the_objects_and_channels_of_their_classes():
    target = task_of().sample_targets(scene())["density"]
    assert target["centers"].tolist() == [[9, 11], [23, 28], [22, 8]]
    assert target["channels"].tolist() == [0, 1, 0]
    empty = task_of().sample_targets(Annotation(objects=Objects.none(2)))["density"]
    assert (tuple(empty["centers"].shape), tuple(empty["channels"].shape)) == ((0, 2), (0,))


def test_the_loss_is_the_mean_squared_error_of_the_scaled_density():
    task = task_of(scale=50.0)
    said = torch.randn(2, 2, 32, 40)
    terms = task.loss({"density": said}, targets_of(task, scene(), Annotation(objects=Objects.none(2))))
    expected = np.stack([50 * wanted(task, scene()).numpy(), np.zeros((2, 32, 40))])
    assert sum(terms.values()).item() == pytest.approx(np.mean((said.numpy() - expected) ** 2), rel=1e-5)


def test_the_perfect_network_finds_each_object_at_its_middle():
    task = task_of()
    outputs = {"density": task.scale * torch.stack([wanted(task, scene()), torch.zeros(2, 32, 40)])}
    predictions = task.decode(outputs, batch_of(scene(), Annotation(objects=Objects.none(2))))
    found, nothing = (Peaks(min_distance_mm=4.0, min_score=0.3)(prediction).objects for prediction in predictions)
    order = np.lexsort(found.centers.T)
    assert found.centers[order] == pytest.approx(np.array([[22, 8], [9, 11], [23, 28]]), abs=0.5)
    assert found.labels[order].tolist() == [1, 1, 2]
    assert len(nothing) == 0


def test_the_count_survives_the_way_back_to_the_image_s_own_grid():
    placement = Placement((40, 64), (1, 0), (0,), (32, 20))
    task = task_of()
    objects = Objects.of(np.array([[4.0, 5, 6, 7], [20, 12, 26, 18]]), np.array([3, 7]))
    density = wanted(task, Annotation(objects=objects), (32, 20))
    (prediction,) = task.decode({"density": task.scale * density[None]}, batch_of(None, placement=placement))
    found = Peaks(min_distance_mm=4.0, min_score=0.3)(prediction)
    assert prediction.maps["density"].shape == (2, 40, 64)
    assert prediction.maps["density"].sum(axis=(1, 2)) == pytest.approx([1, 1], rel=1e-5)
    assert found.objects.centers == pytest.approx(objects.moved(*placement.to_image()).centers, abs=1.0)


def test_negative_values_are_no_objects():
    (prediction,) = task_of().decode({"density": torch.full((1, 2, 32, 40), -3.0)}, batch_of(scene()))
    assert prediction.maps["density"].max() == prediction.maps["density"].min() == 0


def test_a_reference_holds_the_objects_with_the_classes_values():
    (reference,) = task_of().reference(batch_of(scene()))
    assert reference.objects.labels.tolist() == [1, 2, 1]
    assert task_of().gives is Kind.DENSITY
    with pytest.raises(DataError, match="case case0 has no reference"):
        task_of().reference(batch_of(None))


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="the dataset gives none"):
        task_of().sample_targets(Annotation())
    with pytest.raises(UsageError, match="no label beside the background"):
        task_of(labels={0: "background"})
    for knob in ("sigma_px", "scale"):
        with pytest.raises(UsageError, match=f"task.{knob} needs a value above 0, got 0.0"):
            task_of(**{knob: 0.0})


def test_a_batch_is_learned_until_its_objects_are_counted_and_found():
    torch.manual_seed(0)
    task = task_of()
    factory = functools.partial(UNet, channels=(16, 32, 64), strides=(2, 2), num_res_units=1)
    network = build_model(factory, spatial_dims=2, in_channels=1, heads=task.heads, image_size=(32, 40))
    annotations = (scene(), Annotation(objects=Objects.none(2)))
    images = torch.zeros(2, 1, 32, 40)
    for label, (row, column) in zip((1.0, 2.0, 1.0), [(9, 11), (23, 28), (22, 8)], strict=True):
        images[0, 0, row - 3 : row + 3, column - 3 : column + 3] = label
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        terms = task.loss(task(network, images, None), targets_of(task, *annotations))
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    with torch.no_grad():
        full, empty = task.decode(task(network.eval(), images), batch_of(*annotations))
    assert full.maps["density"].sum(axis=(1, 2)) == pytest.approx([2, 1], abs=0.4)
    assert empty.maps["density"].sum() < 0.4
    found = Peaks(min_distance_mm=4.0, min_score=0.3)(full).objects
    assert sorted(found.labels.tolist()) == [1, 1, 2]
    assert len(Peaks(min_distance_mm=4.0, min_score=0.3)(empty).objects) == 0


def test_a_run_is_trained_judged_and_recorded(tmp_path):
    overrides = [
        "dataset=nuclei", "dataset.source.n_cases=6", "dataset.source.shape=[32,32]", "dataset.source.n_nuclei=[1,2]",
        "dataset.patch_size=[32,32]", "dataset.batch_size=2", "dataset.split.n_folds=2", "task=detection/density",
        "model.channels=[4,8]", "model.strides=[2]", "loss=mse", "post_processing.steps=[peaks]",
        "metrics=[count_error,detection_f1]", "trainer.max_steps=2", "overlays=0", "callbacks=[]", "threads=1",
        "precision=bf16-mixed", f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "study=counts",
    ]  # fmt: skip
    run = medexp.train(medexp.compose(None, overrides))
    assert set(run.results) == {"count_error", "detection_f1"}
    assert "count_error/mitotic" in run.cases
