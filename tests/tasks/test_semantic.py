from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.types import UNANNOTATED, Annotation, Batch, Case, Image, Kind, StructureClass
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.deep_supervision import DeepSupervision
from medexp.losses.ignore_index import IgnoreIndex
from medexp.tasks.semantic import SemanticSegmentation

torch.set_num_threads(1)
LABELS = {0: "background", 2: "liver", 7: "tumour", 40: "vessel"}
REGIONS = {"whole": [2, 7], "core": [7]}
MASK = np.array([[0, 2, 7, 40], [7, 7, 0, 2]], dtype=np.int16)


def task(*, labels=None, regions=None, ignore_index=None, **changed) -> SemanticSegmentation:
    overlapping = regions is not None
    loss = DeepSupervision(
        loss=IgnoreIndex(loss=CrossEntropy(sigmoid=overlapping), ignore_index=ignore_index), decay=0.5
    )
    knobs = {"softmax": not overlapping, "sigmoid": overlapping, "loss": loss} | changed
    return SemanticSegmentation(labels=labels or LABELS, regions=regions, ignore_index=ignore_index, **knobs)


def targets(of: SemanticSegmentation, mask: np.ndarray = MASK) -> list:
    found = of.sample_targets(Annotation(mask=mask))
    assert list(found) == ["semantic"]
    assert not found["semantic"].is_floating_point()
    return found["semantic"].tolist()


def batch_of(mask: np.ndarray | None = MASK, placement: Placement | None = None, case_id: str = "a") -> Batch:
    shape = (2, 4) if mask is None else mask.shape
    annotation = None if mask is None else Annotation(mask=mask)
    case = Case(case_id, f"patient_{case_id}", (Path("image.nii"),))
    image = Image(
        case, np.zeros((1, *shape), np.float32), annotation, Geometry.from_spacing(shape, (1.0,) * len(shape))
    )
    placement = placement or Placement.identity(shape)
    return Batch(
        images=torch.zeros(1, 1, *placement.resized_shape),
        targets=None,
        case_ids=(case_id,),
        images_read=(image,),
        placements=(placement,),
    )


def test_classes_are_numbered_without_gaps_in_the_order_of_their_ids():
    semantic = task()
    assert semantic.heads == {"semantic": 4}
    assert semantic.classes == (
        StructureClass("liver", 0, 1),
        StructureClass("tumour", 0, 2),
        StructureClass("vessel", 0, 3),
    )
    assert targets(semantic) == [[[0, 1, 2, 3], [2, 2, 0, 1]]]


def test_the_order_of_declaration_does_not_matter():
    assert task(labels=dict(reversed(LABELS.items()))).classes == task().classes


def test_regions_are_layers_that_may_overlap():
    semantic = task(regions=REGIONS)
    assert semantic.heads == {"semantic": 2}
    assert semantic.classes == (StructureClass("whole", 0, 1), StructureClass("core", 1, 1))
    assert targets(semantic) == [[[0, 1, 1, 0], [1, 1, 0, 1]], [[0, 0, 1, 0], [1, 1, 0, 0]]]


@pytest.mark.parametrize("ignore_index", [2, 7, 40, 255, 30_000, -3])
def test_unannotated_voxels_are_marked_by_a_value_that_no_class_has(ignore_index):
    mask = MASK.copy()
    mask[0, 0] = ignore_index
    ignored = mask == ignore_index
    for regions in (None, {"rest": [label for label in (2, 7, 40) if label != ignore_index]}):
        semantic = task(regions=regions, ignore_index=ignore_index)
        found = np.array(targets(semantic, mask))
        assert (found[:, ignored] == UNANNOTATED).all()
        assert (found[:, ~ignored] >= 0).all()
        assert (found[:, ~ignored].max(axis=0) > 0).tolist() == (mask[~ignored] != 0).tolist()


