"""States between the levels of a run follow the exact flow at fourth order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SD, SPECTRUM, start

import samplers
from samplers.exact import Dense
from samplers.exact.reference import CONVERGING, fine_grid

PROBLEMS = pytest.mark.parametrize("problem", [SPECTRUM, MIXTURE], ids=["gaussian", "mixture"])
WANTED = (10.0, 5.0, 1.0, 0.3, 0.05)


@PROBLEMS
def test_the_states_of_a_converged_run_are_those_of_the_exact_flow(problem):
    x = start(4, *problem.marginal_mean(1.0).shape, sigma=SD.sigma_max)
    fine = fine_grid((SD.sigma_max, SD.sigma_min, 0.0))
    dense = Dense(fine, WANTED)
    samplers.run(CONVERGING, problem.denoise, x, fine, on_step=dense.add)
    assert sorted(dense.states, reverse=True) == list(WANTED)
    for level, state in dense.states.items():
        torch.testing.assert_close(state, problem.flow(x, SD.sigma_max, level), atol=1e-6, rtol=1e-6)


def test_interpolation_has_order_four():
    x = start(4, *MIXTURE.marginal_mean(1.0).shape, sigma=SD.sigma_max)
    sigmas = samplers.grid("exponential", steps=80, levels=SD, ending="stop_at_sigma_min")
    states = [x]
    for sigma, sigma_next in pairwise(sigmas):
        states.append(MIXTURE.flow(states[-1], sigma, sigma_next))
    exact = {level: MIXTURE.flow(x, SD.sigma_max, level) for level in WANTED}
    gaps = []
    for every in (4, 2, 1):  # 20, 40 and 80 steps
        dense = Dense(sigmas[::every], WANTED)
        for i, state in enumerate(states[every::every]):
            dense.add(i, state)
        gaps.append(max((state - exact[level]).abs().max().item() for level, state in dense.states.items()))
    assert gaps[0] > 8 * gaps[1] > 64 * gaps[2]


def test_a_level_of_the_run_has_the_state_of_the_run_and_others_outside_have_none():
    sigmas = (8.0, 4.0, 2.0, 1.0, 0.5, 0.0)
    dense = Dense(sigmas, [9.0, 8.0, 4.0, 0.5, 0.2, 0.0])
    for i, level in enumerate(sigmas[1:]):
        dense.add(i, torch.full((1,), 10 * level))
    assert {level: float(state) for level, state in dense.states.items()} == {4.0: 40.0, 0.5: 5.0, 0.0: 0.0}


def test_a_short_run_is_interpolated_with_the_states_that_it_has():
    dense = Dense((8.0, 4.0, 1.0), [2.0])
    dense.add(0, torch.tensor([1.0]))
    dense.add(1, torch.tensor([3.0]))
    assert float(dense.states[2.0]) == pytest.approx(2.0)  # in the middle, in log σ
