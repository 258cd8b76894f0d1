"""Weight files in any format: a PyTorch checkpoint, a safetensors file, or the index of several of them."""

from __future__ import annotations

from pathlib import Path

from sdlab.system.errors import RunError
from sdlab.weights import recognise, safetensors_file, torch_checkpoint
from sdlab.weights.shards import is_index, read_index
from sdlab.weights.stored_tensor import StoredTensor

Content = tuple[dict[str, StoredTensor], dict[str, str]]

# Components that PyTorch's wrappers insert into names: DataParallel, torch.compile, FSDP, activation checkpointing.
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def read(path: Path) -> Content:
    """The tensors by name, and the metadata. Weights are not read.

    Names are those of the plain network: the components of wrappers, as in `_orig_mod.module.conv.weight`, are removed.

    Raises:
        UsageError: the file has another format, or is the index of shards that are missing.
        RunError: the file is damaged or truncated, or holds a tensor twice.
    """
    tensors, metadata = _shards(path) if is_index(path) else _file(path)
    plain: dict[str, str] = {}  # name without wrappers -> name in the file
    for name in tensors:
        other = plain.setdefault(_without_wrappers(name), name)
        if other != name:
            raise RunError(f"{path}: {other!r} and {name!r} are the same tensor of a network; remove one of them")
    return {name: tensors[stored] for name, stored in plain.items()}, metadata


def _file(path: Path) -> Content:
    if recognise.container(path) == "zip":
        return torch_checkpoint.read(path), {}
    return safetensors_file.read(path)


def _shards(index: Path) -> Content:
    files = read_index(index)
    shards = {file: _file(file) for file in dict.fromkeys(files.values())}
    metadata: dict[str, str] = {}
    tensors: dict[str, StoredTensor] = {}
    for held, about in shards.values():
        tensors |= held
        metadata |= about
    for name, file in files.items():
        if name not in shards[file][0]:
            raise RunError(f"{file}: tensor {name!r} is missing, but {index.name} says that it is in this shard")
        tensors[name] = shards[file][0][name]
    return tensors, metadata


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
