from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from loss_examples import PAIRS, build, example, total
from monai.losses import TverskyLoss
from torch import nn

from medexp.core.types import UNANNOTATED
from medexp.losses.cross_entropy import CrossEntropy
from medexp.losses.ignore_index import IgnoreIndex

torch.set_num_threads(1)
IGNORE = 255


def partly_annotated(kind: str, *, alike: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, target, and which voxels are annotated: equally many in each sample, or not."""
    logits, target = example(kind, batch=3, shape=(6, 5))
    annotated = torch.ones(3, 6, 5, dtype=torch.bool)
    annotated[:, :2] = False
    if not alike:
        annotated[1, 2:5] = False
    target[~annotated[:, None].expand_as(target)] = UNANNOTATED
    return logits, target, annotated


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_the_loss_is_that_of_the_annotated_voxels_alone(name, kind):
    logits, target, _ = partly_annotated(kind, alike=True)
    loss = build(name, kind)
    # The same rows of every sample are annotated, so the others can be cut off.
    expected = total(loss, logits[:, :, 2:], target[:, :, 2:])
    assert total(IgnoreIndex(loss=loss, ignore_index=IGNORE), logits, target).item() == pytest.approx(
        expected.item(), rel=1e-9
    )


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_what_lies_under_unannotated_voxels_changes_neither_loss_nor_gradient(name, kind):
    logits, target, annotated = partly_annotated(kind, alike=False)
    loss = IgnoreIndex(loss=build(name, kind), ignore_index=IGNORE)
    results = []
    for hidden in (0.0, 1e3, float("nan"), float("inf")):
        filled = torch.where(annotated[:, None], logits, hidden).requires_grad_()
        value = total(loss, filled, target)
        value.backward()
        assert (filled.grad[~annotated[:, None].expand_as(logits)] == 0).all()
        results.append((value.detach(), torch.where(annotated[:, None], filled.grad, 0.0)))
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])
    assert results[0][1].abs().sum() > 0


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_fully_annotated_batch_has_the_loss_itself(name, kind):
    logits, target = example(kind)
    loss = build(name, kind)
    for ignore_index in (None, IGNORE):
        wrapped = IgnoreIndex(loss=loss, ignore_index=ignore_index)
        assert total(wrapped, logits, target).item() == pytest.approx(total(loss, logits, target).item(), rel=1e-9)


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_a_batch_without_annotation_has_zero_loss_with_gradient(name, kind):
    logits, target = example(kind)
    annotated_terms = IgnoreIndex(loss=build(name, kind), ignore_index=IGNORE)(logits, target)
    logits.requires_grad_()
    terms = IgnoreIndex(loss=build(name, kind), ignore_index=IGNORE)(logits, torch.full_like(target, UNANNOTATED))
    assert set(terms) == set(annotated_terms)
    value = sum(terms.values())
    value.backward()
    assert value.item() == 0.0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_cross_entropy_and_focal_are_means_over_the_annotated_voxels_of_the_batch(gamma):
    logits, target, annotated = partly_annotated("classes", alike=False)
    voxels = F.cross_entropy(logits, target[:, 0].long(), ignore_index=UNANNOTATED, reduction="none")[annotated]
    expected = ((1 - (-voxels).exp()) ** gamma * voxels).mean()
    focal = IgnoreIndex(loss=build("focal", "classes", gamma=gamma), ignore_index=IGNORE)
    assert total(focal, logits, target).item() == pytest.approx(expected.item(), rel=1e-6)
    if gamma == 0.0:
        torchs = F.cross_entropy(logits, target[:, 0].long(), ignore_index=UNANNOTATED)
        cross_entropy = IgnoreIndex(loss=CrossEntropy(sigmoid=False), ignore_index=IGNORE)
        assert total(cross_entropy, logits, target).item() == pytest.approx(torchs.item(), rel=1e-9)


@pytest.mark.parametrize("batch", [False, True])
def test_dice_is_taken_of_each_image_or_of_the_batch_as_configured(batch):
    logits, target, annotated = partly_annotated("classes", alike=False)
    soft = logits.softmax(dim=1) * annotated[:, None]
    truth = F.one_hot(target[:, 0].long().clamp_min(0), 3).movedim(-1, 1) * annotated[:, None]
    axes = (0, 2, 3) if batch else (2, 3)
    both, sizes = (soft * truth).sum(dim=axes), (soft + truth).sum(dim=axes)
    expected = (1 - (2 * both + 1e-5) / (sizes + 1e-5))[..., 1:].mean()
    loss = IgnoreIndex(loss=build("dice", "classes", batch=batch), ignore_index=IGNORE)
    assert total(loss, logits, target).item() == pytest.approx(expected.item(), rel=1e-9)


def test_samples_without_annotation_do_not_count():
    logits, target = example("classes", batch=3)
    loss = build("dice_ce", "classes")
    expected = total(loss, logits[:2], target[:2])
    target[2] = UNANNOTATED
    assert total(IgnoreIndex(loss=loss, ignore_index=IGNORE), logits, target).item() == pytest.approx(expected.item())


def test_the_label_id_itself_may_be_a_class_index():
    logits, target = example("classes")
    expected = total(CrossEntropy(sigmoid=False), logits, target)
    assert (target == 1).any()
    wrapped = IgnoreIndex(loss=CrossEntropy(sigmoid=False), ignore_index=1)
    assert total(wrapped, logits, target).item() == pytest.approx(expected.item())


def test_a_loss_of_another_library_gets_one_list_of_voxels_per_sample():
    logits, target, annotated = partly_annotated("classes", alike=False)
    tversky = TverskyLoss(softmax=True, to_onehot_y=True)
    expected = [tversky(logits[i][:, annotated[i]][None], target[i][:, annotated[i]][None]).item() for i in range(3)]
    assert total(IgnoreIndex(loss=tversky, ignore_index=IGNORE), logits, target).item() == pytest.approx(
        sum(expected) / 3
    )


def test_terms_by_name_stay_by_name():
    class Two(nn.Module):
        def forward(self, logits, target):
            return {"mean": logits.mean(), "size": logits.new_tensor(float(logits.shape[2]))}

    logits, target, _ = partly_annotated("classes", alike=False)
    terms = IgnoreIndex(loss=Two(), ignore_index=IGNORE)(logits, target)
    assert terms["size"].item() == pytest.approx((20 + 5 + 20) / 3)
    assert set(terms) == {"mean", "size"}
