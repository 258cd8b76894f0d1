"""Model folders of sdlab: `config.json` and one safetensors file per network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import nn

from sdlab.model.config import ModelConfig
from sdlab.model.unfilled import shapes_of, unfilled
from sdlab.system.errors import UsageError
from sdlab.system.files import make_folder, replacing
from sdlab.system.reading import read_bytes
from sdlab.weights import weights_file
from sdlab.weights.fill import check, fill
from sdlab.weights.stored_tensor import AnyTensor

M = TypeVar("M", bound=nn.Module)


def read_config(folder: Path) -> ModelConfig:
    """The configuration of a model folder.

    Raises:
        UsageError: `config.json` is missing or invalid.
    """
    path = folder / "config.json"
    return ModelConfig.from_json(read_bytes(path), source=str(path))


def save_config(folder: Path, config: ModelConfig) -> None:
    """Write `config.json` into a model folder, which is created if it does not exist.

    Raises:
        RunError: the file cannot be written.
    """
    make_folder(folder)
    with replacing(folder / "config.json") as draft:
        draft.write_text(config.to_json(), encoding="utf-8")


def load_part(
    path: Path, build: Callable[[], M], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> M:
    """Load one network from its file for inference. `build` constructs it, as in `lambda: Vae(config.vae)`.

    Raises:
        UsageError: the file does not exist.
        RunError: the file is damaged or does not fit the network.
    """
    module, tensors = check_part(path, build)
    return fill(module, tensors, device, dtype)


def check_part(path: Path, build: Callable[[], M]) -> tuple[M, Mapping[str, AnyTensor]]:
    """One network without its weights, and the tensors of its file, which fit it. Weights are not read.

    Raises:
        UsageError: the file does not exist.
        RunError: the file is damaged or does not fit the network.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    with unfilled():
        module = build()
    tensors, _ = weights_file.read(path)
    check(tensors, shapes_of(module), str(path))
    return module, tensors


def save_part(path: Path, module: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
    """Store the weights of a network as safetensors in `dtype`. The file is written whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    state = {key: t.detach().to("cpu", dtype).contiguous() for key, t in module.state_dict().items()}
    with replacing(path) as draft:
        draft.write_bytes(save(state))
