"""The backend of bare denoisers: a function D(x, σ), custom or exact, without prompts or model files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.exact.families import ClassMixture
from samplers.exact.problems import Gaussian
from sdlab import plugins
from sdlab.backends.base import Backend, Opened, Setting
from sdlab.backends.custom_model import CustomModel
from sdlab.denoiser import Sigma, Watch, unwatched
from sdlab.guidance import Guided, Strategy
from sdlab.guidance.guided import Seen
from sdlab.pipeline import check_finite
from sdlab.plugins import InvalidEntry
from sdlab.system.errors import UsageError

Guard = Callable[[], AbstractContextManager[None]]  # wraps every call of the model's functions


@dataclass(frozen=True)
class OpenedDenoiser(Opened):
    """A `CustomModel` with its name and options. `guard` turns an error of its functions into a message."""

    name: str
    options: Mapping[str, Any]
    label: str
    identity: Mapping[str, Any]
    model: CustomModel
    guard: Guard
    seconds_per_pass: Mapping[str, float] = field(default_factory=lambda: {"cpu": 1e-5, "cuda": 1e-5, "mps": 1e-5})
    image_size: int | None = None
    ignores: frozenset[Setting] = frozenset({"prompts", "dtype", "compile"})
    starts_from_pictures: bool = False
    layers: Collection[str] = ()
    others: Mapping[str, Path] = field(default_factory=dict)

    @property
    def levels(self) -> samplers.Levels:  # type: ignore[override]
        """The noise schedule of the model."""
        return self.model.levels

    @property
    def files(self) -> tuple[Path, ...]:  # type: ignore[override]
        """The files that the model lists."""
        return tuple(Path(file) for file in self.model.files)

    @property
    def conditional(self) -> bool:  # type: ignore[override]
        """Whether the model has conditions."""
        return self.model.contexts is not None

    @property
    def labels(self) -> bool:  # type: ignore[override]
        """Whether the conditions are integers."""
        return self.model.contexts is not None and not self.model.contexts[0].is_floating_point()

    @property
    def conditioned_on_pictures(self) -> bool:  # type: ignore[override]
        """Whether the model has a `without_text`."""
        return self.model.without_text is not None and self.conditional

    @property
    def draws_pictures(self) -> bool:  # type: ignore[override]
        """Whether the model has a `decode`."""
        return self.model.decode is not None

    @property
    def knows_flow(self) -> bool:  # type: ignore[override]
        """Whether the model has a `flow`. Only an unconditional flow counts."""
        return self.model.flow is not None and not self.conditional

    @property
    def law(self) -> Gaussian | None:  # type: ignore[override]
        """The law of the data; None for a conditional model."""
        return None if self.conditional else self.model.law

    @property
    def classes(self) -> ClassMixture | None:  # type: ignore[override]
        """The laws of the classes."""
        return self.model.classes

    def check(self, device: str, compile: bool, others: Collection[str] = (), gradients: bool = False) -> list[str]:
        """Denoise some noise at both ends of the noise schedule. Returns what fails, in one line."""
        try:
            BareDenoiser(self, device).try_out(gradients)
        except UsageError as error:
            return [f"model: {error}"]
        return []

    def load(
        self, device: str, dtype: torch.dtype, compile: bool, others: Collection[str] = (), gradients: bool = False
    ) -> BareDenoiser:
        """The model on `device`. It is sampled in float32 whatever `dtype` is."""
        return BareDenoiser(self, device)


class BareDenoiser(Backend):
    """A bare denoiser, ready to sample on a device."""

    def __init__(self, opened: OpenedDenoiser, device: str) -> None:
        self.model, self.device, self._guard = opened.model, torch.device(device), opened.guard
        self.levels = self.model.levels
        contexts = self.model.contexts or (torch.zeros(1, 1), torch.zeros(1, 1))
        self._cond, self._uncond = (context.to(self.device) for context in contexts)

    def try_out(self, gradients: bool = False) -> None:
        """Denoise some noise at both ends of the noise schedule.

        Raises:
            UsageError: the denoiser fails, changes the shape of x, returns NaN or infinity, or has no gradients though
                they are needed.
        """
        with self._guard(), torch.set_grad_enabled(gradients):
            for sigma in (self.levels.sigma_max, self.levels.sigma_min):
                x = (self._white(samplers.seeded([0, 1], self.device), 2) * sigma).requires_grad_(gradients)
                for context in (self._cond[:1], self._uncond):
                    found = self._denoise(x, sigma, context.expand(2, *context.shape[1:]))
                    if not found.isfinite().all():
                        raise InvalidEntry(f"its denoiser returns NaN or infinity at sigma {sigma:.4g}")
                    if gradients and not found.requires_grad:
                        raise InvalidEntry("its denoiser has no gradients, which the guidance strategy needs")

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        """The contexts of the model, (C, …) and (1, …)."""
        return self._cond, self._uncond

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
        """Samples (B, …) in float32. Sample i depends on row i of the contexts and on `seeds[i]`. All start from noise.

        Raises:
            InvalidEntry: the denoiser changes the shape of x. Other errors of a custom denoiser are passed on.
            NotFinite: a sample has NaN or infinity.
        """
        noise = samplers.seeded(seeds, self.device)
        x, sampler = self._white(noise, len(seeds)) * sigmas[0], sampler.with_levels(self.levels)
        contexts = {"cond": cond, "uncond": uncond}
        if self.model.without_text is not None:
            contexts["image"] = self.model.without_text(cond)
        denoise = Guided(strategy, watch(self._denoise), contexts, seeds, on_denoised=on_denoised)
        samples = samplers.run(sampler, denoise, x, sigmas, noise=noise, on_step=on_step)
        check_finite("the samples", samples)
        return samples

    @torch.no_grad()
    def decode(self, samples: Tensor) -> Tensor | None:
        """Pictures (B, 3, H, W) in [−1, 1], or None if the model has no `decode`.

        Raises:
            InvalidEntry: `decode` returns something else.
            NotFinite: a picture has NaN or infinity.
        """
        if self.model.decode is None:
            return None
        pictures = self.model.decode(samples)
        if not isinstance(pictures, Tensor) or pictures.ndim != 4 or pictures.shape[:2] != (len(samples), 3):
            made = plugins.shape_or_type(pictures)
            raise InvalidEntry(
                f"decode should return pictures ({len(samples)}, 3, H, W) for {len(samples)} samples, got {made}"
            )
        check_finite("the pictures", pictures)
        return pictures

    @torch.no_grad()
    def flow(self, seeds: Sequence[int], sigma: float, sigma_next: float) -> Tensor | None:
        """The states that the exact flow reaches at `sigma_next`, from σ ε of each seed; float64, None if unknown."""
        if self.model.flow is None or self.model.contexts is not None:
            return None
        x = self._white(samplers.seeded(seeds, self.device), len(seeds)) * sigma
        return _in_shape("flow", x, self.model.flow(x.double(), sigma, sigma_next))

    def _denoise(self, x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        conditions = () if self.model.contexts is None else (context,)
        return _in_shape("denoiser", x, self.model.denoise(x, sigma, *conditions)).to(x)

    def _white(self, noise: samplers.Noise, images: int) -> Tensor:
        return noise(torch.empty(images, *self.model.shape, device=self.device))


def _in_shape(what: str, x: Tensor, out: object) -> Tensor:
    if not isinstance(out, Tensor) or out.shape != x.shape:
        raise InvalidEntry(f"its {what} turns x of shape {tuple(x.shape)} into {plugins.shape_or_type(out)}")
    return out
