"""DINOv2 (Oquab et al. 2023, arXiv:2304.07193), from a folder in the layout of transformers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sdlab.metrics.base import Batch, Complaint, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.openai_clip import resized
from sdlab.metrics.pictures import pictures_in
from sdlab.metrics.reference import missing_reference
from sdlab.system.errors import SdlabError, UsageError
from sdlab.weights.json_file import read_object

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_SIDE = 224  # pixels
_RESIZED = "pictures rounded to 8 bits, shorter side resized to 224 by Pillow's bicubic filter, centre cropped"
NAME = "DINOv2"
PREPARATION = f"{_RESIZED}; real ones first brought to the size of the pictures by a Lanczos filter and a central crop"
# Mean and standard deviation of ImageNet's pictures, per channel, as in DINOv2's training.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Dinov2:
    """The class token after the last layer and its normalisation.

    Distances in this space agree better with people's judgement than those of Inception (Stein et al. 2023,
    arXiv:2306.04675).
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        """Load the network. Only safetensors are read, and nothing is downloaded.

        Raises:
            UsageError: the folder has another network, or damaged weights.
        """
        from transformers import Dinov2Model  # slow to import

        logging.getLogger("transformers").setLevel(logging.ERROR)
        try:
            network: Any = Dinov2Model.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except Exception as error:  # transformers raises anything on a damaged file
            raise UsageError(f"{folder}: is not a DINOv2 in the layout of transformers ({error})") from None
        self.network: nn.Module = network.eval().to(device)
        self.num_features = int(network.config.hidden_size)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] on the network's device -> (B, d) on the CPU."""
        features: Tensor = self.network(pixel_values=resized(pictures, _SIDE, MEAN, STD)).pooler_output
        return features.float().cpu()

    def batch(self, batch: Batch) -> Tensor:
        """The features of the pictures of a batch, (B, d); use `batch.once(network.batch)`."""
        return self(given(batch.pictures))


def load(tools: Tools) -> Dinov2:
    """The network; use `tools.shared(load)`."""
    return Dinov2(Path(given(tools.files.dinov2)), tools.device)


def width(files: MetricFiles) -> int:
    """The number of features, from the configuration; that of ViT-B if it cannot be read."""
    try:
        found = read_object(Path(files.dinov2 or "", CONFIG)).get("hidden_size")
    except SdlabError:
        found = None
    return found if isinstance(found, int) else 768


def missing(files: MetricFiles, fewest: int) -> Iterator[Complaint]:
    """The missing files and packages. A folder of real pictures needs at least `fewest`."""
    key, folder = "metric_files.dinov2", Path(files.dinov2 or "")
    if files.inception:
        yield key, "cannot be given beside inception; keep one of the two networks"
    if not folder.is_dir():
        yield key, f"{folder}: is not a folder; it should contain {CONFIG} and {WEIGHTS} of DINOv2"
    else:
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                yield key, f"{folder}: {name} of DINOv2 is missing"
    if find_spec("transformers") is None:
        yield key, "needs the package transformers: pip install 'sdlab[features]'"
    if files.reference is None:
        yield "metric_files.reference", "missing; it should be a folder of real pictures, or an .npz file"
    yield from missing_reference(files, fewest)


def content(files: MetricFiles) -> Iterator[Path]:
    """The network, and the real pictures or their statistics."""
    folder, place = Path(files.dinov2 or ""), Path(files.reference or "")
    yield from (folder / CONFIG, folder / WEIGHTS)
    yield from pictures_in(place) if place.is_dir() else [place]
