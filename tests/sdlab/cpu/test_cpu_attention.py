"""Attention through logistic functions: equal to the softmax to the rounding of bfloat16, and None where it is not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdlab.cpu import attention as cpu_attention
from sdlab.cpu.packed import can_pack

pytestmark = pytest.mark.skipif(not can_pack(torch.device("cpu"), torch.bfloat16), reason="no fast bfloat16 here")


def fused(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (x.unflatten(2, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def inputs(shape: tuple[int, int, int], keys: int, spread: float, common: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values; `common` is the size of what the keys have in common."""
    torch.manual_seed(0)
    batch, _, width = shape
    query, key = spread * torch.randn(shape), spread * torch.randn(batch, keys, width) + common * torch.randn(width)
    return query.bfloat16(), key.bfloat16(), torch.randn(batch, keys, width).bfloat16()


@pytest.mark.parametrize(
    ("shape", "keys", "heads", "spread"),
    [
        ((2, 1024, 80), 1024, 2, 1.0),
        ((1, 1024, 40), 1024, 1, 1.7),
        ((1, 1500, 64), 1030, 1, 1.0),  # no multiple of the queries at a time
        ((1, 1024, 512), 1024, 1, 0.3),  # as in the VAE
        ((1, 1024, 40), 1024, 1, 0.0),  # equal weights
    ],
    ids=str,
)
@torch.inference_mode()
def test_it_is_attention_to_the_rounding_of_bfloat16(
    shape: tuple[int, int, int], keys: int, heads: int, spread: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cpu_attention, "_SCORES", 2**19)  # about 500 queries at a time
    query, key, value = inputs(shape, keys, spread)
    assert cpu_attention.is_faster(query, key)
    exact = fused(query.double(), key.double(), value.double(), heads)
    found = cpu_attention.long_attention(query, key, value, heads)
    assert found is not None
    assert found.dtype == torch.bfloat16
    # Three roundings on the way out, where PyTorch has one, and one of the scaled query.
    scale = (shape[2] // heads) ** -0.5
    scaled = fused((query * scale).double() / scale, key.double(), value.double(), heads)
    assert (found - exact).norm() < 2 * (fused(query, key, value, heads) - exact).norm() + (scaled - exact).norm()
    assert torch.equal(cpu_attention.attend(query, key, value, heads), found)


@torch.inference_mode()
def test_scores_too_far_apart_fall_back_to_pytorch():
    query, key, value = inputs((1, 1024, 40), 1024, 4.0)
    assert cpu_attention.long_attention(query, key, value, heads=1) is None
    assert torch.equal(cpu_attention.attend(query, key, value, heads=1), fused(query, key, value, heads=1))
    query[0, 3, 5] = torch.nan
    assert cpu_attention.long_attention(query, key, value, heads=1) is None


@torch.inference_mode()
def test_an_offset_common_to_all_keys_is_harmless():
    errors = []
    for common in (0.0, 20.0):  # scores of 120 and more, all but their differences the same for every key
        query, key, value = inputs((1, 1024, 40), 1024, 1.0, common)
        found = cpu_attention.long_attention(query, key, value, heads=1)
        assert found is not None
        exact = fused(query.double(), key.double(), value.double(), heads=1)
        plain = fused(query, key, value, heads=1)
        errors.append((found - exact).norm() / (plain - exact).norm())
    assert errors[1] < 2 * errors[0]


def test_when_it_is_used():
    long, short = torch.empty(1, 1024, 40, dtype=torch.bfloat16), torch.empty(1, 77, 40, dtype=torch.bfloat16)
    assert not cpu_attention.is_faster(long, long)  # gradients may be wanted
    with torch.inference_mode():
        assert cpu_attention.is_faster(long, long)
        for query, key in ((short, long), (long, short), (long.float(), long.float())):
            assert not cpu_attention.is_faster(query, key)
