"""Text-to-image and image-to-image in four parts: encode prompts, encode pictures, sample latents, decode latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import ceil
from typing import Literal, get_args

import torch
from torch import Tensor, nn

import samplers
from sdlab.denoiser import NetworkDenoiser, Watch, unwatched
from sdlab.guidance import Guided, Strategy
from sdlab.guidance.guided import Seen
from sdlab.model.config import ModelConfig, Size
from sdlab.model.stable_diffusion import StableDiffusion
from sdlab.model.tiling import tiled
from sdlab.picture import rounded
from sdlab.system.allocator import kept_memory
from sdlab.system.errors import RunError

Tiles = Literal["auto", "always", "never"]
TILES: tuple[str, ...] = get_args(Tiles)

_PROMPTS = 64  # per pass of the text encoder
# Pixels per pass of the VAE: 16 pictures of the lab model, or one of Stable Diffusion. The activations of more pictures
# would exceed the 32 MiB up to which glibc reuses freed blocks, and every layer would wait for fresh pages. Pictures of
# this size and larger ones exceed them alone.
_PIXELS = 256 * 256
_LARGE = 128 * 128  # latents (1024 × 1024 pixels of Stable Diffusion) above which the VAE runs in tiles
_TILE, _OVERLAP = 64, 16  # latents per side


class Pipeline:
    """A loaded model as four functions: `encode`, `encode_image`, `sample`, `decode`."""

    def __init__(
        self,
        model: StableDiffusion,
        offload: torch.device | str | None = None,
        tiles: Tiles = "auto",
    ) -> None:
        """The model runs on its device, or on the device `offload`, to which each network is moved only while in use.

        The model is not optimised here (see `sdlab.cpu.optimise`). `tiles` runs the VAE on tiles of 64 × 64 latents.
        With "auto", only pictures of more than 128 × 128 latents are tiled.
        """
        self.model, self.tiles = model, tiles
        self.offloaded = offload is not None
        self.device = model.device if offload is None else torch.device(offload)
        self.levels = model.config.noise_schedule()
        self.denoiser = NetworkDenoiser.of(model.unet, model.config, model.others, model.plain)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """The context of each prompt, (B, L, width), in the model's dtype."""
        tokens = self.model.tokenizer(prompts).to(self.device)
        with self._using(self.model.text):
            return torch.cat([self.model.text(part) for part in tokens.split(_PROMPTS)])

    @torch.inference_mode()
    def encode_image(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode pictures (B, 3, H, W) in [−1, 1] to latents (B, C, H/f, W/f) in float32.

        They are the mean of the posterior or, with standard normal `noise` of their shape, a sample from it.
        """
        vae, factor = self.model.vae, self.model.config.vae.factor

        def moments(part: Tensor) -> Tensor:
            posterior = vae.encode(part)
            return torch.cat([posterior.mean, (0.5 * posterior.logvar).exp()], dim=1)

        with self._using(vae):
            parts = images.to(self.device).split(_at_once(images))
            found = torch.cat([self._in_tiles(moments, part, factor, 1) for part in parts])
        mean, std = found.chunk(2, dim=1)
        return vae.to_latents(mean if noise is None else mean + std * noise.to(std))

    @torch.inference_mode()
    def sample(
        self,
        cond: Tensor,
        uncond: Tensor,
        sampler: samplers.Sampler,
        sigmas: Sequence[float],
        strategy: Strategy,
        seeds: Sequence[int] | samplers.Noise,
        on_step: Callable[[int, Tensor], object] | None = None,
        size: Size | None = None,
        init: Tensor | None = None,
        strength: float = 1.0,
        watch: Watch = unwatched,
        on_denoised: Seen | None = None,
    ) -> Tensor:
        """Latents (B, C, H, W) in float32. Picture i depends only on row i of the contexts and on `seeds[i]`.

        Image-to-image starts at x = init + σ ε, on the same grid, at the level that `strength` gives (see `tail`). ε is
        the noise from which text-to-image starts for this seed. Strength 0 returns `init`, and strength 1 ignores it.

        Args:
            cond: contexts of the prompts, (B, L, width).
            uncond: contexts of the negative prompts, (B, L, width), or of one for all, (1, L, width).
            seeds: one per picture, or a stream of noise whose first draw is ε.
            size: height and width in pixels, by default the size of the model or of `init`.
            init: latents of pictures, (B, C, H, W), or of one for all, (1, C, H, W).
            watch: wraps the network for this run, for example to count its passes.
            on_denoised: is called with each guided x̂₀ and its level.

        Raises:
            ValueError: `strength` has no `init` or is invalid (see `tail`), the numbers of prompts, negative prompts,
                seeds and pictures differ, or a side is not a multiple of the VAE's factor.
            NotFinite: the latents have NaN or infinity.
        """
        if init is None and strength != 1:
            raise ValueError(f"strength {strength!r} needs `init`, the latents of a picture")
        _check_numbers(cond, uncond, seeds, init)
        shape = latent_shape(self.model.config, size) if init is None else tuple(init.shape[1:])
        noise = seeds if callable(seeds) else samplers.seeded(seeds, self.device)
        sigmas = tail(sigmas, strength)
        x = noise(torch.empty(len(cond), *shape, device=self.device)) * sigmas[0]
        if init is not None and strength != 1:
            x = init.to(x) + x
        with self._using(self.model.unet, *self.model.others.values()):
            contexts = {"cond": cond, "uncond": uncond}
            known = None if callable(seeds) else seeds
            denoise = Guided(strategy, watch(self.denoiser), contexts, known, self.encode, on_denoised)
            sampler = sampler.with_levels(self.levels)
            latents = samplers.run(sampler, denoise, x, sigmas, noise=noise, on_step=on_step)
        check_finite("the latents", latents)
        return latents

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in float32 in [−1, 1], rounded to the 256 values of a PNG.

        Raises:
            NotFinite: the VAE returned NaN or infinity, which rounding would hide.
        """
        vae, factor = self.model.vae, self.model.config.vae.factor
        large = latents.shape[-2] * latents.shape[-1] * factor**2 >= _PIXELS
        with self._using(vae), kept_memory() if large else nullcontext():
            parts = vae.from_latents(latents.to(self.device)).split(_at_once(latents, factor))
            images = torch.cat([self._in_tiles(vae.decode, part, 1, factor) for part in parts]).float()
        check_finite("the pictures", images)
        return rounded(images)

    def _in_tiles(self, network: Callable[[Tensor], Tensor], x: Tensor, inner: int, outer: int) -> Tensor:
        large = x.shape[-2] * x.shape[-1] > _LARGE * inner**2
        if self.tiles == "always" or (self.tiles == "auto" and large):
            return tiled(network, x, _TILE, _OVERLAP, inner, outer)
        return network(x)

    @contextmanager
    def _using(self, *networks: nn.Module) -> Iterator[None]:
        """Move offloaded networks to the device for the block, and back at the end."""
        moved = networks if self.offloaded else ()
        self._move(moved, self.device)
        try:
            yield
        finally:
            self._move(moved, self.model.device)

    @staticmethod
    @torch.inference_mode(False)  # weights made in inference mode would have no gradients for guidance
    def _move(networks: Sequence[nn.Module], device: torch.device) -> None:
        for network in networks:
            network.to(device)


class NotFinite(RunError):
    """A model returned NaN or infinity. `rows` are the images of the batch that have any."""

    def __init__(self, what: str, rows: list[int]) -> None:
        super().__init__(f"the model returned NaN or infinity in {what}")
        self.rows = rows

    def advice(self, dtype: str) -> str:
        """`"; in float16 networks may overflow, so try --dtype float32 or bfloat16"`; empty for float32."""
        others = {"float16": "float32 or bfloat16", "bfloat16": "float32"}
        return f"; in {dtype} networks may overflow, so try --dtype {others[dtype]}" if dtype in others else ""


def check_finite(what: str, values: Tensor) -> None:
    """Check that the rows of `values` (B, …), called `what`, are finite.

    Raises:
        NotFinite: they are not.
    """
    broken = ~values.flatten(1).isfinite().all(1)
    if broken.any():
        raise NotFinite(what, broken.nonzero().flatten().tolist())


def latent_shape(config: ModelConfig, size: Size | None = None) -> tuple[int, int, int]:
    """(C, H, W) of the latents of a picture with `size` in pixels, by default the size of the model.

    Raises:
        ValueError: a side is not a multiple of the VAE's factor. The message has width x height, like `--size`.
    """
    if size is None:
        return config.latent_shape
    factor = config.vae.factor
    if any(side < factor or side % factor for side in size):
        height, width = (max(factor, round(side / factor) * factor) for side in size)
        raise ValueError(
            f"both sides must be multiples of {factor}, got {size[1]}x{size[0]}; the nearest is {width}x{height}"
        )
    return config.vae.latent_channels, size[0] // factor, size[1] // factor


def tail(sigmas: Sequence[float], strength: float) -> tuple[float, ...]:
    """The part of a grid that image-to-image runs: its last ⌊strength · steps⌋ steps, for every sampler.

    The level where it begins is the t₀ of SDEdit (Meng et al. 2021, arXiv:2108.01073). Strength 1 is the whole grid,
    and strength 0 leaves only its last level, which keeps the picture.

    Raises:
        ValueError: `strength` is outside [0, 1], or is positive and below one step.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must be in [0, 1], got {strength!r}")
    steps = len(sigmas) - 1
    count = int(strength * steps + 1e-9)  # in floats, 0.29 · 100 is slightly below 29
    if strength > 0 and count == 0:
        raise ValueError(
            f"strength {strength:g} of {steps} step{'s' * (steps != 1)} is less than one step; "
            f"give at least {ceil(1e4 / steps) / 1e4:g}, more steps, or 0 to keep the picture"
        )
    return tuple(sigmas[steps - count :])


def _check_numbers(cond: Tensor, uncond: Tensor, seeds: Sequence[int] | samplers.Noise, init: Tensor | None) -> None:
    """Check that each prompt has all it needs.

    Raises:
        ValueError: two of the numbers differ.
    """
    prompts = len(cond)
    named = f"{prompts} prompt{'s' * (prompts != 1)}"
    for what, rows in (("negative prompts", uncond), ("input pictures", init)):
        if rows is not None and len(rows) not in (1, prompts):
            raise ValueError(f"got {named} and {len(rows)} {what}; give one per prompt, or one for all")
    if not callable(seeds) and len(seeds) != prompts:
        raise ValueError(f"got {named} and {len(seeds)} seed{'s' * (len(seeds) != 1)}; give one seed per prompt")


def _at_once(x: Tensor, factor: int = 1) -> int:
    """The number of pictures of this size per pass of the VAE, at least one."""
    return max(1, _PIXELS // (x.shape[-2] * x.shape[-1] * factor**2))
