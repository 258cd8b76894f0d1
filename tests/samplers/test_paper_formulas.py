"""The samplers against their papers' formulas written out plainly, in the papers' own variables, on several grids."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sampler_problems import MIXTURE, SD, start
from scipy.integrate import quad

import samplers

D = MIXTURE.denoise
GRIDS = {
    f"{name}-{steps}": samplers.grid(name, steps=steps, levels=SD)
    for name in ("karras", "exponential", "trailing")
    for steps in (5, 12, 50)
}
grids = pytest.mark.parametrize("sigmas", GRIDS.values(), ids=GRIDS)


def eps(x, sigma):
    return (x - D(x, sigma)) / sigma


def lam(sigma):
    return -math.log(sigma)


def check(name, sigmas, expected, **options):
    x = start(4, 2, sigma=sigmas[0])
    got = samplers.run(samplers.make(name, **options), D, x, sigmas)
    torch.testing.assert_close(got, expected(x), atol=1e-9, rtol=1e-9)


@grids
def test_dpm2(sigmas):
    def loop(x):
        for s, t in pairwise(sigmas):
            d = eps(x, s)
            if t == 0:
                x = x + (t - s) * d
            else:
                m = math.exp((math.log(s) + math.log(t)) / 2)
                x = x + (t - s) * eps(x + (m - s) * d, m)
        return x

    check("dpm2", sigmas, loop)


@grids
def test_lms(sigmas):
    """Coefficients by numerical integration of the Lagrange polynomials in σ."""

    def coefficient(i, j, order):
        def basis(tau):
            nodes = [sigmas[i - k] for k in range(order) if k != j]
            return math.prod((tau - n) / (sigmas[i - j] - n) for n in nodes)

        return quad(basis, sigmas[i], sigmas[i + 1], epsabs=1e-13)[0]

    def loop(x):
        past = []
        for i, s in enumerate(sigmas[:-1]):
            past = [eps(x, s), *past][:4]
            x = x + sum(coefficient(i, j, len(past)) * d for j, d in enumerate(past))
        return x

    check("lms", sigmas, loop)


def step_1(x, lo, hi):
    return x - math.exp(-hi) * math.expm1(hi - lo) * eps(x, math.exp(-lo))


def step_2(x, lo, hi, r1=0.5):
    h, s1 = hi - lo, lo + r1 * (hi - lo)
    e = eps(x, math.exp(-lo))
    u = x - math.exp(-s1) * math.expm1(r1 * h) * e
    e1 = eps(u, math.exp(-s1))
    return x - math.exp(-hi) * math.expm1(h) * e - math.exp(-hi) / (2 * r1) * math.expm1(h) * (e1 - e)


def step_3(x, lo, hi, r1=1 / 3, r2=2 / 3):
    h = hi - lo
    s1, s2 = lo + r1 * h, lo + r2 * h
    e = eps(x, math.exp(-lo))
    u1 = x - math.exp(-s1) * math.expm1(r1 * h) * e
    d1 = eps(u1, math.exp(-s1)) - e
    u2 = x - math.exp(-s2) * math.expm1(r2 * h) * e
    u2 = u2 - math.exp(-s2) * r2 / r1 * (math.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = eps(u2, math.exp(-s2)) - e
    return x - math.exp(-hi) * math.expm1(h) * e - math.exp(-hi) / r2 * (math.expm1(h) / h - 1) * d2


@grids
@pytest.mark.parametrize(
    ("name", "step", "options"),
    [
        ("dpm_2s", step_2, {}),
        ("dpm_2s", lambda x, lo, hi: step_2(x, lo, hi, 0.3), {"r1": 0.3}),
        ("dpm_3s", step_3, {}),
        ("dpm_3s", lambda x, lo, hi: step_3(x, lo, hi, 0.5), {"r1": 0.5}),
    ],
)
def test_dpm_solver_single_step(name, step, options, sigmas):
    """DPM-Solver, Algorithms 1 and 2, in λ; its steps end at the last positive level."""

    def loop(x):
        for s, t in pairwise(sigmas[:-1]):
            x = step(x, lam(s), lam(t))
        return x

    check(name, sigmas[:-1], loop, **options)


@pytest.mark.parametrize("budget", [4, 5, 6, 12, 20, 50])
def test_dpm_solver_fast_spends_its_budget(budget):
    """⌊K/3⌋ + 1 steps even in λ, of orders 3 … 3, then 2 and 1, or 1, or 2."""
    m = budget // 3 + 1
    ts = np.linspace(lam(SD.sigma_max), lam(SD.sigma_min), m + 1)
    orders = [3] * (m - 2) + [2, 1] if budget % 3 == 0 else [3] * (m - 1) + [budget % 3]

    def loop(x):
        for (lo, hi), order in zip(pairwise(ts.tolist()), orders, strict=True):
            x = (step_1, step_2, step_3)[order - 1](x, lo, hi)
        return x

    sigmas = samplers.grid("exponential", steps=m, levels=SD, ending="stop_at_sigma_min")
    rule = samplers.make("dpm_fast", remainder=budget % 3)
    assert rule.nfe(sigmas) == budget
    check("dpm_fast", sigmas, loop, remainder=budget % 3)


class VP:
    """The variance-preserving x_t = α x₀ + σ_t ε with the given σ_t/α, in which the papers write their formulas."""

    def __init__(self, sigmas):
        self.levels = list(sigmas)
        self.alpha = [(1 + s * s) ** -0.5 for s in sigmas]
        self.sigma = [s * a for s, a in zip(sigmas, self.alpha, strict=True)]

    def lam(self, i):
        return math.log(self.alpha[i] / self.sigma[i])

    def x0(self, x, i):
        return D(x / self.alpha[i], self.levels[i])


@grids
def test_dpmpp_2s(sigmas):
    """DPM-Solver++, Algorithm 1, with r = 0.4."""
    sigmas, r = sigmas[:-1], 0.4
    inner = [s ** (1 - r) * t**r for s, t in pairwise(sigmas)]

    def loop(x):
        ends, middles = VP(sigmas), VP(inner)
        x = x * ends.alpha[0]
        for i in range(len(sigmas) - 1):
            h, x0 = ends.lam(i + 1) - ends.lam(i), ends.x0(x, i)
            u = middles.sigma[i] / ends.sigma[i] * x - middles.alpha[i] * math.expm1(-r * h) * x0
            d = (1 - 1 / (2 * r)) * x0 + 1 / (2 * r) * middles.x0(u, i)
            x = ends.sigma[i + 1] / ends.sigma[i] * x - ends.alpha[i + 1] * math.expm1(-h) * d
        return x / ends.alpha[-1]

    check("dpmpp_2s", sigmas, loop, r1=r)


@grids
@pytest.mark.parametrize("kind", ["bh1", "bh2"])
@pytest.mark.parametrize("p", [1, 2, 3])
def test_unipc(p, kind, sigmas):
    """UniPC, Algorithms 5-8: a_p from R_p(h) a_p B(h) = φ_p(h), with ½ for it where it is one number."""
    sigmas = sigmas[:-1]
    vp = VP(sigmas)

    def update(x, i, j, nodes, one):
        """x at level i -> level j, with the predictions `nodes` [(λ, D)], the first of which is at i."""
        h, (base, first), others = vp.lam(j) - vp.lam(i), nodes[0], nodes[1:]
        hh = -h
        b = hh if kind == "bh1" else math.expm1(hh)
        out = vp.sigma[j] / vp.sigma[i] * x - vp.alpha[j] * math.expm1(hh) * first
        if not others:
            return out
        r = [(level - base) / h for level, _ in others]
        if one:
            a = [0.5]
        else:
            phi, rows, right = math.expm1(hh) / hh - 1, [], []
            for k in range(1, len(others) + 1):
                rows.append([value ** (k - 1) for value in r])
                right.append(phi * math.factorial(k) / b)
                phi = phi / hh - 1 / math.factorial(k + 1)
            a = np.linalg.solve(rows, right).tolist()
        terms = (weight * (value - first) / where for weight, where, (_, value) in zip(a, r, others, strict=True))
        return out - vp.alpha[j] * b * sum(terms)

    def loop(x):
        x, before, past = x * vp.alpha[0], None, []
        for i in range(len(sigmas) - 1):
            x0 = vp.x0(x, i)
            if before is not None:
                nodes = [*past, (vp.lam(i), x0)]
                x = update(before, i - 1, i, nodes, one=len(past) == 1)
            past = [(vp.lam(i), x0), *past][:p]
            before, x = x, update(x, i, i + 1, past, one=len(past) == 2)
        return x / vp.alpha[-1]

    check("unipc", sigmas, loop, max_order=p, kind=kind)


@pytest.mark.parametrize("name", ["karras", "exponential", "trailing"])
@pytest.mark.parametrize("steps", [5, 12, 50])
def test_dpmpp_3m_published(name, steps):
    """k-diffusion's form of the third-order term; its second step is left out, where it is not the paper's."""
    sigmas = samplers.grid(name, steps=steps, levels=SD)
    rule, x, memory = samplers.make("dpmpp_3m", variant="published"), start(4, 2, sigma=sigmas[0]), None
    compared = 0
    for s, t in pairwise(sigmas[:-1]):
        before, past = x, memory.nodes if memory else ()
        x, memory = rule.step(D, x, s, t, memory, None)
        if len(past) < 2:
            continue
        nodes = (memory.nodes[0], *past)
        (d0, d1, d2), h = (node.value for node in nodes), lam(t) - lam(s)
        r0, r1 = ((lam(a.sigma) - lam(b.sigma)) / h for a, b in pairwise(nodes))
        first, second = (d0 - d1) / r0, (d1 - d2) / r1
        slope, bend = first + (first - second) * r0 / (r0 + r1), (first - second) / (r0 + r1)
        phi_2 = math.expm1(-h) / h + 1
        expected = math.exp(-h) * before - math.expm1(-h) * d0 + phi_2 * slope - (phi_2 / h - 0.5) * bend
        torch.testing.assert_close(x, expected, atol=1e-10, rtol=1e-10)
        compared += 1
    assert compared == steps - 3


@grids
def test_exponential_heun(sigmas):
    def loop(x):
        for s, t in pairwise(sigmas[:-1]):
            h, d0 = lam(t) - lam(s), D(x, s)
            u = math.exp(-h) * x + (1 - math.exp(-h)) * d0
            phi_2 = (math.exp(-h) - 1 + h) / h**2
            x = u + h * phi_2 * (D(u, t) - d0)
        return x

    check("exponential_heun", sigmas[:-1], loop)


@grids
def test_gradient_estimation(sigmas):
    def loop(x, gamma=1.8):
        last = None
        for s, t in pairwise(sigmas):
            e = eps(x, s)
            mean = e if last is None else gamma * e + (1 - gamma) * last
            x, last = x + (t - s) * mean, e
        return x

    check("gradient_estimation", sigmas, loop, gamma=1.8)


@grids
def test_heunpp2(sigmas):
    def loop(x):
        for i, (s, t) in enumerate(pairwise(sigmas)):
            d, left = eps(x, s), len(sigmas) - 2 - i
            if left == 0:
                mean = d
            else:
                x1 = x + (t - s) * d
                d1 = eps(x1, t)
                if left == 1:
                    w1 = t / (2 * sigmas[0])
                    mean = (1 - w1) * d + w1 * d1
                else:
                    u = sigmas[i + 2]
                    d2 = eps(x1 + (u - t) * d1, u)
                    w1, w2 = t / (3 * sigmas[0]), u / (3 * sigmas[0])
                    mean = (1 - w1 - w2) * d + w1 * d1 + w2 * d2
            x = x + (t - s) * mean
        return x

    check("heunpp2", sigmas, loop)
    check("heunpp2", sigmas[:-1], lambda x: _ending_above_zero(x, sigmas[:-1]))


def _ending_above_zero(x, sigmas):
    """The last two steps are the cheap ones wherever the grid ends."""
    rule, memory = samplers.make("heunpp2"), samplers.make("heunpp2").prepare(sigmas)
    calls = []
    for s, t in pairwise(sigmas):
        before = len(calls)
        x, memory = rule.step(lambda x, s: (calls.append(s), D(x, s))[1], x, s, t, memory, None)
        assert len(calls) - before == min(3, len(sigmas) - 1 - sigmas.index(s))
    return x


@pytest.mark.parametrize("steps", [3, 5, 12, 50])
def test_plms(steps):
    """The transfer of PNDM in ᾱ, with the multistep means and the pseudo-Heun start."""
    sigmas = samplers.grid("trailing", steps=steps, levels=SD)
    bars = [samplers.alpha_bar(s) for s in sigmas]

    def transfer(x, e, i, j):
        a, b = bars[i], bars[j]
        return (b / a) ** 0.5 * x - (b - a) / (a**0.5 * (((1 - b) * a) ** 0.5 + ((1 - a) * b) ** 0.5)) * e

    def loop(x):
        x, past = x * bars[0] ** 0.5, []
        for i in range(len(sigmas) - 1):
            e = eps(x / bars[i] ** 0.5, sigmas[i])
            past = [e, *past][:4]
            if i == 0:
                guess = transfer(x, e, 0, 1)
                mean = (e + eps(guess / bars[1] ** 0.5, sigmas[1])) / 2
            elif i == 1:
                mean = (3 * past[0] - past[1]) / 2
            elif i == 2:
                mean = (23 * past[0] - 16 * past[1] + 5 * past[2]) / 12
            else:
                mean = (55 * past[0] - 59 * past[1] + 37 * past[2] - 9 * past[3]) / 24
            x = transfer(x, mean, i, i + 1)
        return x

    check("plms", sigmas, loop)


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("levels", [samplers.vp_levels(), SD], ids=["continuous", "table"])
def test_deis_has_the_weights_of_the_models_time(levels, order):
    """tAB: ∫ ℓ_j(t(s)) ds by adaptive quadrature, on a grid within the levels."""
    precision = 1e-6 if levels is SD else 1e-10  # a table has corners, which fixed nodes step over
    sigmas = samplers.grid("karras", steps=8, levels=samplers.continuous_levels(0.05, 12.0), ending="stop_at_sigma_min")

    def coefficient(nodes, j, s, t):
        times = [levels.t(n) for n in nodes]

        def integrand(v):
            at = levels.t(math.exp(v))
            others = [n for i, n in enumerate(times) if i != j]
            return math.exp(v) * math.prod((at - n) / (times[j] - n) for n in others)

        return quad(integrand, math.log(s), math.log(t), limit=400, epsabs=precision)[0]

    x = start(4, 2, sigma=sigmas[0])
    rule = samplers.make("deis", max_order=order).with_levels(levels)
    got, past = samplers.run(rule, D, x, sigmas), []
    for s, t in pairwise(sigmas):
        past = [(s, eps(x, s)), *past][:order]
        nodes = [n for n, _ in past]
        x = x + sum(coefficient(nodes, j, s, t) * e for j, (_, e) in enumerate(past))
    torch.testing.assert_close(got, x, atol=100 * precision, rtol=100 * precision)


@grids
def test_belm(sigmas):
    """O-BELM in x/α with h_i = σ_i/α_i − σ_{i−1}/α_{i−1}, whose index falls towards the data."""

    def loop(x):
        states = [x, x + (sigmas[1] - sigmas[0]) * eps(x, sigmas[0])]
        for above, here, below in zip(sigmas, sigmas[1:], sigmas[2:], strict=False):
            h, h_above = here - below, above - here
            a1, a2, b1 = (h_above**2 - h**2) / h_above**2, h**2 / h_above**2, -(h + h_above) / h_above
            states.append(a2 * states[-2] + a1 * states[-1] + b1 * h * eps(states[-1], here))
        return states[-1]

    check("belm", sigmas, loop)


@grids
@pytest.mark.parametrize("gamma", [0.4, 1.0])
def test_bdia(sigmas, gamma):
    """z_{i−1} = z_{i+1} − (1 − γ)(z_{i+1} − z_i) − γ Δ(t_i → t_{i+1}) + Δ(t_i → t_{i−1}), Δ a DDIM step less z_i."""

    def loop(x):
        vp = VP(sigmas)
        z = [x * vp.alpha[0]]
        for i in range(len(sigmas) - 1):
            noise = (z[i] - vp.alpha[i] * vp.x0(z[i], i)) / vp.sigma[i]

            def ddim(j, i=i, noise=noise):
                return (vp.alpha[j] / vp.alpha[i] - 1) * z[i] + (
                    vp.sigma[j] - vp.alpha[j] / vp.alpha[i] * vp.sigma[i]
                ) * noise

            start = z[i] if i == 0 else z[i - 1] - (1 - gamma) * (z[i - 1] - z[i]) - gamma * ddim(i - 1)
            z.append(start + ddim(i + 1))
        return z[-1] / vp.alpha[-1]

    check("bdia", sigmas, loop, gamma=gamma)


@grids
@pytest.mark.parametrize("p", [0.8, 0.93, 1.0])
def test_edict(sigmas, p):
    """Two variance-preserving states; the network sees the first, already moved, at the timestep of the old level."""

    def loop(x):
        vp = VP(sigmas)
        x = y = x * vp.alpha[0]
        for i in range(len(sigmas) - 1):
            a = vp.alpha[i + 1] / vp.alpha[i]
            b = vp.sigma[i + 1] - a * vp.sigma[i]
            x_inter = a * x + b * (y - vp.alpha[i] * vp.x0(y, i)) / vp.sigma[i]
            y_inter = a * y + b * (x_inter - vp.alpha[i] * vp.x0(x_inter, i)) / vp.sigma[i]
            x = p * x_inter + (1 - p) * y_inter
            y = p * y_inter + (1 - p) * x
        return x / vp.alpha[-1]

    check("edict", sigmas, loop, mixing=p)
