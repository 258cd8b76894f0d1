"""The formulas of the strategies against independent forms: identities, limits and closed forms."""

from itertools import pairwise
from math import cos, exp, inf, log, pi, tan

import pytest
import torch
import torch.nn.functional as F

import samplers
from samplers.exact.problems import Gaussian
from sdlab import guidance
from sdlab.guidance.base import COND, IMAGE, UNCOND, ContextNoise, Level, Query
from sdlab.guidance.guided import Guided
from sdlab.guidance.space import SPACES, from_space, to_space

SHAPE = (3, 2, 8, 8)
SIGMA = 0.8


def white(seed, shape=SHAPE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, C, U = white(0), white(1), 0.6 * white(1) + 0.5 * white(2)


def combine(name, cond=C, uncond=U, sigma=SIGMA, state=None, x=X, **options):
    """x̂₀ and the state for given predictions of x̂₀."""
    strategy = guidance.make(name, **options)
    level = Level(sigma)
    predictions = {COND: cond, UNCOND: uncond}
    return strategy.combine(tuple(predictions[query] for query in strategy.queries(level)), x, level, state)


def guide(name, *arguments, **options):
    return combine(name, *arguments, **options)[0]


def cfg(scale):
    return U + scale * (C - U)


def rows(values):
    return values.flatten(1)


# Spaces


@pytest.mark.parametrize("space", SPACES)
def test_a_space_is_invertible_and_has_its_definition(space):
    alpha, noise = (1 + SIGMA**2) ** -0.5, (X - C) / SIGMA
    want = {
        "x0": C,
        "eps": noise,
        "v": alpha * noise - (1 - alpha**2) ** 0.5 * C,
        "flow": noise - C,
    }[space]
    torch.testing.assert_close(to_space(space, C, X, SIGMA), want)
    torch.testing.assert_close(from_space(space, want, X, SIGMA), C)


# Classifier-free guidance as a special case


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rescale", {"phi": 0.0}),
        ("dynamic_thresholding", {"limit": inf}),
        ("apg", {"eta": 1.0, "norm": inf, "momentum": 0.0}),
        ("apg", {"eta": 1.0, "norm": inf, "momentum": 0.0, "variant": "diffusers"}),
        ("fdg", {"scales": (3.0, 3.0)}),
        ("fdg", {"scales": (3.0, 3.0, 3.0, 3.0)}),
        ("fdg", {"scales": (3.0,)}),
        ("mambo_g", {"alpha": 0.0}),
        ("epsilon_scaling", {"factor": 1.0}),
        ("beta_cfg", {"a": 1.0, "b": 1.0, "gamma": 0.0}),
        ("momentum", {"alpha": 0.0}),
        ("momentum", {}),  # the first call
        ("adaptive", {}),
        ("cads", {}),
        ("composed", {}),
    ],
)
def test_a_setting_that_is_classifier_free_guidance(name, options):
    scale = {} if "scales" in options else {"scale": 3.0}
    torch.testing.assert_close(guide(name, **scale, **options), cfg(3.0))


def test_comfyuis_apg_counts_its_scale_from_zero():
    plain = {"eta": 1.0, "norm": inf, "momentum": 0.0}
    torch.testing.assert_close(guide("apg", scale=2.0, variant="comfyui", **plain), cfg(3.0))
    assert guidance.make("apg", scale=0.0, variant="comfyui").queries(Level(1.0)) == (COND,)
    assert guidance.make("apg", scale=1.0, variant="comfyui").queries(Level(1.0)) == (UNCOND, COND)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("image", [0.0, 1.0, 2.5, 3.0])
def test_dual_guidance_is_instructpix2pixs_and_asks_for_what_has_weight(scale, image):
    strategy, both, picture, none = guidance.make("dual", scale=scale, image=image), C, white(5), U
    predictions = {COND: both, IMAGE: picture, UNCOND: none}
    queries = strategy.queries(Level(SIGMA))
    found, _ = strategy.combine(tuple(predictions[query] for query in queries), X, Level(SIGMA), None)
    torch.testing.assert_close(found, none + image * (picture - none) + scale * (both - picture))
    weights = {UNCOND: 1 - image, IMAGE: image - scale, COND: scale}
    assert set(queries) == {query for query, weight in weights.items() if weight}
    if scale == image:
        torch.testing.assert_close(found, cfg(scale))


