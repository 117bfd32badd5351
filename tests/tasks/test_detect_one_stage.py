"""The task of instances by detection with one stage and masks, in 2D and 3D."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import medexp
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image
from medexp.losses.box_terms import BoxTerms
from medexp.losses.focal import Focal
from medexp.metrics.instance_ap import InstanceAP
from medexp.models.adapter import build_model
from medexp.models.mask_retinanet import mask_retinanet
from medexp.tasks.detect import InstanceDetection
from medexp.tasks.retinanet import AnchorDetection

torch.set_num_threads(1)
CONF = Path(__file__).parents[2] / "conf"
LABELS = {0: "background", 3: "round", 7: "long"}
SMALL = {
    "channels": [16, 16, 32, 32], "blocks": [1, 1, 1, 1], "first_stride": 1, "levels": [2, 3], "pyramid_channels": 16,
    "norm_groups": 4, "anchor_sizes_px": [[8.0], [16.0], [32.0]], "aspect_ratios": None, "prior": 0.01,
    "candidates": 4, "center_inside": False, "focal_alpha": 0.25, "focal_gamma": 2.0, "smooth_l1_beta": 0.1,
    "mask_levels": [1, 2], "mask_size": 14, "mask_channels": 16, "mask_layers": 2, "mask_boxes": 8,
    "score_threshold": 0.05, "candidates_per_level": 100, "nms_iou": 0.5, "detections_per_image": 20,
}  # fmt: skip
SIZE = (32, 40, 24)


def task_of() -> InstanceDetection:
    loss = instantiate(OmegaConf.load(CONF / "loss" / "one_stage_terms.yaml"))
    return InstanceDetection(labels=LABELS, loss=loss, mask_threshold=0.5, score_threshold=0.5, least_visible=0.3)


def network_of(*, dims: int, in_channels: int = 1, **knobs) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(
        functools.partial(mask_retinanet, **(SMALL | knobs)),
        spatial_dims=dims,
        in_channels=in_channels,
        heads=task_of().heads,
        image_size=SIZE[:dims],
    )


def scene(dims: int) -> Annotation:
    """Two round objects, which nearly touch, and a long one."""
    places = np.indices(SIZE[:dims])
    instances = np.zeros(SIZE[:dims], dtype=np.int32)
    ellipsoids = [((9, 10, 8), (5, 5, 5)), ((9, 22, 10), (5, 6, 5)), ((23, 25, 14), (5, 11, 6))]
    for number, (center, radii) in enumerate(ellipsoids, start=1):
        apart = [
            ((axis - middle) / radius) ** 2
            for axis, middle, radius in zip(places, center[:dims], radii[:dims], strict=True)
        ]
        instances[np.sum(apart, axis=0) <= 1] = number
    return Annotation(instances=instances, objects=Objects.of_instances(instances, {1: 3, 2: 3, 3: 7}))


def empty(dims: int) -> Annotation:
    return Annotation(instances=np.zeros(SIZE[:dims], dtype=np.int32), objects=Objects.none(dims))


def images_of(*annotations: Annotation, channels: int = 1) -> torch.Tensor:
    noise = torch.Generator().manual_seed(0)
    pixels = [torch.from_numpy((annotation.instances > 0).astype(np.float32)) for annotation in annotations]
    stacked = torch.stack(pixels)[:, None].repeat(1, channels, *[1] * pixels[0].ndim)
    return stacked + 0.1 * torch.randn(stacked.shape, generator=noise)


def targets_of(*annotations: Annotation) -> dict:
    return {"objects": [task_of().sample_targets(annotation)["objects"] for annotation in annotations]}


def batch_of(*annotations: Annotation) -> Batch:
    shapes = [annotation.instances.shape for annotation in annotations]
    images = tuple(
        Image(
            case=Case(case_id=f"case{number}", group=f"patient{number}", images=()),
            pixels=np.zeros((1, *shape), dtype=np.float32),
            annotation=annotation,
            geometry=Geometry.from_spacing(shape, (1.0,) * len(shape)),
        )
        for number, (annotation, shape) in enumerate(zip(annotations, shapes, strict=True))
    )
    names, placements = tuple(image.case.case_id for image in images), tuple(map(Placement.identity, shapes))
    return Batch(torch.zeros(len(images), 1, *shapes[0]), None, names, images_read=images, placements=placements)


def learned(network: torch.nn.Module, *annotations: Annotation, steps: int, bf16: bool = False) -> list[float]:
    """Loss of each step."""
    task, channels = task_of(), next(network.parameters()).shape[1]
    images, targets = images_of(*annotations, channels=channels), targets_of(*annotations)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            outputs = task(network.train(), images, targets)
        loss = torch.stack(list(task.loss(outputs, targets).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# In 3D one core of a shared machine needed 54 s.
@pytest.mark.parametrize(("dims", "steps"), [(2, 45), pytest.param(3, 100, marks=pytest.mark.soak)])
def test_an_image_with_objects_and_one_without_are_learned_by_heart(dims, steps):
    task, network, known = task_of(), network_of(dims=dims), (scene(dims), empty(dims))
    losses = learned(network, *known, steps=steps)
    assert np.isfinite(losses).all()
    batch = batch_of(*known)
    with torch.no_grad():
        predictions = task.decode(task(network.eval(), images_of(*known)), batch)
    metric = InstanceAP(name="instance_ap50", min_ious=[0.5], pooled=True, formula="ap")
    pairs = zip(predictions, task.reference(batch), strict=True)
    results = metric.aggregate([row for pair in pairs for row in metric.rows(*pair)])
    assert results == {"round": 1.0, "long": 1.0, "mean": 1.0}
    assert len(predictions[1].objects) == predictions[1].instances.max() == 0


@pytest.mark.parametrize(("dims", "channels", "bf16"), [(2, 3, True), (3, 3, False), (3, 1, True)])
def test_the_loss_falls_with_any_number_of_channels_and_in_mixed_precision(dims, channels, bf16):
    # In 3D processors without bf16 are slow.
    tiny = {"channels": [8, 8, 8, 8], "pyramid_channels": 8, "mask_channels": 8, "mask_layers": 1, "first_stride": 2}
    network = network_of(dims=dims, in_channels=channels, **tiny)
    losses = learned(network, scene(dims), empty(dims), steps=5, bf16=bf16)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


def test_an_image_without_any_object_has_a_finite_loss_and_gradient_and_nothing_is_found_in_it():
    task, network = task_of(), network_of(dims=3, first_stride=2)
    losses = learned(network, empty(3), steps=1)
    assert np.isfinite(losses).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    with torch.no_grad():
        (prediction,) = task.decode(task(network.eval(), images_of(empty(3))), batch_of(empty(3)))
    assert (prediction.instances.shape, prediction.instances.max(), len(prediction.objects)) == (SIZE, 0, 0)


def test_boxes_are_learned_as_by_task_detection_retinanet():
    network, annotations = network_of(dims=3), (scene(3), empty(3))
    images, targets = images_of(*annotations), targets_of(*annotations)
    own = network.train()(images, targets["objects"])["losses"]
    other = AnchorDetection(
        labels=LABELS, loss=Focal(sigmoid=True, gamma=2.0, alpha=0.25),
        box_loss=BoxTerms(smooth_l1=1.0, giou=1.0, beta=0.1), class_weight=1.0, candidates=4, center_inside=False,
        score_threshold=0.05, candidates_per_level=100, nms_iou=0.5, detections_per_image=20, sigmoid=True,
    )  # fmt: skip
    known = {"boxes": [other.sample_targets(annotation)["boxes"] for annotation in annotations]}
    terms = other.loss(other(network.detector, images), known)
    names = {"class": "loss_classifier", "box_smooth_l1": "loss_box_reg", "box_giou": "loss_box_giou"}
    assert {names[name]: term.item() for name, term in terms.items()} == pytest.approx(
        {name: own[name].item() for name in names.values()}, rel=1e-5
    )


def test_a_run_on_volumes_is_trained_judged_and_recorded(tmp_path):
    overrides = [
        "dataset=phantom_3d", "dataset.derive=[components]", "dataset.source.n_cases=4",
        "dataset.source.shape=[24,24,16]", "dataset.source.lesion_radius_mm=[2.0,3.0]",
        "dataset.patch_size=[24,24,16]", "dataset.split.n_folds=2",
        "task=instance/detect", "model=mask_retinanet", "loss=one_stage_terms", "inferer=whole",
        "post_processing.steps=[]", "metrics=[pq,instance_ap50]", "trainer.max_steps=2", "overlays=0", "callbacks=[]",
        "precision=32-true", "threads=1", "model.channels=[8,8,8,8]", "model.pyramid_channels=8",
        "model.mask_channels=8", "model.score_threshold=0.0", "task.score_threshold=0.0",
        f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "study=volumes",
    ]  # fmt: skip
    run = medexp.train(medexp.compose(None, overrides))
    assert set(run.results) == {"pq", "instance_ap50"}
    assert set(run.evidence["case_id"]) == set(run.cases["case_id"])
    terms = {column.removeprefix("train/") for column in run.history.columns}
    assert set(OmegaConf.load(CONF / "loss" / "one_stage_terms.yaml").weights) <= terms
