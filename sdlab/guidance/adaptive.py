"""Adaptive guidance: the unconditional pass is dropped once it adds nothing."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.base import COND, Level, Query, State
from sdlab.guidance.blend import Blend
from sdlab.guidance.space import Space, to_space
from sdlab.guidance.vectors import dot, norm, ratio


@dataclass(frozen=True)
class AdaptiveGuidance(Blend):
    """Classifier-free guidance until both predictions point the same way, then the plain conditional model.

    An image drops the unconditional pass for the rest of its run after the call at which the cosine of the angle
    between its two predictions of ε exceeds `similarity`. (Castillo et al. 2023, arXiv:2312.12487, sec. 4)

    Raises:
        ValueError: `scale` is below 0 or above 1000, `similarity` is outside [−1, 1], or `space` is unknown.
    """

    scale: float = 7.5
    similarity: float = 0.991
    space: Space = "eps"

    def __post_init__(self) -> None:
        super().__post_init__()
        within("AdaptiveGuidance.similarity", self.similarity, -1, 1)

    def queries_given(self, sigma: Level, state: State) -> tuple[Query, ...]:
        """Both predictions, or one once the image has dropped the other."""
        return (COND,) if state is not None and bool(state[0]) else self.queries(sigma)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The blend, or the single prediction. State: whether the unconditional pass is dropped."""
        if len(predictions) == 1:
            return predictions[0], state
        uncond, cond = (to_space(self.space, one, x, sigma) for one in predictions)
        cosine = ratio(dot(uncond, cond), norm(uncond) * norm(cond)).view(-1)
        guided, _ = super().combine(predictions, x, sigma, None)
        return guided, (cosine > self.similarity,)

    def blend(self, cond: Tensor, uncond: Tensor, sigma: Level) -> Tensor:
        """Classifier-free guidance."""
        return self.plain(cond, uncond)
