"""Samplers of different papers that are one sampler, to rounding."""

from itertools import pairwise

import pytest
import torch
from sampler_problems import MIXTURE, SD, start

import samplers
from samplers.adams import adams_weights, log_ratio

GRIDS = {
    "karras": samplers.grid("karras", steps=9, levels=SD),
    "trailing": samplers.grid("trailing", steps=14, levels=SD),
    "stops": samplers.grid("exponential", steps=7, levels=SD, ending="stop_at_sigma_min"),
    "jumps": (12.0, 11.0, 4.0, 3.9, 3.0, 0.8, 0.7, 0.05, 0.0),
}


def sample(name, sigmas, **options):
    rule = samplers.make(name, **options).with_levels(samplers.continuous_levels(0.01, 20.0))
    return samplers.run(rule, MIXTURE.denoise, start(4, 2, sigma=sigmas[0]), sigmas)


TWINS = [
    (("ddim", {}), ("euler", {})),
    (("dpm2", {}), ("dpm_2s", {"r1": 0.5})),
    (("dpmpp_2m", {}), ("unipc", {"max_order": 2, "kind": "bh2", "corrector": False})),
    (("dpmpp_3m", {}), ("unipc", {"max_order": 3, "kind": "bh2", "corrector": False})),
    (("lms", {"max_order": 4}), ("ipndm_v", {"max_order": 4})),
    (("lms", {"max_order": 3}), ("ipndm_v", {"max_order": 3})),
    (("lms", {"max_order": 2}), ("ipndm_v", {"max_order": 2, "variant": "published"})),
    (("gradient_estimation", {"gamma": 1.5}), ("ipndm", {"max_order": 2})),
    (("gradient_estimation", {"gamma": 1.0}), ("euler", {})),
    *((("euler", {}), (name, {"max_order": 1})) for name in ("lms", "ipndm", "ipndm_v", "deis")),
    (("euler", {}), ("unipc", {"max_order": 1, "corrector": False})),
]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("one", "other"), TWINS, ids=[f"{a[0]}-{b[0]}-{b[1]}" for a, b in TWINS])
def test_two_names_of_one_sampler(one, other, grid):
    ours, theirs = (sample(name, GRIDS[grid], **options) for name, options in (one, other))
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize(("other", "on"), [("dpm_2s", "noise"), ("dpmpp_2s", "data")])
def test_single_steps_on_a_grid_with_the_inner_levels_in_it(other, on):
    """Each step of `other` is cut in two; the step after them is the Euler step with which a run ends."""
    coarse, fine = GRIDS["stops"], [GRIDS["stops"][0]]
    for sigma, sigma_next in pairwise(coarse[:-1]):
        fine += [(sigma * sigma_next) ** 0.5, sigma_next]
    rule = samplers.make("dpm_singlestep", max_order=2, on=on)
    ours = samplers.run(rule, MIXTURE.denoise, start(4, 2, sigma=fine[0]), [*fine, coarse[-1]])
    theirs = samplers.run(samplers.make("euler"), MIXTURE.denoise, sample(other, coarse[:-1]), coarse[-2:])
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def exponential_adams(order, on_noise):
    """x⁺ of the exponential Adams–Bashforth method with `order` predictions, as a loop of its own."""

    def run(x, sigmas):
        past = []
        for sigma, sigma_next in pairwise(sigmas):
            x0 = MIXTURE.denoise(x, sigma)
            past = [(sigma, (x - x0) / sigma if on_noise else x0), *past][:order]
            if sigma_next == 0:
                x = x0
                continue
            h = log_ratio(sigma, sigma_next)
            nodes = tuple(-log_ratio(s, sigma) / h if s > sigma else 0.0 for s, _ in past)
            z, scale = (h, -sigma_next * h) if on_noise else (-h, h)
            weights = adams_weights(nodes, z)
            x = (1.0 if on_noise else sigma_next / sigma) * x
            for weight, (_, value) in zip(weights, past, strict=True):
                x = x + scale * weight * value
        return x

    return run


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(
    ("name", "options", "order", "on_noise"),
    [("res_multistep", {}, 2, False), ("deis", {"max_order": 2}, 2, True), ("deis", {"max_order": 3}, 3, True)],
)
def test_exponential_adams_bashforth_under_its_names(name, options, order, on_noise, grid):
    """RES is the method on x̂₀; DEIS in log ρ, the clock of levels without a time, is the method on ε."""
    x = start(4, 2, sigma=GRIDS[grid][0])
    expected = exponential_adams(order, on_noise)(x, GRIDS[grid])
    torch.testing.assert_close(sample(name, GRIDS[grid], **options), expected, atol=1e-10, rtol=1e-10)


