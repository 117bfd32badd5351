"""What every representation of instances by maps promises; an example of each lies in parallel_examples."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from parallel_examples import examples
from scipy import ndimage

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.instantiate import instantiate
from medexp.core.objects import Objects
from medexp.core.types import UNANNOTATED, Annotation, Batch, Case, Image, Prediction
from medexp.data.sources.nuclei import Nuclei
from medexp.metrics.pq import PanopticQuality
from medexp.models.adapter import build_model
from medexp.models.dynunet import dynunet
from medexp.post_processing.chain import Chain
from medexp.tasks.parallel import ParallelInstances

torch.set_num_threads(1)
EXAMPLES = {example.name: example for example in examples()}
BOTH = [(name, dims) for name, example in EXAMPLES.items() for dims in example.dims]
LABELS = {0: "background", 2: "plain", 7: "mitotic"}
CONF = Path(__file__).parents[2] / "conf"
each = pytest.mark.parametrize("name", EXAMPLES)
in_each_dimension = pytest.mark.parametrize(("name", "dims"), BOTH)


@cache
def composed(name: str) -> Any:
    return medexp.compose(None, ["dataset=nuclei", "task=instance/parallel", f"task/representation={name}"])


def task_of(name: str, dims: int = 2, *, labels: Mapping[int, str] = LABELS, **changed: Any) -> ParallelInstances:
    config = composed(name).copy()
    knobs = {"ignore_index": changed.pop("ignore_index", None), "semantic_weight": changed.pop("semantic_weight", 1.0)}
    config.task = OmegaConf.merge(config.task, knobs, {"representation": {**EXAMPLES[name].knobs, **changed}})
    return instantiate(config.task, "task", offered={"spatial_dims": dims}, labels=dict(labels))


def skip_without_library(name: str) -> None:
    if EXAMPLES[name].needs:
        pytest.importorskip(EXAMPLES[name].needs)


def chain_of(name: str, task: ParallelInstances) -> Chain:
    ((step, knobs),) = EXAMPLES[name].step.items()
    skip_without_library(name)
    config = OmegaConf.merge(OmegaConf.load(CONF / "post_processing" / f"{step}.yaml"), dict(knobs))
    return Chain([instantiate(config, step)], takes=task.gives, gives=task.judged)


def nuclei(dims: int) -> np.ndarray:
    """Four objects of which two touch, in the middle of an image."""
    shape = (28, 32, 14)[:dims]
    instances = np.zeros(shape, np.int32)
    for number, centre in enumerate([(7, 8, 7), (7, 17, 7), (19, 7, 7), (19, 22, 7)], start=1):
        away = np.sqrt(sum((axis - at) ** 2 for axis, at in zip(np.indices(shape), centre[:dims], strict=True)))
        instances[(away < 5.2) & (instances == 0)] = number
    return instances


def annotated(instances: np.ndarray, labels: tuple[int, ...] = (7, 7, 2, 7)) -> Annotation:
    objects = Objects.of_instances(instances, dict(enumerate(labels[: instances.max()], start=1)))
    return Annotation(mask=np.array([0, *labels])[instances], instances=instances, objects=objects)


def batch_of(annotation: Annotation, placement: Placement | None = None) -> Batch:
    assert annotation.mask is not None
    shape = annotation.mask.shape
    image = Image(
        Case("a", "patient_a", (Path("image.nii"),)),
        np.zeros((1, *shape), np.float32),
        annotation,
        Geometry.from_spacing(shape, (1.0,) * len(shape)),
    )
    placement = placement or Placement.identity(shape)
    images = torch.zeros(1, 1, *placement.resized_shape)
    return Batch(images=images, targets=None, case_ids=("a",), images_read=(image,), placements=(placement,))


def targets_of(task: ParallelInstances, annotation: Annotation) -> dict[str, torch.Tensor]:
    return {head: target[None] for head, target in task.sample_targets(annotation).items()}


def sure(name: str, task: ParallelInstances, targets: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a network returns that has learned the targets."""
    classes = targets["semantic"][:, 0].long().clamp(min=0)
    semantic = torch.nn.functional.one_hot(classes, task.heads["semantic"]).movedim(-1, 1)
    return {"semantic": 20.0 * semantic.float(), **EXAMPLES[name].perfect(targets)}


def random_outputs(task: ParallelInstances, shape: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        head: torch.randn(1, channels, *shape, generator=generator, dtype=torch.float64).requires_grad_()
        for head, channels in task.heads.items()
    }


