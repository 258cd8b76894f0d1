"""Stored tensors with the few operations that conversions need, all without reading a value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sdlab.weights.stored_tensor import StoredTensor


@dataclass(frozen=True)
class TensorView(StoredTensor):
    """A part of a stored tensor, which knows the name of the whole."""

    name: str

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def T(self) -> TensorView:
        """The transposed matrix."""
        return replace(self, shape=self.shape[::-1], stride=self.stride[::-1])

    def __getitem__(self, index: int | slice | tuple[int | slice, ...]) -> TensorView:
        """A part, as of a tensor of PyTorch. Slices have no step.

        Raises:
            IndexError: an index is outside the tensor.
        """
        indices = index if isinstance(index, tuple) else (index,)
        if len(indices) > self.ndim:
            raise IndexError(f"{len(indices)} indices for a tensor of {self.ndim} axes")
        offset, kept = self.offset, list[tuple[int, int]]()
        for one, length, step in zip(indices, self.shape, self.stride, strict=False):
            first, last, _ = (one if isinstance(one, slice) else slice(one, one + 1)).indices(length)
            if isinstance(one, slice):
                kept.append((max(last - first, 0), step))
            elif last == first:
                raise IndexError(f"index {one} of an axis of length {length}")
            offset += first * step * self.dtype.itemsize
        kept += zip(self.shape[len(indices) :], self.stride[len(indices) :], strict=True)
        return replace(self, offset=offset, shape=tuple(n for n, _ in kept), stride=tuple(step for _, step in kept))

    def contiguous(self) -> TensorView:
        """Itself: values are laid out when they are read."""
        return self

    clone = detach = contiguous


def view(name: str, tensor: StoredTensor) -> TensorView:
    """The whole tensor of this name."""
    return TensorView(tensor.path, tensor.offset, tensor.shape, tensor.stride, tensor.dtype, name)
