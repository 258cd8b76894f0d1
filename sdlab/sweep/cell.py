"""Choices and cells. A choice is a name with options, a cell one choice of each kind and a number of steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from sdlab.registry import Registry, frozen, label
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER


class Choice(BaseModel):
    """A sampler, guidance strategy, grid or model by name, with the options that were given."""

    model_config = ConfigDict(frozen=True)
    name: str
    options: dict[str, Any] = {}

    @field_validator("options")
    @classmethod
    def _frozen(cls, options: dict[str, Any]) -> dict[str, Any]:
        return {key: frozen(value) for key, value in options.items()}

    @property
    def label(self) -> str:
        """`"cfg scale=3"`."""
        return label(self.name, self.options)

    def complete(self, axis: Registry) -> dict[str, Any]:
        """The name and all options, with defaults filled in. Two spellings of the same choice give equal results."""
        return {"name": self.name, **axis.complete(self.name, self.options)}


class Cell(BaseModel):
    """One cell of a sweep: all settings that can differ between rows of the table."""

    model_config = ConfigDict(frozen=True)
    sampler: Choice
    grid: Choice
    guidance: Choice
    steps: int
    strength: float | None = None  # of image-to-image
    budget: int | None = None  # network passes per image, if the sweep sets a budget from which the steps follow
    images: int | None = None  # if they are an axis; otherwise those of the plan
    seed: int | None = None  # of image 0, likewise

    @property
    def label(self) -> str:
        """`"ddim · trailing · cfg scale=3 · 10 steps"`, followed by ` · strength 0.6` for image-to-image."""
        strength = [] if self.strength is None else [f"strength {self.strength:g}"]
        images = [] if self.images is None else [f"{self.images} image{'s' * (self.images != 1)}"]
        seed = [] if self.seed is None else [f"seed {self.seed}"]
        parts = [self.sampler.label, self.grid.label, self.guidance.label, self.length, *strength, *images, *seed]
        return " · ".join(parts)

    @property
    def length(self) -> str:
        """`"10 steps"`, or with a budget `"20 passes (10 steps)"`."""
        steps = f"{self.steps} step{'s' * (self.steps != 1)}"
        return steps if self.budget is None else f"{self.budget} pass{'es' * (self.budget != 1)} ({steps})"

    def complete(self) -> dict[str, Any]:
        """The cell with all defaults written out. Two cells are the same if and only if these are equal."""
        return {
            "sampler": self.sampler.complete(SAMPLER),
            "grid": self.grid.complete(GRID),
            "guidance": self.guidance.complete(GUIDANCE),
            "steps": self.steps,
            **({} if self.strength is None else {"strength": self.strength}),
            **({} if self.budget is None else {"budget": self.budget}),
            **({} if self.images is None else {"images": self.images}),
            **({} if self.seed is None else {"seed": self.seed}),
        }


def canonical(value: object) -> str:
    """The canonical JSON text of a value, with sorted keys, no spaces, and 3.0 written as 3."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def digest(value: object) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**53 else value
    return value if isinstance(value, str | float | bool | None) else repr(value)
