"""Wrappers around any guidance strategy, given as options of the strategy or as a chain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from samplers.checks import unknown
from sdlab.guidance.base import Strategy
from sdlab.guidance.interval import Interval
from sdlab.guidance.schedule import Scheduled

WRAPPERS: dict[str, type[Scheduled | Interval]] = {  # by option; the last is the outermost
    "schedule": Scheduled,
    "interval": Interval,
}


def wrapped(
    strategy: Strategy,
    schedule: str | Sequence[Any] | None = None,
    interval: Sequence[float | str] | None = None,
) -> Strategy:
    """The strategy in the wrappers that are given.

    Raises:
        ValueError: a value is invalid.
    """
    for name, option in (("schedule", schedule), ("interval", interval)):
        if option is not None:
            strategy = WRAPPERS[name].of(strategy, option)
    return strategy


def unchained(chain: Sequence[object]) -> dict[str, Any]:
    """A chain like `["interval", "apg"]` as a table: names of wrappers, then a strategy as a name or a table.

    `["interval", {name = "apg", eta = 0.5}]` is `{name = "apg", eta = 0.5, interval = [0.28, 5.42]}`.

    Raises:
        ValueError: it is not of this form.
    """
    *wrappers, last = chain or [None]
    table = {"name": last} if isinstance(last, str) else last
    if not isinstance(table, dict) or last in list(WRAPPERS):
        raise ValueError(f'a chain ends with a strategy, like ["interval", "apg"], got {list(chain)}')
    defaults: dict[str, Any] = {}
    for name in wrappers:
        if not isinstance(name, str) or name not in WRAPPERS:
            raise ValueError(unknown("wrapper", str(name), WRAPPERS))
        defaults[name] = WRAPPERS[name].usual
    return {**defaults, **table}
