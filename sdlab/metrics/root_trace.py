"""The trace of the square root of a scatter matrix, of all vectors and without some of them."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

_SMALL = 256  # rows of a Gram matrix whose eigenvalues take milliseconds
_FEW = 8  # the quadrature is faster if at most one vector in so many is left out
_STEP, _LOW, _HIGH = 0.4, -30.0, 10.0  # of the logarithm of a node over the root of the largest eigenvalue


class RootTrace:
    """tr (Σ (pᵢ − m)(pᵢ − m)ᵀ)^½ of vectors p (n, d) with sum 0, in float64. Those that are left have a mean m again.

    It is the sum of the singular values of P = U D^½ Wᵀ, which are the roots of the eigenvalues of the smaller of its
    two Gram matrices. Without k of the vectors the Gram matrix is corrected, and its eigenvalues are found anew. For a
    large matrix and few vectors, the change of the trace is found without them, as the integral

        1/π ∫₀^∞ log( n/(n − k) det(I − 11ᵀ/n − U D/(D + t²) Uᵀ) ) dt

    over the rows and columns of the k vectors. It follows from √λ = 1/π ∫₀^∞ log(1 + λ/t²) dt and Sylvester's identity
    for determinants.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors, (n, d) = vectors, vectors.shape
        self._wide = n < d
        self._gram = vectors @ vectors.T if self._wide else vectors.T @ vectors

    def without(self, gone: Tensor) -> float:
        """The trace without the vectors that a mask (n,) marks."""
        size = len(self._gram)
        if size > _SMALL and int(gone.sum()) <= size // _FEW:
            return float(self._solved[0].sqrt().sum()) + (self._change(gone) if gone.any() else 0.0)
        if self._wide:
            kept = self._gram[~gone][:, ~gone]
            rows = kept.mean(1)
            small = kept - rows - rows[:, None] + rows.mean()
        else:
            out = self.vectors[gone]
            sums = out.sum(0)
            small = self._gram - out.T @ out - torch.outer(sums, sums) / (len(gone) - len(out))
        return float(torch.linalg.eigvalsh(small).clamp(min=0).sqrt().sum())

    @cached_property
    def _solved(self) -> tuple[Tensor, Tensor]:
        """The eigenvalues D, and U D^½ or, if all n − 1 vectors orthogonal to 1 are in U, that basis itself."""
        vectors, (n, d) = self.vectors, self.vectors.shape
        if n > d + 1:
            values, basis = torch.linalg.eigh(self._gram)
            return values.clamp(min=0), vectors @ basis
        gram = vectors @ vectors.T
        values, basis = torch.linalg.eigh(gram - gram.diagonal().mean())  # 1 is now far from the others, the lowest
        return values[1:].clamp(min=0), basis[:, 1:]

    def _change(self, gone: Tensor) -> float:
        """The integral, by the trapezoidal rule in log t.

        There the integrand is analytic up to ±iπ/2, and the rule's error for step h is about exp(−π²/h), here 10⁻¹¹.
        c/(t² + λ), whose integral is known, is taken out of it. It has the same tail, and what is left falls as t⁻³.
        """
        values, basis = self._solved
        (n, d), out, u = self.vectors.shape, self.vectors[gone], basis[gone]
        k, largest = len(out), float(values[-1])
        lost = float(out.square().sum() + out.sum(0).square().sum() / (n - k))  # c, of the trace of the scatter
        nodes = math.sqrt(largest) * torch.arange(_LOW, _HIGH, _STEP, dtype=u.dtype).exp()
        squares = nodes.square()
        if n > d + 1:
            rest = torch.eye(k, dtype=u.dtype) - 1 / n
            inner = torch.stack([rest - (u / (values + one)) @ u.T for one in squares])
        else:  # the same, without a difference of close numbers
            inner = torch.stack([(u * (one / (values + one))) @ u.T for one in squares])
        logs = torch.linalg.slogdet(inner).logabsdet + math.log(n / (n - k))
        integral = _STEP * float((nodes * (logs + lost / (squares + largest))).sum())
        return integral / math.pi - lost / (2 * math.sqrt(largest))
