"""The certificate of one sampler: its claims and the measurements that confirm or refute them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sdlab.certify.accuracy import Accuracy, accuracy
from sdlab.certify.checks import Broken, Check, checks, measuring, memory_of
from sdlab.certify.orders import Orders, judge, judge_steep, measure
from sdlab.certify.subjects import Subject, label_of


@dataclass(frozen=True)
class Certificate:
    """All measurements of a subject. A subject with invalid states has only the failed check."""

    name: str
    options: dict[str, Any]  # those that differ from the defaults
    family: str
    claimed: int
    stochastic: bool
    checks: tuple[Check, ...]
    orders: Orders = field(default_factory=Orders)
    accuracy: tuple[Accuracy, ...] = ()
    memory: int | None = None  # states kept from step to step

    @property
    def label(self) -> str:
        """`"ddim eta=0.3"`."""
        return label_of(self.name, self.options)

    @property
    def ok(self) -> bool:
        """Whether no claim fails."""
        return not self.faults

    @property
    def faults(self) -> list[Check]:
        """The claims that fail."""
        return [check for check in self.checks if check.ok is False]

    def as_dict(self) -> dict[str, Any]:
        """A dictionary for JSON, with nan as None."""
        lowest = self.orders.lowest
        return {"label": self.label, "ok": self.ok, "measured": _plain(lowest), **_plain(dataclasses.asdict(self))}


def certify(subject: Subject) -> Certificate:
    """Measure a subject. An exception in its sampler is recorded as a failed claim.

    Accuracy and the order on Brownian paths are measured with default options only.
    """
    sampler, plain = subject.sampler, not subject.options
    found = checks(sampler)
    given = Certificate(subject.name, subject.options, subject.family, sampler.order, sampler.stochastic, tuple(found))
    if found[0].ok is False:  # no states to measure
        return given
    try:
        with measuring():
            orders = measure(sampler, strong=plain)
            budgets, memory = accuracy(sampler) if plain else (), memory_of(sampler)
    except Broken as error:
        return replace(given, checks=(*found, Check("measurement", False, str(error))))
    found.append(judge(sampler.order, orders))
    if orders.steep is not None:
        found.append(judge_steep(sampler.order, orders.steep))
    return replace(given, checks=tuple(found), orders=orders, accuracy=tuple(budgets), memory=memory)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
