from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, generalized_box_iou_loss, sigmoid_focal_loss

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image
from medexp.losses.box_terms import BoxTerms
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.dice import Dice
from medexp.losses.focal import Focal
from medexp.losses.weighted_sum import WeightedSum
from medexp.models.adapter import build_model
from medexp.models.retinanet import retinanet
from medexp.tasks.retinanet import AnchorDetection

FOCAL = {"sigmoid": True, "gamma": 2.0, "alpha": 0.25}
NETWORK = {
    "channels": [8, 16, 16, 16], "blocks": [1, 1, 1, 1], "first_stride": 1, "levels": [2], "pyramid_channels": 16,
    "norm_groups": 4, "anchor_sizes_px": [[8.0, 12.0], [16.0, 24.0]], "aspect_ratios": [0.5, 1.0, 2.0], "prior": 0.01,
}  # fmt: skip
KNOBS = {
    "class_weight": 1.0, "candidates": 4, "center_inside": False, "score_threshold": 0.05,
    "candidates_per_level": 1000, "nms_iou": 0.5, "detections_per_image": 100, "sigmoid": True,
}  # fmt: skip


def task_of(*, loss=None, box_loss=None, **knobs) -> AnchorDetection:
    return AnchorDetection(
        labels={0: "background", 3: "round", 7: "long"},
        loss=loss or Focal(**FOCAL),
        box_loss=box_loss or BoxTerms(smooth_l1=1.0, giou=0.0, beta=0.1),
        **(KNOBS | knobs),
    )


def network_of(task: AnchorDetection, *, in_channels: int = 1, spatial_dims: int = 2, **knobs) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(
        functools.partial(retinanet, **(NETWORK | knobs)),
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        heads=task.heads,
        image_size=(32,) * spatial_dims,
    )


def scene() -> Annotation:
    return Annotation(objects=Objects.of(np.array([[4.0, 6, 14, 16], [18, 20, 28, 36]]), np.array([3, 7])))


def empty() -> Annotation:
    return Annotation(objects=Objects.none(2))


def targets_of(task: AnchorDetection, *annotations: Annotation) -> dict:
    return {"boxes": [task.sample_targets(annotation)["boxes"] for annotation in annotations]}


def image_with(annotation: Annotation, channels: int = 1) -> torch.Tensor:
    image = torch.zeros(channels, 32, 40)
    for low, high in zip(annotation.objects.low.astype(int), annotation.objects.high.astype(int), strict=True):
        image[:, low[0] : high[0], low[1] : high[1]] = 1
    return image


def batch_of(annotation: Annotation | None, placement: Placement | None = None) -> Batch:
    placement = placement or Placement.identity((32, 40))
    shape = placement.image_shape
    image = Image(
        case=Case(case_id="case", group="patient", images=()),
        pixels=np.zeros((1, *shape), dtype=np.float32),
        annotation=annotation,
        geometry=Geometry.from_spacing(shape, (1.0,) * len(shape)),
    )
    return Batch(torch.zeros(1, 1, *placement.resized_shape), None, ("case",), (image,), (placement,))


def said(anchors: list[list[float]], logits: list[list[float]]) -> dict:
    """Outputs of one level with the anchors as they are."""
    boxes, values = torch.tensor(anchors), torch.tensor(logits)
    return {
        "logits": [values[None, :, None]],
        "offsets": [torch.zeros(1, len(boxes), 1, 4)],
        "anchors": [boxes[:, None]],
    }


def test_targets_are_boxes_in_the_order_of_the_array_and_channels_of_their_classes():
    target = task_of().sample_targets(scene())["boxes"]
    assert target["boxes"].tolist() == scene().objects.boxes.tolist()
    assert target["channels"].tolist() == [0, 1]
    assert task_of().heads == {"logits": 2}


