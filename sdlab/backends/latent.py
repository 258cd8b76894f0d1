"""The backend of latent diffusion models: `scenes`, `sd15`, and any model file or folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.checks import unknown
from sdlab.backends.base import Backend, Kind, Mistakes, Opened
from sdlab.cpu.compiled import check_compiler
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.denoiser import Watch, unwatched
from sdlab.guidance import Strategy
from sdlab.guidance.guided import Seen
from sdlab.model.config import SD15, Size
from sdlab.pipeline import Pipeline
from sdlab.system import resources
from sdlab.system.errors import SdlabError, UsageError
from sdlab.system.paths import path_fault
from sdlab.weights.locate import MODELS, ModelSource
from sdlab.weights.model_loader import StoredModel, load, read_model

# Seconds per pass and image, used until a run has measured them. Measured on two CPU cores, guessed elsewhere.
_SECONDS = {
    "scenes": {"cpu": 0.002, "cuda": 0.0005, "mps": 0.002},
    "portraits": {"cpu": 0.005, "cuda": 0.0005, "mps": 0.005},
    "sd15": {"cpu": 3.0, "cuda": 0.03, "mps": 0.5},
}
_FILES = frozenset({"weights", "vocab", "merges"})


class OpenedLatent(Opened):
    """A text-to-image model: its files, its configuration and the headers of its weights.

    If the files cannot be read, `check` reports why. The noise schedule is then that of Stable Diffusion v1, so that
    the rest of the sweep file can still be checked.
    """

    conditional = starts_from_pictures = draws_pictures = repeatable = True

    def __init__(self, name: str, options: Mapping[str, Any], stored: StoredModel | SdlabError) -> None:
        """`stored` is the model, or the error that reading it raised."""
        self.name = self.label = name
        self.options, self.identity = options, dict[str, Any]()
        self._stored = stored
        self.config = stored.config if isinstance(stored, StoredModel) else None
        self.files = stored.located.files if isinstance(stored, StoredModel) else ()
        self.notes = stored.notes if isinstance(stored, StoredModel) else ()
        self.levels = (self.config or SD15).noise_schedule()
        self.image_size = self.config.image_size if self.config else None
        self.has_clip = self.config is not None and self.config.vision is not None
        self.layers = tuple(self.config.unet.layers) if self.config else ()
        self.others = stored.located.others if isinstance(stored, StoredModel) else {}
        self.seconds_per_pass = _SECONDS.get(name, _SECONDS["scenes"])

    def check(self, device: str, compile: bool, others: Collection[str] = (), gradients: bool = False) -> list[str]:
        """Why the model cannot run, one line per reason, such as a missing file or compiler.

        Raises:
            RunError: a file is damaged, or its tensors do not fit the configuration.
        """
        found = []
        try:
            self._open().check()
            self._open().check_others(others)
        except UsageError as error:
            found += error.lines
        if compile:
            try:
                check_compiler(torch.device(device))
            except UsageError as error:
                found.append(str(error))
        return found

    def load(
        self, device: str, dtype: torch.dtype, compile: bool, others: Collection[str] = (), gradients: bool = False
    ) -> LatentDiffusion:
        """The model on `device`.

        Raises:
            UsageError: files are missing, or there is no compiler.
            RunError: a file is damaged.
        """
        model = optimise_for_inference(load(self._open(), device, dtype, others), compile, gradients)
        return LatentDiffusion(Pipeline(model))

    def _open(self) -> StoredModel:
        if isinstance(self._stored, SdlabError):
            raise self._stored
        return self._stored


class LatentDiffusion(Backend):
    """A loaded text-to-image model: a `Pipeline` behind the backend protocol."""

    def __init__(self, pipeline: Pipeline, size: Size | None = None) -> None:
        """`size` is that of its pictures, (height, width) in pixels, by default the model's."""
        self._pipeline, self.levels, self._size = pipeline, pipeline.levels, size
        model = pipeline.model
        self.clip = None if model.clip is None else (model.clip, model.tokenizer)

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The contexts of the prompts, (P, L, width), and of the negative prompt, (1, L, width)."""
        return self._pipeline.encode(prompts), self._pipeline.encode([negative])

    def cut(self, prompt: str) -> str:
        """The end of a prompt that has more tokens than the text encoder reads."""
        return self._pipeline.model.tokenizer.cut(prompt)

    def encode_image(self, images: Tensor) -> Tensor:
        """Latents (B, C, H/f, W/f) of pictures (B, 3, H, W) in [−1, 1]."""
        return self._pipeline.encode_image(images)

    def sample(
        self,
        cond: Tensor,
        uncond: Tensor,
        sampler: samplers.Sampler,
        sigmas: Sequence[float],
        strategy: Strategy,
        seeds: Sequence[int],
        *,
        on_step: Callable[[int, Tensor], object] | None = None,
        init: Tensor | None = None,
        strength: float = 1.0,
        watch: Watch = unwatched,
        on_denoised: Seen | None = None,
    ) -> Tensor:
        """Latents (B, C, H, W) in float32, as `Pipeline.sample` makes them."""
        return self._pipeline.sample(
            cond, uncond, sampler, sigmas, strategy, seeds,
            on_step=on_step, size=self._size, init=init, strength=strength, watch=watch, on_denoised=on_denoised,
        )  # fmt: skip

    def decode(self, samples: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1], rounded to the 256 levels that a PNG keeps."""
        return self._pipeline.decode(samples)


def reads(path: str) -> bool:
    """Whether the file or folder exists. A Python file belongs to a custom model."""
    return not path.endswith(".py") and resources.find(path).exists()


def open_latent(name: str, options: Mapping[str, Any], folder: Path) -> OpenedLatent:
    """The model of that name, file or folder. `options` are the paths of its files, searched for in `folder` first.

    Raises:
        Mistakes: an option is unknown, or is not a path.
    """
    if strange := sorted(options.keys() - _FILES):
        raise Mistakes((strange[0], unknown("key", strange[0], {"name", *_FILES})))
    if other := [(key, f"should be a path in quotes, got {v!r}") for key, v in options.items() if type(v) is not str]:
        raise Mistakes(*other)
    if faulty := [(key, fault) for key, path in options.items() if (fault := path_fault(path))]:
        raise Mistakes(*faulty)
    files = {key: resources.near(path, folder) for key, path in options.items()}
    try:
        stored: StoredModel | SdlabError = read_model(ModelSource(name, **files))
    except SdlabError as error:
        stored = error
    return OpenedLatent(name, files, stored)


LATENT = Kind(lambda: MODELS, reads, open_latent)
