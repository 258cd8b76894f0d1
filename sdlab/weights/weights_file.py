"""Weight files in either format."""

from __future__ import annotations

from pathlib import Path

from sdlab.weights import recognise, safetensors_file, torch_checkpoint
from sdlab.weights.stored_tensor import StoredTensor


def read(path: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors of a PyTorch checkpoint or a safetensors file by name, and its metadata. Weights are not read.

    Raises:
        UsageError: the file has another format.
        RunError: the file is damaged or truncated.
    """
    if recognise.container(path) == "zip":
        return torch_checkpoint.read(path), {}
    return safetensors_file.read(path)
