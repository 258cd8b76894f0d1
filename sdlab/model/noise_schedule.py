"""Noise schedules of models: the range of σ that a U-Net is trained on, and the timestep t(σ) that it receives.

All three have timesteps of about the same range, for which the U-Net's embedding is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Discriminator, Tag

import samplers

STRICT = ConfigDict(extra="forbid", strict=True)
_MOST_TIMESTEPS = 100_000


@dataclass(frozen=True)
class LevelsConfig:
    """A table of β: arguments of `samplers.discrete_levels`. The timesteps are 0 … n−1.

    With `zero_snr` it is rescaled so that the last timestep is pure noise (`samplers.zero_terminal_snr`).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    betas: Literal["scaled_linear", "linear"] = "scaled_linear"
    start: float = 0.00085
    end: float = 0.012
    n: int = 1000
    zero_snr: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.start <= self.end < 1:
            raise ValueError(f"LevelsConfig needs 0 < start <= end < 1, got {self.start!r} and {self.end!r}")
        if not 2 <= self.n <= _MOST_TIMESTEPS:
            raise ValueError(f"LevelsConfig.n must be from 2 to {_MOST_TIMESTEPS:,}, got {self.n!r}")
        self.schedule()

    @property
    def ends_in_noise(self) -> bool:
        """Whether x is pure noise at the highest level."""
        return self.zero_snr

    def schedule(self) -> samplers.DiscreteLevels:
        """The noise schedule.

        Raises:
            ValueError: the levels do not rise, or are too large to be computed.
        """
        try:
            levels = samplers.discrete_levels(self.betas, self.start, self.end, self.n)
            return samplers.zero_terminal_snr(levels) if self.zero_snr else levels
        except OverflowError:
            raise ValueError("LevelsConfig: the last level is too large; give a smaller end or n") from None


@dataclass(frozen=True)
class FlowLevels:
    """The time of a rectified flow (`samplers.flow_levels`), from `t_min` to `t_max`. The timestep is 1000 t.

    (Liu et al. 2022, arXiv:2209.03003, eq. 1)
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["flow"] = "flow"
    t_min: float = 1e-3
    t_max: float = 0.9999

    def __post_init__(self) -> None:
        if not 0 < self.t_min < self.t_max < 1:
            raise ValueError(f"FlowLevels needs 0 < t_min < t_max < 1, got {self.t_min!r} and {self.t_max!r}")

    @property
    def ends_in_noise(self) -> bool:
        """Whether x is pure noise at the highest level."""
        return True

    def schedule(self) -> samplers.ClockLevels:
        """The noise schedule, σ = t/(1−t)."""
        return samplers.ClockLevels(1000 * self.t_min, 1000 * self.t_max, _flow_sigma, _flow_t)


@dataclass(frozen=True)
class EdmLevels:
    """Every σ from `sigma_min` to `sigma_max`, for data of standard deviation `sigma_data`. The timestep is 250 ln σ.

    That is 1000 c_noise, where c_noise = (ln σ)/4 (Karras et al. 2022, arXiv:2206.00364, table 1).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    kind: Literal["edm"] = "edm"
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 1.0  # of the latents, whose scale is chosen for unit variance

    def __post_init__(self) -> None:
        if not 1e-6 <= self.sigma_min < self.sigma_max <= 1e6:
            raise ValueError(
                f"EdmLevels needs 1e-6 <= sigma_min < sigma_max <= 1e6, got {self.sigma_min!r} and {self.sigma_max!r}"
            )
        if not 1e-6 <= self.sigma_data <= 1e6:
            raise ValueError(f"EdmLevels.sigma_data must be from 1e-6 to 1e6, got {self.sigma_data!r}")

    @property
    def ends_in_noise(self) -> bool:
        """Whether x is pure noise at the highest level."""
        return False

    def schedule(self) -> samplers.ClockLevels:
        """The noise schedule, σ = exp(t/250)."""
        return samplers.ClockLevels(250 * log(self.sigma_min), 250 * log(self.sigma_max), _edm_sigma, _edm_t)


# The clocks are functions of the module, so that schedules can be pickled: workers that draw batches need them.
def _flow_sigma(t: float) -> float:
    return t / (1000 - t)


def _flow_t(sigma: float) -> float:
    return 1000 * sigma / (1 + sigma)


def _edm_sigma(t: float) -> float:
    return exp(t / 250)


def _edm_t(sigma: float) -> float:
    return 250 * log(sigma)


KINDS = ("table", "flow", "edm")


def _kind(value: Any) -> str:
    """The kind of a noise schedule. A table of β, as in Stable Diffusion, has no key `kind`."""
    return str(value.get("kind", "table") if isinstance(value, dict) else getattr(value, "kind", "table"))


NoiseSchedule = Annotated[
    Annotated[LevelsConfig, Tag("table")] | Annotated[FlowLevels, Tag("flow")] | Annotated[EdmLevels, Tag("edm")],
    Discriminator(_kind),
]
NAMED: Mapping[str, LevelsConfig | FlowLevels | EdmLevels] = {
    "edm": EdmLevels(),
    "flow": FlowLevels(),
    "scaled_linear": LevelsConfig(),
    "zero_snr": LevelsConfig(zero_snr=True),
}
