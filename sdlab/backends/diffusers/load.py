"""Loading of components with diffusers and transformers, without network access. Folders have safetensors alone."""

from __future__ import annotations

from typing import Any

import torch

from sdlab.backends.diffusers.folder import Folder
from sdlab.backends.diffusers.library import library, quiet
from sdlab.backends.diffusers.load_file import load_component
from sdlab.backends.diffusers.single_file import SingleFile
from sdlab.system.errors import RunError


def load_components(folder: Folder, device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The components of a folder or a single file, by name. Networks are on `device`, in `dtype`, ready for inference.

    A VAE that overflows in float16 (`force_upcast`) stays in float32.

    Raises:
        UsageError: diffusers or transformers is missing.
        RunError: a file is damaged, or its tensors do not fit the configuration.
    """
    with quiet():
        return {name: _loaded(folder, name, device, dtype) for name in folder.classes}


def _loaded(folder: Folder, component: str, device: str, dtype: torch.dtype) -> Any:
    if dtype == torch.float16 and folder.config(component, "force_upcast"):
        dtype = torch.float32
    if isinstance(folder, SingleFile):
        return load_component(folder, component, device, dtype)
    package, kind = folder.classes[component]
    cls, place = getattr(library(package), kind), folder.place / component
    try:
        if not folder.configs[component]:
            return cls.from_pretrained(str(place), local_files_only=True)
        network, report = cls.from_pretrained(
            str(place),
            variant=folder.variant(component),
            torch_dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # the packages raise errors of any class
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RunError(f"{place}: {kind} cannot be loaded: {first}") from error
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found := sorted(map(str, report.get(what, ()))):
            raise RunError(f"{place}: the weights do not fit {kind}: {what.replace('_', ' ')} {', '.join(found[:3])}")
    return network.to(device).eval().requires_grad_(False)
