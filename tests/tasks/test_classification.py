from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from monai.networks.nets import DenseNet
from torch import nn

import medexp
from medexp.core.errors import DataError, UsageError
from medexp.core.geometry import Geometry, Placement
from medexp.core.types import Annotation, Batch, Case, Image
from medexp.engine.build import build
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.dice import Dice
from medexp.losses.focal import Focal
from medexp.losses.weighted_sum import WeightedSum
from medexp.models.adapter import build_model
from medexp.tasks.classification import Classification

LABELS = {0: "benign", 1: "malignant", 2: "normal"}
METRICS = (
    "auroc", "average_precision", "accuracy", "balanced_accuracy", "f1", "cohen_kappa", "quadratic_kappa", "brier",
    "calibration_error",
)  # fmt: skip


def task_of(*, multi_label: bool = False, loss: nn.Module | None = None, labels=LABELS) -> Classification:
    return Classification(
        labels=labels, loss=loss or CrossEntropy(sigmoid=multi_label), multi_label=multi_label, sigmoid=multi_label
    )


def image_of(*known: int, case_id: str = "case") -> Image:
    case = Case(case_id=case_id, group=case_id, images=())
    geometry = Geometry.from_spacing((4, 4), (1.0, 1.0))
    pixels = np.zeros((1, 4, 4), dtype=np.float32)
    return Image(case=case, pixels=pixels, annotation=Annotation(image_labels=known), geometry=geometry)


def batch_of(*images: Image) -> Batch:
    placements = tuple(Placement.identity((4, 4)) for _ in images)
    ids = tuple(image.case.case_id for image in images)
    return Batch(
        images=torch.zeros(len(images), 1, 4, 4), targets=None, case_ids=ids, images_read=images, placements=placements
    )


def test_the_loss_is_the_configured_one_over_the_images_of_the_batch():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    known = torch.tensor([0, 2, 1, 1, 0])
    task = task_of()
    targets = {"label": torch.stack([task.sample_targets(Annotation(image_labels=(int(i),)))["label"] for i in known])}
    terms = task.loss({"label": logits}, targets)
    assert terms["loss"].item() == pytest.approx(nn.functional.cross_entropy(logits, known).item(), abs=1e-6)


def test_several_labels_are_judged_each_for_itself():
    logits = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    task = task_of(multi_label=True)
    targets = [task.sample_targets(Annotation(image_labels=known))["label"] for known in ((1, 2), ())]
    assert [target.tolist() for target in targets] == [[1, 1], [0, 0]]
    terms = task.loss({"label": logits}, {"label": torch.stack(targets)})
    expected = nn.functional.binary_cross_entropy_with_logits(logits, torch.stack(targets).float())
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_terms_of_a_weighted_sum_stay_visible():
    parts = {"ce": CrossEntropy(sigmoid=False), "focal": Focal(sigmoid=False, gamma=2.0, alpha=None)}
    task = task_of(loss=WeightedSum(terms=parts, weights={"ce": 1.0, "focal": 0.5}))
    terms = task.loss({"label": torch.zeros(2, 3)}, {"label": torch.tensor([[0], [1]])})
    assert terms.keys() == {"ce", "focal"}
    assert terms["ce"].item() == pytest.approx(np.log(3), abs=1e-6)


def test_a_prediction_holds_probabilities_and_a_reference_the_truth():
    batch = batch_of(image_of(2), image_of(0, case_id="other"))
    task = task_of()
    logits = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    predictions, references = task.decode({"label": logits}, batch), task.reference(batch)
    for prediction, own in zip(predictions, logits, strict=True):
        assert prediction.scores == pytest.approx(own.softmax(dim=0).numpy(), abs=1e-6)
    assert [reference.scores.tolist() for reference in references] == [[0, 0, 1], [1, 0, 0]]
    assert [structure.name for structure in predictions[0].classes] == ["benign", "malignant", "normal"]


def test_with_several_labels_at_once_the_first_id_is_none_of_them():
    task = task_of(multi_label=True)
    (reference,) = task.reference(batch_of(image_of()))
    assert reference.scores.tolist() == [0, 0]
    assert [structure.name for structure in reference.classes] == ["malignant", "normal"]
    assert not reference.exclusive


