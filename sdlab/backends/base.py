"""The protocol for what a sweep runs on, in two phases: a model that is opened, and one that is loaded.

A sweep file names a model. `Kind.open` reads its headers and its configuration, once, and everything a sweep must know
before it starts comes from what that returns. `Opened.load` brings it onto the device, ready to sample.

A new backend is one file with a `Kind`, and one line in `BACKENDS` (sdlab/backends/registry.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian
from sdlab.denoiser import Watch, unwatched
from sdlab.guidance import Strategy
from sdlab.model.clip import Clip
from sdlab.model.tokenizer import Tokenizer
from sdlab.registry import Mistake

Setting = Literal["prompts", "dtype", "compile"]  # of a sweep file, that a model may have no use for


class Mistakes(Exception):
    """A model cannot be opened as it is named: (key inside the model's table, what is wrong) of each mistake."""

    def __init__(self, *mistakes: Mistake) -> None:
        super().__init__("; ".join(text for _, text in mistakes))
        self.mistakes = mistakes


class Opened(Protocol):
    """A model whose configuration is known and whose weights are not loaded.

    `options` are those the model was opened with, their paths made absolute or relative to the working directory, so
    that the same `Kind.open(name, options, Path())` opens it again in another process.
    """

    name: str  # as the sweep file writes it
    options: Mapping[str, Any]
    label: str  # the name, with the options where they make another model
    levels: samplers.Levels  # the noise schedule, from the model's own configuration
    identity: Mapping[str, Any]  # what the values of a sweep depend on beside files: options with defaults, code
    files: tuple[Path, ...]  # and those whose content they depend on
    seconds_per_pass: Mapping[str, float]  # by kind of device ("cpu"), per image: assumed until a run has measured it
    image_size: int | None = None  # pixels on a side of the pictures, where that is known and they are square
    ignores: frozenset[Setting] = frozenset()
    notes: tuple[str, ...] = ()  # for the author of a sweep: what is ignored in the model's files
    conditional: bool = False  # has conditions that guidance can use
    starts_from_pictures: bool = False  # image-to-image
    draws_pictures: bool = False
    has_clip: bool = False  # its own, with a vision tower
    knows_flow: bool = False  # its exact probability flow
    law: Gaussian | None = None  # of the data, where that is this Gaussian and no condition changes it

    def check(self, device: str, compile: bool) -> list[str]:
        """Why the model cannot run there, one line per reason; loads no weights of ours.

        Raises:
            RunError: a file of the model is damaged.
        """
        return []

    def load(self, device: str, dtype: torch.dtype, compile: bool) -> Backend:
        """The model on `device`, ready to sample.

        Raises:
            UsageError: it cannot run there, or a custom model fails.
            RunError: a file of the model is damaged.
        """
        ...


class Backend(Protocol):
    """A loaded model. Image i of a batch depends on its row of the conditions and on `seeds[i]` alone."""

    levels: samplers.Levels
    clip: tuple[Clip, Tokenizer] | None = None  # its own, with a vision tower

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The conditions (C, …), of which image i has row i mod C, and the unconditional one (1, …).

        There is one for each prompt. A model without prompts brings its own.
        """
        ...

    def cut(self, prompt: str) -> str:
        """What the model drops from the end of a prompt because it is too long."""
        return ""

    def encode_image(self, images: Tensor) -> Tensor:
        """The state (B, …) that image-to-image starts from, of pictures (B, 3, H, W) in [−1, 1]."""
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
    ) -> Tensor:
        """Samples (B, …) in float32, with a row of both contexts for each.

        Args:
            init: the state that image-to-image starts from, and how far it leaves that (`strength`, 0 to 1).
            watch: wraps the network for this run, to count its passes for instance.

        Raises:
            NotFinite: a sample has NaN or infinity. Errors of custom code are left as they are.
        """
        ...

    def decode(self, samples: Tensor) -> Tensor | None:
        """Pictures (B, 3, H, W) in [−1, 1]; None for a model that draws none.

        Raises:
            NotFinite: a picture has NaN or infinity.
        """
        return None

    def flow(self, seeds: Sequence[int], sigma: float, sigma_next: float) -> Tensor | None:
        """Where the exact flow carries the noise of these seeds from `sigma`, (B, …) in float64, where it is known."""
        return None


@dataclass(frozen=True)
class Kind:
    """How the models of one backend are named and opened.

    `open` takes a name, options and the folder of the sweep file. It raises `Mistakes` for a name or options that are
    wrong; what only the files can tell, a missing one for instance, is reported by `Opened.check`.
    """

    names: Callable[[], Mapping[str, str]]  # the names there are, with a line on each
    reads: Callable[[str], bool]  # whether a path, rather than a name, is that of such a model
    open: Callable[[str, Mapping[str, Any], Path], Opened]
