from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from scipy import ndimage

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import UNANNOTATED, Annotation, Batch, Case, Image, Kind
from medexp.data.sources.nuclei import Nuclei
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex
from medexp.metrics.pq import PanopticQuality
from medexp.models.adapter import build_model
from medexp.models.dynunet import dynunet
from medexp.post_processing.argmax import Argmax
from medexp.post_processing.border_watershed import BorderWatershed
from medexp.post_processing.components import Components
from medexp.tasks.instance import InstanceBoundary, InstanceSplit

torch.set_num_threads(1)
LABELS = {0: "background", 2: "plain", 7: "mitotic"}
INSTANCES = np.array([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 2, 2, 0, 3], [1, 1, 1, 1, 2, 2, 0, 3]], dtype=np.int32)


def loss(ignore_index: int | None, *, sigmoid: bool) -> DeepSupervision:
    return DeepSupervision(loss=IgnoreIndex(loss=CrossEntropy(sigmoid=sigmoid), ignore_index=ignore_index), decay=0.5)


def split(*, ignore_index: int | None = None, labels=LABELS, **changed) -> InstanceSplit:
    knobs = {"regions": None, "softmax": True, "sigmoid": False, "loss": loss(ignore_index, sigmoid=False)}
    return InstanceSplit(labels=labels, ignore_index=ignore_index, **knobs | changed)


def boundary(*, ignore_index: int | None = None, labels=LABELS, **changed) -> InstanceBoundary:
    knobs = {"regions": None, "softmax": True, "sigmoid": False, "loss": loss(ignore_index, sigmoid=False)}
    knobs |= {"border_loss": loss(ignore_index, sigmoid=True), "border_weight": 1.0, "border_width_px": 1.0}
    return InstanceBoundary(labels=labels, ignore_index=ignore_index, **knobs | changed)


BOTH = pytest.mark.parametrize("make", [split, boundary])


def annotated(instances: np.ndarray = INSTANCES, labels: tuple[int, ...] = (2, 7, 2)) -> Annotation:
    objects = Objects.of_instances(instances, dict(enumerate(labels, start=1)))
    return Annotation(mask=np.array([0, *labels])[instances], instances=instances, objects=objects)


def batch_of(annotation: Annotation | None, placement: Placement | None = None, spacing_mm=None) -> Batch:
    shape = INSTANCES.shape if annotation is None else annotation.mask.shape
    case = Case("a", "patient_a", (Path("image.nii"),))
    geometry = Geometry.from_spacing(shape, spacing_mm or (1.0,) * len(shape))
    image = Image(case, np.zeros((1, *shape), np.float32), annotation, geometry)
    placement = placement or Placement.identity(shape)
    images = torch.zeros(1, 1, *placement.resized_shape)
    return Batch(images=images, targets=None, case_ids=("a",), images_read=(image,), placements=(placement,))


def logits_of(target: torch.Tensor, channels: int) -> torch.Tensor:
    """Logits that are sure of a target of class indices, or of one region."""
    if channels == 1:
        return 20.0 * target[None].float() - 10
    return 20.0 * torch.nn.functional.one_hot(target[0].long(), channels).movedim(-1, 0)[None].float()


def border_by_loops(instances: np.ndarray, width_px: float) -> np.ndarray:
    """Voxel by voxel: is the centre of a voxel with another id no farther than the width?"""
    places = np.argwhere(np.ones(instances.shape))
    ids = instances.ravel()
    border = np.zeros(len(ids), dtype=bool)
    for row, place in enumerate(places):
        others = places[ids != ids[row]]
        near = len(others) and np.linalg.norm(others - place, axis=1).min() <= width_px + 1e-9
        border[row] = ids[row] > 0 and near
    return border.reshape(instances.shape)


