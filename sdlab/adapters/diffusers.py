"""A scheduler for the pipelines of diffusers, made from any sampler and grid.

    pipe.scheduler = SamplerScheduler.like(pipe.scheduler, samplers.make("dpmpp_2m"), "karras")

A pipeline calls its network itself and hands each prediction to the scheduler (`stepwise`). The state between steps is
float32, whatever the dtype of the pipeline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

import samplers
from samplers.base import Sampler
from sdlab.adapters.stepwise import Stepwise, calls
from sdlab.guidance.base import Level
from sdlab.model.noise_schedule import FlowLevels
from sdlab.model.parametrisation import PARAMETRISATIONS, Flow, Parametrisation
from sdlab.weights import scheduler_config

Generators = torch.Generator | Sequence[torch.Generator] | None


class SamplerScheduler:
    """A scheduler with the interface of diffusers. Any sampler works, except adaptive ones and those of CFG++."""

    def __init__(
        self,
        sampler: Sampler,
        grid: str,
        levels: samplers.TimedLevels,
        parametrisation: Parametrisation,
        config: Mapping[str, Any],
        noise: samplers.Noise | None = None,
        **options: Any,
    ) -> None:
        """`config` is what pipelines read of a scheduler. The other arguments are those of `like`."""
        self.sampler, self.grid, self.options = sampler.with_levels(levels), grid, options
        self.levels, self.parametrisation, self.noise = levels, parametrisation, noise
        self.config, self.order = _Config(config), 1
        self.sigmas: tuple[float, ...] = ()
        self._firsts: dict[int, int] = {}
        self._begin = 0
        self._run: Stepwise | None = None
        self._returned: Tensor | None = None
        self.timesteps = torch.empty(0)
        calls(self.sampler, (levels.sigma_max, levels.sigma_min, 0.0))  # a check before the pipeline runs

    @classmethod
    def like(
        cls, scheduler: Any, sampler: Sampler, grid: str, noise: samplers.Noise | None = None, **options: Any
    ) -> SamplerScheduler:
        """A scheduler with the noise schedule and the prediction type of another.

        Args:
            scheduler: that of the pipeline. Its own grid and formulas are not used.
            noise: the noise of stochastic samplers, by default that of the pipeline's generator.
            options: those of the grid.

        Raises:
            UsageError: the scheduler has a noise schedule that sdlab does not know.
            ValueError: the sampler is adaptive, or needs predictions that a pipeline does not hand out.
        """
        config, name = dict(scheduler.config), type(scheduler).__name__
        config["_class_name"] = name
        if name.startswith("FlowMatch"):
            return cls(sampler, grid, FlowLevels().schedule(), Flow(), config, noise, **options)
        settings = {"_class_name": name, **{key: value for key, value in config.items() if key not in _OF_GRIDS}}
        levels, prediction = scheduler_config.read(settings, Path(name))
        made = PARAMETRISATIONS[prediction](None)  # type: ignore[arg-type]
        return cls(sampler, grid, levels.schedule(), made, config, noise, **options)

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the first latents. Latents have the scale of the network's input throughout.

        Raises:
            ValueError: `set_timesteps` has not been called.
        """
        self._check_started()
        sigma = self.sigmas[0]
        return sigma * float(self.parametrisation.scale(sigma))

    @property
    def begun(self) -> bool:
        """Whether a step has been made since `set_timesteps`."""
        return self._run is not None

    @property
    def level(self) -> Level:
        """The level of the next network call, with that at which its step begins.

        Raises:
            ValueError: `set_timesteps` has not been called.
        """
        self._check_started()
        if self._run is None:
            return Level(self.sigmas[self._firsts[self._begin]])
        return Level(self._run.needed[1], self._run.sigmas[self._run.index])

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        sigmas: object = None,
        mu: object = None,
    ) -> None:
        """Start a run. `timesteps` then has one timestep per network call, several per step for some samplers.

        `sigmas` and `mu`, with which flow pipelines choose a grid, are ignored: the grid is that of the scheduler.

        Raises:
            ValueError: there is no such grid of so many steps, or the sampler cannot be used.
        """
        count = len(sigmas) if num_inference_steps is None and isinstance(sigmas, Sequence) else num_inference_steps
        self.sigmas = samplers.grid(self.grid, steps=count or 0, levels=self.levels, **self.options)
        made = calls(self.sampler, self.sigmas)
        self.order = max(map(len, made))
        starts = [sum(map(len, made[:i])) for i in range(len(made))]
        # Call -> the step that it begins. A step that first adds noise cannot be begun with latents of the pipeline.
        self._firsts = {starts[i]: i for i, levels in enumerate(made) if levels[0] == self.sigmas[i]}
        if 0 not in self._firsts:
            raise ValueError(
                f"{type(self.sampler).__name__} adds noise before its first network call, which a pipeline makes "
                "itself; set its churn to 0 or limit it to lower levels"
            )
        self._levels = [sigma for step in made for sigma in step]
        times = [self.levels.t(sigma) for sigma in self._levels]
        self.timesteps = torch.tensor(times, dtype=torch.float32, device=device)
        self.num_inference_steps = count
        self._begin, self._run, self._returned = 0, None, None

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at this entry of `timesteps`, for image-to-image.

        Raises:
            ValueError: no step of the sampler begins there, or `set_timesteps` has not been called.
        """
        self._check_started()
        if begin_index not in self._firsts:
            raise ValueError(f"no step begins at timestep {begin_index}; steps begin at {sorted(self._firsts)}")
        self._begin = begin_index

    def scale_model_input(self, sample: Tensor, timestep: object = None) -> Tensor:
        """The latents themselves, which have the scale of the network's input."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Clean latents at a level: c_in (x₀ + σ ε)."""
        sigma = self._levels[self._index_of(timesteps.flatten()[0])]
        return (original_samples + sigma * noise) * float(self.parametrisation.scale(sigma))

    def step(
        self,
        model_output: Tensor,
        timestep: object,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> Any:
        """The latents of the next network call, or the final ones, from the prediction for `sample`.

        Raises:
            ValueError: the latents were changed between two calls of one step, all steps are done or none are set, or
                the generators are not as many as the images.
        """
        self._check_started()
        if self._run is None:
            noise = self.noise or (lambda like: _randn(like, generator))
            step = self._firsts[self._begin]
            self._run = Stepwise(self.sampler, self.sigmas[step:], noise)
            self._run.start(self._unscaled(sample, self.sigmas[step]))
        elif sample is not self._returned:  # a callback changed the latents
            self._run.replace(self._unscaled(sample, self._run.needed[1]))
        x, sigma = self._run.needed
        predicted = self.parametrisation.denoised(x, sigma, model_output.to(x))
        x, sigma = self._run.answer(predicted)
        self._returned = (x * self.parametrisation.scale(sigma)).to(sample.dtype)
        return SimpleNamespace(prev_sample=self._returned) if return_dict else (self._returned,)

    def _check_started(self) -> None:
        if not self.sigmas:
            raise ValueError("the scheduler has no timesteps yet; call set_timesteps first")

    def _unscaled(self, sample: Tensor, sigma: float) -> Tensor:
        return sample.float() / self.parametrisation.scale(sigma)

    def _index_of(self, timestep: Tensor) -> int:
        found = (self.timesteps == timestep.to(self.timesteps)).nonzero().flatten().tolist()
        return next((index for index in found if index >= self._begin), self._begin)

    def __len__(self) -> int:
        return int(self.config["num_train_timesteps"])


# Settings of a scheduler that concern its own grid, not the noise schedule of the model.
_OF_GRIDS = ("sigma_min", "sigma_max", "use_flow_sigmas", "timestep_type", "rho")


class _Config(dict[str, Any]):
    """A configuration whose keys are attributes too, as pipelines expect."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _randn(like: Tensor, generator: Generators) -> Tensor:
    """Standard normal noise from one generator, or from one per image.

    Raises:
        ValueError: the generators are not as many as the images.
    """
    one = generator if isinstance(generator, torch.Generator | None) else None
    if isinstance(generator, Sequence) and len(generator) != len(like):
        raise ValueError(f"there are {len(generator)} generators for {len(like)} images; give one per image")
    shape, each = (like.shape, [one]) if generator is one else (like.shape[1:], [*generator])  # type: ignore[misc]
    drawn = [torch.randn(shape, generator=g, device="cpu" if g is None else g.device) for g in each]
    return (drawn[0] if generator is one else torch.stack(drawn)).to(like)
