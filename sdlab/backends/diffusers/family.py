"""Families of pipelines: which components are read, and how the network is called.

A family describes a folder before anything is loaded. `build` makes its `Parts` from the loaded components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.folder import Folder
from sdlab.model.config import Size
from sdlab.registry import Mistake


@dataclass(frozen=True)
class Options:
    """The options of a diffusers model in a sweep file."""

    size: int | None = None  # pixels per side
    guidance_input: float | None = None  # of a network that is distilled from CFG
    null_class: int | None = None  # the label that stands for no class
    max_sequence_length: int | None = None  # tokens of a text that T5 reads


Components = Mapping[str, tuple[str, ...]]  # component -> the classes it may have, "" if it may be missing


class Family(ABC):
    """A family of pipelines."""

    pipelines: ClassVar[tuple[str, ...]]  # names of their classes
    network: ClassVar[str]  # the component that denoises
    components: ClassVar[Components]  # all that are read
    ignored: ClassVar[frozenset[str]] = frozenset({"scheduler"})  # the scheduler is read from its JSON file
    prompts: ClassVar[bool] = True
    labels: ClassVar[bool] = False  # whether a condition is a class label
    masked: ClassVar[bool] = False  # whether a condition has a mask
    default_scale: ClassVar[float] = 7.5  # of CFG, for a network that is not distilled from it

    @abstractmethod
    def size(self, folder: Folder) -> Size:
        """The size of its pictures, (height, width) in pixels, from the configuration.

        Raises:
            UsageError: the configuration does not have it.
        """

    def multiple(self, folder: Folder) -> int:
        """The number of pixels of which both sides must be multiples."""
        return 1

    def tokens(self, folder: Folder, size: Size) -> int:
        """The number of image tokens of a transformer; 0 for other networks."""
        return 0

    def conditional(self, folder: Folder, options: Options) -> bool:
        """Whether the model has conditions that guidance can use."""
        return True

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The options that this model takes beside `size`, with their defaults."""
        return {}

    def scale(self, folder: Folder) -> float:
        """The CFG scale that its pipelines use by default; 1 for a network that is distilled from CFG."""
        return 1.0 if "guidance_input" in self.defaults(folder) else self.default_scale

    def check(self, folder: Folder, options: Options, size: Size) -> Iterator[Mistake]:
        """What is wrong with the configuration and the options, beyond what all families check."""
        yield from ()

    def notes(self, folder: Folder, options: Options) -> Iterator[str]:
        """Notes for the user."""
        yield from ()

    @abstractmethod
    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded pipeline."""


class Parts(ABC):
    """A loaded pipeline as functions. Weights are on `device`."""

    shape: tuple[int, int, int]  # of one sample, (C, H, W)
    device: torch.device

    @abstractmethod
    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The prediction for the input x (B, C, H, W) at timesteps t (B,), in the shape of x.

        x is float32, whatever the data type of the network.
        """

    @abstractmethod
    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The conditional contexts, (C, …), and the unconditional one, (1, …)."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The contexts of further prompts. Only models with a text encoder are asked."""
        return self.contexts(prompts, "")[0]

    def cut(self, prompt: str) -> str:
        """The end of a prompt that is cut off because the prompt is too long; empty if it fits."""
        return ""

    @abstractmethod
    def to_pictures(self, samples: Tensor) -> Tensor:
        """Samples (B, C, H, W) -> pictures (B, 3, H, W), in [−1, 1] up to overshoots."""

    @abstractmethod
    def to_samples(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [−1, 1] -> samples (B, C, H, W)."""
