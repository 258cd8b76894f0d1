"""Normalised attention guidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from samplers.checks import within
from sdlab.guidance.affine import Affine
from sdlab.guidance.base import COND, UNCOND, Query
from sdlab.guidance.scale import check_scale
from sdlab.model.perturbation import Perturbation, Point
from sdlab.model.place import Place


@dataclass(frozen=True)
class ContrastedAttention(Perturbation):
    """Cross-attention pushed away from its output for the negative prompt, with a limit on its norm per token.

    With z₊ and z₋ the outputs for both prompts, z̃ = z₋ + scale (z₊ − z₋) is shortened to at most `limit` times the L1
    norm of z₊, and then blended, `blend` z̃ + (1 − `blend`) z₊.
    """

    point: ClassVar[Point] = "cross_attention"
    scale: float = 5.0
    limit: float = 2.5
    blend: float = 0.5

    def change(self, state: Tensor, other: Tensor, place: Place) -> Tensor:
        """The output of cross-attention for the prompt, away from that for the negative prompt."""
        pushed = other + self.scale * (state - other)
        longest = self.limit * state.norm(p=1, dim=-1, keepdim=True)
        norm = pushed.norm(p=1, dim=-1, keepdim=True)
        return state + self.blend * (pushed * (longest / norm.clamp(min=1e-12)).clamp(max=1) - state)


@dataclass(frozen=True)
class NormalisedAttention(Affine):
    """Normalised attention guidance: cross-attention away from the negative prompt, in one pass.

    In the transformers `layers`, the output z₊ of cross-attention for the prompt becomes `blend` z̃ + (1 − `blend`) z₊.
    Here z̃ = z₋ + scale (z₊ − z₋), with z₋ the output for the negative prompt, and its L1 norm per token is limited to
    `limit` times that of z₊. Scale 1 has no effect. `cfg` adds classifier-free guidance, and 1 is without
    (Chen et al. 2025, arXiv:2505.21179, alg. 1).

    Raises:
        ValueError: `scale` or `cfg` is below 0 or above 1000, `limit` is below 1, `blend` is outside [0, 1], or
            `layers` is empty.
    """

    scale: float = 5.0
    limit: float = 2.5
    blend: float = 0.5
    cfg: float = 1.0
    layers: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        check_scale("NormalisedAttention.scale", self.scale)
        within("NormalisedAttention.limit", self.limit, 1)
        within("NormalisedAttention.blend", self.blend, 0, 1)
        check_scale("NormalisedAttention.cfg", self.cfg)
        self.pair()  # checks the layers

    def pair(self) -> tuple[Query, Query]:
        """The unconditional prediction, and the conditional one with this attention."""
        if self.scale == 1 or self.blend == 0:
            return UNCOND, COND
        return UNCOND, Query("cond", ContrastedAttention(self.layers, self.scale, self.limit, self.blend))

    def weight(self, sigma: float) -> float:
        """The CFG scale at every level."""
        return self.cfg