def test_the_class_loss_is_the_focal_loss_of_the_paper_over_the_anchors_with_an_object():
    task = task_of()
    torch.manual_seed(1)
    outputs = network_of(task)(torch.randn(3, 1, 32, 40))
    outputs["logits"] = [torch.randn_like(level) for level in outputs["logits"]]
    targets = targets_of(task, scene(), empty(), scene())
    logits = torch.cat([level.flatten(1, 2) for level in outputs["logits"]], dim=1)
    anchors = torch.cat([level.flatten(0, 1) for level in outputs["anchors"]])
    truth = torch.zeros_like(logits)
    for image, own in enumerate(targets["boxes"]):
        if len(own["boxes"]):
            counts = [len(level) for level in outputs["anchors"]]
            _, matched = task.matcher(own["boxes"], anchors, counts, outputs["anchors"][0].shape[1])
            truth[image, matched >= 0, own["channels"][matched[matched >= 0]]] = 1
    assigned = truth.sum().item()
    assert assigned > 8
    expected = sigmoid_focal_loss(logits, truth, alpha=0.25, gamma=2.0, reduction="sum") / assigned
    assert task.loss(outputs, targets)["class"].item() == pytest.approx(expected.item(), rel=1e-5)
    doubled = task_of(class_weight=2.0).loss(outputs, targets)["class"].item()
    assert doubled == pytest.approx(2 * expected.item(), rel=1e-5)
    other = task_of(loss=CrossEntropy(sigmoid=True)).loss(outputs, targets)["class"].item()
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / assigned
    assert other == pytest.approx(plain.item(), rel=1e-5)


def test_the_box_losses_are_those_of_torch_and_torchvision():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 6, 20, 30]])
    wanted = torch.tensor([[1.0, 2, 12, 12], [40, 40, 44, 60]])
    offsets, aims = torch.randn(2, 4), torch.randn(2, 4)
    terms = BoxTerms(smooth_l1=2.0, giou=0.5, beta=0.1)((offsets, aims), (boxes, wanted))
    straight = torch.nn.functional.smooth_l1_loss(offsets, aims, beta=0.1, reduction="sum")
    assert terms["smooth_l1"].item() == pytest.approx(2 * straight.item(), rel=1e-5)
    expected = generalized_box_iou_loss(boxes, wanted, reduction="sum")
    assert terms["giou"].item() == pytest.approx(0.5 * expected.item(), rel=1e-5)
    assert set(BoxTerms(smooth_l1=0.0, giou=1.0, beta=0.1)((offsets, aims), (boxes, wanted))) == {"giou"}
    for refused in ({"smooth_l1": 0.0, "giou": 0.0}, {"smooth_l1": -1.0, "giou": 2.0}):
        with pytest.raises(UsageError, match="box_loss needs weights >= 0"):
            BoxTerms(beta=0.1, **refused)


def test_boxes_where_they_should_be_have_no_box_loss_and_others_have():
    task = task_of(box_loss=BoxTerms(smooth_l1=1.0, giou=1.0, beta=0.1))
    outputs = said([[4.0, 6, 14, 16], [18, 20, 28, 36], [0, 0, 4, 4]], [[3.0, -3], [-3, 3], [-3, -3]])
    right = task.loss(outputs, targets_of(task, scene()))
    assert [right["box_smooth_l1"].item(), right["box_giou"].item()] == pytest.approx([0.0, 0.0], abs=1e-5)
    moved = Annotation(objects=Objects.of(scene().objects.boxes + 3, scene().objects.labels))
    wrong = task.loss(outputs, targets_of(task, moved))
    assert min(wrong["box_smooth_l1"].item(), wrong["box_giou"].item()) > 0.1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_with_an_image_without_objects_is_learned_by_heart(channels):
    task = task_of(box_loss=BoxTerms(smooth_l1=1.0, giou=1.0, beta=0.1))
    network = network_of(task, in_channels=channels)
    images = torch.stack([image_with(annotation, channels) for annotation in (scene(), empty())])
    targets, losses = targets_of(task, scene(), empty()), []
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        loss = torch.stack(list(task.loss(task(network, images), targets).values())).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < losses[0] / 10
    with torch.no_grad():
        outputs = network.eval()(images)
    single = {name: [level[:1] for level in outputs[name]] for name in ("logits", "offsets")}
    (prediction,) = task.decode(single | {"anchors": outputs["anchors"]}, batch_of(scene()))
    sure = prediction.objects.select(prediction.objects.scores > 0.5)
    assert sorted(sure.labels.tolist()) == [1, 2]
    assert sure.boxes[np.argsort(sure.labels)] == pytest.approx(scene().objects.boxes, abs=1.5)


