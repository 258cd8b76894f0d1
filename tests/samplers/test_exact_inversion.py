"""Samplers with an exact inverse: the round trip to rounding, what it needs, and how far each way is stable."""

from math import hypot

import pytest
import torch
from sampler_problems import MIXTURE, SD, SPECTRUM, Counting, start

import samplers
from samplers.adams import Node
from samplers.exact.problems import Gaussian

EXACT = [
    samplers.make("belm"),
    samplers.make("bdia"),
    samplers.make("bdia", gamma=0.9),
    samplers.make("edict"),
    samplers.make("edict", mixing=1.0),
]
exact = pytest.mark.parametrize("rule", EXACT, ids=str)
PROBLEMS = {"gaussian": (SPECTRUM.denoise, 3), "mixture": (MIXTURE.denoise, 2)}
GRIDS = {
    "karras": samplers.grid("karras", steps=20, levels=SD, ending="stop_at_sigma_min"),
    "trailing": samplers.grid("trailing", steps=9, levels=SD)[:-1],
    "even": tuple(10.0 - 0.5 * i for i in range(20)),
    "uneven": (12.0, 11.0, 4.0, 3.5, 3.0, 0.8, 0.6, 0.05),
    "one step": (12.0, 0.05),
}


def still(x, sigma):
    """A denoiser of which every x is data, so that ε = 0 and no exact flow moves."""
    return x


@exact
@pytest.mark.parametrize(("denoise", "width"), PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("sigmas", GRIDS.values(), ids=GRIDS)
def test_a_picture_comes_back_to_rounding(rule, denoise, width, sigmas):
    x = start(5, width, sigma=1.0)
    noise, memory = samplers.invert(rule, denoise, x, sigmas)
    assert not torch.allclose(noise, x, atol=0.1)
    back = samplers.run(rule, denoise, noise, sigmas, memory=memory)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-10 * float(noise.abs().max()))


@exact
def test_each_step_up_undoes_a_step(rule):
    """Also from states that no inversion made: two at neighbouring levels, or for EDICT two at one level."""
    above, here, below = 1.5, 1.2, 0.7
    x, other = start(5, 2, sigma=1.0), start(5, 2, sigma=1.0, seed=1)
    edict = type(rule).__name__ == "EDICT"
    down, memory = rule.step(MIXTURE.denoise, x, here, below, other if edict else Node(above, other), None)
    if edict:
        up, other_up = rule.step_up(MIXTURE.denoise, down, below, here, memory)
        torch.testing.assert_close(up, x, rtol=1e-12, atol=1e-12)
    else:
        other_up, _ = rule.step_up(MIXTURE.denoise, x, here, above, Node(below, down))
    torch.testing.assert_close(other_up, other, rtol=1e-12, atol=1e-12)


@exact
def test_the_noise_alone_does_not_bring_the_picture_back(rule):
    """The second state is part of the inverse."""
    x, sigmas = start(5, 2, sigma=1.0), GRIDS["trailing"]
    noise, _ = samplers.invert(rule, MIXTURE.denoise, x, sigmas)
    back = samplers.run(rule, MIXTURE.denoise, noise, sigmas)
    assert (back - x).square().mean().sqrt() > 1e-3


@pytest.mark.parametrize(("name", "calls"), [("belm", 1), ("bdia", 1), ("edict", 2)])
def test_calls_both_ways(name, calls):
    rule, sigmas, counting = samplers.make(name), GRIDS["karras"], Counting(MIXTURE.denoise)
    assert rule.nfe(sigmas) == calls * 20
    samplers.invert(rule, counting, start(1, 2, sigma=1.0), sigmas)
    assert len(counting.levels) == calls * 20


@pytest.mark.parametrize("name", ["belm", "bdia", "edict", "ddim"])
def test_float32_stays(name):
    rule, x = samplers.make(name), start(5, 2, sigma=1.0).float()
    assert samplers.invert(rule, MIXTURE.denoise, x, GRIDS["karras"])[0].dtype == torch.float32
    assert samplers.round_trip(rule, MIXTURE.denoise, x, GRIDS["karras"]).dtype == torch.float32


def test_on_even_levels_belm_is_the_leapfrog():
    h, sigmas = -0.5, GRIDS["even"]
    states = [x := start(5, 2, sigma=10.0)]
    samplers.run(samplers.make("belm"), MIXTURE.denoise, x, sigmas, on_step=lambda i, x: states.append(x))
    for sigma, before, here, after in zip(sigmas[1:], states, states[1:], states[2:], strict=False):
        leapt = before + 2 * h * (here - MIXTURE.denoise(here, sigma)) / sigma
        torch.testing.assert_close(after, leapt, rtol=1e-13, atol=1e-13)


def ends(name, sigmas, nudge, denoise):
    """How much a change of the second state by `nudge` changes the end of a run with this rule."""
    rule, x, found = samplers.make(name), torch.ones(1, 1, dtype=torch.float64), []
    for second in (x, x + nudge):
        found.append(samplers.run(rule, denoise, x, sigmas, memory=Node(sigmas[1], second)))
    return float(found[1] - found[0])


