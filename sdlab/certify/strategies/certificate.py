"""The certificate of one guidance strategy: its claims and the measurements that confirm or refute them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from sdlab import guidance
from sdlab.certify.checks import Check
from sdlab.certify.strategies.checks import check_of, checks
from sdlab.certify.strategies.feedback import feedback
from sdlab.certify.strategies.gaussians import affine_flow
from sdlab.guidance.base import Exemplified
from sdlab.plugins import reported_as


@dataclass(frozen=True)
class StrategyCertificate:
    """The checks of a strategy, with the options of its example or else its defaults."""

    name: str
    checks: tuple[Check, ...]

    @property
    def faults(self) -> list[Check]:
        """The claims that fail."""
        return [check for check in self.checks if check.ok is False]

    def as_dict(self) -> dict[str, Any]:
        """A dictionary for JSON."""
        return {"ok": not self.faults, **asdict(self)}


def certify(name: str, samplers: Sequence[str] | None = None) -> StrategyCertificate:
    """Measure a strategy of the registry. An exception in it is recorded as a failed claim.

    Affine strategies are measured with these deterministic samplers, by default with all of them.

    Raises:
        UsageError: the `example` of the strategy is not a set of its options.
    """
    strategy = guidance.make(name)
    if isinstance(strategy, Exemplified):
        with reported_as(name, "its `example` is not a set of its options"):
            strategy = guidance.make(name, **strategy.example)
    found = [
        *checks(strategy),
        check_of("gaussian", partial(affine_flow, names=samplers), strategy),
        check_of("feedback", feedback, strategy),
    ]
    return StrategyCertificate(name, tuple(found))
