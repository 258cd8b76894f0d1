"""Weights to start from, the key `start` of a stage: the tensors of a file whose name and shape match."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from sdlab.system.errors import SdlabError, UsageError
from sdlab.weights import weights_file
from sdlab.weights.stored_tensor import StoredTensor


def take(path: Path, module: nn.Module) -> str:
    """Copy the tensors of a file with matching name and shape into the module. Returns a sentence with their number.

    Frozen parameters are unchanged.

    Raises:
        UsageError: the file is missing or has another format, or no tensor matches.
        RunError: the file is damaged.
    """
    frozen = {key for key, p in module.named_parameters() if not p.requires_grad}
    own = {key: value for key, value in module.state_dict().items() if key not in frozen}
    taken = matching(path, own)
    module.load_state_dict({key: tensor.read().float() for key, tensor in taken.items()}, strict=False)
    others = "" if len(taken) == len(own) else "; the others, which it lacks or has in another shape, start at random"
    return f"{len(taken)} of {len(own)} tensors from {path}{others}"


def matching(path: Path, own: dict[str, Tensor]) -> dict[str, StoredTensor]:
    """The tensors of a file that have the name and the shape of one in `own`. They stay where they are.

    Raises:
        UsageError: the file is missing or has another format, or no tensor matches.
        RunError: the file is damaged.
    """
    if not path.is_file():
        raise UsageError(f"`start`: {path}: no such file")
    try:
        stored, _ = weights_file.read(path)
    except SdlabError as error:
        raise type(error)(*(f"`start`: {one}" for one in error.lines)) from None
    found = {key: stored[key] for key, value in own.items() if key in stored and stored[key].shape == value.shape}
    if not found:
        raise UsageError(f"`start`: {path} has no tensor whose name and shape match; give weights of this network")
    return found