# Each formula


@pytest.mark.parametrize("space", SPACES)
def test_rescale_at_phi_one_has_the_standard_deviation_of_the_conditional_prediction(space):
    found = to_space(space, guide("rescale", phi=1.0, space=space), X, SIGMA)
    torch.testing.assert_close(rows(found).std(1), rows(to_space(space, C, X, SIGMA)).std(1))
    plain = to_space(space, cfg(7.5), X, SIGMA)
    torch.testing.assert_close(F.cosine_similarity(rows(found), rows(plain)), torch.ones(3).double())


def test_rescale_is_between_the_guided_prediction_and_its_full_rescaling():
    torch.testing.assert_close(
        guide("rescale", phi=0.3), 0.7 * guide("rescale", phi=0.0) + 0.3 * guide("rescale", phi=1.0)
    )


def test_thresholding_is_imagens():
    found = guide("dynamic_thresholding", scale=3.0, percentile=0.9)
    for one, plain in zip(found, cfg(3.0), strict=True):
        s = max(1.0, float(torch.quantile(plain.abs(), 0.9)))
        torch.testing.assert_close(one, plain.clip(-s, s) / s)
    small = guide("dynamic_thresholding", scale=3.0, percentile=0.9, cond=C / 100, uncond=U / 100)
    torch.testing.assert_close(small, cfg(3.0) / 100)  # within the limit
    assert guide("dynamic_thresholding", scale=1.0).abs().max() == 1  # also without guidance


def test_apg_without_the_parallel_part_adds_nothing_along_the_conditional_prediction():
    change = guide("apg", eta=0.0, norm=inf, momentum=0.0) - C
    torch.testing.assert_close((rows(change) * rows(C)).sum(1), torch.zeros(3).double(), atol=1e-10, rtol=0)
    assert rows(change).norm(dim=1).min() > 1


def test_apg_limits_the_norm_of_the_difference():
    change = (guide("apg", scale=2.0, eta=1.0, norm=1.5, momentum=0.0) - C).flatten(1)
    torch.testing.assert_close(change.norm(dim=1), torch.full((3,), 1.5).double())
    torch.testing.assert_close(F.cosine_similarity(change, rows(C - U)), torch.ones(3).double())


def test_apgs_momentum_is_a_geometric_sum_that_is_limited_before_it_is_kept():
    options = {"eta": 1.0, "momentum": -0.5, "scale": 2.0}
    first, state = combine("apg", norm=inf, **options)
    second, state = combine("apg", norm=inf, state=state, **options)
    third, _ = combine("apg", norm=inf, state=state, **options)
    for found, factor in ((first, 1.0), (second, 0.5), (third, 0.75)):
        torch.testing.assert_close(found, C + factor * (C - U))
    _, (kept,) = combine("apg", norm=1.5, **options)
    torch.testing.assert_close(rows(kept).norm(dim=1), torch.full((3,), 1.5).double())


def test_cfg_zero_scales_the_unconditional_velocity_by_its_best_multiple():
    """c − s u is orthogonal to u in the space, so no other multiple of u is nearer to c."""
    c, u = (to_space("flow", one, X, SIGMA) for one in (C, U))
    found = to_space("flow", guide("cfg_zero", scale=3.0), X, SIGMA)
    rest = (found - c) / 2  # (scale − 1)(c − s u)
    torch.testing.assert_close((rows(rest) * rows(u)).sum(1), torch.zeros(3).double(), atol=1e-9, rtol=0)
    s = (rows(c) * rows(u)).sum(1) / rows(u).square().sum(1)
    torch.testing.assert_close(rest, c - s.view(-1, 1, 1, 1) * u)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m"])
