"""One stream of noise per image."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from samplers.base import Noise


def seeded(seeds: Sequence[int], device: torch.device | str | None = None) -> Noise:
    """Standard normal noise in which image i depends on `seeds[i]` alone: not on its batch, its device or its dtype.

    The result is called with a tensor of shape (B, …), B = len(seeds), and gives fresh noise of that shape and dtype,
    on `device` (the tensor's own by default). Each call moves every stream on, so

        noise = seeded(seeds); x = noise(like) * sigmas[0]; run(rule, denoise, x, sigmas, noise)

    draws start and steps from one stream, and no step repeats the initial noise.

    A seed is any integer from 0 up. Numbers are drawn on the CPU in float32 from
    `torch.Generator().manual_seed(seed)`, so it is the noise other PyTorch programs make of that seed. That generator
    keeps 32 bits: a wider seed is hashed down to them, and not just cut off, which would make 1 and 2³² + 1 the same.

    Raises ValueError for a negative seed, and when called with a batch of another size.
    """
    streams = [torch.Generator().manual_seed(_narrow(operator.index(seed))) for seed in seeds]

    def draw(like: Tensor) -> Tensor:
        if like.ndim == 0 or len(like) != len(streams):
            raise ValueError(f"{len(streams)} seeds for x of shape {tuple(like.shape)}: it must be one seed an image")
        white = torch.empty(like.shape, dtype=torch.float32)
        for image, stream in zip(white, streams, strict=True):
            image.normal_(generator=stream)
        return white.to(device=like.device if device is None else device, dtype=like.dtype, non_blocking=True)

    return draw


def _narrow(seed: int) -> int:
    if seed < 0:
        raise ValueError(f"a seed must be an integer of at least 0, got {seed}")
    return seed if seed < 2**32 else int(np.random.SeedSequence(seed).generate_state(1)[0])
