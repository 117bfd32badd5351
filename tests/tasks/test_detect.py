from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet, UNet
from skimage.measure import regionprops

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image, Outcome
from medexp.losses.detector_terms import DetectorTerms
from medexp.models.adapter import build_model
from medexp.models.mask_rcnn import mask_rcnn
from medexp.tasks.detect import InstanceDetection

torch.set_num_threads(1)
TERMS = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")
LABELS = {0: "background", 3: "round", 7: "long"}
SMALL = {
    "backbone": "resnet18",
    "anchor_sizes_px": [8, 12, 16, 24, 32],
    "aspect_ratios": [1.0],
    "box_features": 16,
    "proposals": 20,
    "sampled_boxes": 8,
    "detections_per_image": 10,
    "score_threshold": 0.05,
    "nms_iou": 0.5,
    "norm_groups": 8,
    "mask_size": 8,
}


def task_of(*, labels=LABELS, **knobs) -> InstanceDetection:
    chosen = {"mask_threshold": 0.5, "score_threshold": 0.5, "least_visible": 0.3} | knobs
    loss = DetectorTerms(weights=dict.fromkeys(TERMS, 1.0))
    return InstanceDetection(labels=labels, loss=loss, **chosen)


def network_of(*, in_channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    factory = functools.partial(mask_rcnn, **SMALL)
    return build_model(factory, spatial_dims=2, in_channels=in_channels, heads=task_of().heads, image_size=(32, 40))


def scene() -> Annotation:
    instances = np.zeros((32, 40), dtype=np.int32)
    instances[4:14, 6:16] = 1
    instances[18:28, 20:36] = 2
    return Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 3, 2: 7}))


def empty() -> Annotation:
    return Annotation(instances=np.zeros((32, 40), dtype=np.int32), objects=Objects.none(2))


def targets_of(task: InstanceDetection, *annotations: Annotation) -> dict:
    return {"objects": [task.sample_targets(annotation)["objects"] for annotation in annotations]}


def images_of(*annotations: Annotation, channels: int = 1) -> torch.Tensor:
    pixels = [torch.from_numpy((annotation.instances > 0).astype(np.float32)) for annotation in annotations]
    return torch.stack(pixels)[:, None].repeat(1, channels, 1, 1)


def batch_of(annotation: Annotation | None, placement: Placement | None = None) -> Batch:
    shape = (32, 40) if placement is None else placement.image_shape
    image = Image(
        case=Case(case_id="case", group="patient", images=()),
        pixels=np.zeros((1, *shape), dtype=np.float32),
        annotation=annotation,
        geometry=Geometry.from_spacing(shape, (1.0, 1.0)),
    )
    placements = (placement or Placement.identity(shape),)
    return Batch(torch.zeros(1, 1, *shape), None, ("case",), images_read=(image,), placements=placements)


def found_of(boxes: list[list[float]], values: list[float], labels: list[int], scores: list[float]) -> dict:
    soft = torch.tensor(values)[:, None, None, None].expand(-1, 1, 16, 16)
    found = {"boxes": torch.tensor(boxes), "masks": soft, "labels": torch.tensor(labels)}
    return {"objects": [found | {"scores": torch.tensor(scores)}]}


def test_targets_are_boxes_of_lower_then_upper_ends_classes_from_one_and_instances():
    target = task_of().sample_targets(scene())["objects"]
    assert target["boxes"].tolist() == [list(region.bbox) for region in regionprops(scene().instances)]
    assert target["labels"].tolist() == [1, 2]
    assert np.array_equal(target["instances"].numpy(), scene().instances)


# A CPU without native bf16 computes in it at a tenth of the speed.
@pytest.mark.parametrize(
    ("channels", "bf16", "steps", "share"),
    [
        (3, False, 6, 0.9),
        pytest.param(3, True, 6, 0.9, marks=pytest.mark.soak),
        pytest.param(1, False, 40, 0.34, marks=pytest.mark.soak),
    ],
)
def test_a_batch_with_an_image_without_objects_is_learned_by_heart(channels, bf16, steps, share):
    task, network = task_of(), network_of(in_channels=channels)
    annotations = (scene(), empty())
    images, targets = images_of(*annotations, channels=channels), targets_of(task, *annotations)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = task(network, images, targets)
        terms = task.loss(outputs, targets)
        assert set(terms) == set(TERMS)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < share * losses[0]


def test_what_is_left_of_an_object_after_cutting_has_a_box_with_extent():
    instances = np.zeros((32, 40), dtype=np.int32)
    instances[31, 39], instances[0:5, 0] = 1, 2
    annotation = Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 3, 2: 7}))
    task, network = task_of(), network_of()
    targets = targets_of(task, annotation)
    assert targets["objects"][0]["boxes"].tolist() == [[31, 39, 32, 40], [0, 0, 5, 1]]
    terms = task.loss(task(network, images_of(annotation), targets), targets)
    assert all(torch.isfinite(term) for term in terms.values())