def test_a_batch_without_any_object_has_a_finite_loss_and_gradient():
    task = task_of(box_loss=BoxTerms(smooth_l1=1.0, giou=1.0, beta=0.1))
    network = network_of(task)
    terms = task.loss(task(network, torch.randn(2, 1, 32, 40)), targets_of(task, empty(), empty()))
    assert [terms["box_smooth_l1"].item(), terms["box_giou"].item()] == [0.0, 0.0]
    torch.stack(list(terms.values())).sum().backward()
    assert terms["class"].item() > 0
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    assert network.network.classification_head.cls_logits.bias.grad.abs().sum() > 0


def test_a_volume_is_learned_and_decoded_too():
    task = task_of(box_loss=BoxTerms(smooth_l1=1.0, giou=1.0, beta=0.1))
    network = network_of(task, spatial_dims=3, aspect_ratios=[[1.0, 1.0]])
    objects = Objects.of(np.array([[4.0, 4, 4, 12, 12, 14]]), np.array([7]))
    outputs = task(network, torch.randn(1, 1, 16, 16, 32))
    terms = task.loss(outputs, targets_of(task, Annotation(objects=objects)))
    assert all(torch.isfinite(term) for term in terms.values())
    assert terms["box_smooth_l1"].item() > 0
    with torch.no_grad():
        (prediction,) = task_of(score_threshold=0.0).decode(
            task(network, torch.randn(1, 1, 16, 16, 32)), batch_of(None, Placement.identity((16, 16, 32)))
        )
    assert prediction.objects.spatial_dims == 3
    assert len(prediction.objects) > 0


def test_boxes_that_overlap_are_suppressed_within_their_class_as_by_torchvision():
    random = np.random.default_rng(0)
    low = random.uniform(0, 20, size=(40, 2))
    boxes = np.hstack([low, low + random.uniform(4, 12, size=(40, 2))]).astype(np.float32)
    logits = random.normal(0, 2, size=(40, 2)).astype(np.float32)
    (prediction,) = task_of(score_threshold=0.3, nms_iou=0.4).decode(
        said(boxes.tolist(), logits.tolist()), batch_of(empty())
    )
    scores = torch.from_numpy(logits).sigmoid().flatten()
    classes, own = torch.arange(2).repeat(40), torch.from_numpy(boxes).repeat_interleave(2, dim=0)
    sure = scores > 0.3
    kept = batched_nms(own[sure], scores[sure], classes[sure], 0.4)
    assert prediction.objects.scores == pytest.approx(scores[sure][kept].numpy(), abs=1e-6)
    assert prediction.objects.labels.tolist() == (classes[sure][kept] + 1).tolist()
    assert prediction.objects.boxes == pytest.approx(own[sure][kept].numpy(), abs=1e-4)
    assert len(kept) < sure.sum()


def test_knobs_of_the_selection_count():
    outputs = said([[0.0, 0, 8, 8], [0, 0, 8, 7], [20, 20, 30, 30]], [[3.0, -9], [2.0, -9], [-1.0, -9]])
    counts = {}
    for name, knobs in {"plain": {}, "score": {"score_threshold": 0.5}, "nms": {"nms_iou": 0.95},
                        "most": {"detections_per_image": 1}, "level": {"candidates_per_level": 2}}.items():  # fmt: skip
        (prediction,) = task_of(**knobs).decode(outputs, batch_of(empty()))
        counts[name] = len(prediction.objects)
    assert counts == {"plain": 2, "score": 1, "nms": 3, "most": 1, "level": 1}


def test_boxes_are_cut_at_the_image_and_come_back_to_its_own_grid():
    placement = Placement((40, 64), (1, 0), (0,), (32, 20))
    (prediction,) = task_of().decode(said([[-4.0, 2, 8, 12]], [[3.0, -9]]), batch_of(empty(), placement))
    cut = Objects.of(np.array([[0.0, 2, 8, 12]]), np.array([1]))
    assert prediction.objects.boxes == pytest.approx(cut.moved(*placement.to_image()).boxes, abs=1e-5)
    # rows and columns change places, columns are reversed, and both are half as many
    assert prediction.objects.boxes[0] == pytest.approx([4, 48, 24, 64], abs=1e-5)