def test_a_batch_is_learned_by_heart():
    generator = torch.Generator().manual_seed(0)
    images, known = torch.randn(6, 2, 16, 16, generator=generator), torch.tensor([[0], [1], [2], [0], [1], [2]])
    torch.manual_seed(0)
    task = task_of()
    factory = functools.partial(DenseNet, init_features=8, growth_rate=4, block_config=(1, 1))
    network = build_model(factory, spatial_dims=2, in_channels=2, heads=task.heads, image_size=(16, 16))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = task.loss(task(network, images), {"label": known})["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


@pytest.mark.parametrize("known", [(), (1, 2), (7,)])
def test_an_image_needs_one_known_label(known):
    with pytest.raises(DataError, match="exactly one of"):
        task_of().sample_targets(Annotation(image_labels=known))


def test_an_image_without_labels_is_told():
    with pytest.raises(DataError, match="needs labels of images"):
        task_of().sample_targets(Annotation())
    without = batch_of(Image(image_of().case, np.zeros((1, 4, 4), dtype=np.float32), None, image_of().geometry))
    with pytest.raises(DataError, match="has no reference"):
        task_of().reference(without)


def test_a_loss_that_compares_voxels_is_refused():
    dice = Dice(
        sigmoid=False, include_background=False, squared_pred=False, jaccard=False, smooth_nr=1e-5, smooth_dr=1e-5,
        batch=False, weight=None,
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"loss \(Dice\) compares the voxels of an image"):
        task_of(loss=dice)
    with pytest.raises(UsageError, match=r"d \(Dice\) compares the voxels"):
        task_of(loss=WeightedSum(terms={"c": CrossEntropy(sigmoid=False), "d": dice}, weights={"c": 1.0, "d": 1.0}))


def test_a_network_of_maps_is_refused():
    with pytest.raises(UsageError, match=r"the network gives maps of \(2, 3, 4, 4\); choose model=densenet"):
        task_of().loss({"label": torch.zeros(2, 3, 4, 4)}, {"label": torch.tensor([[0], [1]])})


def test_an_inferer_that_joins_maps_is_refused(tmp_path):
    overrides = [
        "dataset=lesion_labels", "task=classification", "model=densenet", "loss=focal", "inferer=sliding_window",
        "post_processing.steps=[]", "metrics=[auroc]", f"paths.cache={tmp_path}", "dataset.source.n_cases=5",
        "dataset.workers=0",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="the task has no maps; choose inferer=whole"):
        build(medexp.compose(None, overrides))


def test_one_label_is_nothing_to_tell_apart():
    with pytest.raises(UsageError, match="nothing to tell apart"):
        task_of(labels={0: "only"})


def test_a_run_in_3d_is_recorded_with_a_row_for_each_class(tmp_path):
    overrides = [
        "dataset=lesion_labels", "dataset.source.spatial_dims=3", "dataset.source.shape=[16,16,16]",
        "dataset.source.spacing_mm=[1.0,1.0,1.0]", "dataset.source.n_cases=10",
        "dataset.patch_size=[16,16,16]",
        "dataset.batch_size=2", "task=classification", "model=densenet", "model.block_config=[1,1]", "loss=focal",
        "inferer=whole", "post_processing.steps=[]", f"metrics=[{','.join(METRICS)}]", "dataset.balance=label",
        "trainer.max_steps=2", "overlays=0",
        "callbacks=[]", "precision=32-true", "threads=1", "save_predictions=true",
        f"paths.runs={tmp_path / 'runs'}", f"paths.cache={tmp_path / 'cache'}", "study=labels",
    ]  # fmt: skip
    run = medexp.train(medexp.compose(None, overrides))
    assert set(run.results) == set(METRICS)
    rows = run.evidence[run.evidence["metric"] == "auroc"]
    assert len(rows) == 2 * len(run.cases)
    assert set(rows["outcome"]) <= {"positive", "negative"}
    assert not any(column.startswith("auroc") for column in run.cases)
    scores = sorted(run.folder.predictions.glob("*_scores.csv"))
    assert len(scores) == len(run.cases)
