"""Standard errors, confidence intervals and ties with the best cell.

Image i has the same prompt and the same noise in every cell. Two cells are therefore compared image by image. The
effect of an easy prompt is the same in both and cancels in the difference.

Images of one prompt are alike, so prompts that are repeated are the units of all errors: an interval holds for other
prompts too. `units` is the unit of each image (`Plan.units`), by default the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sdlab.metrics import Metric, jackknife
from sdlab.report.simultaneous import critical_value

_CONFIDENCE = 0.95
_MANY = 300  # rows, whose pairs take seconds to compare by random signs
_QUANTILE = (1 + _CONFIDENCE) / 2


class Measured(Protocol):
    """The measurements of one cell, or of one folder of pictures, by metric."""

    @property
    def metrics(self) -> dict[str, float]:
        """The values."""
        ...

    @property
    def stderr(self) -> dict[str, float]:
        """Standard errors."""
        ...

    @property
    def per_image(self) -> dict[str, NDArray[np.floating]]:
        """The values of the images, (N,) each."""
        ...

    @property
    def replicates(self) -> dict[str, NDArray[np.floating]]:
        """The jackknife's replicates, (2, U) each."""
        ...

    @property
    def ok(self) -> bool:
        """Whether there are values."""
        ...


@dataclass(frozen=True)
class Standing:
    """The difference of a cell from another, with a confidence interval."""

    difference: float
    low: float
    high: float
    best: bool = False
    error: float = 0.0  # one standard error of the difference
    p: float = 1.0  # of a difference at least as large if there is none

    @property
    def ties(self) -> bool:
        """Whether the cell is not the best but cannot be distinguished from it."""
        return not self.best and self.low <= 0 <= self.high


def standings(
    metric: Metric,
    rows: Sequence[Measured],
    units: Sequence[int] = (),
    among: Sequence[Measured] | None = None,
    real: float | None = None,
    looks: int = 1,
    finalists: bool = False,
) -> list[Standing | None]:
    """The difference of each row from the best; None for rows without a value. Among equal best rows it is the first.

    The 95 % intervals hold for all pairs of rows at once, and so for the row that happens to be the best. If `rows`
    were selected from more, `among`, they hold for all pairs of those.

    If values nearer to that of `real` pictures are better, the differences are those of the distances to it. Without
    that value no row is the best, and all are None.

    Rows may have different numbers of images, as in a sweep that stops early. Two rows are compared on the images that
    both have, among all rows with at least as many. With several `looks` at the data, each has an equal part of the
    5 %, so that the intervals hold for all looks together (alpha spending, Lan and DeMets 1983,
    doi:10.1093/biomet/70.3.659, by Bonferroni's inequality). With `finalists` the best is one of the rows with the most
    images.
    """
    among = among or rows
    if metric.better == "nearer to real":
        if real is None:
            return [None] * len(rows)
        rows, among = ([Nearness(metric, row, real) for row in some] for some in (rows, among))
    values = [row.metrics.get(metric.name, math.nan) for row in rows]
    finite = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not finite:
        return [None] * len(rows)
    most = max(_images(metric, rows[i]) for i in finite) if finalists else 0
    last = [i for i in finite if _images(metric, rows[i]) >= most]
    best = (max if metric.better == "higher" else min)(last, key=lambda i: values[i])
    compared_with = [row for row in among if math.isfinite(row.metrics.get(metric.name, math.nan))]
    apart = _Critical(metric, compared_with, units, looks)
    found: list[Standing | None] = [None] * len(rows)
    for i in finite:
        images = min(_images(metric, one) for one in (rows[i], rows[best]))
        compared = difference(metric, rows[i], rows[best], units, apart.of(images))
        found[i] = Standing(0.0, 0.0, 0.0, best=True) if i == best else compared
    return found


class _Critical:
    """The critical values for comparisons on so many images, each computed once."""

    def __init__(self, metric: Metric, rows: Sequence[Measured], units: Sequence[int], looks: int) -> None:
        self._metric, self._rows, self._units = metric, rows, units
        self._confidence = confidence(looks)
        self._known: dict[int, float] = {}

    def of(self, images: int) -> float:
        """The critical value for rows with at least so many images, judged by the first of them."""
        if images not in self._known:
            rows = [row for row in self._rows if _images(self._metric, row) >= images]
            alike = [first_images(self._metric, row, images) for row in rows]
            self._known[images] = critical_errors(self._metric, alike, self._units, self._confidence)
        return self._known[images]


def confidence(looks: int) -> float:
    """The confidence of the intervals of one of several looks, so that all of them hold together at 95 %."""
    return 1 - (1 - _CONFIDENCE) / looks


def first_images(metric: Metric, row: Measured, images: int) -> Measured:
    """The row with its first images alone, or as it is if it has no more."""
    return row if _images(metric, row) <= images else _FirstImages(metric, row, images)


def _images(metric: Metric, row: Measured) -> int:
    """The number of images with a value, 0 for a metric of the whole set."""
    return len(row.per_image.get(metric.name, ()))


class _FirstImages:
    """A row whose metric is the mean over its first images. What is added to the mean of all of them stays."""

    def __init__(self, metric: Metric, row: Measured, images: int) -> None:
        values = row.per_image[metric.name].astype(np.float64)
        shift = row.metrics[metric.name] - float(values.mean())
        self.ok = row.ok
        self.per_image: dict[str, NDArray[np.floating]] = {metric.name: values[:images]}
        self.metrics = {metric.name: shift + float(values[:images].mean())}
        self.stderr = {metric.name: jackknife.standard_error(values[None, :images])} if images > 1 else {}
        self.replicates = dict[str, NDArray[np.floating]]()