def test_zero_velocity_at_the_start_is_a_start_at_a_lower_level(name):
    """The claim that zero steps of CFG-Zero* do nothing but lower the level: x/(1 + σ) stays."""
    model = Gaussian(std=0.5, mean=1.0)
    contexts = {"cond": torch.zeros(3, 1), "uncond": torch.ones(3, 1)}

    def denoise(x, sigma, context):
        return model.denoise(x, sigma) + 0.3 * context.view(-1, 1, 1, 1)

    sigmas, low = (8.0, 5.0, 3.0, 1.0, 0.3), 3.0
    run = Guided(guidance.make("cfg_zero", scale=2.0, zero_above=low), denoise, contexts)
    states = [8.0 * X]
    samplers.run(samplers.make("euler"), run, states[0], sigmas, on_step=lambda _, x: states.append(x))
    for (x, sigma), (x_next, sigma_next) in pairwise(zip(states[:3], sigmas[:3], strict=True)):
        torch.testing.assert_close(x_next / (1 + sigma_next), x / (1 + sigma))
    lower = Guided(guidance.make("cfg_zero", scale=2.0), denoise, contexts)
    start = states[0] * (1 + low) / (1 + sigmas[0])
    found = samplers.run(samplers.make(name), lower, start, sigmas[2:])
    if name == "euler":
        torch.testing.assert_close(found, states[-1])
        assert run.passes == 2 + 2 * 2
    else:
        assert found.isfinite().all()


def test_tcfg_projects_on_the_first_right_singular_vector():
    c, u = (to_space("eps", one, X, SIGMA) for one in (C, U))
    found = to_space("eps", guide("tcfg", scale=3.0), X, SIGMA)
    for one, cond, uncond in zip(found, c, u, strict=True):
        v = torch.linalg.svd(torch.stack([cond.flatten(), uncond.flatten()]), full_matrices=False).Vh[0]
        damped = (uncond.flatten() @ v) * v
        torch.testing.assert_close(one.flatten(), damped + 3.0 * (cond.flatten() - damped))


def test_fdg_gives_each_band_its_scale():
    """A constant difference has only the lowest band and, far from the borders, an alternating one only the highest."""
    flat = torch.ones(1, 1, 64, 64).double()
    board = (-1.0) ** (torch.arange(64).view(-1, 1) + torch.arange(64)).double().expand(1, 1, 64, 64)
    for change, scale in ((flat, 2.0), (board, 7.0)):
        found = guide("fdg", cond=change, uncond=0 * change, x=0 * change, scales=(7.0, 5.0, 2.0))
        inner = (found / change)[..., 30:34, 30:34]
        torch.testing.assert_close(inner, torch.full_like(inner, scale), atol=1e-12, rtol=0)


@pytest.mark.parametrize("side", [1, 2, 3, 5, 13])
def test_fdg_takes_pictures_of_any_size(side):
    cond, uncond = white(1, (2, 3, side, 7)), white(2, (2, 3, side, 7))
    found = guide("fdg", cond=cond, uncond=uncond, x=cond, scales=(3.0, 3.0, 3.0, 3.0))
    torch.testing.assert_close(found, uncond + 3 * (cond - uncond))


def test_mambo_gs_weight():
    c, u = (to_space("flow", one, X, SIGMA) for one in (C, U))
    weight = 1 + 9 * torch.exp(-8 * rows(c - u).norm(dim=1) / rows(u).norm(dim=1)).view(-1, 1, 1, 1)
    torch.testing.assert_close(to_space("flow", guide("mambo_g"), X, SIGMA), u + weight * (c - u))


def test_cfg_norm_limits_each_pixel():
    found, plain = guide("cfg_norm", scale=3.0), cfg(3.0)
    over = plain.norm(dim=1) > C.norm(dim=1)
    assert 0.05 < over.double().mean() < 0.999
    torch.testing.assert_close(found.norm(dim=1)[over], C.norm(dim=1)[over])
    torch.testing.assert_close(found.transpose(0, 1)[:, ~over], plain.transpose(0, 1)[:, ~over])


def test_epsilon_scaling_divides_the_noise():
    found = guide("epsilon_scaling", scale=3.0, factor=1.25)
    torch.testing.assert_close((X - found) / SIGMA, (X - cfg(3.0)) / SIGMA / 1.25)


def test_beta_cfg_moves_by_its_density_whatever_the_difference():
    """With gamma 1 the distance from the unconditional ε is scale β(1 − t), Beta(2, 3): 12 (1 − t) t²."""
    sigma = tan(pi * 0.3 / 2)
    found = (X - guide("beta_cfg", sigma=sigma, scale=2.0)) / sigma
    distance = rows(found - (X - U) / sigma).norm(dim=1)
    torch.testing.assert_close(distance, torch.full((3,), 2.0 * 12 * 0.7 * 0.3**2).double())
    assert torch.equal(
        guide("beta_cfg", cond=C, uncond=C, sigma=sigma), guide("beta_cfg", cond=C, uncond=C, sigma=sigma)
    )
    torch.testing.assert_close(guide("beta_cfg", cond=C, uncond=C), C)


