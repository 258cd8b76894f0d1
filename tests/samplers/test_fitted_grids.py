"""Grids fitted to stored paths: dynamic programming against brute force, equal truncation errors, exact models."""

from __future__ import annotations

import itertools
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import samplers
from samplers.grids.fitted import (
    FOLLOWING,
    Paths,
    Recording,
    by_dynamic_programming,
    by_truncation_error,
    joined,
    step_errors,
)
from sdlab import guidance
from sdlab.backends.registry import open_model

LEVELS = samplers.discrete_levels()
FINE = samplers.grid("exponential", steps=40, levels=LEVELS)


def curved(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """The exact denoiser of N(0, 1/4)."""
    return x / (1 + 4 * sigma * sigma)


def recorded(denoise: samplers.Denoiser = curved) -> tuple[Paths, torch.Tensor]:
    recording = Recording(FOLLOWING)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * FINE[0]
    end = samplers.run(recording, denoise, x, FINE)
    return recording.paths(FINE[:-1]), end


# Recording


def test_a_recording_takes_the_steps_of_its_sampler_and_keeps_what_they_start_from():
    paths, end = recorded()
    x = paths.states[0]
    assert torch.equal(end, samplers.run(FOLLOWING, curved, x, FINE))
    for sigma, state, prediction in zip(paths.sigmas, paths.states, paths.predictions, strict=True):
        assert torch.equal(prediction, curved(state, sigma))
    assert torch.equal(paths.predictions[-1], end)


def test_batches_of_paths_are_joined_by_image():
    paths, _ = recorded()
    parts = [Paths(paths.sigmas, paths.states[:, part], paths.predictions[:, part]) for part in (slice(2), slice(2, 6))]
    whole = joined(parts)
    assert torch.equal(whole.states, paths.states)
    assert torch.equal(whole.predictions, paths.predictions)


@pytest.mark.parametrize(("sigmas", "count"), [((2.0, 1.0), 3), ((1.0, 2.0), 2), ((1.0, 0.0), 2), ((1.0,), 1)], ids=str)
def test_paths_that_do_not_fall_to_above_0_are_refused(sigmas: tuple[float, ...], count: int):
    with pytest.raises(ValueError, match="levels"):
        Paths(sigmas, torch.zeros(count, 1, 1), torch.zeros(count, 1, 1))


# The errors of steps


def test_the_error_of_a_step_is_that_of_an_euler_step_from_the_stored_state():
    paths, end = recorded()
    errors = step_errors(paths)
    euler = samplers.make("euler")
    for i, j in ((0, 1), (3, 17), (39, 40), (5, 40)):
        to, there = (0.0, end) if j == 40 else (paths.sigmas[j], paths.states[j])
        landed = samplers.run(euler, curved, paths.states[i], (paths.sigmas[i], to))
        expected = (landed - there).square().mean(1).sqrt().mean()
        assert errors[i, j] == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    assert np.isinf(errors[np.tril_indices(40)]).all()


def test_steps_to_a_single_point_have_no_error():
    paths, _ = recorded(lambda x, sigma: torch.full_like(x, 0.3))
    errors = step_errors(paths)
    assert np.abs(errors[np.isfinite(errors)]).max() < 1e-12


# Dynamic programming


def weighted(errors: np.ndarray, chosen: tuple[int, ...], coefficient: float) -> float:
    ends = (*chosen[1:], errors.shape[1] - 1)
    return sum(coefficient**k * errors[i, j] for k, (i, j) in enumerate(zip(chosen, ends, strict=True)))


@given(st.integers(2, 8), st.floats(0.5, 2.0), st.integers(0, 2**32 - 1), st.data())
def test_dynamic_programming_finds_what_brute_force_finds(count: int, c: float, seed: int, data: st.DataObject):
    errors = np.full((count, count + 1), np.inf)
    above = np.triu_indices(count, 1, count + 1)
    errors[above] = np.random.default_rng(seed).random(len(above[0]))
    steps = data.draw(st.integers(1, count))
    chosen = by_dynamic_programming(errors, steps, c)
    assert len(chosen) == steps
    assert chosen[0] == 0
    assert list(chosen) == sorted(set(chosen))
    every = [(0, *rest) for rest in itertools.combinations(range(1, count), steps - 1)]
    best = min(weighted(errors, one, c) for one in every)
    assert weighted(errors, chosen, c) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("steps", [0, 5])
def test_more_steps_than_levels_are_refused(steps: int):
    with pytest.raises(ValueError, match="steps must be from 1 to the number of fine levels, 4"):
        by_dynamic_programming(np.ones((4, 5)), steps)


# The truncation error


def geometric(power: float, count: int = 400) -> Paths:
    """Paths with predictions e^{power λ} on fine levels from 10 to 0.1."""
    sigmas = tuple(float(10 * 0.01 ** (i / (count - 1))) for i in range(count))
    predictions = torch.tensor([exp(-power * log(sigma)) for sigma in sigmas], dtype=torch.float64).view(-1, 1, 1)
    return Paths(sigmas, torch.zeros_like(predictions), predictions)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("power", [-0.7, 0.4, 1.5])
def test_levels_are_quantiles_of_the_root_of_the_derivative(order: int, power: float):
    """D = e^{aλ} has derivatives ∝ e^{aλ}, so the share covered at λ is that of ∫ e^{aλ/(p+1)} dλ."""
    found = by_truncation_error(geometric(power), 9, order)
    rate = power / (order + 1)
    covered = np.exp(-rate * np.log(found))
    assert np.diff(covered) == pytest.approx(np.full(8, (covered[-1] - covered[0]) / 8), rel=2e-3)


def test_the_steps_of_a_first_order_method_have_equal_errors():
    """On a smooth problem, at many steps, where the leading term is the whole error."""
    paths, _ = recorded()
    found = by_truncation_error(paths, 20, 1)
    errors = []
    for a, b in itertools.pairwise(found):
        state = samplers.run(FOLLOWING, curved, paths.states[0], samplers_from(paths.sigmas[0], a))
        landed = samplers.run(samplers.make("ddim"), curved, state, (a, b))
        exact = samplers.run(FOLLOWING, curved, state, samplers_from(a, b))
        errors.append(float((landed - exact).square().mean(1).sqrt().mean()))
    middle = errors[2:-2]
    assert max(middle) < 1.35 * min(middle)
    even = samplers.grid("exponential", steps=20, levels=samplers.continuous_levels(found[-1], found[0]))[:-1]
    uneven = []
    for a, b in itertools.pairwise(even):
        state = samplers.run(FOLLOWING, curved, paths.states[0], samplers_from(paths.sigmas[0], a))
        landed = samplers.run(samplers.make("ddim"), curved, state, (a, b))
        exact = samplers.run(FOLLOWING, curved, state, samplers_from(a, b))
        uneven.append(float((landed - exact).square().mean(1).sqrt().mean()))
    assert max(uneven) > 3 * min(uneven)


def samplers_from(top: float, low: float) -> list[float]:
    """Fine levels between two."""
    return [top] if top == low else [top * (low / top) ** (i / 200) for i in range(201)]


def test_uneven_paths_and_other_orders_are_refused():
    paths, _ = recorded()
    uneven = Paths((*paths.sigmas[:-1], 1e-4), paths.states, paths.predictions)
    with pytest.raises(ValueError, match="even in log sigma"):
        by_truncation_error(uneven, 5, 1)
    with pytest.raises(ValueError, match="order must be from 1 to 3, got 4"):
        by_truncation_error(paths, 5, 4)


# On exact models


# On `data_set` at 16 steps the errors are those of the few samples that end at another point of the data.
EXACT = [
    *itertools.product([("gaussian", {}), ("mixture", {}), ("class_mixture", {"std": 0.25})], [4, 8, 16]),
    *itertools.product([("data_set", {})], [4, 8]),
]


@pytest.mark.parametrize(("named", "steps"), EXACT, ids=str)
def test_both_methods_are_closer_to_the_flow_than_uniform_grids(named: tuple[str, dict[str, float]], steps: int):
    """Euler steps on other noise than that of the paths, against levels even in σ, in log σ and in time."""
    opened = open_model(*named, Path())
    backend = opened.load("cpu", torch.float32, False)
    cond, uncond = backend.contexts([], "")
    levels = samplers.grid("exponential", steps=60, levels=opened.levels)

    def sample(sampler: samplers.Sampler, sigmas: object, seeds: range) -> torch.Tensor:
        rows = [i % len(cond) for i in seeds]
        contexts = cond[rows], uncond.expand(len(rows), *uncond.shape[1:])
        return backend.sample(*contexts, sampler, sigmas, guidance.make("none"), list(seeds))  # type: ignore[arg-type]

    recording = Recording(FOLLOWING)
    sample(recording, levels, range(64))
    paths = recording.paths(levels[:-1])
    other = range(1000, 1064)
    fine = samplers.grid("exponential", steps=400, levels=opened.levels)
    ends = sample(samplers.make("unipc", max_order=3), fine, other)

    def error(sigmas: object) -> float:
        found = sample(samplers.make("euler"), sigmas, other)
        return float((found - ends).double().square().flatten(1).mean(1).sqrt().mean())

    errors = step_errors(paths)
    dynamic = min(
        error((*(paths.sigmas[i] for i in by_dynamic_programming(errors, steps, c)), 0.0)) for c in (0.9, 1, 1.1, 1.2)
    )
    truncated = min(error((*by_truncation_error(paths, steps, order), 0.0)) for order in (1, 2, 3))
    top, low = opened.levels.sigma_max, opened.levels.sigma_min
    even = (*(top + i / max(steps - 1, 1) * (low - top) for i in range(steps)), 0.0)
    uniform = [even, *(samplers.grid(name, steps=steps, levels=opened.levels) for name in ("exponential", "linspace"))]
    assert dynamic < min(map(error, uniform))
    assert min(dynamic, truncated) < 0.95 * min(map(error, uniform))
