"""Views of stored tensors: the same values as PyTorch's indexing of the tensor that is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sdlab.backends.diffusers.tensor_view import TensorView, view
from sdlab.weights import safetensors_file


@pytest.fixture
def stored(tmp_path: Path) -> tuple[torch.Tensor, TensorView]:
    """A tensor (6, 4, 1, 1), and the same in a file behind another one."""
    tensor = torch.arange(24.0).view(6, 4, 1, 1)
    safetensors_file.write(tmp_path / "x.safetensors", {"a": torch.zeros(3), "x": tensor})
    return tensor, view("x", safetensors_file.read(tmp_path / "x.safetensors")[0]["x"])


@pytest.mark.parametrize(
    "index",
    [2, slice(2, 4), slice(4, None), (slice(None), 3), (slice(None, 2), slice(1, 3)), (slice(None), slice(None), 0, 0)],
    ids=str,
)
def test_a_part_has_the_values_of_the_part(stored: tuple[torch.Tensor, TensorView], index: Any):
    tensor, whole = stored
    part = whole[index]
    assert part.name == "x"
    assert part.shape == tensor[index].shape
    assert torch.equal(part.clone().read(), tensor[index])


def test_the_transposed_matrix_has_its_values(stored: tuple[torch.Tensor, TensorView]):
    tensor, whole = stored
    matrix = whole[:, :, 0, 0]
    assert matrix.T.shape == (4, 6)
    assert torch.equal(matrix.T.contiguous().read(), tensor[:, :, 0, 0].T)
    assert torch.equal(matrix.T[1:3].read(), tensor[:, :, 0, 0].T[1:3])


def test_an_index_outside_is_an_error(stored: tuple[torch.Tensor, TensorView]):
    with pytest.raises(IndexError, match="index 6 of an axis of length 6"):
        stored[1][6]
    with pytest.raises(IndexError, match="5 indices for a tensor of 4 axes"):
        stored[1][0, 0, 0, 0, 0]
