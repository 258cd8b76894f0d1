"""Changes of metrics, judged together: better, worse, or not distinguishable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from sdlab.metrics import Metric
from sdlab.report.columns import TIE, Column, Field
from sdlab.report.statistics import Standing
from sdlab.report.table import heading

BETTER, WORSE, OTHER = "✓", "✗", "≠"
_FALSE = 0.05  # expected share of marks that are there by chance

Judged = tuple[Standing | None, bool]
"""A difference, None if there is no value, and whether it is distinguishable from 0 among all that were judged."""


def judge(found: Mapping[str, Sequence[Standing | None]]) -> dict[str, list[Judged]]:
    """Judge the differences of all metrics together, at a false-discovery rate of 5 %."""
    adjusted = iter(small([one.p for column in found.values() for one in column if one is not None]))
    return {name: [(one, one is not None and next(adjusted)) for one in column] for name, column in found.items()}


def small(p: Sequence[float]) -> Iterable[bool]:
    """Which p-values are small at this false-discovery rate (Benjamini and Hochberg 1995)."""
    from scipy.stats import false_discovery_control  # slow to import

    return [float(one) <= _FALSE for one in false_discovery_control(p)] if p else []


def sign(metric: Metric, one: Judged) -> str:
    """The mark of a difference; empty without a value."""
    found, distinguishable = one
    if found is None:
        return ""
    if not distinguishable:
        return TIE
    if metric.better == "nearer to real":
        return OTHER
    return BETTER if (found.difference < 0) is (metric.better == "lower") else WORSE


def changes_of(metric: Metric, judged: Sequence[Judged]) -> Column:
    """The column of a metric, with fields like `"+0.012±.004 ✓"`."""
    values = tuple(None if found is None else found.difference for found, _ in judged)
    return Column(metric.name, f"Δ {heading(metric)}", values, tuple(_field(metric, one) for one in judged))


def _field(metric: Metric, one: Judged) -> Field:
    found, _ = one
    if found is None:
        return Field("–")
    if found.difference == found.error == 0:
        return Field("=")
    size = metric.text(abs(found.difference))
    text = f"{'-' if found.difference < 0 else '+'}{size}"
    return Field(text, sign(metric, one), f"±{metric.error_text(found.error)}".replace("±0.", "±."))


def legend(count: int, metrics: Iterable[Metric]) -> str:
    """What the marks of so many differences mean."""
    changed = f" {OTHER} changed," if any(metric.better == "nearer to real" for metric in metrics) else ""
    return (
        f"{BETTER} better, {WORSE} worse,{changed} {TIE} not distinguishable. "
        f"Of the marks on these {count} differences, at most {_FALSE:.0%} are expected to be wrong (false-discovery "
        "rate, Benjamini and Hochberg 1995). ± one standard error of the difference."
    )
