"""The backend protocol, in two phases: a model is opened, and then loaded.

A sweep file names a model. `Kind.open` reads its headers and its configuration once. The `Opened` that it returns has
everything that a sweep must know before it starts. `Opened.load` moves the model to the device, ready to sample.

A new backend is one file with a `Kind`, and one line in `BACKENDS` (sdlab/backends/registry.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

import samplers
from samplers.exact.families import ClassMixture
from samplers.exact.problems import Gaussian
from sdlab.denoiser import Watch, unwatched
from sdlab.guidance import Strategy
from sdlab.guidance.guided import Seen
from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer
from sdlab.registry import Mistake

Setting = Literal["prompts", "dtype", "compile"]  # settings of a sweep file that a model may ignore


class Mistakes(Exception):
    """A model cannot be opened. Each mistake is (key inside the model's table, message)."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(text for _, text in mistakes))
        self.mistakes = mistakes


class Opened(Protocol):
    """A model whose configuration is known and whose weights are not loaded.

    `options` are those that the model was opened with. Their paths are absolute or relative to the working directory,
    so `Kind.open(name, options, Path())` opens the same model again in another process.
    """

    name: str  # as written in the sweep file
    options: Mapping[str, Any]
    label: str  # the name, with the options that change the model
    levels: samplers.Levels  # the noise schedule, from the model's configuration
    identity: Mapping[str, Any]  # what results depend on beside files: options with defaults, code
    files: tuple[Path, ...]  # files whose content results depend on
    seconds_per_pass: Mapping[str, float]  # per image, by kind of device ("cpu"); assumed until measured
    image_size: int | None = None  # pixels per side, if known and the pictures are square
    ignores: frozenset[Setting] = frozenset()
    notes: tuple[str, ...] = ()  # for the user: what is ignored in the model's files
    conditional: bool = False  # has conditions that guidance can use
    labels: bool = False  # whose conditions are class labels, without noise
    masked: bool = False  # whose conditions have a mask, without noise
    conditioned_on_pictures: bool = False  # beside the text
    starts_from_pictures: bool = False  # image-to-image
    draws_pictures: bool = False
    has_clip: bool = False  # with a vision tower
    repeatable: bool = False  # whose equal calls have equal results, so that one can stand for several
    knows_flow: bool = False  # the exact probability flow
    law: Gaussian | None = None  # of the data, if Gaussian and unconditional
    classes: ClassMixture | None = None  # the laws of the classes, if known; image i is of class i mod C
    layers: Collection[str] = ()  # of its network, that a perturbation can name
    others: Mapping[str, Path] = MappingProxyType({})  # the files of its further networks, by name

    def check(self, device: str, compile: bool, others: Collection[str] = (), gradients: bool = False) -> list[str]:
        """Why the model cannot run with these settings, one line per reason. No weights of sdlab are loaded.

        `others` are those of its further networks that the run needs. With `gradients` it also needs those of x̂₀ in x.

        Raises:
            RunError: a file of the model is damaged.
        """
        return []

    def load(
        self, device: str, dtype: torch.dtype, compile: bool, others: Collection[str] = (), gradients: bool = False
    ) -> Backend:
        """The model on `device`, ready to sample, with those of its further networks that the run needs.

        `gradients` of x̂₀ in x are available only if they are asked for.

        Raises:
            UsageError: the model cannot run there, or a custom model fails.
            RunError: a file of the model is damaged.
        """
        ...


class Backend(Protocol):
    """A loaded model. Image i of a batch depends on its row of the conditions and on `seeds[i]` alone."""

    levels: samplers.Levels
    clip: tuple[Clip, Tokenizer] | None = None  # with a vision tower

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The conditional contexts (C, …) and the unconditional one (1, …). Image i has row i mod C.

        There is one row per prompt. A model without prompts returns the contexts that it was made with.
        """
        ...

    def cut(self, prompt: str) -> str:
        """The end of a prompt that is cut off because the prompt is too long; empty if it fits."""
        return ""

    def encode_image(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] -> the states (B, …) that image-to-image starts from.

        Raises:
            ValueError: this model starts from noise only.
        """
        raise ValueError("this model starts from noise only")  # `Opened.starts_from_pictures` says so beforehand

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
        """Samples (B, …) in float32, one per row of both contexts.

        Args:
            init: the states that image-to-image starts from.
            strength: from 0, which keeps `init`, to 1, which ignores it.
            watch: wraps the network for this run, for example to count its passes.
            on_denoised: is called with each guided x̂₀ and its level.

        Raises:
            NotFinite: a sample has NaN or infinity. Errors of custom code are passed on.
        """
        ...

    def decode(self, samples: Tensor) -> Tensor | None:
        """Pictures (B, 3, H, W) in [−1, 1]; None for a model that draws none.

        Raises:
            NotFinite: a picture has NaN or infinity.
        """
        return None

    def flow(self, seeds: Sequence[int], sigma: float, sigma_next: float) -> Tensor | None:
        """The states (B, …) that the exact flow reaches from the noise of these seeds, in float64; None if unknown."""
        return None


@dataclass(frozen=True)
class Kind:
    """How the models of one backend are named and opened.

    `open` takes a name, options and the folder of the sweep file. It raises `Mistakes` for an invalid name or option.
    Problems with the files, such as a missing one, are reported by `Opened.check`.
    """

    names: Callable[[], Mapping[str, str]]  # the known names, each with a line of description
    reads: Callable[[str], bool]  # whether a path is one of such a model
    open: Callable[[str, Mapping[str, Any], Path], Opened]
    key: str | None = None  # in a sweep file, `{key = "PLACE"}` is the name "key:PLACE"
