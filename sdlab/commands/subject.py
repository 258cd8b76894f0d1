"""The model of a request: one of sdlab, or a pipeline of diffusers. It is opened first and loaded later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Any, cast

import torch

import samplers
from sdlab.backends.base import Backend, Mistakes
from sdlab.backends.diffusers.backend import OpenedFolder, open_folder
from sdlab.backends.latent import LatentDiffusion
from sdlab.commands.inline_model import is_pipeline, is_single_file, split_model
from sdlab.commands.request import Request
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.guidance.needs import Offer
from sdlab.model.config import Size
from sdlab.pipeline import Pipeline, Tiles, latent_shape
from sdlab.system.errors import UsageError
from sdlab.weights.model_loader import StoredModel, load, open_model

# Default CFG scale of a model; for others 7.5, as is usual for Stable Diffusion.
_CFG = {"scenes": 3.0, "portraits": 2.0}


class Subject(ABC):
    """The model of a request, at the size of its pictures."""

    levels: samplers.Levels
    size: Size
    strategy: str  # the guidance strategy by default
    offer: Offer
    notes: tuple[str, ...]

    @abstractmethod
    def check(self, request: Request, others: Iterable[str]) -> None:
        """Check the files that the request needs, with those of further networks.

        Raises:
            UsageError: a file or a package is missing.
            RunError: a file is damaged.
        """

    @abstractmethod
    def load(self, request: Request, others: Collection[str], gradients: bool) -> Any:
        """The weights, with those of further networks.

        Raises:
            RunError: a file is damaged.
        """

    @abstractmethod
    def ready(self, loaded: Any) -> Backend:
        """The model, ready to draw at this size. `loaded` are the weights of this model, at whatever size."""


def open_subject(request: Request) -> Subject:
    """The model of a request.

    Raises:
        UsageError: the model is not found, it cannot draw at this size, or an option does not fit it.
        RunError: a file is damaged.
    """
    return _Folder(request) if is_pipeline(request.model) else _Latent(request)


class _Latent(Subject):
    """A model of sdlab, or one that it reads itself."""

    def __init__(self, request: Request) -> None:
        stored = open_model(request.source)
        self._stored, config = stored, stored.config
        self.size = request.size or (config.image_size, config.image_size)
        try:
            latent_shape(config, self.size)
        except ValueError as error:
            raise UsageError(f"--size: {error}") from None
        self.levels, self.notes = config.noise_schedule(), stored.notes
        self.strategy = f"cfg scale={_CFG.get(config.name, 7.5)}"
        self.offer = Offer(config.name, layers=config.unet.layers, others=stored.located.others)

    def check(self, request: Request, others: Iterable[str]) -> None:
        """The files of further networks must fit the model."""
        self._stored.check_others(others)

    def load(self, request: Request, others: Collection[str], gradients: bool) -> Pipeline:
        """The networks, packed for a CPU unless they are offloaded."""
        return _open(request, self._stored, list(others), gradients)

    def ready(self, loaded: Pipeline) -> Backend:
        """The same networks at this size."""
        return LatentDiffusion(loaded, self.size)


def _open(request: Request, stored: StoredModel, others: list[str], gradients: bool) -> Pipeline:
    dtype, tiles = getattr(torch, request.dtype), cast(Tiles, request.tiles)
    if request.offload:
        return Pipeline(load(stored, "cpu", dtype, others), request.device, tiles)
    model = load(stored, request.device, dtype, others)
    return Pipeline(optimise_for_inference(model, request.compile, gradients), tiles=tiles)


class _Folder(Subject):
    """A pipeline of diffusers."""

    def __init__(self, request: Request) -> None:
        self._opened = opened = _opened(request)
        self.size, self.levels, self.notes = opened.size, opened.levels, opened.notes
        self.strategy = "none" if opened.scale == 1 else f"cfg scale={opened.scale}"
        self.offer = Offer(opened.name, masked=opened.masked)

    def check(self, request: Request, others: Iterable[str]) -> None:
        """The packages and the weights must be there."""
        if found := self._opened.check(request.device, request.compile):
            raise UsageError(*found)

    def load(self, request: Request, others: Collection[str], gradients: bool) -> dict[str, Any]:
        """The components."""
        return self._opened.load_components(request.device, getattr(torch, request.dtype), request.compile)

    def ready(self, loaded: dict[str, Any]) -> Backend:
        """The pipeline at this size."""
        return self._opened.ready(loaded)


def _opened(request: Request) -> OpenedFolder:
    """The pipeline of a request.

    Raises:
        UsageError: it cannot be read, or an option is not for pipelines of diffusers.
    """
    name, options = split_model(request.model)
    words = {"vocab": request.vocab, "merges": request.merges}
    own: dict[str, Any] = {"weights": request.weights, "offload": request.offload, "tiles": request.tiles != "auto"}
    if is_single_file(name):
        options |= {key: path for key, path in words.items() if path is not None}
    else:
        own |= words
    if given := [f"--{key}" for key, value in own.items() if value]:
        raise UsageError(f"{given[0]} is not for pipelines of diffusers; leave it out")
    if "size" in options:
        raise UsageError("--model: the size of a picture is an option of the command; write --size")
    try:
        opened = open_folder(name, options, size=request.size)
    except Mistakes as error:
        lines = (f"--{'size' if key == 'size' else 'model'}: {_named(key, text)}" for key, text in error.mistakes)
        raise UsageError(*lines) from None
    if "prompts" in opened.ignores:
        raise UsageError(f"--model: {name} draws without prompts; use it in a sweep")
    return opened


def _named(key: str, text: str) -> str:
    return text if key in ("", "size") else f"{key}: {text}"
