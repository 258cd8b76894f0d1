"""Inversion of a picture for `sdlab generate`: to its noise with one text, and back with another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

import samplers
from sdlab import guidance, plugins
from sdlab.backends.base import Backend
from sdlab.backends.inversion import Acting, round_trip
from sdlab.commands.explained import explained
from sdlab.commands.request import Request
from sdlab.metrics.psnr import psnr
from sdlab.metrics.reference_error import distance


class Inversion:
    """The input picture of a request, inverted with the caption and drawn again with the prompt."""

    def __init__(
        self,
        model: Backend,
        request: Request,
        sampler: samplers.Sampler,
        sigmas: Sequence[float],
        strategy: guidance.Strategy,
        picture: Tensor,
    ) -> None:
        """Encode the texts and the picture, (1, 3, H, W). `sigmas` is the part of the grid that is run."""
        assert request.caption is not None
        self._model, self._request, self._boundary = model, request, plugins.Boundary()
        self._sampler, self._sigmas, self._strategy = sampler.with_levels(model.levels), sigmas, strategy
        self._picture, self._start = picture, model.encode_image(picture)
        self._caption, self._prompt = (
            model.contexts([text], request.negative) for text in (request.caption, request.prompt)
        )

    def draw(self, seed: int, on_step: Callable[..., object]) -> tuple[Tensor, Tensor]:
        """The latents (1, C, h, w) and the picture (1, 3, H, W). Nothing is random, so the seed does not matter.

        `on_step` is called after each step downwards.

        Raises:
            RunError: the inversion overflows, or custom code failed.
        """
        inverse: tuple[Tensor, Any] | None = None

        def up(denoise: samplers.Denoiser, x: Tensor) -> Tensor:
            nonlocal inverse
            inverse = samplers.invert(self._sampler, denoise, self._start.to(x), self._sigmas)
            return inverse[0]

        def down(denoise: samplers.Denoiser, x: Tensor) -> Tensor:
            assert inverse is not None
            noise, memory = inverse
            stepped = self._boundary.back(on_step)
            return samplers.run(self._sampler, denoise, noise, self._sigmas, on_step=stepped, memory=memory)

        self._run(self._caption, up)
        latents = self._run(self._prompt, down)
        return latents, self._decoded(latents)

    def report(self) -> str:
        """How far the picture comes back with its own caption, in one line."""
        back = self._run(self._caption, round_trip(self._sampler, self._start, self._sigmas).act)
        start, picture = self._start.to(back), self._picture.to(back)
        through, alone = (float(psnr(self._decoded(latents), picture)) for latents in (back, start))
        error = float(distance(back, start))
        return f"round-trip error {error:.2g} in latents; {through:.1f} dB in pixels, {alone:.1f} dB without inversion"

    def _run(self, contexts: tuple[Tensor, Tensor], act: Callable[[samplers.Denoiser, Tensor], Tensor]) -> Tensor:
        ends = self._sigmas[0], self._sigmas[-1]
        if len(self._sigmas) == 1:  # strength 0
            return self._start
        with explained(self._request.dtype), self._boundary.crossed():
            return self._model.sample(*contexts, Acting(act), ends, self._strategy, [0])

    def _decoded(self, latents: Tensor) -> Tensor:
        picture = self._model.decode(latents)
        assert picture is not None  # subjects draw pictures
        return picture
