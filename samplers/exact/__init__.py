"""Closed-form problems, the law of a sampler's output, and converged references.

from samplers.exact import Gaussian, GaussianMixture
"""

from samplers.exact.dense import Dense
from samplers.exact.families import NO_CLASS, ClassMixture, RotatedGaussian, data_set
from samplers.exact.law import Law, NoLawError, distance, laws, marginal, noise_at, strong_errors
from samplers.exact.problems import Gaussian, GaussianMixture
from samplers.exact.reference import converged, eased

__all__ = [
    "NO_CLASS",
    "ClassMixture",
    "Dense",
    "Gaussian",
    "GaussianMixture",
    "Law",
    "NoLawError",
    "RotatedGaussian",
    "converged",
    "data_set",
    "distance",
    "eased",
    "laws",
    "marginal",
    "noise_at",
    "strong_errors",
]