@pytest.mark.parametrize("steps", [10, 11, 400])
def test_belm_on_even_levels_neither_damps_nor_amplifies_a_mistake(steps):
    """Where nothing flows, the state after a wrong one is right again, and the next is as wrong as the first."""
    sigmas = tuple(10.0 - 9.0 * i / steps for i in range(steps + 1))
    change = ends("belm", sigmas, 1e-3, still)
    assert change == pytest.approx(1e-3 if steps % 2 else 0, abs=1e-12)


def test_belm_amplifies_a_mistake_by_the_square_of_its_steps():
    sigmas = (10.0, 9.0, 7.0, 4.0)  # r = 2, then 3/2
    assert ends("belm", sigmas, 1e-3, still) == pytest.approx(1e-3 * (1 - 4 * (1 - 9 / 4)), rel=1e-9)


@pytest.mark.parametrize("steps", [2000, 2001])
def test_belm_amplifies_a_mistake_by_as_much_as_the_flow_contracts(steps):
    """On N(0, 1) data the flow scales x by √(1 + σ²). The leapfrog has a second solution that it scales inversely."""
    top, bottom = 10.0, 0.5
    sigmas = tuple(top - (top - bottom) * i / steps for i in range(steps + 1))
    flow = hypot(1, bottom) / hypot(1, top)
    change = ends("belm", sigmas, 1e-3, Gaussian(std=torch.ones(1, dtype=torch.float64)).denoise)
    assert change == pytest.approx(0.5e-3 * (flow - (-1) ** steps / flow), rel=0.01)


@pytest.mark.parametrize("gamma", [0.5, 0.9, 1.0])
def test_bdia_below_1_grows_upwards(gamma):
    """Where nothing flows, a difference of two states grows by 1/γ at each step up, as states at unit variance."""
    sigmas = (5.0, 4.0, 3.0, 2.0, 1.0)
    rule, x, second = samplers.make("bdia", gamma=gamma), *(torch.full((1, 1), v, dtype=torch.float64) for v in (0, 1))
    memory, differences = Node(sigmas[-1], x), []
    x = second
    for sigma, above in ((2.0, 3.0), (3.0, 4.0), (4.0, 5.0)):
        before = float(x - memory.value)
        x, memory = rule.step_up(still, x, sigma, above, memory)
        differences.append(float(x - memory.value) / before)
    root = [hypot(1, above) / hypot(1, below) for below, above in ((1, 3), (2, 4), (3, 5))]
    assert differences == pytest.approx([-r / gamma for r in root])


def test_bdia_tends_to_ddim():
    x, sigmas = start(5, 2, sigma=14.0), GRIDS["karras"]
    ddim = samplers.run(samplers.make("ddim"), MIXTURE.denoise, x, sigmas)
    apart = [
        float((samplers.run(samplers.make("bdia", gamma=gamma), MIXTURE.denoise, x, sigmas) - ddim).abs().max())
        for gamma in (0.02, 0.01)
    ]
    assert apart[0] / apart[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("mixing", [0.5, 0.93, 1.0])
def test_a_step_of_edict_brings_its_states_together_by_the_square_of_its_mixing(mixing):
    x, y = start(5, 2, sigma=1.0), start(5, 2, sigma=1.0, seed=1)
    down = samplers.make("edict", mixing=mixing).step(still, x, 2.0, 1.0, y, None)
    torch.testing.assert_close(down[0] - down[1], mixing**2 * (x - y))


def test_edict_without_mixing_is_the_leapfrog_of_half_the_step():
    """On a field that depends on the direction of x alone, so that the scale at which EDICT looks at x is no matter."""

    def slope(x):
        return torch.stack([-x[:, 1], x[:, 0]], dim=1) / x.norm(dim=1, keepdim=True)

    def denoise(x, sigma):
        return x - sigma * slope(x)

    sigmas, x = tuple(9.0 - i for i in range(9)), start(5, 2, sigma=9.0)
    before, here = x, x
    for _ in range(8):
        before, here = here, before - slope(here)
        before, here = here, before - slope(here)
    got = samplers.run(samplers.make("edict", mixing=1.0), denoise, x, sigmas)
    torch.testing.assert_close(got, before, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("bdia", {"gamma": 0.0}, "BDIA.gamma must be in [0.01, 1], got 0.0"),
        ("bdia", {"gamma": 1.1}, "BDIA.gamma must be in [0.01, 1], got 1.1"),
        ("edict", {"mixing": 0.4}, "EDICT.mixing must be in [0.5, 1], got 0.4"),
        ("ddim", {"refinements": -1}, "DDIM.refinements must be an integer of at least 0, got -1"),
    ],
)
def test_an_invalid_option_is_an_error(name, options, line):
    with pytest.raises(ValueError) as caught:
        samplers.make(name, **options)
    assert line in str(caught.value)
