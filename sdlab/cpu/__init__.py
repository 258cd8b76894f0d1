"""Faster kernels and packed weights for inference on a CPU, swapped in by an explicit call."""
