"""The protocol of a run: all that another lab needs to measure the same values."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sdlab
from sdlab.guidance import WRAPPERS
from sdlab.metrics import METRICS
from sdlab.report.citations import Citation, citations
from sdlab.report.latex import escaped
from sdlab.report.stored_run import StoredRun
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.sweep.plan import Plan
from sdlab.sweep.store import Row
from sdlab.system.text import shown


def protocol(run: StoredRun) -> dict[str, str]:
    """The protocol card: what was fixed, by name. What older versions did not record is "not recorded"."""
    plan, done = run.plan, [row for row in run.rows if row.ok]
    passes = [row.network_passes for row in done if not math.isnan(row.network_passes)]
    return {
        "model": f"{plan.model} (weights and files {_recorded(done, 'weights')})",
        "samplers": _listed(row.cell.sampler.label for row in done),
        "grids": _listed(row.cell.grid.label for row in done),
        "guidance": _listed(row.cell.guidance.label for row in done),
        "steps": _listed(str(row.cell.steps) for row in done),
        "network passes per image": f"{min(passes):.4g} to {max(passes):.4g}" if passes else "none",
        "images per cell": plan.count,
        "seeds": _seeds(plan),
        "prompts": prompts_of(plan),
        "negative prompt": repr(plan.negative) if plan.negative else "none",
        **({"input pictures": f"fit {plan.pictures.fit}"} if plan.pictures else {}),
        **{
            f"metric {metric.label}": f"{metric.preparation(plan.metric_files)}; {_metric_digest(done, metric.name)}"
            for metric in plan.measures
        },
        "errors": "one standard error, paired differences, 95 % for all cells at once",
        "precision": f"{plan.dtype} networks, float32 sampler state{', compiled' * plan.compile}",
        "device": f"{plan.device} ({_recorded(done, 'device_name')})",
        "versions": f"sdlab {_recorded(done, 'sdlab')}, PyTorch {_recorded(done, 'torch')}, "
        f"Python {_recorded(done, 'python')}, commit {_recorded(done, 'git_commit')}",
    }


def _seeds(plan: Plan) -> str:
    several = any(cell.seed is not None for cell in plan.cells)
    return plan.seeds.removeprefix("seeds ") + ("" if several else ", the same in every cell")


def prompts_of(plan: Plan) -> str:
    """The number of prompts and the beginning of the hash of their lines."""
    if not plan.prompts:
        return "none"
    text = "\n".join(plan.prompts).encode(errors="replace")
    return f"{len(plan.prompts)}, SHA-256 {hashlib.sha256(text).hexdigest()[:16]}"


def _recorded(rows: Iterable[Row], key: str) -> str:
    found = dict.fromkeys(str(row.provenance[key]) for row in rows if row.provenance.get(key) is not None)
    return " and ".join(found) or "not recorded"


def _metric_digest(rows: Iterable[Row], name: str) -> str:
    """The content of the evaluator and of the real pictures."""
    recorded = [row.provenance.get("metric_files") for row in rows]
    tables = [one for one in recorded if isinstance(one, Mapping)]
    found = dict.fromkeys(str(one[name]) for one in tables if name in one)
    if tables and not found:
        return "no files"
    return f"evaluator and reference {' and '.join(found) or 'not recorded'}"


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts)) or "none"


def card(run: StoredRun) -> list[str]:
    """The protocol as lines of text."""
    entries = protocol(run)
    width = max(map(len, entries))
    return [shown(f"{name:<{width}}  {text}") for name, text in entries.items()]


def footnote(run: StoredRun) -> str:
    """The protocol as one LaTeX footnote."""
    return f"\\footnote{{Protocol: {escaped('; '.join(f'{name}: {text}' for name, text in protocol(run).items()))}.}}"


def sources(run: StoredRun) -> list[Citation]:
    """The sources of the samplers, grids, guidance strategies and metrics of a run, each once."""
    return list(dict.fromkeys(one for entry in _entries(run) for one in citations(entry)))


def without_source(run: StoredRun) -> list[str]:
    """The custom choices of a run, whose sources are unknown here."""
    choices = [(kind, getattr(cell, kind.kind)) for cell in run.plan.cells for kind in (SAMPLER, GRID, GUIDANCE)]
    return list(dict.fromkeys(choice.name for kind, choice in choices if choice.name not in kind.known))


def _entries(run: StoredRun) -> Iterator[Callable[..., object]]:
    for cell in run.plan.cells:
        yield from (kind.known[choice.name] for kind, choice in ((SAMPLER, cell.sampler), (GRID, cell.grid))
                    if choice.name in kind.known)  # fmt: skip
        for name in _named({"name": cell.guidance.name, **cell.guidance.options}):
            yield from (table[name] for table in (GUIDANCE.known, WRAPPERS) if name in table)
    yield from (type(METRICS[metric.name]) for metric in run.plan.measures)


def _named(value: Any) -> Iterator[str]:
    """The names of strategies and wrappers in the options of a strategy, and in those of strategies inside it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in WRAPPERS and item is not None:
                yield key
            if key == "name" and isinstance(item, str):
                yield item
            yield from _named(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _named(item)


def bibliography(run: StoredRun) -> str:
    """BibTeX of the sources of a run, and of sdlab."""
    return "\n\n".join([_sdlab(), *(one.bibtex() for one in sources(run))])


def _sdlab() -> str:
    return "\n".join(
        [
            "@misc{sdlab,",
            "  title = {{sdlab: a research testbed for diffusion sampling}},",
            "  author = {{sdlab contributors}},",
            f"  version = {{{sdlab.__version__}}},",
            "  url = {https://github.com/sdlab/sdlab},",
            "}",
        ]
    )