def test_momentum_guidance_extrapolates_from_an_exponential_average():
    first, state = combine("momentum", cond=C, sigma=2.0)
    second, _ = combine("momentum", cond=U, sigma=1.0, state=state)
    d1, d2 = to_space("flow", C, X, 2.0), to_space("flow", U, X, 1.0)
    torch.testing.assert_close(first, C)
    torch.testing.assert_close(to_space("flow", second, X, 1.0), d2 + 0.5 * (d2 - d1))
    _, (average,) = combine("momentum", cond=U, sigma=1.0, state=state)
    torch.testing.assert_close(average, 0.4 * d2 + 0.6 * d1)


def test_adaptive_guidance_drops_the_unconditional_pass_per_image():
    """ε predictions at an angle given by the context: images 0 and 1 pass the threshold at different calls."""
    turn = {"at": 0.0}

    def model(x, sigma, context):
        angle = turn["at"] * context[:, 0]
        return x - sigma * torch.stack([angle.cos(), angle.sin()], 1)

    cond = torch.tensor([[1.0], [2.0]]).double()
    denoise = Guided(
        guidance.make("adaptive", scale=3.0, similarity=cos(0.5)), model, {"cond": cond, "uncond": 0 * cond}
    )
    x, passes = torch.zeros(2, 2).double(), []
    for turn["at"] in (0.6, 0.4, 0.4, 0.9):
        denoise(x, 1.0)
        passes.append(denoise.passes)
    assert passes == [2.0, 4.0, 5.5, 7.0]  # image 0 drops after the second call, image 1 never
    assert torch.equal(denoise(x, 1.0)[0], model(x, 1.0, cond)[0])


# Other labels and noisy contexts


def test_self_guidance_contrasts_the_noise_found_with_a_noisier_label():
    """For ε(x_unit, label) the label alone changes, not x_unit = x/√(1 + σ²)."""
    seen = []

    def network(unit, label):
        return unit * label  # ε as a function of both

    def model(x, sigma, context):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).expand(len(x)).view(-1, 1)
        unit = x / (1 + sigma**2).sqrt()
        seen.append(unit)
        return x - sigma * network(unit, sigma)

    x = white(0, (2, 3))
    denoise = Guided(guidance.make("sg", scale=2.0, factor=1.5), model, {"cond": torch.zeros(2, 1)})
    unit = x / (1 + SIGMA**2) ** 0.5
    worse = x - SIGMA * network(unit, 1.5 * SIGMA)
    plain = x - SIGMA * network(unit, SIGMA)
    torch.testing.assert_close(denoise(x, SIGMA), plain + 2 * (plain - worse))
    torch.testing.assert_close(seen[0], torch.cat([unit, unit]))
    assert denoise.passes == 2


def contexts_seen(strategy, cond, seeds, sigma=1.0, calls=1):
    """The contexts with which the model is called."""
    seen = []

    def model(x, sigma, context):
        seen.append(context)
        return x

    denoise = Guided(strategy, model, {"cond": cond, "uncond": 0 * cond}, seeds)
    for _ in range(calls):
        denoise(torch.zeros(len(cond), 1).double(), sigma)
    return seen


def test_icgs_context_is_noise_with_the_moments_of_the_prompts():
    cond = 2.0 + 3.0 * white(3, (2, 40, 50))
    (seen,) = contexts_seen(guidance.make("icg"), cond, [0, 1])
    noise, plain = seen.chunk(2)
    assert torch.equal(plain, cond)
    torch.testing.assert_close(rows(noise).mean(1), rows(cond).mean(1))
    torch.testing.assert_close(rows(noise).std(1), rows(cond).std(1))
    assert (F.cosine_similarity(rows(noise - 2), rows(cond - 2)).abs() < 4 / 2000**0.5).all()
    assert not torch.allclose(noise[0], noise[1])


