"""Feedback guidance in its closed form.

Let the conditional prediction be that of the mixture π p(x|c) + (1 − π) p(x), as the method assumes, and the
unconditional one that of p. Then ∇ log p(x|c) is exactly the blend with the weight of the true posterior. So with
temperature 1, no drift and small steps of DDPM, the guided prediction is that of p(x|c).

The estimate starts at 0 in place of log p(c|x)/p(c), which is of the order of the means' difference over σ. At σ = 200
this is 0.6 %, well below the error of the steps; from 80 it would be seen.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian, GaussianMixture
from sdlab.certify.checks import Broken
from sdlab.denoiser import Sigma
from sdlab.guidance import Feedback, Guided, Strategy

_SHARE = 0.7  # π
_IMAGES, _STEPS, _FACTOR = 2048, 50, 8
_MOST, _FASTER = 0.05, 4  # the finer error, and how many times it is below the coarser. Wrong by 5 % in π or τ is more
_CLASS, _ALL = (1.0, 0.8), (-0.2, 1.2)  # mean and standard deviation
_TOP, _LOW = 200.0, 0.3


def feedback(strategy: Strategy) -> str | None:
    """Hold feedback guidance to the prediction of the class: its error shrinks with the steps, to less than 5 %."""
    if not isinstance(strategy, Feedback):
        return None
    exact = replace(strategy, mixing=_SHARE, temperature=1.0, drift=0.0, limit=100.0)
    coarse, fine = (_error(exact, steps) for steps in (_STEPS, _STEPS * _FACTOR))
    if not fine < min(_MOST, coarse / _FASTER):
        raise Broken(f"its prediction is off by {coarse:.2g} in {_STEPS} steps and {fine:.2g} in {_FACTOR * _STEPS}")
    return f"that of the class, but for {coarse:.2g} in {_STEPS} steps and {fine:.2g} in {_FACTOR * _STEPS}"


def _error(strategy: Strategy, steps: int) -> float:
    """The RMS error of the guided prediction along a run, relative to that of the conditional one."""
    (mean, std), (mean_all, std_all) = _CLASS, _ALL
    law, everything = Gaussian(std, mean), Gaussian(std_all, mean_all)
    values = ((mean, mean_all), (std, std_all), (_SHARE, 1 - _SHARE))
    means, stds, weights = (torch.tensor(pair, dtype=torch.float64) for pair in values)
    believed = GaussianMixture(means[:, None], stds, weights)

    def model(x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
        return torch.where(context > 0, believed.denoise(x, sigma), everything.denoise(x, sigma))

    contexts = {"cond": torch.ones(_IMAGES, 1), "uncond": torch.zeros(_IMAGES, 1)}
    denoise, gaps, widths = Guided(strategy, model, contexts), list[Tensor](), list[Tensor]()

    def watched(x: Tensor, sigma: float) -> Tensor:
        x0, exact = denoise(x, sigma), law.denoise(x, sigma)
        gaps.append(x0 - exact)
        widths.append(believed.denoise(x, sigma) - exact)
        return x0

    levels = samplers.continuous_levels(_LOW, _TOP)
    sigmas = samplers.grid("exponential", steps=steps, levels=levels, ending="stop_at_sigma_min")
    noise = samplers.seeded(range(_IMAGES))
    x = mean + (std**2 + _TOP**2) ** 0.5 * noise(torch.empty(_IMAGES, 1, dtype=torch.float64))
    samplers.run(samplers.make("ddpm"), watched, x, sigmas, noise)
    return float((torch.cat(gaps).square().mean() / torch.cat(widths).square().mean()).sqrt())
