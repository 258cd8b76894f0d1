"""Errors, files, locks, interrupts, devices and shipped resources."""
