"""A file of weights, whichever of the two formats it has."""

from __future__ import annotations

from pathlib import Path

from sdlab.weights import recognise, safetensors_file
from sdlab.weights import torch_checkpoint as checkpoint
from sdlab.weights.stored_tensor import StoredTensor


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a checkpoint of PyTorch or a safetensors file by name, and its metadata; reads no numbers.

    Raises:
        UsageError: it is neither.
        RunError: it is damaged or cut short.
    """
    if recognise.container(path) == "zip":
        return checkpoint.read(path), {}
    return safetensors_file.read(path)