def test_cads_anneals_its_noise_between_the_two_times():
    cond = white(3, (1, 200, 200))
    for t, keep in ((0.5, 1.0), (0.75, 0.5), (0.95, 0.0)):
        strategy = guidance.make("cads", noise=0.25, tau1=0.6, tau2=0.9, rescale=0.0, scale=1.0)
        (seen,) = contexts_seen(strategy, cond, [0], sigma=tan(pi * t / 2))
        rest = seen - keep**0.5 * cond
        assert float(rest.std()) == pytest.approx(0.25 * (1 - keep) ** 0.5, rel=0.02)  # 4 standard errors
        assert float((rest * cond).mean()) == pytest.approx(0, abs=0.01)


def test_noise_on_a_context_is_that_of_its_seed_and_call():
    strategy, cond = guidance.make("icg"), white(3, (3, 4, 5))
    together = [seen[:3] for seen in contexts_seen(strategy, cond, [7, 8, 9], calls=2)]
    alone = [seen[:1] for seen in contexts_seen(strategy, cond[[1]], [8], calls=2)]
    assert all(torch.equal(one, many[[1]]) for one, many in zip(alone, together, strict=True))
    assert not torch.allclose(together[0], together[1])
    start = samplers.seeded([8])(white(0, (1, 4, 5)))
    assert not torch.allclose(rows(start), rows((alone[0] - alone[0].mean()) / alone[0].std()), atol=0.3)


def test_noise_on_a_context_needs_seeds_and_numbers():
    labels = torch.tensor([[1], [2]])
    with pytest.raises(ValueError, match="IndependentCondition adds noise to the condition and needs `seeds`"):
        contexts_seen(guidance.make("icg"), white(3, (2, 4)), None)
    with pytest.raises(ValueError, match="adds noise to the condition, which class labels cannot have"):
        contexts_seen(guidance.make("icg"), labels, [0, 1])


def test_a_context_of_one_value_has_no_spread():
    (seen,) = contexts_seen(guidance.make("icg"), torch.ones(1, 1).double(), [0])
    assert seen.isfinite().all()
    assert Query(noise=ContextNoise(1.0)).noise.size == 1.0


# Further prompts


def test_perp_neg_steers_away_from_the_negative_prompt_only_across_the_prompt():
    negative, scale, share = white(4), 3.0, 0.6
    strategy = guidance.make("perp_neg", scale=scale, negative=share)
    given = {Query(prompt=""): U, COND: C, UNCOND: negative}
    found, _ = strategy.combine(tuple(given[query] for query in strategy.queries(Level(SIGMA))), X, Level(SIGMA), None)
    for one, c, n, u in zip(*map(rows, (found, C, negative, U)), strict=True):
        p = (c - u)[:, None]
        across = (n - u) - (p @ torch.linalg.lstsq(p, (n - u)[:, None]).solution)[:, 0]
        torch.testing.assert_close(one, u + scale * (c - u) - scale * share * across)
    torch.testing.assert_close(rows((found - U) * (C - U)).sum(1), scale * rows(C - U).square().sum(1))


@pytest.mark.parametrize("negative", [C, U, U - 2 * (C - U)])
def test_perp_neg_is_classifier_free_guidance_with_a_negative_prompt_along_the_prompt(negative):
    found, _ = guidance.make("perp_neg", scale=3.0).combine((U, C, negative), X, Level(SIGMA), None)
    torch.testing.assert_close(found, cfg(3.0))


def test_perp_neg_with_a_prompt_that_changes_nothing_still_steers_away():
    found, _ = guidance.make("perp_neg", scale=3.0).combine((U, U, C), X, Level(SIGMA), None)
    torch.testing.assert_close(found, U - 3 * (C - U))


