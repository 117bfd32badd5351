from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.objects import Objects
from medexp.core.types import Annotation, Batch, Case, Image, Kind
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex
from medexp.tasks.instance import InstanceSplit

torch.set_num_threads(1)
LABELS = {0: "background", 2: "plain", 7: "mitotic"}
INSTANCES = np.array([[1, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 2, 2, 0, 3], [1, 1, 1, 1, 2, 2, 0, 3]], dtype=np.int32)


def split(*, ignore_index: int | None = None, **changed) -> InstanceSplit:
    loss = DeepSupervision(loss=IgnoreIndex(loss=CrossEntropy(sigmoid=False), ignore_index=ignore_index), decay=0.5)
    knobs = {"regions": None, "softmax": True, "sigmoid": False, "loss": loss}
    return InstanceSplit(labels=LABELS, ignore_index=ignore_index, **knobs | changed)


def annotated(instances: np.ndarray = INSTANCES, labels: tuple[int, ...] = (2, 7, 2)) -> Annotation:
    objects = Objects.of_instances(instances, dict(enumerate(labels, start=1)))
    return Annotation(mask=np.array([0, *labels])[instances], instances=instances, objects=objects)


def batch_of(annotation: Annotation | None) -> Batch:
    shape = INSTANCES.shape if annotation is None else annotation.mask.shape
    case = Case("a", "patient_a", (Path("image.nii"),))
    geometry = Geometry.from_spacing(shape, (1.0,) * len(shape))
    image = Image(case, np.zeros((1, *shape), np.float32), annotation, geometry)
    images, placement = torch.zeros(1, 1, *shape), Placement.identity(shape)
    return Batch(images=images, targets=None, case_ids=("a",), images_read=(image,), placements=(placement,))


def test_split_learns_what_semantic_segmentation_learns():
    target = split().sample_targets(annotated())
    assert list(target) == ["semantic"]
    assert target["semantic"].tolist() == [[[1, 1, 1, 1, 2, 2, 0, 0]] + [[1, 1, 1, 1, 2, 2, 0, 1]] * 2]


@pytest.mark.parametrize("ignore_index", [None, 7])
def test_of_objects_that_touch_the_inside_may_be_learned_alone(ignore_index):
    instances = np.zeros((7, 12), np.int32)
    instances[1:6, 1:6], instances[1:6, 6:9], instances[1:6, 9:] = 1, 2, 3
    target = split(border_px=1.0, ignore_index=ignore_index).sample_targets(annotated(instances, (2, 2, 7)))
    inside = np.zeros((7, 12), np.int16)
    inside[2:5, 2:5], inside[2:5, 7:8] = 1, 1
    if ignore_index is None:
        inside[2:5, 10:] = 2  # the edge of the image is no border
    else:
        inside[1:6, 9:] = -1
    assert np.array_equal(target["semantic"][0], inside)


def test_heads_and_kinds():
    assert split().heads == {"semantic": 3}
    assert (split().gives, split().judged) == (Kind.PROBABILITIES, Kind.INSTANCES)


def test_the_reference_holds_instances_and_objects_with_class_values():
    (reference,) = split().reference(batch_of(annotated()))
    assert np.array_equal(reference.instances, INSTANCES)
    assert reference.objects.labels.tolist() == [1, 2, 1]
    assert reference.objects.boxes.tolist() == annotated().objects.boxes.tolist()
    assert reference.mask[0].tolist()[0] == [1, 1, 1, 1, 2, 2, 0, 0]
    assert [structure.name for structure in reference.classes] == ["plain", "mitotic"]


def test_objects_that_nobody_annotated_are_no_objects():
    (reference,) = split(ignore_index=7).reference(batch_of(annotated()))
    assert np.array_equal(reference.instances, np.array([0, 1, 0, 2])[INSTANCES])
    assert reference.objects.labels.tolist() == [1, 1]
    assert np.array_equal(reference.objects.boxes, annotated().objects.boxes[[0, 2]])
    assert np.array_equal(reference.valid, INSTANCES != 2)


def test_an_image_without_objects_is_a_reference_without_objects():
    (reference,) = split().reference(batch_of(annotated(np.zeros((3, 4), np.int32), ())))
    assert len(reference.objects) == 0
    assert not reference.instances.any()


def test_an_experiment_trains_and_is_judged_also_without_any_object(tmp_path):
    config = medexp.compose(
        None,
        [
            "dataset=nuclei", "task=instance/split", "post_processing.steps=[argmax,components]", "metrics=[pq,sq,rq]",
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


def test_annotations_that_do_not_fit_are_refused():
    plain = Annotation(mask=annotated().mask)
    with pytest.raises(DataError, match="the task needs instances"):
        split().reference(batch_of(plain))
    with pytest.raises(DataError, match=r"labels \[9\], which the dataset does not declare \(\[2, 7\]\)"):
        split().reference(batch_of(replace(annotated(labels=(2, 9, 2)), mask=annotated().mask)))
    with pytest.raises(DataError, match="case a has no reference"):
        split().reference(batch_of(None))


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"regions": {"all": [2, 7]}}, r"set task\.regions=null"),
        ({"softmax": False, "sigmoid": True}, "exclusive classes softmax"),
        ({"border_px": 0.5}, r"task\.border_px needs 0 or a value >= 1, got 0\.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        split(**knobs)
