"""Seeded noise, one stream per image."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from samplers.base import Noise

Address = tuple[int, int, int]  # the kind of draw and its indices, each in [0, 2⁶⁴)
FRESH = 0


def seeded(seeds: Sequence[int], device: torch.device | str | None = None) -> Noise:
    """Standard normal noise. Image i depends on `seeds[i]` alone, not on the batch, device or dtype.

    The result is called with a tensor of shape (B, …), B = len(seeds), and returns fresh noise of that shape and dtype,
    on `device` (the tensor's device by default). Each call advances every stream, so

        noise = seeded(seeds); x = noise(like) * sigmas[0]; run(sampler, denoise, x, sigmas, noise)

    draws the initial noise and the steps' noise from one stream, without repeats.

    A seed is any non-negative integer. Values are drawn on the CPU in float32 from
    `torch.Generator().manual_seed(seed)`, as other PyTorch programs do. That generator uses 32 bits of the seed. A
    wider seed is hashed to 32 bits; truncation would make 1 and 2³² + 1 the same.

    Raises:
        ValueError: a seed is negative, or the noise is called with another batch size.
    """
    streams = [torch.Generator().manual_seed(_narrow(seed, 32)) for seed in seeds]

    def draw(like: Tensor) -> Tensor:
        one_seed_per_image(len(streams), like)
        white = torch.empty(like.shape, dtype=torch.float32)
        for image, stream in zip(white, streams, strict=True):
            image.normal_(generator=stream)
        return white.to(device=like.device if device is None else device, dtype=like.dtype, non_blocking=True)

    return draw


def philox(seeds: Sequence[int], device: torch.device | str | None = None) -> Noise:
    """Noise like `seeded`, counter-based: draw k of an image is a function of its seed and k alone.

    The generator is NumPy's Philox on the CPU, keyed by the seed. A seed wider than its 128-bit key is hashed. (Salmon
    et al. 2011, doi:10.1145/2063384.2063405)

    Raises:
        ValueError: a seed is negative, or the noise is called with another batch size.
    """
    white, draws = Addressed(seeds), count()

    def draw(like: Tensor) -> Tensor:
        return white.tensor(white((FRESH, next(draws), 0), like), like, device)

    return draw


class Addressed:
    """Addressed standard normals. They can be drawn in any order, with the same result.

    Image i depends on `seeds[i]` alone.

    Raises:
        ValueError: a seed is negative.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._streams = [np.random.Generator(np.random.Philox(key=_narrow(seed, 128))) for seed in seeds]
        # Setting the counter of an unused generator costs a tenth of building a new one.
        self._starts = [dict(stream.bit_generator.state) for stream in self._streams]

    def __call__(self, address: Address, like: Tensor) -> NDArray[np.float32]:
        """The normals at `address`, (B, D) for `like` of shape (B, …).

        Raises:
            ValueError: the batch size is not the number of seeds.
        """
        one_seed_per_image(len(self._streams), like)
        white = np.empty((len(like), like[:1].numel()), dtype=np.float32)
        what, which, where = address
        for image, stream, start in zip(white, self._streams, self._starts, strict=True):
            start["state"]["counter"][:] = 0, which, where, what
            stream.bit_generator.state = start
            stream.standard_normal(out=image, dtype=np.float32)
        return white

    @staticmethod
    def tensor(white: NDArray[Any], like: Tensor, device: torch.device | str | None) -> Tensor:
        """`white` in the shape and dtype of `like`, on `device` (the device of `like` by default)."""
        return torch.from_numpy(white).view(like.shape).to(like.device if device is None else device, like.dtype)


def one_seed_per_image(seeds: int, like: Tensor) -> None:
    """Check that `like` is a batch of `seeds` images.

    Raises:
        ValueError: it is not.
    """
    if like.ndim == 0 or len(like) != seeds:
        raise ValueError(f"{seeds} seeds for x of shape {tuple(like.shape)}: there must be one seed per image")


def _narrow(seed: int, bits: int) -> int:
    seed = operator.index(seed)
    if seed < 0:
        raise ValueError(f"a seed must be an integer of at least 0, got {seed}")
    if seed < 2**bits:
        return seed
    return int.from_bytes(np.random.SeedSequence(seed).generate_state(bits // 32).astype("<u4").tobytes(), "little")
