"""The registry of executors that `--executor` names, and checks of their options."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from samplers.checks import did_you_mean, unknown
from sdlab.sweep.document import mistakes_of
from sdlab.sweep.executors.base import Executor
from sdlab.sweep.executors.ray_cluster import RayCluster
from sdlab.sweep.executors.submitit_jobs import SubmititJobs
from sdlab.system.errors import UsageError

EXECUTORS: Mapping[str, type[Any]] = {
    "ray": RayCluster,
    "submitit": SubmititJobs,
}


def executor(name: str, options: Mapping[str, Any]) -> Executor:
    """The executor `name` with these options, which can start.

    Raises:
        UsageError: there is none, an option is invalid, or a package is missing. One line per mistake.
    """
    if name not in EXECUTORS:
        raise UsageError(f"--executor: {unknown('executor', name, EXECUTORS)}")
    known = list(inspect.signature(EXECUTORS[name]).parameters)
    if strange := [key for key in options if key not in known]:
        takes = f"it takes: {', '.join(known)}"
        raise UsageError(
            *(f"--executor: {key}: unknown option of {name}{did_you_mean(key, known)}; {takes}" for key in strange)
        )
    try:
        found: Executor = TypeAdapter(EXECUTORS[name]).validate_python(options)
    except ValidationError as error:
        wrong = [mistake for fault in error.errors() for mistake in mistakes_of(fault)]
        raise UsageError(*(f"--executor: {key}: {text}" for key, text in wrong)) from None
    found.check()
    return found
