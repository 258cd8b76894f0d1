"""Errors, files, devices and resources."""
