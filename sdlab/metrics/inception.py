"""The FID paper's Inception network and its reference pictures, from user-supplied files."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdlab.metrics.base import Batch, Complaint, Tools, given
from sdlab.metrics.files import MetricFiles
from sdlab.metrics.pictures import pictures_in
from sdlab.metrics.reference import missing_reference
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
RESIZED = "pictures rounded to 8 bits, resized to 299 × 299 by TensorFlow 1's bilinear filter without antialiasing"
NAME = "Inception"
PREPARATION = f"{RESIZED}; real ones first brought to the size of the pictures by a Lanczos filter and a central crop"
_NO_PACKAGE = "needs the package torch-fidelity: pip install 'sdlab[features]'"


class Inception:
    """The 2048 pool features of the network (Heusel et al. 2017, arXiv:1706.08500)."""

    num_features = 2048

    def __init__(self, weights: Path, device: torch.device | str = "cpu") -> None:
        """Load the network.

        Raises:
            UsageError: the weight file or the package torch-fidelity, which implements the network, is missing.
        """
        if not weights.is_file():
            raise UsageError(f"{weights}: not found; it should be {WEIGHTS}")
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3  # slow to import

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights)).to(device)
        except ModuleNotFoundError:
            raise UsageError(f"Inception {_NO_PACKAGE}") from None

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in [−1, 1] on the network's device -> (B, 2048) on the CPU."""
        pixels = to_bytes(pictures).permute(0, 3, 1, 2).to(pictures.device)
        return self.network(pixels).float().cpu()

    def batch(self, batch: Batch) -> Tensor:
        """The features of the pictures of a batch, (B, 2048); use `batch.once(network.batch)`."""
        return self(given(batch.pictures))

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """Features (B, 2048) -> the logits of 1008 classes without their bias, (B, 1008).

        This is the layer `logits_unbiased` of torch-fidelity.
        """
        return features @ self.network.fc.weight.float().cpu().T


def load(tools: Tools) -> Inception:
    """The network; use `tools.shared(load)`."""
    return Inception(Path(given(tools.files.inception)), tools.device)


def missing_network(weights: str) -> Iterator[Complaint]:
    """The missing weights and package."""
    if not Path(weights).is_file():
        what = f"it should be the network of the FID paper, {WEIGHTS} from the releases of torch-fidelity"
        yield "metric_files.inception", f"{weights}: not found; {what}"
    if find_spec("torch_fidelity") is None:
        yield "metric_files.inception", _NO_PACKAGE


def missing(files: MetricFiles, fewest: int) -> Iterator[Complaint]:
    """The missing files and packages. A folder of real pictures needs at least `fewest`."""
    yield from missing_network(files.inception or "")
    if files.reference is None:
        yield "metric_files.reference", "missing; it should be a folder of real pictures, or an .npz file"
    yield from missing_reference(files, fewest)


def width(files: MetricFiles) -> int:
    """The number of features."""
    return Inception.num_features


def content(files: MetricFiles) -> Iterator[Path]:
    """The weights, and the real pictures or their statistics."""
    place = Path(files.reference or "")
    yield Path(files.inception or "")
    yield from pictures_in(place) if place.is_dir() else [place]


def read_statistics(path: Path, features: int) -> tuple[Tensor, Tensor]:
    """Mean and covariance from an .npz file of the FID tools: `mu` (d,) and `sigma` (d, d), float64.

    Raises:
        UsageError: the file does not have this format.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mean, covariance = (torch.from_numpy(np.asarray(arrays[k], dtype=np.float64)) for k in ("mu", "sigma"))
    except Exception as error:  # NumPy's readers raise anything on a damaged file
        raise UsageError(f"{path}: is not an .npz file with the arrays mu and sigma ({error})") from None
    if mean.shape != (features,) or covariance.shape != (features, features):
        shapes = f"{tuple(mean.shape)} and {tuple(covariance.shape)}"
        raise UsageError(f"{path}: mu and sigma should have {features} features, got shapes {shapes}")
    return mean, covariance