class Nearness:
    """A row whose metric is its distance to the value of real pictures.

    The values of the images become their share of the distance, which is linear in them. Its error is that of the
    value.
    """

    def __init__(self, metric: Metric, row: Measured, real: float) -> None:
        value = row.metrics.get(metric.name, math.nan)
        side = -1.0 if value < real else 1.0
        self.ok, self.stderr = row.ok, row.stderr
        self.metrics = {metric.name: abs(value - real)}
        self.per_image = {name: side * (one - real) for name, one in row.per_image.items() if name == metric.name}
        self.replicates = dict[str, NDArray[np.floating]]()  # means over images have none


def difference(
    metric: Metric, row: Measured, other: Measured, units: Sequence[int] = (), critical: float | None = None
) -> Standing:
    """`row` − `other`, with an interval of ± `critical` standard errors; by default 95 % for this pair alone.

    Both cells use the same noise and prompts, so the difference is paired unit by unit and follows Student's t. Values
    without units are taken as independent and normal. Without standard errors only equal values tie.

    If one cell has more images than the other, only those that both have count.
    """
    from scipy.special import ndtr, ndtri, stdtr, stdtrit  # slow to import

    if images := min(_images(metric, one) for one in (row, other)):
        row, other = (first_images(metric, one, images) for one in (row, other))
    mean = row.metrics[metric.name] - other.metrics[metric.name]
    a, b = (of_units(metric, one, units) for one in (row, other))
    if a is not None and b is not None and a.shape == b.shape:
        freedom = a.shape[1] - 1
        error = jackknife.standard_error(a - b) if freedom else math.inf
        quantile = float(stdtrit(freedom, _QUANTILE)) if freedom else 1.0
        tail = float(stdtr(freedom, -abs(mean) / error)) if freedom and error else 0.0
    else:
        error = math.hypot(*(one.stderr.get(metric.name, 0.0) for one in (row, other)))
        quantile = float(ndtri(_QUANTILE))
        tail = float(ndtr(-abs(mean) / error)) if error else 0.0
    margin = (quantile if critical is None else critical) * error if error else 0.0
    return Standing(mean, mean - margin, mean + margin, error=error, p=2 * tail if mean and error < math.inf else 1.0)


def standard_error(metric: Metric, row: Measured, units: Sequence[int] = ()) -> float | None:
    """The standard error of the row's value, or None if it has none."""
    values = of_units(metric, row, units)
    if values is None or values.shape[1] < 2:
        return row.stderr.get(metric.name)
    return metric.error(jackknife.standard_error(values), values.shape[1])


def interval(metric: Metric, row: Measured, units: Sequence[int] = (), looks: int = 1) -> tuple[float, float] | None:
    """The 95 % interval of the row's value, or None without a standard error. It holds for all `looks` together.

    It is Student's, or for a share Wilson's with as many trials as the standard error stands for.
    """
    from scipy.special import ndtri, stdtrit

    values, value = of_units(metric, row, units), row.metrics[metric.name]
    level = (1 + confidence(looks)) / 2
    if values is None or values.shape[1] < 2:
        error = row.stderr.get(metric.name)
        return None if error is None else (value - ndtri(level) * error, value + ndtri(level) * error)
    error, count = jackknife.standard_error(values), values.shape[1]
    quantile = float(stdtrit(count - 1, level))
    if not metric.share:
        return value - quantile * error, value + quantile * error
    value = min(max(float(values.mean()), 0.0), 1.0)  # which rounding may have made 1 though some images are below
    trials = value * (1 - value) / error**2 if error and 0 < value < 1 else count
    weight = quantile**2 / trials
    middle = (value + weight / 2) / (1 + weight)
    half = math.sqrt(value * (1 - value) * weight + weight**2 / 4) / (1 + weight)
    return middle - half, middle + half


def extrapolated(metric: Metric, row: Measured) -> float | None:
    """The row's value extrapolated to infinitely many images, for a metric whose bias falls as 1/n; otherwise None."""
    found = row.replicates.get(metric.name)
    return float(found[0].mean()) if metric.extrapolates and found is not None else None


def of_units(metric: Metric, row: Measured, units: Sequence[int] = ()) -> NDArray[np.floating] | None:
    """The values of the units, (1, U), or the jackknife's replicates of a metric of the whole set, (2, U).

    The mean of the first row is the value, or the value extrapolated to infinitely many images.
    """
    values = row.per_image.get(metric.name)
    if values is None:
        return row.replicates.get(metric.name)
    values, units = np.asarray(values, dtype=np.float64), units[: len(values)]
    if len(units) != len(values) or not jackknife.FEWEST <= len(set(units)) < len(values):
        return values[None]  # from fewer prompts nothing follows for others, and the images are the units
    sums = np.bincount(units, values - values.mean())
    return (values.mean() + sums * len(sums) / len(values))[None]


def critical_errors(
    metric: Metric, rows: Sequence[Measured], units: Sequence[int], confidence: float = _CONFIDENCE
) -> float:
    """How many standard errors apart two rows must be to be told apart.

    Among more than `_MANY` rows it is Bonferroni's bound, which is a little larger and costs nothing.
    """
    from scipy.special import ndtri, stdtrit

    found = [of_units(metric, row, units) for row in rows]
    values = [one[0] for one in found if one is not None and one.shape[1] > 1]
    alike = len(values) == len(rows) and len({len(one) for one in values}) == 1
    if alike and len(rows) <= _MANY:
        return critical_value(np.stack(values), confidence)
    pairs = max(1, math.comb(len(rows), 2))
    tail = (1 - confidence) / (2 * pairs)
    return float(-stdtrit(len(values[0]) - 1, tail) if alike else ndtri(1 - tail))
