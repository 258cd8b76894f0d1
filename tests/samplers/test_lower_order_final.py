"""`lower_order_final`: the last two steps of a short run are steps of lower order, and nothing else changes."""

from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers
from samplers.denoiser import Unguided
from samplers.multistep import History, Multistep

DENOISE = Unguided(MIXTURE.denoise)
ORDERS = {
    "dpmpp_2m": 2,
    "dpmpp_3m": 3,
    "dpm_2m": 2,
    "dpm_3m": 3,
    "res_multistep": 2,
    "deis": 3,
    "dpm_2m_sde": 2,
    "dpmpp_2m_sde": 2,
    "dpmpp_3m_sde": 3,
}
ENDINGS = ("to_zero", "stop_at_sigma_min")
# The sampler that takes the second-order steps, and the difference that rounding leaves.
SECOND = {
    "dpmpp_3m": ("dpmpp_2m", {}, 1e-12),
    "dpm_3m": ("dpm_2m", {}, 0),
    "deis": ("deis", {"max_order": 2}, 0),
    "dpmpp_3m_sde": ("dpmpp_2m_sde", {"solver": "heun"}, 1e-12),
}

# Predictor and corrector in one call: a run of any length changes in so many of its last states, by the ending.
ANY_LENGTH = [
    ("dpm_solver_v3", {}, (1, 0)),
    ("dpm_solver_v3", {"max_order": 3}, (2, 2)),
    ("dpm_solver_v3", {"max_order": 3, "corrector": "none"}, (2, 2)),
    ("unipc", {}, (1, 0)),
    ("unipc", {"max_order": 1}, (0, 0)),
    ("unipc", {"max_order": 3}, (2, 2)),
    ("unipc", {"max_order": 3, "kind": "bh1"}, (2, 2)),
    ("unipc", {"max_order": 3, "corrector": False}, (2, 2)),
    ("sa_solver", {}, (2, 2)),
    ("sa_solver", {"tau": 0.0, "predictor": 4, "corrector": 4}, (3, 3)),
    ("sa_solver", {"tau": 0.0, "predictor": 4, "corrector": 2}, (3, 3)),
    ("sa_solver", {"predictor": 3, "corrector": 0}, (2, 2)),
    ("sa_solver", {"predictor": 1, "corrector": 4}, (1, 0)),
    ("sa_solver", {"predictor": 2, "pece": True}, (1, 0)),
    ("sa_solver", {"on": "noise"}, (2, 2)),
]


def grid(steps, ending):
    return samplers.grid("karras", steps=steps, levels=SD, ending=ending)


def make(name, **options):
    return samplers.make(name, **options).with_levels(samplers.continuous_levels(0.01, 20.0))


def states(sampler, sigmas):
    """x at every level, and the memory with which every step starts."""
    x, memory, noise = start(3, 2, sigma=sigmas[0]), sampler.prepare(sigmas), samplers.philox([0, 1, 2])
    made = [(x, memory)]
    for sigma, sigma_next in pairwise(sigmas):
        made.append(sampler.step(DENOISE, *made[-1][:1], sigma, sigma_next, made[-1][1], noise))
    return made


def one_step(sampler, x, memory, sigma, sigma_next, draws):
    """A step with the noise that a run draws in its step number `draws`."""
    noise = samplers.philox([0, 1, 2])
    for _ in range(draws):
        noise(x)
    return sampler.step(DENOISE, x, sigma, sigma_next, memory, noise)[0]