def test_an_ignored_id_between_the_others_does_not_take_a_class_with_it():
    semantic = task(labels={0: "background", 1: "liver", 2: "unknown", 3: "tumour"}, ignore_index=2)
    assert [structure.name for structure in semantic.classes] == ["liver", "tumour"]
    mask = np.array([[0, 1, 2, 3]], dtype=np.int16)
    assert targets(semantic, mask) == [[[0, 1, UNANNOTATED, 2]]]
    logits = torch.zeros(1, 3, 1, 4, requires_grad=True)
    target = semantic.sample_targets(Annotation(mask=mask))["semantic"][None]
    sum(semantic.loss({"semantic": logits}, {"semantic": target}).values()).backward()
    assert (logits.grad[0].abs().sum(dim=0)[0] > 0).tolist() == [True, True, False, True]


@pytest.mark.parametrize("regions", [None, REGIONS])
def test_the_reference_marks_unannotated_voxels_as_not_valid(regions):
    mask = MASK.copy()
    mask[0, 2:] = 255
    (reference,) = task(regions=regions, ignore_index=255).reference(batch_of(mask))
    assert np.array_equal(reference.valid, mask != 255)
    assert (reference.mask[:, mask == 255] == 0).all()
    (whole,) = task(regions=regions).reference(batch_of())
    assert whole.valid is None
    assert np.array_equal(reference.mask[:, mask != 255], whole.mask[:, mask != 255])


def test_reference_and_prediction_share_classes_case_and_grid():
    semantic, batch = task(), batch_of(case_id="b")
    (prediction,) = semantic.decode({"semantic": torch.randn(1, 4, 2, 4)}, batch)
    (reference,) = semantic.reference(batch)
    for found in (prediction, reference):
        assert (found.case_id, found.group, found.exclusive) == ("b", "patient_b", True)
        assert found.classes == semantic.classes
        assert found.geometry is batch.images_read[0].geometry
    assert reference.mask.tolist() == [[[0, 1, 2, 3], [2, 2, 0, 1]]]
    assert semantic.gives is Kind.PROBABILITIES


def test_probabilities_are_the_softmax_of_classes_and_the_sigmoid_of_regions():
    logits = torch.randn(1, 4, 2, 4)
    (classes,) = task().decode({"semantic": logits}, batch_of())
    exponentials = np.exp(logits[0].double().numpy())
    np.testing.assert_allclose(classes.probabilities, exponentials / exponentials.sum(axis=0), rtol=1e-5)
    (regions,) = task(regions=REGIONS).decode({"semantic": logits[:, :2]}, batch_of())
    np.testing.assert_allclose(regions.probabilities, 1 / (1 + np.exp(-logits[0, :2].double().numpy())), rtol=1e-5)
    assert not regions.exclusive


@pytest.mark.parametrize(
    "placement",
    [
        Placement((9, 6), (0, 1), (), (9, 6)),
        Placement((9, 6), (1, 0), (0,), (11, 4)),
        Placement((5, 8, 4), (2, 0, 1), (1, 2), (3, 9, 13)),
    ],
)
def test_probabilities_sum_to_one_on_the_image_grid(placement):
    mask = np.zeros(placement.image_shape, dtype=np.int16)
    logits = 5 * torch.randn(1, 4, *placement.resized_shape)
    (prediction,) = task().decode({"semantic": logits}, batch_of(mask, placement))
    assert prediction.probabilities.shape == (4, *placement.image_shape)
    assert prediction.probabilities.dtype == np.float32
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert prediction.probabilities.min() >= 0


def test_probabilities_are_interpolated_and_turned_back():
    placement = Placement((9, 6), (1, 0), (0,), (11, 4))
    logits = torch.randn(1, 4, 11, 4)
    (prediction,) = task().decode({"semantic": logits}, batch_of(np.zeros((9, 6), np.int16), placement))
    for channel, soft in zip(prediction.probabilities, logits.softmax(dim=1)[0].numpy(), strict=True):
        oriented = ndimage.zoom(soft, (6 / 11, 9 / 4), order=1, mode="nearest", grid_mode=True)
        np.testing.assert_allclose(channel, oriented[::-1].T, atol=1e-5)


