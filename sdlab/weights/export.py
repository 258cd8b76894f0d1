"""Model export to the layouts of other tools. Tensors are copied one at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from sdlab.model.config import SD15
from sdlab.system.errors import RunError, UsageError
from sdlab.system.files import make_folder, reason
from sdlab.weights import layout_diffusers, layout_original, layouts, safetensors_file
from sdlab.weights.locate import Layout, Model
from sdlab.weights.model_folder import save_config
from sdlab.weights.model_loader import StoredModel, open_model
from sdlab.weights.vocabulary import copy_vocabulary

_PYTORCH = {"format": "pt"}  # transformers rejects files without it


def export(model: Model, layout: Layout, out: Path, dtype: torch.dtype | None = None) -> list[str]:
    """Write a model to `out`, in `dtype` or in its stored dtypes. Returns remarks for the user.

    The layouts `sdlab` and `diffusers` are folders. `original` is a .safetensors file with the tensor names of Stable
    Diffusion v1's checkpoint. Existing files are never overwritten, and a failed export leaves nothing behind.

    Raises:
        UsageError: the model is not found or incomplete, `out` exists or has the wrong ending, or the layout cannot
            express the noise schedule or the prediction type.
        RunError: a file of the model is damaged, or `out` cannot be written.
    """
    if layout == "original" and out.suffix != ".safetensors":
        raise UsageError(f"{out}: the original layout is one file; its name must end in .safetensors")
    if out.exists() and (layout == "original" or not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: already exists and is not overwritten; choose another path")
    stored = open_model(model)
    stored.check_others(stored.located.others)
    whole = stored if layout == "sdlab" else _without_vision(stored)
    make_folder(out.absolute().parent)
    try:
        if layout == "original":
            _to_file(whole, out, dtype)
        else:
            with _new_folder(out.absolute()) as folder:
                (_to_diffusers if layout == "diffusers" else _to_sdlab)(whole, folder, dtype)
    except OSError as error:
        raise RunError(f"cannot write {out}: {reason(error)}") from None
    return [*stored.notes, *_remarks(stored, layout)]


def _to_sdlab(stored: StoredModel, folder: Path, dtype: torch.dtype | None) -> None:
    save_config(folder, stored.config)
    copy_vocabulary(stored.located.vocab, stored.located.merges, folder)
    for part, tensors in stored.tensors.items():
        safetensors_file.write(folder / f"{part}.safetensors", tensors, dtype)
    for path in stored.located.others.values():
        safetensors_file.write(folder / path.name, safetensors_file.read(path)[0], dtype)


def _to_diffusers(stored: StoredModel, folder: Path, dtype: torch.dtype | None) -> None:
    layout_diffusers.write_config(folder, stored.config, stored.tokenizer.end)
    copy_vocabulary(stored.located.vocab, stored.located.merges, folder / "tokenizer")
    for part, tensors in stored.tensors.items():
        path = folder / layout_diffusers.FOLDERS[part] / layout_diffusers.WEIGHTS[part][0]
        theirs = layout_diffusers.join(part, tensors, stored.config)
        safetensors_file.write(path, theirs, dtype, metadata=_PYTORCH)


def _to_file(stored: StoredModel, path: Path, dtype: torch.dtype | None) -> None:
    sizes = {} if stored.config == SD15 else {layouts.CONFIG_KEY: stored.config.to_json()}
    theirs = layout_original.join(stored.tensors, stored.config)
    safetensors_file.write(path, theirs, dtype, metadata=_PYTORCH | sizes)


def _without_vision(stored: StoredModel) -> StoredModel:
    """The model without its vision tower, which no other layout can hold."""
    if stored.config.vision is None:
        return stored
    clip = stored.tensors["clip"].items()
    text = {name.removeprefix("text."): tensor for name, tensor in clip if name.startswith("text.")}
    return replace(stored, config=replace(stored.config, vision=None), tensors={**stored.tensors, "clip": text})


def _remarks(stored: StoredModel, layout: Layout) -> list[str]:
    config, remarks = stored.config, []
    if layout != "sdlab" and config.vision is not None:
        remarks.append("CLIP's vision tower was not exported, because this layout cannot hold it")
    if layout != "sdlab" and stored.located.others:
        names = ", ".join(path.name for path in stored.located.others.values())
        remarks.append(f"{names} was not exported, because this layout holds one U-Net")
    if layout == "diffusers" and config.vae.shift:
        remarks.append(
            f"vae/config.json has shift_factor {config.vae.shift}, which diffusers' StableDiffusionPipeline ignores; "
            "use output_type='latent' there, and decode latents / scaling_factor + shift_factor"
        )
    if layout == "original":
        remarks.append("the file does not contain the vocabulary; keep vocab.json and merges.txt beside it")
    return remarks


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder. If the block succeeds, it replaces `path`, which must be empty or missing."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.mkdir()
    try:
        yield draft
        draft.replace(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
