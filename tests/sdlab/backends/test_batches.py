"""An image of an exact model is the same to the bit in every batch, order and number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.base import Backend
from sdlab.backends.registry import open_model

pytestmark = pytest.mark.slow

SEEDS = list(range(13))
INTERVAL = guidance.make("cfg_interval", scale=5.0, sigma_low=0.3, sigma_high=5.0)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def sampled(backend: Backend, sampler: str, strategy: guidance.Strategy, seeds: list[int], batch: int) -> Tensor:
    """The samples of `seeds`, in their order, from batches of a size."""
    cond, uncond = backend.contexts([], "")
    sigmas = samplers.grid("karras", steps=10, levels=backend.levels)
    parts = []
    for k in range(0, len(seeds), batch):
        some = seeds[k : k + batch]
        rows = [seed % len(cond) for seed in some]
        contexts = cond[rows], uncond.expand(len(some), *uncond.shape[1:])
        parts.append(backend.sample(*contexts, samplers.make(sampler), sigmas, strategy, some))
    return torch.cat(parts)


@pytest.mark.parametrize(
    ("model", "sampler", "strategy"),
    [
        # Multistep samplers enlarge a difference in the last digit on the data set, by up to 1e-3.
        *(("data_set", name, guidance.make("none")) for name in ("ipndm", "lms", "plms", "pndm", "dpmpp_2m")),
        ("mixture", "dpmpp_3m_sde", guidance.make("none")),
        ("class_mixture", "dpm_adaptive", INTERVAL),
        ("class_mixture", "dpm_adaptive", guidance.make("apg")),  # its momentum: images take different numbers of calls
        ("class_mixture", "ipndm", INTERVAL),
    ],
)
def test_an_image_depends_on_its_seed_alone(model: str, sampler: str, strategy: guidance.Strategy):
    backend = open_model(model, {}, Path()).load("cpu", torch.float32, False)
    torch.set_num_threads(1)
    alone = sampled(backend, sampler, strategy, SEEDS, 1)
    for batch, count in ((4, 1), (13, 1), (13, 2)):
        torch.set_num_threads(count)
        assert torch.equal(sampled(backend, sampler, strategy, SEEDS, batch), alone)
        assert torch.equal(sampled(backend, sampler, strategy, SEEDS[::-1], batch).flip(0), alone)
