"""Settings made for GPUs, as far as a CPU can show that they do what they say."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import tiny, train_tiny

import medexp
from medexp.core.errors import UsageError
from medexp.core.record import Status
from medexp.core.types import Batch
from medexp.engine.build import build
from medexp.engine.checkpoints import CheckpointFolder, load_checkpoint
from medexp.engine.process import pinned_process, seed_device

_SHORT = ("trainer.max_epochs=2", "optimizer=sgd", "trainer.checkpoints.every_epochs=1")
_3D = ("dataset=phantom_3d", "dataset.source.shape=[16,16,16]", "dataset.patch_size=[16,16,16]")


def weights(run) -> dict[str, torch.Tensor]:
    newest = CheckpointFolder(run.folder.checkpoints).newest()
    assert newest is not None
    return load_checkpoint(newest)["state_dict"]


@pytest.mark.parametrize(("dims", "layout"), [((), torch.channels_last), (_3D, torch.channels_last_3d)])
def test_channels_last_changes_the_layout_and_not_the_result(tmp_path, dims, layout):
    plain = train_tiny(tmp_path / "plain", *_SHORT, *dims)
    innermost = train_tiny(tmp_path / "innermost", *_SHORT, *dims, "trainer.channels_last=true")
    before, after = weights(plain), weights(innermost)
    kernels = [name for name, value in after.items() if value.ndim == (5 if dims else 4) and min(value.shape[:2]) > 1]
    assert kernels
    for name in kernels:
        assert after[name].is_contiguous(memory_format=layout)
    for name, value in before.items():
        assert torch.allclose(value, after[name], atol=1e-5), name
    assert np.allclose(plain.history["train/loss"], innermost.history["train/loss"], atol=1e-5)
    assert plain.record.fingerprint["initial_weights"] == innermost.record.fingerprint["initial_weights"]


def test_images_reach_the_network_with_their_channels_innermost(tmp_path):
    config = medexp.compose(None, tiny(tmp_path / "runs", "trainer.channels_last=true", "dataset.source.n_channels=2"))
    module = build(config).module
    seen = []
    module.model.register_forward_pre_hook(
        lambda _, images: seen.append(images[0].is_contiguous(memory_format=torch.channels_last))
    )
    module.inferer(torch.randn(1, 2, 40, 40), module._outputs)
    assert seen
    assert all(seen)


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_as_configured_during_a_run_and_as_before_afterwards(tf32):
    places = (torch.backends.cudnn.conv, torch.backends.cudnn.rnn, torch.backends.cuda.matmul)
    before = [place.fp32_precision for place in places]
    with pinned_process(threads=1, seed=0, deterministic=True, tf32=tf32):
        assert [place.fp32_precision for place in places] == ["tf32" if tf32 else "ieee"] * 3
    assert [place.fp32_precision for place in places] == before


@pytest.mark.soak
def test_a_compiled_network_is_the_same_network(tmp_path):
    plain = train_tiny(tmp_path / "plain", *_SHORT)
    # A process of its own: torch.compile cannot follow the checks of types that the tests put around every function.
    words = tiny(tmp_path / "compiled", *_SHORT, "trainer.compile=eager", "study=default")
    subprocess.run([sys.executable, "-m", "medexp.cli.main", "train", *words], check=True, capture_output=True)
    (folder,) = (path for path in (tmp_path / "compiled" / "default").iterdir() if path.is_dir())
    compiled = medexp.load_run(folder)
    assert compiled.record.status is Status.FINISHED
    before, after = weights(plain), weights(compiled)
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    assert compiled.cases.equals(plain.cases)


def test_an_unknown_backend_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(
        UsageError, match=r"trainer.compile=inductr is no backend of torch.compile; did you mean inductor"
    ):
        train_tiny(tmp_path / "runs", "trainer.compile=inductr")


def test_fp16_on_a_cpu_is_refused_instead_of_becoming_bf16(tmp_path):
    with pytest.raises(UsageError, match="precision=16-mixed needs a GPU"):
        train_tiny(tmp_path / "runs", "precision=16-mixed", "trainer.accelerator=cpu")


def test_a_batch_moves_as_a_whole_to_another_device(tmp_path):
    data = build(medexp.compose(None, tiny(tmp_path / "runs"))).data
    targets = {
        "semantic": torch.zeros(2, 1, 4, 4),
        "objects": [{"boxes": torch.zeros(0, 4)}, {"boxes": torch.ones(3, 4)}],
    }
    batch = Batch(images=torch.zeros(2, 1, 4, 4), targets=targets, case_ids=("a", "b"))
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert moved.targets is not None
    places = [moved.images, moved.targets["semantic"], *(target["boxes"] for target in moved.targets["objects"])]
    assert {place.device.type for place in places} == {"meta"}
    assert [target["boxes"].shape[0] for target in moved.targets["objects"]] == [0, 3]


def test_seeding_the_device_that_computes_is_seeding_torch():
    torch.manual_seed(123)
    expected = torch.randn(5)
    seed_device(torch.device("cpu"), 123)
    assert torch.equal(torch.randn(5), expected)
