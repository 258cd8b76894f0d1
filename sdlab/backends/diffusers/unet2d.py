"""U-Nets on pixels, without a condition or with a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sdlab.backends.diffusers.family import Components, Family, Options, Parts
from sdlab.backends.diffusers.folder import Folder
from sdlab.model.config import Size
from sdlab.registry import Mistake


class Unet2d(Family):
    """Denoising diffusion models of pixels (Ho et al. 2020, arXiv:2006.11239), as DDPM and DDIM pipelines.

    With classes, image i is of class i mod C. Guidance needs a label for no class, `null_class`.
    """

    pipelines = ("DDPMPipeline", "DDIMPipeline")
    network = "unet"
    components: ClassVar[Components] = {"unet": ("diffusers.UNet2DModel",)}
    prompts = False
    labels = True

    def size(self, folder: Folder) -> Size:
        """`sample_size` of the U-Net."""
        return folder.sample_size("unet")

    def multiple(self, folder: Folder) -> int:
        """The factor between the first level of the U-Net and the last."""
        return int(2 ** (len(folder.config("unet", "block_out_channels", [0] * 4)) - 1))

    def defaults(self, folder: Folder) -> dict[str, Any]:
        """The label for no class, for a model with classes."""
        return {} if folder.config("unet", "num_class_embeds") is None else {"null_class": None}

    def conditional(self, folder: Folder, options: Options) -> bool:
        """Whether there is a label for no class."""
        return options.null_class is not None

    def check(self, folder: Folder, options: Options, size: Size) -> Iterator[Mistake]:
        """Pictures have 1 or 3 channels, and labels are those of the U-Net."""
        where, classes = f"{folder.place}/unet/config.json", folder.config("unet", "num_class_embeds")
        channels, kind = folder.config("unet", "in_channels", 3), folder.config("unet", "class_embed_type")
        if channels not in (1, 3):
            yield "", f"{where}: in_channels is {channels}, and pictures have 1 or 3"
        if kind is not None:
            yield "", f"{where}: class_embed_type is {kind!r}, and only labels from a table are supported"
        if classes is not None and options.null_class is not None and not 0 <= options.null_class < classes:
            yield "null_class", f"must be a label of the model, from 0 to {classes - 1}, got {options.null_class}"

    def notes(self, folder: Folder, options: Options) -> Iterator[str]:
        """That guidance needs a label for no class."""
        if folder.config("unet", "num_class_embeds") is not None and options.null_class is None:
            yield "the model has classes; guidance needs `null_class`, the label that stands for no class"

    def build(self, components: Mapping[str, Any], folder: Folder, options: Options, size: Size) -> Parts:
        """The loaded U-Net."""
        return _Parts(components["unet"], options, size)


class _Parts(Parts):
    def __init__(self, unet: Any, options: Options, size: Size) -> None:
        self.unet, self._null = unet, options.null_class
        self.shape = int(unet.config.in_channels), *size
        self.device, self.dtype = unet.device, unet.dtype

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The labels (C,) and the label of no class (1,). All are 0 for a model without classes."""
        null = 0 if self._null is None else self._null
        labels = [label for label in range(self.unet.config.num_class_embeds or 1) if label != self._null]
        return torch.tensor(labels, device=self.device), torch.tensor([null], device=self.device)

    def network(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """The prediction of the U-Net. A variance that it predicts too is left out."""
        labels = None if self.unet.config.num_class_embeds is None else context
        found: Tensor = self.unet(x.to(self.dtype), t, class_labels=labels, return_dict=False)[0]
        return found[:, : x.shape[1]]

    def to_pictures(self, samples: Tensor) -> Tensor:
        """The samples themselves, in grey for one channel."""
        return samples.float().expand(-1, 3, -1, -1)

    def to_samples(self, pictures: Tensor) -> Tensor:
        """The pictures themselves; their mean over the channels for a model of one channel."""
        return pictures.to(self.device) if self.shape[0] == 3 else pictures.to(self.device).mean(1, keepdim=True)
