"""Backends: the models that a sweep can sample, behind one protocol (`base`).

A new backend is one file, and one line in `registry`.
"""
