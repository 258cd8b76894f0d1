"""Models that a sweep can run on."""
