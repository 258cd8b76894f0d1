"""Pictures to feature vectors, on which FID and KID are measured: the lab evaluator, or Inception with local weights.

A `FeatureExtractor` runs once a batch; torchmetrics is then given features, not pictures, so that FID, KID and the
reader share the one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from sdlab.system.errors import UsageError
from sdlab.worlds.scenes.reader import FEATURES, Evaluator


class FeatureExtractor(Protocol):
    """Pictures (B, 3, H, W) in [−1, 1] -> features (B, `num_features`), float32."""

    name: str
    num_features: int

    def __call__(self, images: Tensor) -> Tensor:
        """The features of a batch."""


class LabFeatures:
    """The pooled features of the lab evaluator, each of mean 0 and variance 1 over real renders.

    They are sensitive to what is in a scene, where, and in what light. The common scale keeps one feature from drowning
    the others, and the cubic kernel of KID from overflowing.
    """

    name = "lab"
    num_features = FEATURES

    def __init__(self, evaluator: Evaluator, renders: Iterable[Tensor]) -> None:
        """`renders` are batches of real pictures (B, 3, 64, 64), which are also the `reference` of FID and KID."""
        self.evaluator = evaluator
        with torch.no_grad():
            raw = torch.cat([evaluator(batch)["features"].float().cpu() for batch in renders])
        self.mean, self.std = raw.mean(0), raw.std(0)
        self.reference = (raw - self.mean) / self.std  # (N, 64)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [−1, 1] -> (B, 64)."""
        return self.of(self.evaluator(images))

    def of(self, heads: dict[str, Tensor]) -> Tensor:
        """The features in what the evaluator has already said of a batch, (B, 64)."""
        return (heads["features"].float().cpu() - self.mean) / self.std


class InceptionFeatures:
    """The 2048 pool features of the Inception network of the FID paper (Heusel et al. 2017, arXiv 1706.08500).

    Raises:
        UsageError: the weight file is not there, or the package torch-fidelity, which holds the network, is not.
    """

    name = "inception"
    num_features = 2048

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        if not weights.is_file():
            raise UsageError(f"{weights}: no such file; FID on Inception needs pt_inception-2015-12-05-6726825d.pth")
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
        except ModuleNotFoundError:
            raise UsageError("FID on Inception needs the package torch-fidelity: pip install torch-fidelity") from None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] on the network's device -> (B, 2048) on the CPU."""
        return self.network(((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)).float().cpu()


class Given(nn.Module):
    """Stands in for torchmetrics' network: the features have been computed already."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        """What it was given."""
        return features