@pytest.mark.parametrize("width_px", [1.0, 1.5, 2.0, 2**0.5, 3.0])
@pytest.mark.parametrize("dims", [2, 3])
def test_the_border_is_where_another_id_is_within_the_width(dims, width_px):
    shape = (16, 15) if dims == 2 else (7, 8, 6)
    rng = np.random.default_rng(dims)
    blobs, _ = ndimage.label(ndimage.gaussian_filter(rng.normal(size=shape), 1.0) > 0)
    halves = np.unique(2 * blobs - (blobs > 0) * (np.indices(shape)[0] % 5 > 2), return_inverse=True)[1].reshape(shape)
    instances = halves.astype(np.int32)
    target = boundary(border_width_px=width_px).sample_targets(annotated(instances, (2,) * int(instances.max())))
    expected = border_by_loops(instances, width_px)
    assert target["border"].shape == (1, *shape)
    assert np.array_equal(target["border"][0].numpy(), expected)
    assert expected.any()


def test_the_edge_of_the_image_is_no_border():
    target = boundary().sample_targets(annotated())["border"]
    assert target[0].tolist() == [[0, 0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0, 1], [0, 0, 0, 1, 1, 1, 0, 1]]
    whole = annotated(np.ones((3, 4), np.int32), (7,))
    assert not boundary().sample_targets(whole)["border"].any()


def test_an_image_without_objects_has_no_border():
    target = boundary().sample_targets(annotated(np.zeros((3, 4), np.int32), ()))
    assert not target["border"].any()
    assert not target["semantic"].any()


@pytest.mark.parametrize("ignore_index", [7, 255])
def test_unannotated_voxels_have_no_border(ignore_index):
    annotation = annotated()
    annotation.mask[:, 4:6] = ignore_index
    target = boundary(ignore_index=ignore_index).sample_targets(annotation)
    assert (target["border"][..., 4:6] == UNANNOTATED).all()
    assert (target["semantic"][..., 4:6] == UNANNOTATED).all()
    assert (target["border"][..., :4] >= 0).all()


def test_split_learns_what_semantic_segmentation_learns():
    target = split().sample_targets(annotated())
    assert list(target) == ["semantic"]
    assert target["semantic"].tolist() == [[[1, 1, 1, 1, 2, 2, 0, 0]] + [[1, 1, 1, 1, 2, 2, 0, 1]] * 2]


def test_heads_and_kinds():
    assert split().heads == {"semantic": 3}
    assert boundary().heads == {"semantic": 3, "border": 1}
    assert (split().gives, boundary().gives) == (Kind.PROBABILITIES, Kind.BORDERS)
    assert split().judged is boundary().judged is Kind.INSTANCES


@BOTH
def test_the_reference_holds_instances_and_objects_with_class_values(make):
    (reference,) = make().reference(batch_of(annotated()))
    assert np.array_equal(reference.instances, INSTANCES)
    assert reference.objects.labels.tolist() == [1, 2, 1]
    assert reference.objects.boxes.tolist() == annotated().objects.boxes.tolist()
    assert reference.mask[0].tolist()[0] == [1, 1, 1, 1, 2, 2, 0, 0]
    assert [structure.name for structure in reference.classes] == ["plain", "mitotic"]


@BOTH
def test_objects_that_nobody_annotated_are_no_objects(make):
    (reference,) = make(ignore_index=7).reference(batch_of(annotated()))
    assert np.array_equal(reference.instances, np.array([0, 1, 0, 2])[INSTANCES])
    assert reference.objects.labels.tolist() == [1, 1]
    assert np.array_equal(reference.objects.boxes, annotated().objects.boxes[[0, 2]])
    assert np.array_equal(reference.valid, INSTANCES != 2)


@BOTH
def test_an_image_without_objects_is_a_reference_without_objects(make):
    (reference,) = make().reference(batch_of(annotated(np.zeros((3, 4), np.int32), ())))
    assert len(reference.objects) == 0
    assert not reference.instances.any()


