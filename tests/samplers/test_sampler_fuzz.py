"""Deterministic samplers on whatever grids, states and batches: a result or one clear error, never NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampler_problems import DETERMINISTIC, SD, SPECTRUM, start

import samplers
from samplers.denoiser import Unguided
from samplers.exact.problems import Gaussian

RULES = [
    *map(samplers.make, DETERMINISTIC),
    samplers.make("deis", max_order=4),
    samplers.make("dpm_3m", variant="published"),
    samplers.make("dpm_adaptive", pair="12"),
    samplers.make("dpm_fast", remainder=1),
    samplers.make("dpm_fast", remainder=2),
    samplers.make("dpmpp_3m", variant="published"),
    samplers.make("ipndm_v", variant="published"),
    samplers.make("unipc", max_order=3),
    samplers.make("unipc", kind="bh1"),
]
rules = pytest.mark.parametrize("rule", RULES, ids=str)
D = Unguided(SPECTRUM.denoise)

# Levels from the top down, each at most 0.999999 of the one before: neighbours that float32 can tell apart.
ratios = st.lists(st.floats(1e-3, 0.999999), min_size=1, max_size=9)
tops = st.floats(0.01, 2e4)


@rules
@settings(max_examples=25, deadline=None)
@given(top=tops, ratios=ratios, to_zero=st.booleans(), batch=st.integers(0, 3), single=st.booleans())
def test_any_grid_gives_a_finite_result(rule, top, ratios, to_zero, batch, single):
    sigmas = [top]
    for ratio in ratios:
        sigmas.append(max(sigmas[-1] * ratio, 1e-12))
        if sigmas[-1] == 1e-12:
            break
    x = start(batch, 3, sigma=top).to(torch.float32 if single else torch.float64)
    out = samplers.run(rule, D, x, [*sigmas, 0.0] if to_zero else sigmas)
    assert out.shape == (batch, 3)
    assert out.dtype == x.dtype
    assert out.isfinite().all()


@rules
@pytest.mark.parametrize(("dtype", "low"), [(torch.float32, 1e-30), (torch.float64, 1e-300)], ids=str)
def test_a_lowest_level_next_to_zero(rule, dtype, low):
    for sigmas in ((10.0, 3.0, 1.0, low, 0.0), (10.0, low, 0.0), (10.0, 9.0, 8.0, low)):
        assert samplers.run(rule, D, start(2, 3, sigma=10.0).to(dtype), sigmas).isfinite().all()


@rules
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("ending", samplers.ENDINGS)
def test_very_few_steps_do_not_diverge(rule, steps, ending):
    """In one step from 14.6 to 0.03 a sampler may be poor (Heun goes half the way), but stays in its initial ball."""
    sigmas = samplers.grid("karras", steps=steps, levels=SD, ending=ending)
    x = start(4, 3, sigma=SD.sigma_max)
    assert samplers.run(rule, D, x, sigmas).abs().max() < x.abs().max()


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != samplers.make("belm")], ids=str)
def test_a_thousand_steps_in_float32_are_those_in_float64(rule):
    """No sampler loses digits where neighbouring levels nearly coincide. The grid is every timestep of the table.

    O-BELM does, since its error alternates and grows with the square of the steps, and these become longer at the end.
    """
    sigmas = samplers.grid("trailing", steps=1000, levels=SD)
    x = start(2, 3, sigma=SD.sigma_max).float()
    single, double = (samplers.run(rule, D, x.to(dtype), sigmas) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, atol=2e-4, rtol=2e-4)


@rules
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_starts_are_lifted(rule, dtype):
    x = start(2, 3, sigma=10.0).to(dtype)
    sigmas = (10.0, 4.0, 1.0, 0.0)
    assert torch.equal(samplers.run(rule, D, x, sigmas), samplers.run(rule, D, x.float(), sigmas))


@rules
def test_equal_levels_are_one_clear_error(rule):
    with pytest.raises(ValueError, match=r"sigmas must be finite and strictly decreasing to 0 or above"):
        samplers.run(rule, D, start(1, 3, sigma=4.0), (4.0, 2.0, 2.0, 0.0))


@rules
@pytest.mark.parametrize("shape", [(0, 3), (0, 4, 8, 3), (2, 4, 8, 3), (3,)])
def test_states_of_any_shape(rule, shape):
    """An empty batch, images, and scalars: each image has the same result alone."""
    problem = Unguided(Gaussian(0.7).denoise) if shape == (3,) else D
    x, sigmas = start(*shape, sigma=9.0), (9.0, 5.0, 1.0, 0.2, 0.0)
    out = samplers.run(rule, problem, x, sigmas)
    assert out.shape == shape
    for i in range(len(x)):
        torch.testing.assert_close(out[i : i + 1], samplers.run(rule, problem, x[i : i + 1], sigmas), atol=0, rtol=0)


def test_predictions_that_share_memory_between_calls_are_not_written_to():
    """The denoiser always returns the same tensor, so a sampler that wrote to it would change its next input."""
    x0 = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    kept = x0.clone()
    for rule in RULES:
        samplers.run(rule, Unguided(lambda x, sigma: x0), start(1, 3, sigma=9.0), (9.0, 5.0, 1.0, 0.2, 0.05, 0.0))
        assert torch.equal(x0, kept)
