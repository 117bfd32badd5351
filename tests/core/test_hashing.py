from __future__ import annotations

import hashlib

import pytest
import torch

from medexp.core.hashing import hash_file, hash_files, hash_plain, hash_tensors, hash_text


def test_a_text_and_a_file_have_the_sha256_of_their_bytes(tmp_path):
    content = "µm ".encode() * 1_000_000
    (tmp_path / "file").write_bytes(content)
    assert hash_file(tmp_path / "file") == hash_text(content.decode()) == hashlib.sha256(content).hexdigest()


def test_plain_values_hash_whatever_the_order_of_keys():
    assert hash_plain({"a": 1, "b": [1, None, 0.1]}) == hash_plain({"b": [1, None, 0.1], "a": 1})


@pytest.mark.parametrize(
    "other", [{"a": [2, 1]}, {"a": [1, 2.5]}, {"b": [1, 2]}, {"a": ["1", 2]}, {"a": [1, 2], "b": None}]
)
def test_plain_values_that_differ_hash_differently(other):
    assert hash_plain({"a": [1, 2]}) != hash_plain(other)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return [folder / name for name in files]


def test_files_hash_whatever_their_order_and_place(tmp_path):
    here = write(tmp_path / "here", {"a.py": "1", "sub/b.py": "2"})
    there = write(tmp_path / "there", {"a.py": "1", "sub/b.py": "2"})
    first = hash_files(here, relative_to=tmp_path / "here")
    assert hash_files(reversed(there), relative_to=tmp_path / "there") == first


@pytest.mark.parametrize("files", [{"a.py": "1", "b.py": "3"}, {"a.py": "2", "b.py": "1"}, {"a.py": "1", "c.py": "2"}])
def test_files_hash_by_name_and_content(tmp_path, files):
    before = hash_files(write(tmp_path / "x", {"a.py": "1", "b.py": "2"}), relative_to=tmp_path / "x")
    assert hash_files(write(tmp_path / "y", files), relative_to=tmp_path / "y") != before


def test_tensors_hash_by_value_whatever_their_order_and_layout():
    weight = torch.arange(6.0).reshape(2, 3)
    columns = weight.T.contiguous().T
    assert not columns.is_contiguous()
    assert hash_tensors({"a": weight, "b": torch.ones(())}) == hash_tensors({"b": torch.ones(()), "a": columns})


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([0.0, 1.0, 2.5])},
        {"b": torch.tensor([0.0, 1.0, 2.0])},
        {"a": torch.tensor([[0.0, 1.0, 2.0]])},
        {"a": torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)},
        {"a": torch.tensor([-0.0, 1.0, 2.0])},
    ],
)
def test_tensors_that_differ_in_any_bit_hash_differently(other):
    assert hash_tensors({"a": torch.tensor([0.0, 1.0, 2.0])}) != hash_tensors(other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.int8, torch.complex64])
def test_tensors_of_every_type_can_be_hashed(dtype):
    ones, zeros = torch.ones(3).to(dtype), torch.zeros(3).to(dtype)
    assert hash_tensors({"a": ones}) != hash_tensors({"a": zeros})
    assert len(hash_tensors({"empty": torch.zeros(0, 3).to(dtype)})) == 64
