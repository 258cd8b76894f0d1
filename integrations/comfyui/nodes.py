"""The nodes of ComfyUI, one per sampler and one per grid, with their options as widgets.

ComfyUI samples rectified flows in the time t, x_t = (1−t) x₀ + t ε, and calls t sigma. sdlab samples in the σ clock,
where x = x_t/(1−t) and σ = t/(1−t). The functions here convert between the two.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import torch
from torch import Tensor

import samplers
from samplers.grids.registry import default_ending

_LAST = 0.9999  # of t: at t = 1, σ is infinite, and x there equals ε to one part in 10⁴
Widgets = dict[str, tuple[Any, ...]]


def sample(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
    disable: bool | None = None,
    *,
    sampler: samplers.Sampler,
) -> Tensor:
    """Sample with the arguments that ComfyUI gives to a sampler function.

    Image i draws its noise from the seed `extra_args["seed"] + 1 + i`. The next seed is used because ComfyUI has drawn
    the initial noise from the seed itself. Without a step, as at denoise 0, x is returned as it is.

    Raises:
        ValueError: the sampler needs the unconditional prediction, and the guider does not hand it over.
    """
    if len(sigmas) < 2:
        return x
    extra = extra_args or {}
    sampling = model.inner_model.model_patcher.get_model_object("model_sampling")
    clock = _Clock(isinstance(sampling, comfy.model_sampling.CONST))
    levels = [clock.sigma(t) for t in sigmas.tolist()]
    denoise = _Denoiser(model, extra, clock, x)

    def on_step(i: int, state: Tensor) -> None:
        if callback is not None:
            after = clock.theirs(state, torch.full((len(x),), levels[i + 1], device=x.device))
            callback({"x": after, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoise.seen})

    seed = int(extra.get("seed") or 0)
    noise = samplers.seeded([seed + 1 + i for i in range(len(x))], x.device)
    fitted = sampler.with_levels(_noise_schedule(sampling, clock))
    start = clock.ours(x, levels[0])
    result = samplers.run(fitted, denoise, start, levels, noise=noise, on_step=on_step)
    return clock.theirs(result, torch.full((len(x),), levels[-1], device=x.device))


class _Denoiser:
    """The guided model of ComfyUI in the σ clock."""

    def __init__(self, model: Any, extra: dict[str, Any], clock: _Clock, x: Tensor) -> None:
        self._model, self._extra, self._clock = model, extra, clock
        self.seen = x  # the last x̂₀

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """x (B, …) at level σ, a float or one per image (B,) -> x̂₀."""
        return self._denoised(x, sigma, self._extra)

    def with_uncond(self, x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
        """The guided x̂₀ and the unconditional one, which ComfyUI hands to functions that are called after CFG.

        Raises:
            ValueError: the guider has no negative prompt, or does not hand the prediction over.
        """
        found: list[Tensor] = []

        def after_cfg(args: dict[str, Any]) -> Tensor:
            if args["uncond"] is not None:
                found.append(args["uncond_denoised"])
            guided: Tensor = args["denoised"]
            return guided

        # At CFG 1 ComfyUI would leave the prediction out.
        options = comfy.model_patcher.set_model_options_post_cfg_function(
            dict(self._extra.get("model_options") or {}), after_cfg, disable_cfg1_optimization=True
        )
        guided = self._denoised(x, sigma, {**self._extra, "model_options": options})
        if not found:
            raise ValueError(
                "CFG++ needs the unconditional prediction; use a guider with a negative prompt (CFGGuider)"
            )
        return guided, self._masked(found[-1], sigma, options)

    def _masked(self, x0: Tensor, sigma: float | Tensor, options: dict[str, Any]) -> Tensor:
        """x̂₀ with the latents that a mask keeps, as ComfyUI does it for the guided x̂₀."""
        if (mask := self._extra.get("denoise_mask")) is None:
            return x0
        if change := options.get("denoise_mask_function"):
            more = {"model": self._model.inner_model, "sigmas": self._model.sigmas}
            mask = change(self._clock.time(self._at(x0, sigma)), mask, extra_options=more)
        kept: Tensor = x0 * mask + self._model.latent_image * (1 - mask)
        return kept

    def _at(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The level of each image, (B,)."""
        return torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(len(x))

    def _denoised(self, x: Tensor, sigma: float | Tensor, extra: dict[str, Any]) -> Tensor:
        at = self._at(x, sigma)
        self.seen = self._model(self._clock.theirs(x, at), self._clock.time(at), **extra)
        return self.seen