def total(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([term.double() for term in terms.values()]).sum()


def ious(task: ParallelInstances, prediction: Prediction, batch: Batch) -> tuple[list[str], list[float]]:
    (reference,) = task.reference(batch)
    rows = PanopticQuality().rows(prediction, reference)
    return [row.outcome for row in rows], [row.value for row in rows]


@in_each_dimension
def test_perfect_maps_become_the_reference(name, dims):
    task, instances = task_of(name, dims), nuclei(dims)
    batch = batch_of(annotated(instances))
    outputs = sure(name, task, targets_of(task, annotated(instances)))
    assert {head: maps.shape[1] for head, maps in outputs.items()} == task.heads
    (decoded,) = task.decode(outputs, batch)
    outcomes, values = ious(task, chain_of(name, task)(decoded), batch)
    assert outcomes == ["match"] * 4
    assert min(values) >= EXAMPLES[name].least_iou


@in_each_dimension
def test_perfect_maps_become_the_reference_where_axes_are_turned_and_stretched(name, dims):
    instances = nuclei(dims)
    if dims == 2:
        placement = Placement((28, 32), (1, 0), (0,), (64, 56))
    else:
        placement = Placement((28, 32, 14), (2, 0, 1), (1, 2), (14, 28, 32))
    factors = np.array(placement.resized_shape) / placement.oriented_shape
    resized = ndimage.zoom(placement.orient(instances), factors, order=0, grid_mode=True, mode="nearest")
    task, batch = task_of(name, dims), batch_of(annotated(instances), placement)
    (decoded,) = task.decode(sure(name, task, targets_of(task, annotated(resized))), batch)
    assert all(each.shape[1:] == instances.shape and each.dtype == np.float32 for each in decoded.maps.values())
    outcomes, values = ious(task, chain_of(name, task)(decoded), batch)
    assert outcomes == ["match"] * 4
    assert min(values) >= EXAMPLES[name].least_iou - 0.1


@in_each_dimension
def test_touching_objects_of_one_class_are_told_apart(name, dims):
    task, instances = task_of(name, dims), nuclei(dims)
    _, parts = ndimage.label(instances)
    assert parts == 3
    batch = batch_of(annotated(instances))
    (decoded,) = task.decode(sure(name, task, targets_of(task, annotated(instances))), batch)
    prediction = chain_of(name, task)(decoded)
    assert prediction.objects is not None
    assert len(prediction.objects) == 4
    assert sorted(prediction.objects.labels.tolist()) == [1, 2, 2, 2]


@in_each_dimension
def test_an_image_without_objects_has_targets_a_loss_and_no_instance(name, dims):
    task = task_of(name, dims)
    shape = (16,) * dims
    nothing = annotated(np.zeros(shape, np.int32))
    targets = targets_of(task, nothing)
    outputs = random_outputs(task, shape)
    value = total(task.loss(outputs, targets))
    value.backward()
    assert torch.isfinite(value)
    assert all(maps.grad is not None and torch.isfinite(maps.grad).all() for maps in outputs.values())
    (decoded,) = task.decode(sure(name, task, targets), batch_of(nothing))
    prediction = chain_of(name, task)(decoded)
    assert prediction.instances is not None
    assert not prediction.instances.any()


@in_each_dimension
def test_the_loss_of_perfect_maps_is_the_smallest_and_pulls_towards_them(name, dims):
    task, annotation = task_of(name, dims), annotated(nuclei(dims))
    targets = targets_of(task, annotation)
    best = total(task.loss(sure(name, task, targets), targets)).item()
    for seed in range(3):
        outputs = random_outputs(task, annotation.instances.shape, seed)
        assert best < total(task.loss(outputs, targets)).item()


@each
def test_what_nobody_annotated_counts_in_no_term(name):
    task, instances = task_of(name, ignore_index=7), nuclei(2)
    annotation = annotated(instances)
    targets = targets_of(task, annotation)
    unknown = torch.from_numpy(annotation.mask == 7)[None, None]
    assert (targets["semantic"][unknown] == UNANNOTATED).all()
    outputs = random_outputs(task, instances.shape)
    total(task.loss(outputs, targets)).backward()
    for head, maps in outputs.items():
        assert maps.grad is not None, head
        assert not maps.grad[unknown.expand_as(maps)].any(), head
        assert maps.grad.any(), head
    nothing = {**targets, "semantic": torch.full_like(targets["semantic"], UNANNOTATED)}
    again = random_outputs(task, instances.shape)
    assert total(task.loss(again, nothing)).item() == 0.0


@each
def test_half_precision_gives_the_same_loss_in_full_precision(name):
    task, annotation = task_of(name), annotated(nuclei(2))
    targets = targets_of(task, annotation)
    outputs = {head: maps.detach().float() for head, maps in random_outputs(task, annotation.instances.shape).items()}
    plain = total(task.loss(outputs, targets)).item()
    halved = total(task.loss({head: maps.bfloat16() for head, maps in outputs.items()}, targets)).item()
    assert halved == pytest.approx(plain, rel=0.03)


@each
def test_each_knob_changes_what_is_learned(name):
    annotation = annotated(nuclei(2))
    usual = task_of(name)
    outputs = random_outputs(usual, annotation.instances.shape)
    usual_loss = total(usual.loss(outputs, targets_of(usual, annotation))).item()
    others = EXAMPLES[name].others
    known = set(composed(name).task.representation) - {"_target_", "_partial_", "loss"}
    assert set(others) == known, "an example names another value for each knob"
    for knob, value in others.items():
        other = task_of(name, **{knob: value})
        if other.heads == usual.heads:
            assert total(other.loss(outputs, targets_of(other, annotation))).item() != usual_loss, knob
    heavier = task_of(name, semantic_weight=3.0).loss(outputs, targets_of(usual, annotation))
    assert total(heavier).item() > usual_loss


@pytest.mark.parametrize(
    ("name", "knob", "value", "told"), [(name, *wrong) for name, each in EXAMPLES.items() for wrong in each.wrong]
)
def test_values_without_a_meaning_are_refused(name, knob, value, told):
    with pytest.raises(UsageError) as refused:
        task_of(name, **{knob: value})
    assert f"task.representation.{told}" in str(refused.value)


@each
def test_the_step_says_which_representation_it_takes(name):
    task = task_of(name)
    (decoded,) = task.decode(sure(name, task, targets_of(task, annotated(nuclei(2)))), batch_of(annotated(nuclei(2))))
    without = Prediction(
        decoded.case_id, decoded.group, decoded.geometry, decoded.classes, probabilities=decoded.probabilities
    )
    with pytest.raises(DataError, match=f"task/representation={name}"):
        chain_of(name, task)(without)
    broken = {key: np.full_like(each, np.nan) for key, each in decoded.maps.items()}
    with pytest.raises(DataError, match="nan; the model has diverged"):
        chain_of(name, task)(Prediction(**{**vars(decoded), "maps": broken}))


@each
def test_instances_are_needed(name):
    with pytest.raises(DataError, match="the task needs instances"):
        task_of(name).sample_targets(Annotation(mask=np.zeros((4, 4), np.int16)))


# A CPU without native bf16 computes in it at a tenth of the speed.
@pytest.mark.parametrize("precision", ["32-true", pytest.param("bf16-mixed", marks=pytest.mark.soak)])
@each
def test_an_experiment_trains_and_is_judged_also_without_any_object(name, precision, tmp_path):
    ((step, _),) = EXAMPLES[name].step.items()
    skip_without_library(name)
    config = medexp.compose(
        None,
        [
            "dataset=nuclei", "task=instance/parallel", f"task/representation={name}",
            f"post_processing.steps=[{step}]", "metrics=[pq]", "dataset.source.n_cases=8",
            "dataset.source.shape=[32,32]", "dataset.patch_size=[32,32]", "dataset.source.empty=0.5",
            "dataset.split.n_folds=4", "dataset.workers=0", "dataset.batch_size=2", "model.channels=[4,8]",
            "model.strides=[2]", "model.num_res_units=0", f"precision={precision}", "threads=1", "trainer.max_steps=2",
            "overlays=0", f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}",
        ],
    )  # fmt: skip
    run = medexp.train(config)
    assert list(run.results["pq"]) == ["interphase", "mitotic", "mean"]
    assert len(run.cases) == 2


