"""Faster CPU kernels for inference, swapped in by an explicit call."""
