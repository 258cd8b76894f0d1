"""DPM-Solver-v3: exact on Gaussians, the paper's formula, its forms without statistics, its orders, and its files."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, SPECTRUM, start

import samplers
from samplers.adams import adams_weights
from samplers.dpm_solver_v3 import DPMSolverV3
from samplers.model_statistics import ModelStatistics, measuring
from samplers.statistics_file import load_statistics, statistics_bytes

TOP, LOW = 10.0, 0.02
LEVELS = samplers.continuous_levels(LOW, TOP)


def grid(steps, name="karras"):
    return samplers.grid(name, steps=steps, levels=LEVELS, ending="stop_at_sigma_min")


def measured(problem, images, count=100):
    """The statistics of a problem, and the sampler that measured them."""
    generator = torch.Generator().manual_seed(1)
    x = problem.sample(images, generator, torch.float64)
    x = x + TOP * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    sampler = measuring()
    samplers.run(sampler, problem.denoise, x, (*grid(count - 1, "exponential"), 0.0))
    return sampler.statistics()


GAUSSIAN, MIXED = measured(SPECTRUM, 32), measured(MIXTURE, 2048)


# What is measured


def test_on_a_gaussian_l_and_m_have_closed_forms_and_r_is_at_its_floor():
    """D = μ + s²/(s² + σ²)(x − μ), so l = σ²/(s² + σ²) and f = −l μ whatever x."""
    for i, sigma in enumerate(GAUSSIAN.sigmas):
        expected = (sigma**2 / (SPECTRUM.std.double() ** 2 + sigma**2)).numpy()
        np.testing.assert_allclose(GAUSSIAN.linear[i], expected, atol=1e-6)
        np.testing.assert_allclose(GAUSSIAN.mean[i], -expected * SPECTRUM.mean.double().numpy(), atol=1e-5)
    assert (GAUSSIAN.spread < 3e-3).all()


def test_s_is_the_slope_of_the_logarithm_of_r_and_b_that_of_m_less_s_m():
    """The paper's s = Cov(f, f′)/Var(f) and b = E f′ − s E f, with f′ from differences along the paths."""
    x, kept = start(2000, 2, sigma=TOP), []
    fine = grid(200, "exponential")

    def watched(x, sigma):
        x0 = MIXTURE.denoise(x, sigma)
        kept.append(((1 - MIXED.at(sigma)[0]) * x.numpy() - x0.numpy(), sigma))
        return x0

    samplers.run(samplers.make("dpmpp_3m"), watched, x, fine)
    h = math.log(fine[0] / fine[1])
    for i in (100, 130, 160):
        (before, _), (f, sigma), (after, _) = kept[i - 1 : i + 2]
        slope = (after - before) / (2 * h)
        s = ((f - f.mean(0)) * (slope - slope.mean(0))).mean(0) / f.var(0)
        m, r = (np.array([one.mean(0) for one in (before, f, after)]), [one.std(0) for one in (before, f, after)])
        np.testing.assert_allclose(np.log(r[2] / r[0]) / (2 * h), s, atol=5e-3)
        _, mean, spread = MIXED.at(sigma)
        np.testing.assert_allclose(mean, m[1], atol=0.04)
        np.testing.assert_allclose(spread, r[1], rtol=0.15, atol=0.01)


def test_l_is_one_less_the_mean_derivative_of_the_denoiser():
    """By automatic differentiation, at other states."""
    sigma = MIXED.sigmas[55]
    x = MIXTURE.sample(4000, torch.Generator().manual_seed(7), torch.float64)
    x = x + sigma * start(4000, 2, sigma=1.0, seed=8)
    x.requires_grad_()
    for i in range(2):
        (gradient,) = torch.autograd.grad(MIXTURE.denoise(x, sigma)[:, i].sum(), x)
        assert MIXED.linear[55, i] == pytest.approx(float(1 - gradient[:, i].mean()), abs=0.03)