FINE = samplers.grid("exponential", steps=6, levels=samplers.continuous_levels(2.0, 3.0), ending="stop_at_sigma_min")


@pytest.mark.parametrize(("name", "z", "scale"), [("dpmpp_3m", -1, 1), ("dpm_3m", 1, -1)])
def test_third_order_dpm_solver_steps_are_exponential_adams_bashforth(name, z, scale):
    """From the third step on; the second has half the difference, as the second-order sampler has."""
    x, rule, memory = start(4, 2, sigma=3.0), samplers.make(name), None
    for sigma, sigma_next in pairwise(FINE):
        before, past = x, memory.nodes if memory else ()
        x, memory = rule.step(MIXTURE.denoise, x, sigma, sigma_next, memory, None)
        if len(past) == 2:
            nodes = (memory.nodes[0], *past)
            h = log_ratio(sigma, sigma_next)
            weights = adams_weights(
                tuple(-log_ratio(n.sigma, sigma) / h if n.sigma > sigma else 0.0 for n in nodes), z * h
            )
            values = [n.value if z < 0 else n.value / n.sigma for n in nodes]
            mean = sum(w * v for w, v in zip(weights, values, strict=True))
            expected = sigma_next / sigma * before + h * mean if z < 0 else before - sigma_next * h * mean
            torch.testing.assert_close(x, expected, atol=1e-12, rtol=1e-12)
    assert len(past) == 2


@pytest.mark.parametrize("name", ["ipndm", "plms"])
def test_even_steps_in_sigma_make_pseudo_methods_adams_bashforth(name):
    sigmas = tuple(5.0 - 0.5 * i for i in range(9))
    torch.testing.assert_close(sample("ipndm", sigmas), sample("lms", sigmas), atol=1e-12, rtol=0)
    if name == "plms":  # from its second step on it has the same weights: only its start is another
        assert not torch.allclose(sample("plms", sigmas), sample("lms", sigmas), atol=1e-6)


ONE_CALL = [
    "bdia",
    "belm",
    "ddim",
    "deis",
    "dpm_2m",
    "dpm_3m",
    "dpm_fast",
    "dpmpp_2m",
    "dpmpp_3m",
    "gradient_estimation",
    "heunpp2",
]
ONE_CALL += ["ipndm", "ipndm_v", "lms", "res_multistep", "unipc"]


@pytest.mark.parametrize("ends", [(9.0, 0.0), (9.0, 2.0)])
@pytest.mark.parametrize("name", ONE_CALL)
def test_a_single_step_is_eulers(name, ends):
    """A single step has no previous prediction to use."""
    torch.testing.assert_close(sample(name, ends), sample("euler", ends), atol=1e-14, rtol=1e-14)


MORE_CALLS = [
    "dpm2",
    "dpm_2s",
    "dpm_3s",
    "dpmpp_2s",
    "dpmpp_3s",
    "dpm_adaptive",
    "exponential_heun",
    "heun",
    "plms",
    "pndm",
    "res_2s",
    "res_3s",
]


@pytest.mark.parametrize("name", MORE_CALLS)
def test_a_single_step_to_zero_is_eulers(name):
    torch.testing.assert_close(sample(name, (9.0, 0.0)), sample("euler", (9.0, 0.0)), atol=0, rtol=0)
    assert not torch.allclose(sample(name, (9.0, 2.0)), sample("euler", (9.0, 2.0)), atol=1e-3)


def test_the_corrector_undoes_nothing_where_the_denoiser_is_constant():
    x, sigmas = start(3, 2, sigma=7.0), (7.0, 3.0, 1.0, 0.2)
    flat = [
        samplers.run(samplers.make("unipc", corrector=c), lambda x, s: torch.ones_like(x), x, sigmas)
        for c in (True, False)
    ]
    torch.testing.assert_close(*flat, atol=1e-14, rtol=0)
