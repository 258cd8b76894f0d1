"""The trace of the square root of a scatter matrix against sums of singular values."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sdlab.metrics import root_trace
from sdlab.metrics.root_trace import RootTrace


def vectors(n: int, d: int, rank: int, decay: float) -> Tensor:
    """Vectors (n, d) with sum 0 in `rank` dimensions, whose lengths fall as i^−decay."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(n, rank, generator=draw).double() * torch.arange(1, rank + 1).double() ** -decay
    x = x @ torch.linalg.qr(torch.randn(d, rank, generator=draw).double()).Q.T
    return x - x.mean(0)


def without(p: Tensor, gone: Tensor) -> float:
    """The sum of the singular values of the vectors that are left, around their own mean."""
    left = p[~gone]
    return float(torch.linalg.svdvals(left - left.mean(0)).sum())


@pytest.mark.parametrize("k", [1, 7, 30])
@pytest.mark.parametrize(
    ("n", "d", "rank", "decay"),
    [
        pytest.param(280, 400, 400, 1.0, id="fewer vectors than dimensions"),
        pytest.param(300, 300, 300, 0.0, id="as many"),
        pytest.param(301, 300, 300, 2.0, id="one more"),
        pytest.param(330, 300, 300, 1.0, id="some more"),
        pytest.param(900, 300, 300, 2.0, id="many more, in few of the directions"),
        pytest.param(900, 300, 300, 4.0, id="nearly singular"),
        pytest.param(900, 300, 40, 0.5, id="singular"),
        pytest.param(280, 400, 40, 0.5, id="singular, with fewer vectors"),
    ],
)
def test_the_trace_without_some_vectors_is_the_sum_of_their_singular_values(
    n: int, d: int, rank: int, decay: float, k: int
):
    """To a millionth of the change: eigenvalues of a matrix are known to 10⁻¹⁶ of the largest, and roots to 10⁻⁸."""
    p = vectors(n, d, rank, decay)
    gone = torch.zeros(n, dtype=torch.bool)
    gone[3 : 3 + k] = True
    trace = RootTrace(p)
    change = trace.without(gone) - trace.without(torch.zeros_like(gone))
    expected = without(p, gone) - without(p, torch.zeros_like(gone))
    assert change == pytest.approx(expected, rel=1e-5)
    assert trace.without(gone) == pytest.approx(without(p, gone), rel=1e-6)


def test_eigenvalues_of_a_large_matrix_are_found_once(monkeypatch: pytest.MonkeyPatch):
    """And not for each of the vectors that are left out."""
    solved = list[int]()
    for name in ("eigh", "eigvalsh"):
        solve = getattr(torch.linalg, name)
        monkeypatch.setattr(torch.linalg, name, lambda a, solve=solve: (solved.append(len(a)), solve(a))[1])
    trace = RootTrace(vectors(300, 280, 280, 0.5))
    for i in range(5):
        trace.without(torch.arange(300) == i)
    assert solved == [280]
    small = RootTrace(vectors(40, root_trace._SMALL, 30, 0.5))
    small.without(torch.arange(40) == 0)
    assert solved == [280, 39]
