"""Executors: where the cells of a sweep run. Each is one file and one line in `registry.EXECUTORS`."""