def test_every_sampler_with_the_option_is_tested():
    tested = {*ORDERS, *(name for name, _, _ in ANY_LENGTH)}
    assert {name for name, kind in samplers.SAMPLERS.items() if issubclass(kind, Multistep)} == tested


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 14])
@pytest.mark.parametrize("name", ORDERS)
def test_the_last_step_is_of_first_order_to_the_bit(name, steps, ending):
    """It is the step without memory."""
    sampler, sigmas = make(name, lower_order_final=True), grid(steps, ending)
    made = states(sampler, sigmas)
    first = one_step(make(name), made[-2][0], None, sigmas[-2], sigmas[-1], steps - 1)
    assert torch.equal(made[-1][0], first)
    if not sampler.stochastic:
        euler = one_step(make("euler"), made[-2][0], None, sigmas[-2], sigmas[-1], steps - 1)
        torch.testing.assert_close(made[-1][0], euler, atol=1e-12, rtol=0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("steps", [4, 10, 14])
@pytest.mark.parametrize("name", SECOND)
def test_the_step_before_it_is_of_second_order(name, steps, ending):
    """To the bit it is the step that remembers one prediction; it is the step of the second-order sampler."""
    sampler, sigmas = make(name, lower_order_final=True), grid(steps, ending)
    made = states(sampler, sigmas)
    x, memory = made[-3]
    memory = History(memory.nodes[:1])
    shorter = one_step(make(name), x, memory, sigmas[-3], sigmas[-2], steps - 2)
    assert torch.equal(made[-2][0], shorter)
    other, options, rounding = SECOND[name]
    second = one_step(make(other, **options), x, memory, sigmas[-3], sigmas[-2], steps - 2)
    torch.testing.assert_close(made[-2][0], second, atol=rounding, rtol=0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ORDERS)
def test_only_the_last_steps_of_a_short_run_change(name, ending):
    """Of second-order samplers the last one, and only where it does not reach 0."""
    for steps in (14, 15, 30):
        sigmas = grid(steps, ending)
        plain, limited = (states(make(name, lower_order_final=on), sigmas) for on in (False, True))
        same = [torch.equal(one[0], other[0]) for one, other in zip(plain, limited, strict=True)]
        changed = 0 if steps >= 15 else (ORDERS[name] == 3 or ending != "to_zero") + (ORDERS[name] == 3)
        assert same == [True] * (len(same) - changed) + [False] * changed


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("name", "options", "changed"), ANY_LENGTH, ids=str)
def test_predictor_corrector_samplers_change_in_runs_of_any_length(name, options, changed, ending):
    for steps in (14, 15, 30):
        sigmas = grid(steps, ending)
        plain, limited = (states(make(name, lower_order_final=on, **options), sigmas) for on in (False, True))
        same = [torch.equal(one[0], other[0]) for one, other in zip(plain, limited, strict=True)]
        count = changed[ending == "to_zero"]
        assert same == [True] * (len(same) - count) + [False] * count


@pytest.mark.parametrize("ending", ENDINGS)
def test_unipc_without_its_corrector_is_the_multistep_solver(ending):
    sigmas = grid(14, ending)
    for order, other in ((2, "dpmpp_2m"), (3, "dpmpp_3m")):
        unipc = make("unipc", max_order=order, corrector=False, lower_order_final=True)
        found, wanted = states(unipc, sigmas), states(make(other, lower_order_final=True), sigmas)
        for (x, _), (y, _) in zip(found, wanted, strict=True):
            torch.testing.assert_close(x, y, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [("unipc", {"max_order": 3}, 2), ("unipc", {"max_order": 1, "corrector": False}, 1), ("sa_solver", {"tau": 0}, 2)],
)
def test_a_lower_order_in_runs_of_any_length_is_claimed(name, options, order):
    limited = make(name, lower_order_final=True, **options)
    assert limited.order == order
    assert limited.nfe(grid(10, "to_zero")) == 10


@pytest.mark.parametrize("name", ORDERS)
def test_the_option_claims_the_same_order_and_calls(name):
    plain, limited = make(name), make(name, lower_order_final=True)
    assert (plain.order, plain.stochastic) == (limited.order, limited.stochastic)
    assert plain.nfe(grid(10, "to_zero")) == limited.nfe(grid(10, "to_zero")) == 10