@pytest.mark.soak
@in_each_dimension
def test_one_image_is_learned_by_heart(name, dims, tmp_path):
    shape, spacing = ((64, 64), (1.0, 1.0)) if dims == 2 else ((24, 32, 32), (1.0, 1.0, 1.0))
    source = Nuclei(cache_dir=tmp_path, spatial_dims=dims, n_cases=1, shape=shape, spacing_mm=spacing, empty=0.0)
    task = task_of(name, dims, labels=source.labels)
    image = source.read(source.cases()[0])
    images, targets = torch.from_numpy(image.pixels)[None], targets_of(task, image.annotation)
    torch.manual_seed(0)
    levels = {"filters": [16, 32, 64], "strides": [1, 2, 2], "kernel_size": [3, 3, 3], "deep_supervision_levels": 0}
    factory = partial(dynunet, norm="instance", residual=False, dropout=None, **levels)
    model = build_model(factory, spatial_dims=dims, in_channels=1, heads=task.heads, image_size=shape)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    batch = Batch(
        images=images, targets=targets, case_ids=("a",), images_read=(image,), placements=(Placement.identity(shape),)
    )
    found = []
    for _ in range(10):
        for _ in range(60):
            optimizer.zero_grad()
            total(task.loss(task(model, images, targets), targets)).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            (decoded,) = task.decode(task(model, images), batch)
        model.train()
        found = ious(task, chain_of(name, task)(decoded), batch)[0]
        if set(found) <= {"match", "none"}:
            break
    assert set(found) <= {"match", "none"}
