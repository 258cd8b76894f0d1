"""The `model-index` block of a model card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdlab.report.looks import standings_of
from sdlab.report.protocol import prompts_of
from sdlab.report.statistics import standard_error
from sdlab.report.stored_run import StoredRun
from sdlab.system.text import shown


def model_index(run: StoredRun) -> dict[str, Any]:
    """The `model-index` of a model card: the best cell of each metric, with its settings and its error."""
    plan = run.plan
    results = []
    for metric in plan.measures:
        ranked = standings_of(plan, metric, run.rows, run.real)
        for row, standing in zip(run.rows, ranked, strict=True):
            if standing is not None and standing.best:
                results.append((metric, row))
    return {
        "model-index": [
            {
                "name": plan.model,
                "results": [
                    {
                        "task": {"type": "text-to-image" if plan.prompts else "unconditional-image-generation"},
                        "dataset": {"type": "sdlab", "name": f"prompts: {prompts_of(plan)}"},
                        "metrics": [
                            {
                                "type": metric.name,
                                "name": f"{metric.label}, best of {len(run.rows)} cells: {row.cell.label}",
                                "value": row.metrics[metric.name],
                                "args": {
                                    "images": row.images or plan.images_of(row.cell),
                                    "standard_error": standard_error(metric, row, plan.units),
                                },
                            }
                        ],
                    }
                    for metric, row in results
                ],
            }
        ]
    }


def yaml_text(value: Any, indent: int = 0) -> str:
    """Maps, lists, texts and numbers as YAML. Texts are quoted, so that none is read as anything else."""
    space = "  " * indent
    if isinstance(value, Mapping):
        lines = [f"{space}{key}:{_inline(item, indent)}" for key, item in value.items()]
        return "\n".join(lines)
    if isinstance(value, list):
        return "\n".join(f"{space}- {yaml_text(item, indent + 1).lstrip()}" for item in value)
    return json.dumps(shown(value) if isinstance(value, str) else value, ensure_ascii=False)


def _inline(value: Any, indent: int) -> str:
    if isinstance(value, Mapping | list) and value:
        return "\n" + yaml_text(value, indent + 1)
    return f" {yaml_text(value)}"