# The steps


@pytest.mark.parametrize("corrector", ["none", "exact", "pseudo"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_gaussian_is_solved_in_any_number_of_steps(steps, order, corrector):
    x, rule = start(5, 3, sigma=TOP), DPMSolverV3(GAUSSIAN, order, corrector)
    got = samplers.run(rule, SPECTRUM.denoise, x, grid(steps))
    torch.testing.assert_close(got, SPECTRUM.flow(x, TOP, LOW), atol=2e-5, rtol=0)
    euler = samplers.run(samplers.make("euler"), SPECTRUM.denoise, x, grid(steps))
    assert float((euler - SPECTRUM.flow(x, TOP, LOW)).abs().max()) > 0.1


def smooth_statistics():
    """l, m and r as known functions of λ, on levels fine enough for their splines."""
    sigmas = grid(400, "exponential")
    places = -np.log(np.array(sigmas))[:, None] * np.ones(2)
    linear, mean = 1 / (1 + np.exp(places)), np.sin(places) * np.array([0.5, -0.2])
    return ModelStatistics(sigmas, linear, mean, np.exp(0.3 * np.cos(places))), (
        lambda p: 1 / (1 + np.exp(p)),
        lambda p: -0.3 * np.sin(p),  # s
        lambda p: (np.cos(p) + 0.3 * np.sin(p) ** 2) * np.array([0.5, -0.2]),  # b = m′ − s m
    )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_predictor_is_the_paper_s_formula_in_l_s_and_b(order):
    """With L = ∫ l, S = ∫ s and B = ∫ e^{−S} b: x⁺ = e^{−L⁺} [x − ∫ e^{L+S} (g + B) dλ] with g = e^{−S} f − B."""
    known, (l_, s_, b_) = smooth_statistics()
    sigmas, x, states, values = (5.0, 3.5, 2.2, 1.3), start(3, 2, sigma=5.0), [], []

    def watched(x, sigma):
        x0 = MIXTURE.denoise(x, sigma)
        values.append(((1 - l_(-np.log(sigma))) * x - x0).numpy())
        return x0

    rule = DPMSolverV3(known, order, "none")
    samplers.run(rule, watched, x, sigmas, on_step=lambda _, x: states.append(x.numpy()))
    states = [x.numpy(), *states]
    places = -np.log(np.array(sigmas))
    for i in range(len(sigmas) - 1):
        fine = np.linspace(places[i], places[i + 1], 4001)
        back = [np.linspace(places[i], places[i - j], 4001) for j in range(min(i + 1, order))]
        large, small, bias = integrals(fine, l_, s_, b_)
        g = []
        for j, path in enumerate(back):
            _, then, offset = integrals(path, l_, s_, b_)
            g.append(np.exp(-then[-1]) * values[i - j] - offset[-1])
        nodes = [place - places[i] for place in (places[i - j] for j in range(len(g)))]
        polynomial = sum(
            value[None] * np.prod([(fine - places[i] - n) / (m - n) for n in nodes if n != m], axis=0)[:, None, None]
            if len(nodes) > 1 else value[None]
            for m, value in zip(nodes, g, strict=True)
        )  # fmt: skip
        inner = np.exp(large + small)[:, None, None] * (polynomial + bias[:, None, :])
        expected = np.exp(-large[-1]) * (states[i] - np.trapezoid(inner, fine, axis=0))
        np.testing.assert_allclose(states[i + 1], expected, atol=2e-6)


def integrals(places, l_, s_, b_):
    """L, S and B from the first of these places."""

    def rising(values):
        gaps = np.diff(places).reshape(-1, *[1] * (values.ndim - 1))
        return np.concatenate([np.zeros_like(values[:1]), np.cumsum((values[1:] + values[:-1]) / 2 * gaps, axis=0)])

    large, small = rising(l_(places)), rising(s_(places))
    return large, small, rising(np.exp(-small)[:, None] * b_(places[:, None]))


def without(**options):
    x = start(4, 2, sigma=TOP)
    return samplers.run(samplers.make("dpm_solver_v3", **options), MIXTURE.denoise, x, (*grid(8), 0.0))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_without_statistics_the_predictor_is_exponential_adams_bashforth_on_x0(order):
    x = start(4, 2, sigma=TOP)
    name = samplers.make("res_multistep", max_order=order) if order > 1 else samplers.make("euler")
    expected = samplers.run(name, MIXTURE.denoise, x, (*grid(8), 0.0))
    torch.testing.assert_close(without(max_order=order, corrector="none"), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("corrector", ["exact", "pseudo"])
def test_without_statistics_the_corrector_is_exponential_adams_moulton_on_x0(corrector):
    """Of the second order with one step: both are then the same line through two predictions."""
    x, sigmas = start(4, 2, sigma=TOP), grid(6)
    expected, last = x, None
    for sigma, sigma_next in pairwise(sigmas):
        x0 = MIXTURE.denoise(expected, sigma)
        if last is not None:
            before, x_before, old = last
            h = math.log(before / sigma)
            weights = adams_weights((0.0, 1.0), -h)
            expected = math.exp(-h) * x_before + h * (weights[0] * old + weights[1] * x0)
        last = (sigma, expected, x0)
        expected = torch.lerp(x0, expected, sigma_next / sigma)
    rule = samplers.make("dpm_solver_v3", max_order=1, corrector=corrector)
    torch.testing.assert_close(samplers.run(rule, MIXTURE.denoise, x, sigmas), expected, atol=1e-11, rtol=0)


def error(rule, steps):
    x = start(6, 3, sigma=TOP)
    got = samplers.run(rule, SPECTRUM.denoise, x, samplers.eased(grid(steps)))
    return float((got - SPECTRUM.flow(x, TOP, LOW)).square().mean().sqrt())


@pytest.mark.parametrize(
    ("options", "order"),
    [
        ({"corrector": "none"}, 2),
        ({"corrector": "none", "max_order": 3}, 3),
        ({"corrector": "none", "max_order": 3, "predictor": "pseudo"}, 2),
        ({"corrector": "exact"}, 3),
        ({}, 2),
        ({"max_order": 3}, 2),
    ],
)
def test_the_order_is_the_one_claimed(options, order):
    rule = samplers.make("dpm_solver_v3", **options)
    assert rule.order == order
    assert math.log2(error(rule, 128) / error(rule, 256)) == pytest.approx(order, abs=0.2)


def test_in_few_steps_statistics_follow_the_flow_of_a_mixture_more_closely():
    x = start(200, 2, sigma=TOP)
    exact = MIXTURE.flow(x, TOP, LOW, 1e-6)

    def distance(rule):
        got = samplers.run(rule, MIXTURE.denoise, x, grid(6, "exponential"))
        return float((got - exact).square().mean().sqrt())

    ours = distance(DPMSolverV3(MIXED))
    assert ours < 0.75 * distance(samplers.make("unipc"))
    assert ours < 0.75 * distance(samplers.make("dpm_solver_v3"))


def test_a_step_makes_one_call():
    assert DPMSolverV3(MIXED).nfe(grid(7)) == 7
    assert samplers.make("dpm_solver_v3", corrector="none").nfe((3.0, 1.0, 0.0)) == 2


def test_outside_the_measured_levels_those_of_the_nearest_are_used():
    for ours, theirs in ((80.0, TOP), (0.005, LOW)):
        for one, other in zip(MIXED.at(ours), MIXED.at(theirs), strict=True):
            np.testing.assert_array_equal(one, other)
    x, sigmas = start(2, 2, sigma=80.0), samplers.grid("exponential", steps=30, levels=samplers.edm_levels(0.005, 80))
    got = samplers.run(DPMSolverV3(MIXED), MIXTURE.denoise, x, sigmas[:-1])
    torch.testing.assert_close(got, MIXTURE.flow(x, 80.0, 0.005, 1e-6), atol=0.02, rtol=0)


# Files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mixture.safetensors"
    content = ModelStatistics(MIXED.sigmas, MIXED.linear, MIXED.mean, MIXED.spread, {"model": "mixture"})
    path.write_bytes(statistics_bytes(content))
    return path


def test_a_file_has_the_statistics_in_float32_and_their_origin(file: Path):
    found = load_statistics(str(file))
    assert (found.sigmas, found.origin, found.shape) == (MIXED.sigmas, {"model": "mixture"}, (2,))
    for ours, theirs in ((found.linear, MIXED.linear), (found.mean, MIXED.mean), (found.spread, MIXED.spread)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert load_statistics(str(file)) is found


def test_a_file_is_one_of_safetensors(file: Path):
    safetensors = pytest.importorskip("safetensors.numpy")
    found = safetensors.load_file(file)
    assert set(found) == {"linear", "mean", "spread"}
    np.testing.assert_array_equal(found["linear"], MIXED.linear.astype(np.float32))


def test_the_sampler_reads_its_file(file: Path):
    x = start(3, 2, sigma=TOP)
    rules = samplers.make("dpm_solver_v3", statistics=str(file)), DPMSolverV3(MIXED)
    ours, theirs = (samplers.run(rule, MIXTURE.denoise, x, grid(5)) for rule in rules)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    assert hash(rules[0]) == hash(samplers.make("dpm_solver_v3", statistics=str(file)))


def broken(content: bytes) -> list[bytes]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    renamed = json.dumps({**header, "__metadata__": {"kind": "weights"}}).encode().ljust(length)
    moved = json.dumps({**header, "linear": {**header["linear"], "data_offsets": [0, 10**12]}}).encode()
    moved = len(moved).to_bytes(8, "little") + moved + content[8 + length :]
    return [b"", b"text", content[:-100], content[:8] + renamed + content[8 + length :], moved, b"\xff" * 200]


@pytest.mark.parametrize("case", range(6))
def test_a_file_of_another_kind_or_a_damaged_one_is_one_line(file: Path, case: int):
    spoilt = file.with_name("spoilt.safetensors")
    spoilt.write_bytes(broken(file.read_bytes())[case])
    with pytest.raises(ValueError) as caught:
        samplers.make("dpm_solver_v3", statistics=str(spoilt))
    assert str(caught.value) == (
        f"DPMSolverV3.statistics cannot use {spoilt}: it is not a file of sdlab statistics, or it is damaged"
    )


def test_a_missing_file_and_another_shape_are_one_line_each(file: Path):
    with pytest.raises(ValueError, match=r"DPMSolverV3\.statistics cannot read nowhere\.st: No such file"):
        samplers.make("dpm_solver_v3", statistics="nowhere.st")
    rule = samplers.make("dpm_solver_v3", statistics=str(file))
    with pytest.raises(ValueError, match=r"^the statistics are of samples of shape \(2,\), not \(3,\)$"):
        samplers.run(rule, SPECTRUM.denoise, start(1, 3, sigma=TOP), grid(2))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sigmas": (3.0, 2.0, 1.0)}, "four or more levels"),
        ({"sigmas": (3.0, 1.0, 2.0, 0.5)}, "fall strictly"),
        ({"mean": np.ones((4, 3))}, "of one shape"),
        ({"linear": np.full((4, 2), np.nan)}, "must be finite"),
        ({"spread": np.zeros((4, 2))}, "the r of statistics must be above 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(changed, message):
    parts = {name: np.ones((4, 2)) for name in ("linear", "mean", "spread")}
    with pytest.raises(ValueError, match=message):
        ModelStatistics(**{"sigmas": (3.0, 2.0, 1.0, 0.5), **parts, **changed})
