"""The options of the deterministic samplers: their checks, their claims, and the model's noise schedule."""

import pytest
import torch

import samplers
from samplers.clock import clock

SLIPS = [
    ("lms", {"max_order": 5}, "LMS.max_order must be one of 1, 2, 3, 4, got 5"),
    ("lms", {"max_order": True}, "LMS.max_order must be one of 1, 2, 3, 4, got True"),
    ("ipndm", {"max_order": 0}, "IPNDM.max_order must be one of 1, 2, 3, 4, got 0"),
    ("ipndm_v", {"max_order": 2.0}, "IPNDMv.max_order must be one of 1, 2, 3, 4, got 2.0"),
    ("ipndm_v", {"variant": "right"}, "IPNDMv.variant must be one of 'corrected', 'published', got 'right'"),
    ("deis", {"max_order": "3"}, "DEIS.max_order must be one of 1, 2, 3, 4, got '3'"),
    ("dpmpp_3m", {"variant": None}, "DPMpp3M.variant must be one of 'corrected', 'published', got None"),
    ("dpm_2m", {"lower_order_final": "yes"}, "DPMSolver2M.lower_order_final must be True or False, got 'yes'"),
    ("deis", {"lower_order_final": 1}, "DEIS.lower_order_final must be True or False, got 1"),
    ("unipc", {"lower_order_final": 0}, "UniPC.lower_order_final must be True or False, got 0"),
    ("sa_solver", {"lower_order_final": None}, "SASolver.lower_order_final must be True or False, got None"),
    ("dpm_3m", {"variant": "fixed"}, "DPMSolver3M.variant must be one of 'corrected', 'published', got 'fixed'"),
    ("dpm_2s", {"r1": 0}, "DPMSolver2S.r1 must be in [0.01, 1], got 0"),
    ("dpm_3s", {"r1": 1.5}, "DPMSolver3S.r1 must be in [0.01, 1], got 1.5"),
    ("dpm_fast", {"remainder": 3}, "DPMSolverFast.remainder must be one of 0, 1, 2, got 3"),
    ("gradient_estimation", {"gamma": 0.5}, "GradientEstimation.gamma must be in [1, 3], got 0.5"),
    ("unipc", {"max_order": 4}, "UniPC.max_order must be one of 1, 2, 3, got 4"),
    ("unipc", {"kind": "bh3"}, "UniPC.kind must be one of 'bh1', 'bh2', got 'bh3'"),
    ("unipc", {"max_ordre": 3}, "sampler 'unipc' has no option 'max_ordre' (did you mean 'max_order'?)"),
]


@pytest.mark.parametrize(("name", "options", "line"), SLIPS, ids=[line for _, _, line in SLIPS])
def test_a_mistake_is_reported_in_one_line(name, options, line):
    with pytest.raises(ValueError) as caught:
        samplers.make(name, **options)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "order"),
    [
        ("lms", {"max_order": 3}, 3),
        ("ipndm", {}, 2),
        ("ipndm", {"max_order": 1}, 1),
        ("ipndm_v", {}, 4),
        ("ipndm_v", {"variant": "published"}, 2),
        ("dpmpp_3m", {}, 3),
        ("dpmpp_3m", {"variant": "published"}, 2),
        ("unipc", {}, 3),
        ("unipc", {"corrector": False}, 2),
        ("bdia", {}, 2),
        ("bdia", {"gamma": 0.9}, 1),
        ("gradient_estimation", {}, 1),
        ("gradient_estimation", {"gamma": 1.5}, 2),
        ("dpm_adaptive", {"pair": "12"}, 2),
        ("dpm_fast", {"remainder": 2}, 3),
        ("ddim", {}, 1),
        ("ddim", {"clip": 1.0}, 0),
        ("ddpm", {}, 1),
        ("ddpm", {"clip": 1}, 0),
    ],
)
def test_options_decide_over_the_order_that_is_claimed(name, options, order):
    assert samplers.make(name, **options).order == order


def test_samplers_in_the_models_time_take_the_models_levels():
    vp = samplers.vp_levels()
    assert samplers.make("deis").with_levels(vp).levels is vp
    assert samplers.make("pndm").with_levels(vp) != samplers.make("pndm")
    heun = samplers.make("heun")
    assert heun.with_levels(vp) is heun
    assert samplers.make("deis").levels == samplers.discrete_levels()
    assert str(samplers.make("deis")) == "DEIS(lower_order_final=False, max_order=3)"  # not the whole table


@pytest.mark.parametrize(
    "levels",
    [samplers.discrete_levels(), samplers.vp_levels(), samplers.flow_levels(), samplers.continuous_levels(0.1, 9.0)],
    ids=["table", "vp", "flow", "none"],
)
def test_the_clock_goes_on_beyond_the_levels(levels):
    """t rises with σ without a jump, and back again, from far below the levels to far above."""
    tick = clock(levels)
    sigmas = [levels.sigma_min * 0.8**i for i in range(20, 0, -1)]
    sigmas += [levels.sigma_min * (levels.sigma_max / levels.sigma_min) ** (i / 50) for i in range(51)]
    sigmas += [levels.sigma_max * 1.3**i for i in range(1, 20)]
    times = [tick.t(sigma) for sigma in sigmas]
    assert times == sorted(set(times))
    assert [tick.sigma(t) for t in times] == pytest.approx(sigmas, rel=1e-9)
    for end in (levels.sigma_min, levels.sigma_max):
        assert tick.t(end * (1 + 1e-9)) - tick.t(end * (1 - 1e-9)) < 1e-4


def test_pndm_takes_the_middle_of_its_first_steps_in_the_models_time():
    asked = []
    levels = samplers.discrete_levels()
    sigmas = samplers.grid("leading", steps=10, levels=levels)
    rule = samplers.make("pndm")

    def denoise(x, sigma):
        asked.append(levels.t(sigma))
        return 0 * x

    samplers.run(rule, denoise, torch.ones(1, 2), sigmas)
    assert asked[:4] == pytest.approx([900, 850, 850, 800])
    assert len(asked) == rule.nfe(sigmas) == 10 + 9
