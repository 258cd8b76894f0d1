"""Closed-form problems, the law of a sampler's output, and converged references."""
