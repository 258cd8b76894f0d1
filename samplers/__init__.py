"""Diffusion sampling: samplers, grids, noise and closed-form problems. Requires torch, NumPy and SciPy.

    sampler = samplers.make("dpmpp_2m")
    levels  = samplers.discrete_levels()
    sigmas  = samplers.grid("karras", steps=20, levels=levels)
    noise   = samplers.seeded([0, 1, 2])
    x0      = samplers.run(sampler, denoise, noise(like) * sigmas[0], sigmas, noise=noise)

`denoise(x, sigma) -> x̂₀` is any function that estimates the data x₀ from x = x₀ + σ ε. A new sampler is one file and
one line in `SAMPLERS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from samplers.ancestral import DPM2Ancestral, DPMpp2SAncestral, EulerAncestral
from samplers.base import AdaptiveSampler, Noise, PathNoise, Sampler, run
from samplers.bdia import BDIA
from samplers.belm import BELM
from samplers.brownian import brownian_path
from samplers.cfg_pp import DDIMCFGpp, DPMpp2MCFGpp, RectifiedCFGpp
from samplers.checks import check_options, look_up
from samplers.ddim import DDIM
from samplers.ddpm import DDPM
from samplers.deis import DEIS
from samplers.denoiser import Denoiser, GuidedDenoiser, SteppedDenoiser
from samplers.dpm2 import DPM2
from samplers.dpm_2m_sde import DPMSolver2MSDE
from samplers.dpm_adaptive import DPMSolverAdaptive
from samplers.dpm_singlestep import DPMSinglestep
from samplers.dpm_solver import DPMpp2M, DPMpp3M, DPMSolver2M, DPMSolver3M
from samplers.dpm_solver_single import DPMpp2S, DPMpp3S, DPMSolver2S, DPMSolver3S, DPMSolverFast
from samplers.dpm_solver_v3 import DPMSolverV3
from samplers.dpmpp_2m_sde import DPMpp2MSDE
from samplers.dpmpp_3m_sde import DPMpp3MSDE
from samplers.dpmpp_sde import DPMppSDE
from samplers.edict import EDICT
from samplers.edm import EDMEuler, EDMHeun
from samplers.er_sde import ERSDE
from samplers.euler import Euler
from samplers.exact.reference import converged, eased, reference
from samplers.exponential_heun import ExponentialHeun
from samplers.gradient_estimation import GradientEstimation
from samplers.grids import DIALECTS, ENDINGS, GRIDS, Ending, grid
from samplers.heun import Heun
from samplers.heunpp import HeunPP2
from samplers.inversion import Invertible, invert, is_invertible, round_trip, round_trip_error
from samplers.ipndm import IPNDM, IPNDMv
from samplers.lcm import LCM
from samplers.levels import (
    ClockLevels,
    ContinuousLevels,
    DiscreteLevels,
    Levels,
    TimedLevels,
    alpha_bar,
    check_prediction,
    continuous_levels,
    cosine_levels,
    discrete_levels,
    edm_levels,
    flow_levels,
    levels_of_betas,
    sigma_of,
    ve_levels,
    vp_levels,
    zero_terminal_snr,
)
from samplers.lms import LMS
from samplers.noise import philox, seeded
from samplers.pndm import PLMS, PNDM
from samplers.res import RESMultistep
from samplers.res_single import RES2S, RES3S
from samplers.restart import Restart
from samplers.sa_solver import SASolver
from samplers.seeds import SEEDS2, SEEDS3
from samplers.sit_sde import SiTSDE
from samplers.tcd import TCD
from samplers.unipc import UniPC

__all__ = [
    "DIALECTS",
    "ENDINGS",
    "GRIDS",
    "SAMPLERS",
    "AdaptiveSampler",
    "ClockLevels",
    "ContinuousLevels",
    "Denoiser",
    "DiscreteLevels",
    "Ending",
    "GuidedDenoiser",
    "Invertible",
    "Levels",
    "Noise",
    "PathNoise",
    "Sampler",
    "SteppedDenoiser",
    "TimedLevels",
    "alpha_bar",
    "brownian_path",
    "check_prediction",
    "continuous_levels",
    "converged",
    "cosine_levels",
    "describe",
    "discrete_levels",
    "eased",
    "edm_levels",
    "flow_levels",
    "grid",
    "invert",
    "is_invertible",
    "levels_of_betas",
    "make",
    "philox",
    "reference",
    "round_trip",
    "round_trip_error",
    "run",
    "seeded",
    "sigma_of",
    "ve_levels",
    "vp_levels",
    "zero_terminal_snr",
]

SAMPLERS: dict[str, type[Sampler]] = {
    "bdia": BDIA,
    "belm": BELM,
    "ddim": DDIM,
    "ddim_cfg_pp": DDIMCFGpp,
    "ddpm": DDPM,
    "deis": DEIS,
    "dpm2": DPM2,
    "dpm2_ancestral": DPM2Ancestral,
    "dpm_2m": DPMSolver2M,
    "dpm_2m_sde": DPMSolver2MSDE,
    "dpm_2s": DPMSolver2S,
    "dpm_3m": DPMSolver3M,
    "dpm_3s": DPMSolver3S,
    "dpm_adaptive": DPMSolverAdaptive,
    "dpm_fast": DPMSolverFast,
    "dpm_singlestep": DPMSinglestep,
    "dpm_solver_v3": DPMSolverV3,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_2m_cfg_pp": DPMpp2MCFGpp,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "dpmpp_2s": DPMpp2S,
    "dpmpp_2s_ancestral": DPMpp2SAncestral,
    "dpmpp_3m": DPMpp3M,
    "dpmpp_3m_sde": DPMpp3MSDE,
    "dpmpp_3s": DPMpp3S,
    "dpmpp_sde": DPMppSDE,
    "edict": EDICT,
    "edm_euler": EDMEuler,
    "edm_heun": EDMHeun,
    "er_sde": ERSDE,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "exponential_heun": ExponentialHeun,
    "gradient_estimation": GradientEstimation,
    "heun": Heun,
    "heunpp2": HeunPP2,
    "ipndm": IPNDM,
    "ipndm_v": IPNDMv,
    "lcm": LCM,
    "lms": LMS,
    "plms": PLMS,
    "pndm": PNDM,
    "rectified_cfg_pp": RectifiedCFGpp,
    "res_2s": RES2S,
    "res_3s": RES3S,
    "res_multistep": RESMultistep,
    "restart": Restart,
    "sa_solver": SASolver,
    "seeds_2": SEEDS2,
    "seeds_3": SEEDS3,
    "sit_sde": SiTSDE,
    "tcd": TCD,
    "unipc": UniPC,
}


def make(name: str, **options: Any) -> Sampler:
    """The sampler `name` with `options`.

    Raises:
        ValueError: the name or an option is unknown (the message suggests the nearest name), or a value is invalid.
    """
    build = cast(Callable[..., Sampler], look_up("sampler", name, SAMPLERS))
    check_options(f"sampler {name!r}", build, options)
    return build(**options)


def describe(entry: Callable[..., object]) -> str:
    """The first line of the docstring of a registered class or function."""
    return (inspect.getdoc(entry) or "").partition("\n")[0]