def test_a_batch_without_any_object_has_a_finite_loss_and_gradient():
    task, network = task_of(), network_of()
    targets = targets_of(task, empty(), empty())
    terms = task.loss(task(network, torch.randn(2, 1, 32, 40), targets), targets)
    torch.stack(list(terms.values())).sum().backward()
    assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_the_surer_object_keeps_the_voxels_that_two_claim():
    boxes = [[10.0, 4.0, 20.0, 14.0], [4.0, 4.0, 14.0, 14.0], [5.0, 5.0, 13.0, 13.0]]
    found = found_of(boxes, [0.8, 0.9, 0.9], [1, 2, 1], [0.7, 0.9, 0.6])
    (prediction,) = task_of(mask_threshold=0.4).decode(found, batch_of(scene()))
    first, second = np.zeros((32, 40)), np.zeros((32, 40))
    first[4:14, 4:14], second[10:20, 4:14] = 1, 1
    assert prediction.objects.scores == pytest.approx([0.9, 0.7])
    assert prediction.objects.labels.tolist() == [2, 1]
    assert np.array_equal(prediction.mask[0], np.array([0, 2, 1])[prediction.instances])
    assert np.array_equal(prediction.instances == 1, first > 0)
    assert np.array_equal(prediction.instances == 2, (second > 0) & (first == 0))
    assert prediction.objects.boxes.tolist() == [list(region.bbox) for region in regionprops(prediction.instances)]


@pytest.mark.parametrize(
    ("knobs", "kept"), [({}, 1), ({"score_threshold": 0.0}, 2), ({"mask_threshold": 0.99, "score_threshold": 0.0}, 0)]
)
def test_thresholds_decide_what_is_judged(knobs, kept):
    found = found_of([[2.0, at, 6.0, at + 4] for at in (2.0, 20.0)], [0.8, 0.8], [1, 2], [0.9, 0.4])
    (prediction,) = task_of(**knobs).decode(found, batch_of(scene()))
    assert len(prediction.objects) == prediction.instances.max() == kept


def test_nothing_found_is_an_empty_prediction_on_the_image_s_grid():
    nothing = {
        "boxes": torch.zeros(0, 4),
        "masks": torch.zeros(0, 1, 8, 8),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    placement = Placement((64, 80), (0, 1), (), (32, 40))
    (prediction,) = task_of().decode({"objects": [nothing]}, batch_of(empty(), placement))
    assert prediction.instances.shape == (64, 80)
    assert (prediction.instances.max(), len(prediction.objects)) == (0, 0)


def test_masks_come_back_to_the_image_s_grid_without_the_padding():
    placement = Placement((40, 64), (1, 0), (0,), (32, 20))
    found = found_of([[8.0, 4.0, 16.0, 10.0], [40.0, 40.0, 64.0, 64.0]], [1.0, 1.0], [1, 1], [0.9, 0.9])
    (prediction,) = task_of(mask_threshold=0.1).decode(found, batch_of(empty(), placement))
    mask = np.zeros((32, 20))
    mask[8:16, 4:10] = 1.0
    expected = placement.unorient(np.kron(mask, np.ones((2, 2)))) > 0
    assert np.array_equal(prediction.instances > 0, expected)


def test_a_reference_holds_the_instances_with_the_classes_values():
    (reference,) = task_of().reference(batch_of(scene()))
    assert np.array_equal(reference.instances, scene().instances)
    assert np.array_equal(reference.mask[0], scene().instances)
    assert reference.objects.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match="has no reference"):
        task_of().reference(batch_of(None))


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="needs instances, and the dataset gives none"):
        task_of().sample_targets(Annotation())
    strange = Objects.of_instances(scene().instances, {1: 3, 2: 9})
    with pytest.raises(DataError, match=r"labels \[9\], which the dataset does not declare"):
        task_of().sample_targets(Annotation(instances=scene().instances, objects=strange))
    with pytest.raises(UsageError, match="least_visible needs a value in"):
        task_of(least_visible=1.5)
    with pytest.raises(UsageError, match="nothing can be found"):
        task_of(labels={0: "background"})


@pytest.mark.parametrize("factory", [DenseNet, UNet])
def test_a_network_without_losses_of_its_own_is_refused(factory):
    knobs = {"channels": (4, 8), "strides": (2,)} if factory is UNet else {"block_config": (1, 1)}
    factory = functools.partial(factory, **knobs)
    network = build_model(factory, spatial_dims=2, in_channels=1, heads=task_of().heads, image_size=(32, 40))
    with pytest.raises(
        UsageError, match=r"computes its losses itself, and DenseModel does not; choose model=mask_rcnn or"
    ):
        task_of()(network, images_of(scene()), targets_of(task_of(), scene()))


def test_a_run_is_trained_judged_and_recorded(tmp_path):
    overrides = [
        "dataset=nuclei", "dataset.source.n_cases=6", "dataset.source.shape=[32,32]", "dataset.source.n_nuclei=[1,3]",
        "dataset.source.radius_mm=[3.0,5.0]", "dataset.patch_size=[32,32]", "dataset.batch_size=2",
        "dataset.split.n_folds=2", "task=instance/detect", "model=mask_rcnn", "loss=detector_terms", "inferer=whole",
        "post_processing.steps=[]", "metrics=[pq]", "trainer.max_steps=2", "overlays=1", "callbacks=[]",
        "precision=32-true", "threads=1", "save_predictions=true", "model.box_features=16", "model.proposals=20",
        f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "study=nuclei",
    ]  # fmt: skip
    run = medexp.train(medexp.compose(None, overrides))
    assert set(run.results["pq"]) >= {"mean"}
    assert set(run.evidence["outcome"]) <= {str(outcome) for outcome in Outcome}
    assert len(list(run.folder.predictions.glob("*_instances.nii.gz"))) == len(run.cases) == 3
    assert len(list(run.folder.overlays.glob("*_contour.png"))) == 1
    assert set(TERMS) <= {column.removeprefix("train/") for column in run.history.columns}
