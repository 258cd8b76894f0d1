"""Comparison of runs: the cells that several runs share, and what changed beyond noise."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from samplers.checks import unknown
from sdlab.metrics import METRICS, Metric
from sdlab.report.changes import WORSE, Judged, changes_of, judge, legend, sign, small
from sdlab.report.columns import TIE, Column, Field, Table
from sdlab.report.statistics import Standing, difference, standard_error
from sdlab.report.stored_run import StoredRun
from sdlab.report.table import AXES, NUMBERS
from sdlab.sweep.cell import canonical
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.errors import UsageError

_ROUNDING = 1e-5  # of a value; sums in float32 differ by less between machines
_GATES = ("worse", "changed", "missing")
_WORDS = {"sdlab": "sdlab", "torch": "torch", "weights": "model", "device_name": "device", "dtype": "dtype",
          "compile": "compile", "git_commit": "commit"}  # fmt: skip


@dataclass(frozen=True)
class Gate:
    """What counts as a failure: a change for the worse, any change, a cell without values, or a metric that is worse by
    more than an amount."""

    text: str
    metric: str = ""
    amount: float = 0.0

    @classmethod
    def of(cls, text: str) -> Gate:
        """A gate like `"worse"` or `"fid>0.5"`.

        Raises:
            UsageError: the text has another form, or the metric is unknown.
        """
        if text in _GATES:
            return cls(text)
        match = re.fullmatch(r"(\w+)\s*>\s*([\d.eE+-]+)", text)
        try:
            amount = float(match[2]) if match else math.nan
        except ValueError:
            amount = math.nan
        if match is None or not 0 <= amount < math.inf:
            raise UsageError(f'--fail-if: write worse, changed, missing or an amount like "fid>0.5", got {text!r}')
        if match[1] not in METRICS:
            raise UsageError(f"--fail-if: {unknown('metric', match[1], METRICS)}")
        if METRICS[match[1]].better == "nearer to real":
            raise UsageError(f"--fail-if: neither a lower nor a higher {match[1]} is worse; write changed")
        return cls(text, match[1], amount)


@dataclass(frozen=True)
class Pair:
    """Equal cells of two runs: the plan and the row of the first run, and those of another run, with its name."""

    name: str
    plans: tuple[Plan, Plan]
    rows: tuple[Row, Row]

    @property
    def paired(self) -> bool:
        """Whether image i has the same noise and prompt in both."""
        first, other = (
            (
                plan.images_of(row.cell),
                plan.seed_of(row.cell),
                plan.prompts,
                plan.negative,
                plan.pictures and plan.pictures.complete(),
            )
            for plan, row in zip(self.plans, self.rows, strict=True)
        )
        return first == other

    def change(self, metric: Metric, allowed: float = 0.0) -> Standing | None:
        """The other value minus the first, or None unless both have values that can be compared.

        With `allowed`, the part of the change that is beyond this worsening.
        """
        first, other = self.rows
        if not comparable(metric, *self.plans) or not (_has(metric, first) and _has(metric, other)):
            return None
        if self.paired:
            found = difference(metric, _moved(metric, other, allowed), first, self.plans[0].units)
        else:
            alone = [_unpaired(metric, row, plan) for row, plan in zip(self.rows, self.plans, strict=True)]
            found = difference(metric, _moved(metric, alone[1], allowed), alone[0])
        largest = max(abs(row.metrics[metric.name]) for row in self.rows)
        return replace(found, p=1.0) if abs(found.difference) <= _ROUNDING * largest else found


def comparable(metric: Metric, first: Plan, other: Plan) -> bool:
    """Whether values of two runs can be compared: they use the same features, and as many images if that matters."""
    labels = [{one.name: one.label for one in plan.measures}.get(metric.name) for plan in (first, other)]
    worlds = first.metric_files.world == other.metric_files.world
    return labels[0] == labels[1] and worlds and (not metric.biased or first.images == other.images)


def _has(metric: Metric, row: Row) -> bool:
    return math.isfinite(row.metrics.get(metric.name, math.nan))


def _moved(metric: Metric, row: Row, allowed: float) -> Row:
    moved = row.metrics[metric.name] - (allowed if metric.better == "lower" else -allowed)
    return replace(row, metrics={**row.metrics, metric.name: moved})


def _unpaired(metric: Metric, row: Row, plan: Plan) -> Row:
    """The row with its standard error alone."""
    error = standard_error(metric, row, plan.units)
    return replace(row, per_image={}, replicates={}, stderr={} if error is None else {metric.name: error})


@dataclass(frozen=True)
class Comparison:
    """The equal cells of a first run and others, and the changes of each metric."""

    metrics: tuple[Metric, ...]
    pairs: tuple[Pair, ...]
    judged: dict[str, list[Judged]]
    missing: int  # cells with values in the first run alone
    table: Table

    def failures(self, gates: Sequence[Gate]) -> list[str]:
        """One line for each gate that is not passed."""
        return [line for gate in gates for line in self._failures(gate)]

    def _failures(self, gate: Gate) -> Iterator[str]:
        if gate.text == "missing":
            count = self.missing
            what = f"{count} cells of the first run have no values in another"
        elif gate.metric:
            count = self._beyond(gate)
            what = f"{count} of {len(self.pairs)} cells are worse in {gate.metric} by more than {gate.amount:g}"
        else:
            signs = [sign(metric, one) for metric in self.metrics for one in self.judged[metric.name]]
            count = sum(one == WORSE or (gate.text == "changed" and one not in ("", TIE)) for one in signs)
            what = f"{count} of {len(signs)} values {'are worse' if gate.text == 'worse' else 'changed'}"
        if count:
            yield f"--fail-if {gate.text}: {what}"

    def _beyond(self, gate: Gate) -> int:
        """How many cells are worse by more than the amount, at the same false-discovery rate.

        Raises:
            UsageError: the runs do not share the metric.
        """
        metric = next((metric for metric in self.metrics if metric.name == gate.metric), None)
        if metric is None:
            raise UsageError(f"--fail-if: the runs cannot be compared in {gate.metric}")
        found = [one for pair in self.pairs if (one := pair.change(metric, gate.amount)) is not None]
        worse = [(one.difference > 0) is (metric.better == "lower") and one.difference != 0 for one in found]
        return sum(small([one.p / 2 if bad else 1.0 for one, bad in zip(found, worse, strict=True)]))


def compare(runs: Sequence[tuple[str, StoredRun]]) -> Comparison:
    """Compare each run with the first, cell by cell.

    Raises:
        UsageError: two runs have no equal cells, or no metric that can be compared.
    """
    (base_name, base), *others = runs
    rows = {_same(row): row for row in base.rows}
    pairs, notes, missing = list[Pair](), list[str](), 0
    for name, run in others:
        done = {_same(row) for row in run.rows if row.ok}
        missing += sum(row.ok and same not in done for same, row in rows.items())
        shared = [row for row in run.rows if _same(row) in rows]
        if not shared:
            raise UsageError(f"{name} and {base_name} have no equal cells")
        pairs += [Pair(name, (base.plan, run.plan), (rows[_same(row)], row)) for row in shared]
        notes += _notes(base_name, base, name, run, len(shared), pairs[-1].paired)
    metrics = tuple(metric for metric in base.plan.measures if any(comparable(metric, *pair.plans) for pair in pairs))
    if not metrics:
        raise UsageError(f"{base_name} has no metric in which the other runs can be compared with it")
    judged = judge({metric.name: [pair.change(metric) for pair in pairs] for metric in metrics})
    count = sum(found is not None for column in judged.values() for found, _ in column)
    texts = {name: [text(pair.rows[1]) for pair in pairs] for name, text in AXES.items()}
    columns = (
        *([_settings("run", [pair.name for pair in pairs])] if len(others) > 1 else []),
        *(_settings(axis, column) for axis, column in texts.items() if len(set(column)) > 1 or axis == "sampler"),
        *(changes_of(metric, judged[metric.name]) for metric in metrics),
    )
    title = f"{', '.join(name for name, _ in others)} minus {base_name}"
    return Comparison(metrics, tuple(pairs), judged, missing, Table(title, columns, (legend(count, metrics), *notes)))


def _same(row: Row) -> str:
    """Equal for equal cells."""
    try:
        return canonical(row.cell.complete())
    except ValueError:  # an option of another version of sdlab
        return canonical(row.cell.model_dump())


def _settings(name: str, texts: Sequence[str]) -> Column:
    return Column(name, name, tuple(texts), tuple(map(Field, texts)), left=name not in NUMBERS)


def _notes(base_name: str, base: StoredRun, name: str, run: StoredRun, shared: int, paired: bool) -> Iterator[str]:
    """How many cells are compared, how, and what else differs between the runs."""
    how = "paired image by image" if paired else "not paired, since the seeds, prompts or numbers of images differ"
    yield f"{name}: {shared} of {len(base.rows)} cells of {base_name} and of its own {len(run.rows)}; {how}."
    told = [f"{word} {a} → {b}" for word, a, b in _differences(base, run)]
    yield f"{name} differs in {', '.join(told)}." if told else f"{name} has the same versions, model and device."
    if skipped := [
        metric.label
        for metric in base.plan.measures
        if metric.name in run.plan.metrics and not comparable(metric, base.plan, run.plan)
    ]:
        yield f"{name}: {', '.join(skipped)} cannot be compared: other features, or another number of images."


def _differences(base: StoredRun, run: StoredRun) -> Iterator[tuple[str, str, str]]:
    """The entries of the provenance that differ between two runs."""
    for key, word in _WORDS.items():
        values = [dict.fromkeys(str(row.provenance.get(key)) for row in one.rows if row.ok) for one in (base, run)]
        first, other = (" and ".join(found) for found in values)
        if first != other:
            yield word, first, other