def test_perp_neg_makes_only_predictions_that_have_a_weight():
    empty = Query(prompt="")
    for options, queries in (
        ({}, (empty, COND, UNCOND)),
        ({"negative": 0.0}, (empty, COND)),
        ({"negative": 0.0, "scale": 1.0}, (COND,)),
        ({"scale": 0.0}, (empty,)),
    ):
        assert guidance.make("perp_neg", **options).queries(Level(SIGMA)) == queries


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("weights", [(), (1.5, -0.5), (0.0, 2.0), (-2.0, 0.0), (0.0, 0.0)])
def test_composed_prompts_add_up_and_cost_a_pass_for_each_weight(scale, weights):
    first, second = white(5), white(6)
    strategy = guidance.make("composed", scale=scale, prompts=["a", "b"], weights=weights)
    given = {UNCOND: U, COND: C, Query(prompt="a"): first, Query(prompt="b"): second}
    w, v = weights or (scale, scale)
    queries = strategy.queries(Level(SIGMA))
    found, _ = strategy.combine(tuple(given[query] for query in queries), X, Level(SIGMA), None)
    torch.testing.assert_close(found, (1 - scale - w - v) * U + scale * C + w * first + v * second)
    assert len(queries) == sum(weight != 0 for weight in (1 - scale - w - v, scale, w, v))


def test_one_more_prompt_that_is_the_prompt_adds_to_its_scale():
    strategy = guidance.make("composed", scale=2.0, prompts=["a"], weights=[1.0])
    torch.testing.assert_close(strategy.combine((U, C, C), X, Level(SIGMA), None)[0], cfg(3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": "blue"}, "ComposedPrompts.prompts must be a list of texts, got 'blue'"),
        ({"prompts": ["a", "b", "a"]}, "ComposedPrompts.prompts has 'a' twice; give it once, with the sum of weights"),
        ({"prompts": ["a", "b"], "weights": [1.0]}, "must have one weight per prompt, got 1 for 2 prompts"),
        ({"weights": [1.0]}, "must have one weight per prompt, got 1 for 0 prompts"),
        ({"prompts": ["a"], "weights": [2000]}, "ComposedPrompts.weights: each must be in .-1000.0, 1000.0., got 2000"),
        ({"scale": -1}, "ComposedPrompts.scale must be a number of at least 0, got -1"),
    ],
)
def test_mistakes_in_composed_prompts(options, message):
    with pytest.raises(ValueError, match=message):
        guidance.make("composed", **options)


def test_a_further_prompt_is_encoded_once_for_all_images_of_a_run():
    encoded, seen = [], []

    def encode(prompts):
        encoded.extend(prompts)
        return torch.full((1, 2), 7.0)

    def model(x, sigma, context):
        seen.append(context)
        return x / 2

    contexts = {"cond": torch.zeros(3, 2), "uncond": torch.ones(1, 2)}
    denoise = Guided(guidance.make("perp_neg"), model, contexts, encode=encode)
    for sigma in (2.0, 1.0):
        denoise(torch.ones(3, 1), sigma)
    assert encoded == [""]
    assert [context[:, 0].tolist() for context in seen] == [[7.0] * 3 + [0.0] * 3 + [1.0] * 3] * 2
    assert denoise.passes == 6
    with pytest.raises(ValueError, match="PerpendicularNegative has the prompt '' and needs `encode`"):
        Guided(guidance.make("perp_neg"), model, contexts)(torch.ones(3, 1), 1.0)


# Feedback guidance on Gaussians


def test_feedback_estimates_the_probability_of_the_class_along_the_path():
    """Over small steps of DDPM, ℓ is log p_c(x) − log p(x) minus its value at the start, for any path it takes.

    Both reverse processes share their forward process, so the ratio of the densities of a path is the ratio at its end.
    """
    cond, uncond = Gaussian(std=0.5, mean=0.8), Gaussian(std=1.2, mean=-0.2)

    def model(x, sigma, context):
        given = context[:, :1] > 0
        return torch.where(given, cond.denoise(x, sigma), uncond.denoise(x, sigma))

    def ratio(x, sigma):
        def density(law):
            variance = law.std**2 + sigma**2
            return -((x - law.mean) ** 2) / (2 * variance) - log(variance) / 2

        return (density(cond) - density(uncond)).sum(1)

    images = 64
    contexts = {"cond": torch.ones(images, 1), "uncond": torch.zeros(images, 1)}
    strategy = guidance.make("fbg", mixing=0.999999, drift=0.0, limit=1.0001)  # ℓ stays within its limits
    denoise = Guided(strategy, model, contexts)
    levels = samplers.continuous_levels(0.5, 5.0)
    sigmas = samplers.grid("exponential", steps=2000, levels=levels, ending="stop_at_sigma_min")
    noise = samplers.seeded(list(range(images)))
    x = noise(torch.empty(images, 1).double()) * sigmas[0]
    states = [x]
    samplers.run(samplers.make("ddpm"), denoise, x, sigmas, noise, lambda _, x: states.append(x))
    found = torch.stack([state[0] for state in denoise._states.each()])
    want = ratio(states[-2], sigmas[-2]) - ratio(states[0], sigmas[0])
    assert want.std() > 0.2
    torch.testing.assert_close(found, want.clamp(max=3.0), atol=0.12, rtol=0)  # of 2000 steps


