"""Shards: the parts of a sweep for several machines. Each runs some of the cells, and `merge` joins their stores."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING

from sdlab.sweep.passes import counted
from sdlab.system.errors import UsageError
from sdlab.system.limits import SHARDS, brief

if TYPE_CHECKING:
    from sdlab.sweep.plan import Plan


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count`, numbered from 1."""

    index: int
    count: int

    @staticmethod
    def of(text: str) -> Shard:
        """A shard from text like `"2/8"`.

        Raises:
            UsageError: the text has another form, or its numbers are out of range.
        """
        parts = text.split("/")
        if len(parts) == 2 and all(part.isdecimal() and len(part) <= len(str(SHARDS.high)) for part in parts):
            index, count = map(int, parts)
            if 1 <= index <= count <= SHARDS.high:
                return Shard(index, count)
        raise UsageError(f"--shard must be like 2/8, the second of eight shards, got {brief(text)}")

    def directory(self, name: str) -> str:
        """The name of the shard's run directory in a sweep of this name."""
        return f"{name}-{self.index}-of-{self.count}"

    def cells(self, plan: Plan) -> tuple[int, ...]:
        """The indices of the shard's cells, in the order of the plan.

        Every cell is in one shard. Shards make about the same number of network passes: from the most expensive cell
        down, each goes to the shard with the fewest passes so far. All shards compute the same division.
        """
        passes = [counted(plan, cell)[0] for cell in plan.cells]
        price = [1.0 if isnan(one) else max(1.0, one) for one in passes]
        loads, mine = [(0.0, shard) for shard in range(1, self.count + 1)], list[int]()  # a heap
        for i in sorted(range(len(price)), key=lambda i: -price[i]):
            load, shard = loads[0]
            heapq.heapreplace(loads, (load + price[i], shard))
            if shard == self.index:
                mine.append(i)
        return tuple(sorted(mine))
