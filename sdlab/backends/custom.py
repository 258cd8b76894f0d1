"""Models of one's own and exact ones, built from their options, tried, and sampled like the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

import samplers
from sdlab import plugins
from sdlab.backends.custom_model import OwnModel
from sdlab.denoiser import Counted, Sigma
from sdlab.guidance import Guided, Strategy
from sdlab.plugins import Unfit

_BUILT: dict[tuple[str, str | None, str], OwnModel] = {}


def build(name: str, **options: Any) -> OwnModel:
    """The model `name` with these options, built once.

    Raises:
        UsageError: a model of the user's own fails, or returns something else; in one line, its traceback in the log.
        ValueError: an option of one of ours is out of bounds.
    """
    key = name, plugins.digest("model", name), repr(sorted(options.items()))
    if key not in _BUILT:
        with _told(name):
            _BUILT[key] = _whole(plugins.MODELS[name](**options))
    return _BUILT[key]


class OwnPipeline:
    """What `Pipeline` is to the networks: samples, and pictures of them where there are any."""

    def __init__(self, name: str, options: dict[str, Any], device: str) -> None:
        """Raises as `build` does."""
        self.name, self.model, self.device = name, build(name, **options), torch.device(device)
        self.levels = self.model.levels
        self.denoiser = Counted(self._denoise)
        contexts = self.model.contexts or (torch.zeros(1, 1), torch.zeros(1, 1))
        self.cond, self.uncond = (context.to(self.device) for context in contexts)

    def try_out(self) -> None:
        """Denoise a little noise at both ends of the levels.

        Raises:
            UsageError: the denoiser fails, changes the shape of x, or gives NaN or infinity; in one line.
        """
        with _told(self.name), torch.no_grad():
            for sigma in (self.levels.sigma_max, self.levels.sigma_min):
                x = self._white(samplers.seeded([0, 1], self.device), 2) * sigma
                for context in (self.cond[:1], self.uncond):
                    if not self._denoise(x, sigma, context.expand(2, *context.shape[1:])).isfinite().all():
                        raise Unfit(f"its denoiser gives NaN or infinity at sigma {sigma:.4g}")

    def sample(
        self,
        cond: Tensor,
        uncond: Tensor,
        rule: samplers.Sampler,
        sigmas: Sequence[float],
        guidance: Strategy,
        seeds: Sequence[int],
        on_step: Callable[[int, Tensor], object] | None = None,
        init: Tensor | None = None,
        strength: float = 1.0,
    ) -> Tensor:
        """Samples (B, …) in float32, each from its row of the contexts and its seed; always from noise alone.

        Raises:
            UsageError: the denoiser of a model of the user's own fails, or changes the shape of x.
        """
        noise = samplers.seeded(seeds, self.device)
        x, rule = self._white(noise, len(seeds)) * sigmas[0], rule.with_levels(self.levels)
        denoise = Guided(guidance, self.denoiser, {"cond": cond, "uncond": uncond})
        return samplers.run(rule, denoise, x, sigmas, noise=noise, on_step=on_step)

    @torch.no_grad()
    def flow(self, seeds: Sequence[int], sigma: float, sigma_next: float) -> Tensor | None:
        """Where the exact flow carries the same start σ ε, in float64, if the model knows."""
        if self.model.flow is None or self.model.contexts is not None:
            return None
        x = self._white(samplers.seeded(seeds, self.device), len(seeds)) * sigma
        with _told(self.name):
            return _in_shape("flow", x, self.model.flow(x.double(), sigma, sigma_next))

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor | None:
        """Pictures (B, 3, H, W) in [−1, 1], where the model has any."""
        if self.model.decode is None:
            return None
        with _told(self.name):
            pictures = self.model.decode(samples)
            if not isinstance(pictures, Tensor) or pictures.ndim != 4 or pictures.shape[:2] != (len(samples), 3):
                made = plugins.shape_or_type(pictures)
                raise Unfit(
                    f"decode should make pictures ({len(samples)}, 3, H, W) of {len(samples)} samples, not {made}"
                )
            return pictures

    def _denoise(self, x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        with _told(self.name):
            conditions = () if self.model.contexts is None else (context,)
            return _in_shape("denoiser", x, self.model.denoise(x, sigma, *conditions)).to(x)

    def _white(self, noise: samplers.Noise, images: int) -> Tensor:
        return noise(torch.empty(images, *self.model.shape, device=self.device))


def _told(name: str) -> AbstractContextManager[None]:
    """What goes wrong inside in a line, if the model is the user's own."""
    return plugins.told(name, "is no model") if plugins.is_own(name, "model") else nullcontext()


def _in_shape(what: str, x: Tensor, out: object) -> Tensor:
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise Unfit(f"its {what} turns x of shape {tuple(x.shape)} into {plugins.shape_or_type(out)}")
    return out


def _whole(made: object) -> OwnModel:
    """What a function to a model has returned, as one; `Unfit` where it is none."""
    if isinstance(made, tuple) and len(made) == 3:
        made = OwnModel(*made)
    if not isinstance(made, OwnModel):
        raise Unfit(f"it should return (denoise, levels, shape) or an OwnModel, got {_kind(made)}")
    if not callable(made.denoise):
        raise Unfit(f"denoise should be a function (x, sigma) -> x̂₀, got {_kind(made.denoise)}")
    low, high = (getattr(made.levels, end, None) for end in ("sigma_min", "sigma_max"))
    if not (isinstance(low, int | float) and isinstance(high, int | float) and 0 < low < high):
        raise Unfit(f"levels should be those of samplers.continuous_levels(…) or the like, got {_kind(made.levels)}")
    if not isinstance(made.shape, tuple) or not made.shape or not all(type(n) is int and n > 0 for n in made.shape):
        raise Unfit(f"shape should be that of one sample, like (3, 32, 32), got {made.shape!r}")
    if made.contexts is not None:
        cond, uncond = made.contexts
        if len(uncond) != 1 or cond.shape[1:] != uncond.shape[1:]:
            shapes = f"{tuple(cond.shape)} and {tuple(uncond.shape)}"
            raise Unfit(f"contexts should have shapes (C, …) and (1, …), got {shapes}")
    return made


def _kind(value: object) -> str:
    return f"a tuple of {len(value)}" if isinstance(value, tuple) else f"a {type(value).__name__}"