PLACEMENTS = [
    Placement((20, 24), (0, 1), (), (20, 24)),
    Placement((20, 24), (1, 0), (0,), (48, 40)),
    Placement((10, 18, 16), (2, 0, 1), (1, 2), (16, 20, 18)),
]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sure_maps_become_the_reference_also_where_the_grids_differ(placement):
    shape = placement.image_shape
    middle = tuple(slice(2, n - 2) for n in shape)
    instances = np.zeros(shape, np.int32)
    instances[middle] = 1 + (np.indices(shape)[1] >= shape[1] // 2)[middle]
    annotation = annotated(instances, (7, 7))
    task = boundary(border_width_px=1.0)
    batch = batch_of(annotation, placement, spacing_mm=(1.0, 0.5, 2.0)[: len(shape)])
    resized = ndimage.zoom(
        placement.orient(instances),
        np.array(placement.resized_shape) / placement.oriented_shape,
        order=0,
        grid_mode=True,
        mode="nearest",
    )
    target = task.sample_targets(annotated(resized, (7, 7)))
    outputs = {head: logits_of(target[head], channels) for head, channels in task.heads.items()}
    (decoded,), (reference,) = task.decode(outputs, batch), task.reference(batch)
    assert decoded.maps["border"].shape == (1, *shape)
    assert decoded.maps["border"].dtype == np.float32
    prediction = BorderWatershed(border_threshold=0.3)(decoded)
    rows = PanopticQuality().rows(prediction, reference)
    assert [row.outcome for row in rows if row.label == "mitotic"] == ["match", "match"]
    assert min(row.value for row in rows if row.label == "mitotic") > 0.8


def test_touching_objects_of_one_class_need_the_border():
    instances = np.zeros((9, 13), np.int32)
    instances[2:7, 1:6], instances[2:7, 6:11], instances[:, 12] = 1, 2, 3
    annotation = annotated(instances, (7, 7, 7))
    split_task, boundary_task, batch = split(), boundary(), batch_of(annotation)
    target = boundary_task.sample_targets(annotation)
    outputs = {head: logits_of(target[head], channels) for head, channels in boundary_task.heads.items()}
    joined = Components()(Argmax()(split_task.decode(outputs, batch)[0]))
    divided = BorderWatershed()(boundary_task.decode(outputs, batch)[0])
    assert len(joined.objects) == 2
    assert len(divided.objects) == 3
    assert divided.mask[0].tolist() == split_task.reference(batch)[0].mask[0].tolist()


def test_the_border_loss_is_weighted_and_named():
    one, three = boundary(border_weight=1.0), boundary(border_weight=3.0)
    target = {head: each[None] for head, each in one.sample_targets(annotated()).items()}
    outputs = {head: torch.randn(1, channels, 3, 8) for head, channels in one.heads.items()}
    terms, heavier = one.loss(outputs, target), three.loss(outputs, target)
    assert list(terms) == ["loss", "border_loss"]
    assert torch.equal(terms["loss"], heavier["loss"])
    assert heavier["border_loss"].item() == pytest.approx(3 * terms["border_loss"].item())
    logits = outputs["border"]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, target["border"].float())
    assert terms["border_loss"].item() == pytest.approx(expected.item())


def test_both_losses_see_every_level_of_deep_supervision():
    task = boundary()
    target = {head: each[None] for head, each in task.sample_targets(annotated()).items()}
    finest, coarser = ({head: torch.randn(1, n, *size) for head, n in task.heads.items()} for size in ((3, 8), (1, 4)))
    terms = task.loss({**finest, "deep_supervision": [coarser]}, target)
    for name, head, function in (
        ("loss", "semantic", task.loss_function),
        ("border_loss", "border", task.border_loss_function),
    ):
        expected = function([finest[head], coarser[head]], target[head])["loss"]
        assert torch.equal(terms[name], expected)
        assert terms[name].item() != function([finest[head]], target[head])["loss"].item()


def networks(task: InstanceSplit, dims: int) -> torch.nn.Module:
    torch.manual_seed(0)
    factory = partial(UNet, channels=(8, 16), strides=(2,))
    if dims == 2:
        levels = {"filters": [8, 16, 32], "strides": [1, 2, 2], "kernel_size": [3, 3, 3], "deep_supervision_levels": 1}
        factory = partial(dynunet, norm="instance", residual=False, dropout=None, **levels)
    return build_model(factory, spatial_dims=dims, in_channels=1, heads=task.heads, image_size=(32,) * dims)