def test_nothing_found_is_an_empty_prediction():
    (prediction,) = task_of().decode(said([[0.0, 0, 8, 8]], [[-9.0, -9]]), batch_of(empty()))
    assert (len(prediction.objects), prediction.objects.spatial_dims) == (0, 2)


def test_a_reference_holds_the_objects_with_the_classes_values():
    (reference,) = task_of().reference(batch_of(scene()))
    assert reference.objects.labels.tolist() == [1, 2]
    assert [structure.name for structure in reference.classes] == ["round", "long"]
    with pytest.raises(DataError, match="case case has no reference"):
        task_of().reference(batch_of(None))


def test_a_loss_that_is_no_mean_over_anchors_is_refused():
    dice = Dice(
        sigmoid=True, include_background=False, squared_pred=False, jaccard=False, smooth_nr=1e-5, smooth_dr=1e-5,
        batch=True, weight=None,
    )  # fmt: skip
    with pytest.raises(UsageError, match="Dice is no mean over anchors; choose loss=focal"):
        task_of(loss=dice)
    terms = {"focal": Focal(**FOCAL), "ce": CrossEntropy(sigmoid=True)}
    with pytest.raises(UsageError, match="WeightedSum is no mean"):
        task_of(loss=WeightedSum(terms=terms | {"dice": dice}, weights=dict.fromkeys(["focal", "ce", "dice"], 1.0)))
    both = task_of(loss=WeightedSum(terms=terms, weights={"focal": 1.0, "ce": 0.1}))
    found = both.loss(network_of(both)(torch.randn(1, 1, 32, 40)), targets_of(both, scene()))
    assert set(found) == {"class_focal", "class_ce", "box_smooth_l1"}


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="the dataset gives none"):
        task_of().sample_targets(Annotation())
    with pytest.raises(DataError, match=r"labels .* which the dataset does not declare"):
        task_of().sample_targets(Annotation(objects=Objects.of(np.ones((1, 4)), np.array([9]))))
    with pytest.raises(DataError, match="need boxes with an extent"):
        task_of().sample_targets(Annotation(objects=Objects.of(np.ones((1, 4)), np.array([3]))))
    with pytest.raises(UsageError, match="needs a network with anchors; choose model=retinanet"):
        task_of()(torch.nn.Sequential(torch.nn.Identity(), Named()), torch.zeros(1, 1, 8, 8))
    for knob, value in {"nms_iou": 1.5, "class_weight": 0.0, "candidates": 0, "sigmoid": False}.items():
        with pytest.raises(UsageError, match=f"task.{knob}"):
            task_of(**{knob: value})


class Named(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": images}


def test_a_run_is_trained_judged_and_recorded(tmp_path):
    overrides = [
        "dataset=lesion_boxes", "dataset.source.n_cases=6", "dataset.source.shape=[32,32]",
        "dataset.patch_size=[32,32]", "dataset.batch_size=2", "dataset.split.n_folds=2", "task=detection/retinanet",
        "model=retinanet", "model.channels=[8,8,8,8]", "model.pyramid_channels=8", "loss=focal", "inferer=whole",
        "post_processing.steps=[]", "metrics=[mean_ap,detection_f1]", "task.score_threshold=0.0",
        "task.box_loss.giou=1.0", "trainer.max_steps=2", "overlays=0", "callbacks=[]", "precision=bf16-mixed",
        "threads=1", "save_predictions=true",
        f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "study=boxes",
    ]  # fmt: skip
    run = medexp.train(medexp.compose(None, overrides))
    assert set(run.results) == {"mean_ap", "detection_f1"}
    assert not any(column.startswith("mean_ap") for column in run.cases)
    assert len(run.cases) == len(list(run.folder.predictions.glob("*_objects.csv"))) == 3
    assert {"train/class", "train/box_smooth_l1", "train/box_giou"} <= set(run.history.columns)
    thresholds = run.evidence[run.evidence["metric"] == "mean_ap"]["threshold"]
    assert sorted(set(thresholds)) == pytest.approx(np.arange(0.5, 1.0, 0.05))
