"""The states of a strategy for the images of a run."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sdlab.guidance.base import State
from sdlab.guidance.rows import take


class States:
    """One state per image. They are kept stacked until some images are called without the others."""

    def __init__(self, images: int) -> None:
        self._images = images
        self._whole: State = None
        self._apart: list[State] | None = None  # without the batch axis

    @property
    def together(self) -> bool:
        """Whether all images have a state, or none."""
        return self._apart is None

    def begun(self) -> list[bool]:
        """Whether each image has a state."""
        if self._apart is None:
            return [self._whole is not None] * self._images
        return [state is not None for state in self._apart]

    def each(self) -> Sequence[State]:
        """The state of each image, without the batch axis."""
        return _rows(self._whole, self._images) if self._apart is None else self._apart

    def of(self, rows: list[int]) -> State:
        """The states of images stacked into one. Either all or none of them have begun."""
        if self._apart is None:
            return None if self._whole is None else tuple(take(values, rows) for values in self._whole)
        begun = [state for state in (self._apart[i] for i in rows) if state is not None]
        return tuple(torch.stack(values) for values in zip(*begun, strict=True)) if begun else None

    def keep(self, rows: list[int], state: State) -> None:
        """Replace the states of these images.

        Raises:
            ValueError: the state does not have one row per image.
        """
        if state and any(values.shape[:1] != (len(rows),) for values in state):
            shapes = ", ".join(str(tuple(values.shape)) for values in state)
            raise ValueError(
                f"the state of a guidance strategy must have one row per image, {len(rows)} here; got {shapes}"
            )
        if len(rows) == self._images:
            self._whole, self._apart = state or None, None
            return
        apart = self._apart = list(self.each())
        for i, row in zip(rows, _rows(state, len(rows)), strict=True):
            apart[i] = row


def _rows(state: State, images: int) -> Sequence[State]:
    """A stacked state as one per image."""
    return list(zip(*state, strict=True)) if state else [None] * images
