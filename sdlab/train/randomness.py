"""The randomness of training: the generators of batches, and deterministic algorithms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sdlab.system.errors import RunError


def batch_generator(seed: int, step: int, batch: int = 0) -> torch.Generator:
    """The generator of one batch of a step, on the CPU. Steps with gradient accumulation have several batches."""
    return _hashed(seed, 1, step, batch) if batch else torch.Generator().manual_seed((seed * 1_000_003 + step) % 2**64)


def measuring_generator(seed: int) -> torch.Generator:
    """The generator of the pictures that a trained stage is measured on, on the CPU."""
    return _hashed(seed, 0)


def _hashed(seed: int, *key: int) -> torch.Generator:
    # PyTorch's generator on a CPU uses 32 bits of its seed, so an offset of 2⁴⁰, for instance, has no effect.
    return torch.Generator().manual_seed(int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0]))


@contextmanager
def deterministic_algorithms(enabled: bool) -> Iterator[None]:
    """Allow no operation whose result varies between runs inside the block, if `enabled`.

    Raises:
        RunError: an operation has no deterministic form on this device.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "does not have a deterministic implementation" not in str(error):
            raise
        operation = str(error).partition(" does not have")[0]
        raise RunError(
            f"`deterministic`: {operation} has no deterministic form on this device; remove the key"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
