"""Loading of the components of a single file, one tensor at a time."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from sdlab.backends.diffusers.convert import converted, prefix_of, unused
from sdlab.backends.diffusers.library import library, quiet
from sdlab.backends.diffusers.single_file import SingleFile
from sdlab.backends.diffusers.tensor_view import TensorView
from sdlab.model.unfilled import shapes_of, unfilled
from sdlab.system.errors import RunError, UsageError
from sdlab.weights.fill import check, fill
from sdlab.weights.vocabulary import copy_vocabulary


def check_weights(file: SingleFile) -> None:
    """Check that the tensors fit the networks, from the header alone.

    Raises:
        UsageError: diffusers or transformers is missing.
        RunError: a tensor is unknown, missing or has another shape.
    """
    with quiet():
        for component, config in file.configs.items():
            if config:
                _built(file, component)


def load_component(file: SingleFile, component: str, device: str, dtype: torch.dtype) -> Any:
    """A network on `device` in `dtype`, ready for inference, or a tokenizer.

    Raises:
        UsageError: the vocabulary is missing or damaged.
        RunError: a tensor cannot be read, or does not fit.
    """
    if not file.configs[component]:
        return _tokenizer(file, component)
    network, tensors = _built(file, component)
    fill(network, tensors, device, dtype, torch.contiguous_format)
    for part in network.modules():
        if isinstance(ids := getattr(part, "position_ids", None), torch.Tensor):  # 0, 1, 2, …, which no file must have
            part.position_ids = torch.arange(ids.shape[-1], device=device).expand(1, -1)
    return network


def _built(file: SingleFile, component: str) -> tuple[nn.Module, dict[str, TensorView]]:
    """A network without values, and the tensors that fit it.

    Raises:
        RunError: a tensor is unknown, missing or has another shape.
    """
    package, kind = file.classes[component]
    config, text = file.configs[component], file.text(component)
    try:
        with unfilled():
            cls = getattr(library(package), kind)
            network = cls(**config) if text is None else cls(library(package).CLIPTextConfig(**config))
        found = converted(component, file.tensors, text, config)
    except UsageError:
        raise
    except KeyError as error:
        raise RunError(f"{file.place}: tensor {error.args[0]!r} of the {component} is missing") from None
    except Exception as error:  # the packages raise errors of any class for sizes that no network has
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{file.place}: the sizes of its {component} are those of no known model: {first}") from error
    wanted = shapes_of(network)
    if not any(name.startswith("text_model.") for name in wanted):  # transformers 5.6 left this part out
        found = {name.removeprefix("text_model."): tensor for name, tensor in found.items()}
    used = {tensor.name for name, tensor in found.items() if name in wanted}
    prefix = prefix_of(component, text)
    for name in sorted(file.tensors):
        if name.startswith(prefix) and name not in used and not (text and unused(name, text)):
            raise RunError(f"{file.place}: unknown tensor {name!r}, which no network of {file.known.name} has")
    check(found, wanted, f"{file.place}, {component}", {name: tensor.name for name, tensor in found.items()})
    return network, found


def _tokenizer(file: SingleFile, component: str) -> Any:
    if isinstance(file.vocabulary, UsageError):
        raise file.vocabulary
    length = file.config(component.replace("tokenizer", "text_encoder"), "max_position_embeddings")
    with TemporaryDirectory() as folder:
        copy_vocabulary(*file.vocabulary, Path(folder))
        return library("transformers").CLIPTokenizer.from_pretrained(
            folder, model_max_length=length, pad_token=file.padding(component), local_files_only=True
        )
