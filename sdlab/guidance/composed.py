"""Composed prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, UNCOND, Level, Query, State
from sdlab.guidance.scale import HIGHEST, check_scale


@dataclass(frozen=True)
class ComposedPrompts:
    """Composed prompts: classifier-free guidance towards several prompts at once, each with its weight.

    With D(k) the prediction with prompt k of `prompts`, and w_k its weight:
        D(∅) + scale (D(c) − D(∅)) + Σ_k w_k (D(k) − D(∅))

    This is the paper's conjunction (AND). A negative weight steers away from a prompt, its negation (NOT). Without
    `weights` each prompt has the weight `scale`. Without `prompts` this is classifier-free guidance.
    (Liu et al. 2022, arXiv:2206.01714)

    Raises:
        ValueError: `scale` is below 0 or above 1000, a prompt is given twice or not as text, or the weights are not
            one number between -1000 and 1000 per prompt.
    """

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "prompts": (), "weights": ()}
    example: ClassVar[Mapping[str, Any]] = {"prompts": ("one", "another"), "weights": (1.5, -0.5)}
    space: ClassVar[str] = "any"

    scale: float = 7.5
    prompts: Sequence[str] = ()
    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        check_scale("ComposedPrompts.scale", self.scale)
        if isinstance(self.prompts, str) or not all(isinstance(prompt, str) for prompt in self.prompts):
            raise ValueError(f"ComposedPrompts.prompts must be a list of texts, got {self.prompts!r}")
        for prompt in self.prompts:
            if list(self.prompts).count(prompt) > 1:
                raise ValueError(f"ComposedPrompts.prompts has {prompt!r} twice; give it once, with the sum of weights")
        for weight in self.weights:
            within("ComposedPrompts.weights: each", weight, -HIGHEST, HIGHEST)
        if self.weights and len(self.weights) != len(self.prompts):
            raise ValueError(
                f"ComposedPrompts.weights must have one weight per prompt, got {len(self.weights)} for "
                f"{len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}"
            )

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """The unconditional prediction and those of the prompts, without those of no weight."""
        return tuple(self._weights())

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The weighted sum."""
        weights = self._weights()
        found = dict(zip(weights, predictions, strict=True))
        start = found.pop(UNCOND, predictions[0])
        x0 = start
        for query, prediction in found.items():
            x0 = x0 + weights[query] * (prediction - start)
        return x0, state

    def _weights(self) -> dict[Query, float]:
        """The predictions and their weights, which sum to 1, without weights of 0."""
        given = self.weights or [self.scale] * len(self.prompts)
        named = {COND: self.scale} | {Query(prompt=text): w for text, w in zip(self.prompts, given, strict=True)}
        found = {UNCOND: 1 - sum(named.values())} | named
        return {query: weight for query, weight in found.items() if weight != 0}