def test_half_precision_is_decoded_in_full():
    logits = torch.randn(1, 4, 2, 4).bfloat16()
    (half,) = task().decode({"semantic": logits}, batch_of())
    (full,) = task().decode({"semantic": logits.float()}, batch_of())
    assert np.array_equal(half.probabilities, full.probabilities)


def test_the_loss_sees_every_level_of_deep_supervision():
    semantic = task()
    target = {"semantic": semantic.sample_targets(Annotation(mask=MASK))["semantic"][None]}
    finest, coarser = torch.randn(1, 4, 2, 4), torch.randn(1, 4, 1, 2)
    single = semantic.loss({"semantic": finest}, target)["loss"]
    both = semantic.loss({"semantic": finest, "deep_supervision": [{"semantic": coarser}]}, target)["loss"]
    expected = semantic.loss_function([finest, coarser], target["semantic"])["loss"]
    assert torch.equal(both, expected)
    assert both.item() != single.item()


def test_the_model_is_called_with_the_images_alone():
    class Model(nn.Module):
        def forward(self, images):
            return {"semantic": images + 1}

    outputs = task()(Model(), torch.ones(1), {"semantic": torch.zeros(1)})
    assert outputs == {"semantic": torch.full((1,), 2.0)}


def test_several_cases_are_decoded_each_on_its_own_grid():
    first, second = batch_of(), batch_of(case_id="b", placement=Placement((4, 2), (1, 0), (), (2, 4)), mask=MASK.T)
    both = Batch(
        images=torch.zeros(2, 1, 2, 4),
        targets=None,
        case_ids=("a", "b"),
        images_read=(*first.images_read, *second.images_read),
        placements=(*first.placements, *second.placements),
    )
    found = task().decode({"semantic": torch.randn(2, 4, 2, 4)}, both)
    assert [(prediction.case_id, prediction.probabilities.shape) for prediction in found] == [
        ("a", (4, 2, 4)),
        ("b", (4, 4, 2)),
    ]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"softmax": False}, "overlapping regions need task.regions and sigmoid"),
        ({"sigmoid": True}, "overlapping regions need task.regions and sigmoid"),
        ({"softmax": False, "sigmoid": True}, "overlapping regions need task.regions and sigmoid"),
        ({"regions": REGIONS, "softmax": True, "sigmoid": False}, "overlapping regions need task.regions and sigmoid"),
        ({"labels": {0: "background"}}, "declares no label beside the background"),
        ({"labels": {0: "background", 5: "unknown"}, "ignore_index": 5}, "declares no label beside the background"),
        ({"ignore_index": 0}, r"task\.ignore_index=0 is the background"),
        ({"regions": {}}, r"task\.regions names no region"),
        ({"regions": {"whole": [2, 9]}}, r"task\.regions\.whole needs labels that the dataset declares .*got \[2, 9\]"),
        ({"regions": {"whole": [0, 2]}}, r"task\.regions\.whole needs labels that the dataset declares"),
        ({"regions": {"whole": []}}, r"task\.regions\.whole needs labels that the dataset declares .*got \[\]"),
        ({"regions": {"whole": [2, 7]}, "ignore_index": 7}, r"task\.regions\.whole needs labels .*\[2, 40\]"),
    ],
)
def test_options_that_do_not_fit_are_refused(knobs, message):
    with pytest.raises(UsageError, match=message):
        task(**knobs)


def test_a_case_without_reference_cannot_be_evaluated():
    with pytest.raises(DataError, match="case a has no reference"):
        task().reference(batch_of(None))


def test_a_dataset_without_masks_is_told():
    with pytest.raises(DataError, match="semantic segmentation needs a mask"):
        task().sample_targets(Annotation())


def test_the_task_has_no_weights_of_its_own():
    assert isinstance(task(), nn.Module)
    assert list(task().parameters()) == []