@pytest.mark.parametrize(("make", "dims"), [(split, 2), (boundary, 2), (boundary, 3)])
def test_one_batch_can_be_learned_by_heart(make, dims, tmp_path):
    shape, spacing = ((32, 32), (1.0, 1.0)) if dims == 2 else ((16, 24, 24), (2.0, 1.0, 1.0))
    source = Nuclei(cache_dir=tmp_path, spatial_dims=dims, n_cases=2, shape=shape, spacing_mm=spacing, empty=0.0)
    task = make(labels=source.labels)
    read = [source.read(case) for case in source.cases()]
    images = torch.from_numpy(np.stack([image.pixels for image in read]))
    samples = [task.sample_targets(image.annotation) for image in read]
    targets = {head: torch.stack([sample[head] for sample in samples]) for head in samples[0]}
    model = networks(task, dims)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        value = torch.stack(list(task.loss(task(model, images, targets), targets).values())).sum()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 4


@pytest.mark.parametrize("kind", ["split", "boundary"])
def test_an_experiment_trains_and_is_judged_also_without_any_object(kind, tmp_path):
    chain = {"split": "[argmax,components]", "boundary": "[border_watershed]"}[kind]
    config = medexp.compose(
        None,
        [
            "dataset=nuclei", f"task=instance/{kind}", f"post_processing.steps={chain}", "metrics=[pq,sq,rq]",
            "dataset.source.n_cases=8", "dataset.source.shape=[32,32]", "dataset.patch_size=[32,32]",
            "dataset.source.empty=0.5", "dataset.split.n_folds=4", "dataset.workers=0", "dataset.batch_size=2",
            "model.channels=[4,8]", "model.strides=[2]", "model.num_res_units=0", "precision=32-true", "threads=1",
            "trainer.max_steps=2", "overlays=1", "save_predictions=true", f"paths.runs={tmp_path / 'runs'}",
            f"paths.cache={tmp_path / 'cache'}",
        ],
    )  # fmt: skip
    run = medexp.train(config)
    assert set(run.results) == {"pq", "sq", "rq"}
    assert list(run.results["pq"]) == ["interphase", "mitotic", "mean"]
    assert list(run.cases.columns[3:5]) == ["pq/interphase", "pq/mitotic"]
    assert len(run.cases) == 2
    assert len(list((run.path / "predictions").glob("*_instances.nii.gz"))) == 2


@BOTH
def test_annotations_that_do_not_fit_are_refused(make):
    plain = Annotation(mask=annotated().mask)
    with pytest.raises(DataError, match="the task needs instances"):
        make().reference(batch_of(plain))
    with pytest.raises(DataError, match=r"labels \[9\], which the dataset does not declare \(\[2, 7\]\)"):
        make().reference(batch_of(replace(annotated(labels=(2, 9, 2)), mask=annotated().mask)))
    with pytest.raises(DataError, match="case a has no reference"):
        make().reference(batch_of(None))


def test_the_border_needs_instances():
    with pytest.raises(DataError, match="the task needs instances"):
        boundary().sample_targets(Annotation(mask=annotated().mask))


@pytest.mark.parametrize(
    ("make", "knobs", "message"),
    [
        (split, {"regions": {"all": [2, 7]}}, r"set task\.regions=null"),
        (split, {"softmax": False, "sigmoid": True}, "exclusive classes softmax"),
        (boundary, {"regions": {"all": [2, 7]}}, r"set task\.regions=null"),
        (boundary, {"border_weight": 0.0}, r"task\.border_weight needs a value above 0, got 0\.0"),
        (boundary, {"border_width_px": 0.5}, r"task\.border_width_px needs a value >= 1, got 0\.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(make, knobs, message):
    with pytest.raises(UsageError, match=message):
        make(**knobs)
