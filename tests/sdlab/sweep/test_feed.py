"""The metrics get every image once, with its own index, whatever the batches of sampling were."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from sdlab.metrics import Batch
from sdlab.sweep.bench import _Feed

N = 200


class Recorded:
    """A measurement that keeps its batches."""

    def __init__(self) -> None:
        self.batches = list[Batch]()

    def update(self, batch: Batch) -> None:
        self.batches.append(batch)

    def results(self) -> dict[str, Any]:
        return {}


def batch(indices: list[int], samples: Tensor, pictures: Tensor | None) -> Batch:
    return Batch(indices, pictures, [str(i) for i in indices], None, samples)


@pytest.mark.parametrize("size", [1, 7, 64, 100, 200])
def test_each_image_reaches_the_metrics_once_with_its_own_index_and_prompt(size: int):
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0)).tolist()  # groups of a strength come in turn
    found = Recorded()
    feed = _Feed(cast(Any, found), batch)
    for start in range(0, N, size):
        indices = order[start : start + size]
        rows = torch.tensor(indices, dtype=torch.float32).view(-1, 1, 1, 1)
        feed.add(indices, rows, 1000 + rows)
    feed.results()
    assert [i for one in found.batches for i in one.indices] == order
    for one in found.batches:
        assert one.samples is not None
        assert one.pictures is not None
        assert one.samples.flatten().tolist() == list(one.indices)
        assert one.pictures.flatten().tolist() == [1000 + i for i in one.indices]
        assert one.prompts == [str(i) for i in one.indices]


@pytest.mark.parametrize("size", [7, 64, 100])
def test_measured_images_do_not_stay_in_memory(size: int):
    feed = _Feed(cast(Any, Recorded()), lambda indices, samples, pictures: Batch(indices, None, None, None, None))
    for start in range(0, 5 * size, size):
        indices = list(range(start, start + size))
        feed.add(indices, torch.zeros(size, 4, 2, 2), torch.zeros(size, 3, 16, 16))
        held = sum(part.untyped_storage().nbytes() for part in (*feed.samples, *feed.pictures))
        assert held == 4 * len(feed.indices) * (4 * 2 * 2 + 3 * 16 * 16)