class _Clock:
    """The conversion between ComfyUI's levels and σ. It is the identity unless the model is a rectified flow."""

    def __init__(self, flow: bool) -> None:
        self.flow = flow

    def sigma(self, t: float) -> float:
        """σ at a level of ComfyUI's."""
        t = min(t, _LAST) if self.flow else t
        return t / (1 - t) if self.flow else t

    def time(self, sigma: Tensor) -> Tensor:
        """ComfyUI's level at σ."""
        return sigma / (1 + sigma) if self.flow else sigma

    def ours(self, x: Tensor, sigma: float) -> Tensor:
        """x in the σ clock."""
        return x * (1 + sigma) if self.flow else x

    def theirs(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x as ComfyUI has it; `sigma` has one level per image."""
        return x / (1 + sigma).view(-1, *[1] * (x.dim() - 1)) if self.flow else x


def _noise_schedule(sampling: Any, clock: _Clock) -> samplers.Levels:
    """The noise schedule of a model.

    That of a flow has the time u in [0, 1000] before the model's shift s, which maps it to t = s u/(1000 + (s − 1) u).
    """
    table = sampling.sigmas.tolist() if hasattr(sampling, "sigmas") else []
    if clock.flow:
        shift = _shift(table)
        u_max = 1000 * _LAST / (_LAST + shift * (1 - _LAST))
        return samplers.ClockLevels(
            1.0, u_max, lambda u: shift * u / (1000 - u), lambda sigma: 1000 * sigma / (shift + sigma)
        )
    if hasattr(sampling, "log_sigmas") and len(table) > 1:
        return samplers.DiscreteLevels(tuple(dict.fromkeys(table)))  # clamped tables repeat the level at their end
    return samplers.continuous_levels(float(sampling.sigma_min), float(sampling.sigma_max))


def _shift(times: list[float]) -> float:
    """The shift of a flow, from the entry in the middle of its table of t, whose time u is one half."""
    half = times[len(times) // 2 - 1] if len(times) > 1 else 0.5
    return half / (1 - half)


def widgets(function: Callable[..., Any], without: tuple[str, ...] = ()) -> Widgets:
    """The options of a sampler or a grid as widgets, in ComfyUI's notation.

    Options that are not a number or one of several names, or have no default, are left out.
    """
    hints, made = get_type_hints(function), Widgets()
    for name, parameter in inspect.signature(function).parameters.items():
        kind, default = hints.get(name), parameter.default
        if name in without or default is parameter.empty or default is None:
            continue
        if kind is bool:
            made[name] = ("BOOLEAN", {"default": default})
        elif kind is int:
            made[name] = ("INT", {"default": default, "min": -10_000, "max": 10_000})
        elif kind is float:
            finite = 1e6 if default == float("inf") else default
            made[name] = ("FLOAT", {"default": finite, "min": -1e6, "max": 1e6, "step": 0.01, "round": False})
        elif get_origin(kind) is Literal:
            made[name] = ([*get_args(kind)], {"default": default})
    return made


def _sampler_node(name: str, kind: Callable[..., samplers.Sampler]) -> type:
    options = widgets(kind)

    class Node:
        RETURN_TYPES = ("SAMPLER",)
        FUNCTION = "build"
        CATEGORY = "sampling/custom_sampling/samplers/sdlab"
        DESCRIPTION = inspect.cleandoc(kind.__doc__ or "")

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Widgets]:
            return {"required": options}

        def build(self, **values: Any) -> tuple[Any]:
            made = samplers.make(name, **values)
            return (comfy.samplers.KSAMPLER(partial(sample, sampler=made)),)

    return Node


def _grid_node(name: str, spacing: Callable[..., Any]) -> type:
    options = widgets(spacing, without=("steps", "levels"))

    class Node:
        RETURN_TYPES = ("SIGMAS",)
        FUNCTION = "build"
        CATEGORY = "sampling/custom_sampling/schedulers/sdlab"
        DESCRIPTION = inspect.cleandoc(spacing.__doc__ or "")

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Widgets]:
            steps: tuple[Any, ...] = ("INT", {"default": 20, "min": 1, "max": 10_000})
            denoise: tuple[Any, ...] = ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01})
            ending: tuple[Any, ...] = ([*samplers.ENDINGS], {"default": default_ending(name)})
            return {"required": {"model": ("MODEL",), "steps": steps, "denoise": denoise, "ending": ending, **options}}

        def build(self, model: Any, steps: int, denoise: float, ending: str, **values: Any) -> tuple[Tensor]:
            sampling = model.get_model_object("model_sampling")
            clock = _Clock(isinstance(sampling, comfy.model_sampling.CONST))
            if denoise <= 0:
                return (torch.empty(0),)
            levels = _noise_schedule(sampling, clock)
            whole = samplers.grid(name, steps=int(steps / denoise), levels=levels, ending=ending, **values)
            return (clock.time(torch.tensor(whole[-steps - 1 :], dtype=torch.float64)).float(),)

    return Node


_SAMPLERS = {f"sdlab_{name}": (name, kind) for name, kind in samplers.SAMPLERS.items()}
# Grids that are lists of numbers, or made of other grids, have no widgets.
_GRIDS = {
    f"sdlab_grid_{name}": (name, kind) for name, kind in samplers.GRIDS.items() if name not in ("explicit", "blend")
}
NODE_CLASS_MAPPINGS: dict[str, type] = {
    **{node: _sampler_node(*entry) for node, entry in _SAMPLERS.items()},
    **{node: _grid_node(*entry) for node, entry in _GRIDS.items()},
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    **{node: f"{name} (sdlab sampler)" for node, (name, _) in _SAMPLERS.items()},
    **{node: f"{name} (sdlab grid)" for node, (name, _) in _GRIDS.items()},
}