def test_feedbacks_weight_follows_from_its_estimate():
    strategy = guidance.make("fbg", mixing=0.9, limit=5.0, drift=0.0)
    _, state = combine("fbg", mixing=0.9, limit=5.0, drift=0.0, sigma=2.0)
    for belief in (-2.0, -1.0, 0.0, 2.0):  # at log(0.125) = −2.08 the weight is 5
        fixed = (torch.full((3,), belief).double(), *state[1:])
        x0, _ = strategy.combine((U, C), X, Level(1.0, step=2.0), fixed)  # within a step: the estimate is kept
        weight = exp(belief) / (exp(belief) - 0.1)
        torch.testing.assert_close(x0, U + weight * (C - U))


def test_feedbacks_drift_is_per_time_and_not_per_step():
    options = {"temperature": 0.0, "drift": -1.5, "mixing": 0.9}
    found = []
    for sigmas in ((8.0, 1.0), (8.0, 4.0, 2.0, 1.0)):
        state = None
        for sigma in sigmas:
            _, state = combine("fbg", sigma=sigma, state=state, **options)
        found.append(float(state[0][0]))
    assert found == pytest.approx([-1.5 * (1 - 0.0) * (0.920833 - 0.5)] * 2, abs=1e-4)  # t of 8 and of 1


# Mistakes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cfg", {"scale": 1e30}, r"ClassifierFree.scale must be at most 1000, got 1e\+30"),
        ("pag", {"scale": 2000}, r"PerturbedAttention.scale must be at most 1000, got 2000"),
        ("rescale", {"scale": -1}, r"Rescaled.scale must be a number of at least 0, got -1"),
        ("rescale", {"phi": 2}, r"Rescaled.phi must be in \[0, 1\], got 2"),
        ("rescale", {"space": "noise"}, r"Rescaled.space must be one of 'x0', 'eps', 'v', 'flow', got 'noise'"),
        ("dynamic_thresholding", {"limit": 0}, r"DynamicThresholding.limit must be a number above 0, got 0"),
        ("apg", {"eta": 2}, r"AdaptiveProjected.eta must be in \[0, 1\], got 2"),
        ("apg", {"norm": 0}, r"AdaptiveProjected.norm must be a number above 0, got 0"),
        ("apg", {"variant": "papr"}, r"AdaptiveProjected.variant must be one of 'paper', 'diffusers', 'comfyui'"),
        ("fdg", {"scales": ()}, r"FrequencyDecoupled.scales must have a scale for each band, got none"),
        ("fdg", {"scales": (-1.0,)}, r"FrequencyDecoupled.scales: each must be a number of at least 0, got -1.0"),
        ("cads", {"tau1": 0.9, "tau2": 0.6}, r"ConditionAnnealed.tau2 must be above tau1 = 0.9, got 0.6"),
        ("sg", {"factor": 1.0}, r"SelfGuidance.factor must be above 1, got 1.0"),
        ("fbg", {"limit": 1}, r"Feedback.limit must be above 1, got 1; for the plain model set mixing = 1"),
        ("cfg_zero", {"zero_above": -1}, r"ZeroStar.zero_above must be a number above 0, got -1"),
    ],
)
def test_mistakes_are_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        guidance.make(name, **options)


SCALES = [
    (name, field)
    for name, kind in guidance.GUIDANCE.items()
    for field in ("scale", "cfg", "image", "negative")
    if isinstance(getattr(kind, field, None), float)
]


@pytest.mark.parametrize(("name", "scale"), SCALES)
@pytest.mark.parametrize("value", [-1.0, 1001.0])
def test_every_scale_is_from_0_to_1000(name: str, scale: str, value: float):
    with pytest.raises(ValueError, match=rf"\.{scale} must be (a number of at least 0|at most 1000), got {value}$"):
        guidance.make(name, **{scale: value})
