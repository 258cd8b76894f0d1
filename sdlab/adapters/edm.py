"""Networks of EDM, EDM2 and k-diffusion as custom models.

    # my_edm.py; in a sweep, model = "my_edm.py:cifar10"
    def cifar10():
        weights = Path(__file__).with_name("cifar10.safetensors")
        return edm_model(MyNetwork(), (3, 32, 32), weights, classes=10)

Such a network is a denoiser D(x, σ) or D(x, σ, labels) with a level per image, and takes x = x₀ + σ ε itself. A network
without its preconditioning gets that of `precondition` (Karras et al. 2022, arXiv:2206.00364, table 1):

    D(x, σ) = c_skip x + c_out F(c_in x, c_noise)
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, sqrt
from pathlib import Path

import torch
from torch import Tensor, nn

import samplers
from samplers.checks import look_up
from sdlab.backends.custom_model import CustomModel
from sdlab.system.errors import UsageError
from sdlab.system.paths import user_path
from sdlab.weights import weights_file
from sdlab.weights.fill import check, fill

Factors = tuple[Tensor, Tensor, Tensor, Tensor]  # c_skip, c_out, c_in and c_noise
_BETA_D, _BETA_MIN, _STEPS = 19.9, 0.1, 1000  # of the process that is called vp


def edm(sigma: Tensor, sigma_data: float) -> Factors:
    """c_skip = s²/r², c_out = σ s/r, c_in = 1/r, c_noise = ¼ ln σ, with r² = σ² + s², s being that of the data."""
    r = (sigma**2 + sigma_data**2).sqrt()
    return sigma_data**2 / r**2, sigma * sigma_data / r, 1 / r, sigma.log() / 4


def vp(sigma: Tensor, sigma_data: float) -> Factors:
    """c_skip = 1, c_out = −σ, c_in = 1/√(σ² + 1), c_noise = 999 t, with σ² + 1 = exp(½ 19.9 t² + 0.1 t)."""
    t = ((_BETA_MIN**2 + 2 * _BETA_D * (sigma**2).log1p()).sqrt() - _BETA_MIN) / _BETA_D
    return torch.ones_like(sigma), -sigma, (sigma**2 + 1) ** -0.5, (_STEPS - 1) * t


def ve(sigma: Tensor, sigma_data: float) -> Factors:
    """c_skip = 1, c_out = σ, c_in = 1, c_noise = ln(σ/2)."""
    one = torch.ones_like(sigma)
    return one, sigma, one, (sigma / 2).log()


def _vp_sigma(t: float) -> float:
    return sqrt(exp(_BETA_D * t * t / 2 + _BETA_MIN * t) - 1)


PRECONDITIONINGS: dict[str, Callable[[Tensor, float], Factors]] = {"edm": edm, "vp": vp, "ve": ve}
_RANGES = {"edm": (0.002, 80.0), "vp": (_vp_sigma(1e-3), _vp_sigma(1.0)), "ve": (0.02, 100.0)}  # the same table


def preconditioned(network: Callable[..., Tensor], name: str, sigma_data: float = 0.5) -> Callable[..., Tensor]:
    """D(x, σ, …) of a network F(c_in x, c_noise, …), with x (B, …) and one level per image, (B,).

    Raises:
        ValueError: there is no preconditioning of that name.
    """
    factors = look_up("preconditioning", name, PRECONDITIONINGS)

    def denoise(x: Tensor, sigma: Tensor, *conditions: Tensor) -> Tensor:
        skip, out, scale, noise = factors(sigma, sigma_data)
        skip, out, scale = (one.view(-1, *[1] * (x.dim() - 1)) for one in (skip, out, scale))
        return skip * x + out * network(scale * x, noise, *conditions)

    return denoise


def edm_model(
    network: nn.Module,
    shape: tuple[int, ...],
    weights: str | Path | None = None,
    *,
    precondition: str | None = None,
    sigma_data: float = 0.5,
    sigma_range: tuple[float, float] | None = None,
    classes: int = 0,
    decode: Callable[[Tensor], Tensor] | None = None,
) -> CustomModel:
    """The custom model of a network D(x, σ), or D(x, σ, labels) with classes.

    Labels are one-hot (B, classes) in float32, and all zeros for no class, as in EDM. Guidance needs a network that was
    trained with such labels too.

    Args:
        network: x (B, …), levels (B,) and labels -> x̂₀ in the shape of x. It runs in its own data type.
        shape: of one sample.
        weights: a file with the tensors of its `state_dict`; by default it has them already. No pickle is executed.
        precondition: "edm", "vp" or "ve", for a network F(c_in x, c_noise, …).
        sigma_data: the standard deviation of the data, for "edm".
        sigma_range: the lowest and the highest level, by default those of the preconditioning, of "edm" without one.
        decode: samples -> pictures in [−1, 1]. By default samples of 1 or 3 channels are pictures themselves.

    Raises:
        UsageError: the file is missing, or has another format.
        RunError: the file is damaged, or its tensors do not fit the network.
        ValueError: there is no preconditioning of that name, or the range is not rising and above 0.
    """
    files = () if weights is None else (_filled(network, user_path(weights)),)
    network.eval().requires_grad_(False)
    denoiser = network if precondition is None else preconditioned(network, precondition, sigma_data)
    dtype = next((one.dtype for one in network.parameters()), torch.float32)

    def denoise(x: Tensor, sigma: float | Tensor, *labels: Tensor) -> Tensor:
        network.to(x.device)
        levels = torch.as_tensor(sigma, dtype=dtype, device=x.device).expand(len(x))
        return denoiser(x.to(dtype), levels, *(one.to(dtype) for one in labels)).to(x.dtype)

    one_hot = torch.eye(classes, dtype=torch.long), torch.zeros(1, classes, dtype=torch.long)
    return CustomModel(
        denoise,
        samplers.edm_levels(*(sigma_range or _RANGES[precondition or "edm"])),
        shape,
        contexts=one_hot if classes else None,
        decode=decode or (_pictures if len(shape) == 3 and shape[0] in (1, 3) else None),
        files=files,
    )


def _filled(network: nn.Module, file: Path) -> Path:
    """Load the weights of a file into the network. Returns the file."""
    if not file.is_file():
        raise UsageError(f"{file}: no such file of weights")
    tensors, _ = weights_file.read(file)
    state = network.state_dict()
    check(tensors, {name: tuple(one.shape) for name, one in state.items()}, str(file))
    first = next(network.parameters(), torch.empty(0))
    fill(network, tensors, first.device, first.dtype)
    return file


def _pictures(samples: Tensor) -> Tensor:
    return samples.clamp(-1, 1).expand(-1, 3, -1, -1)
