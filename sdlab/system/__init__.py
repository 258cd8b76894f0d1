"""Errors, text and paths from users, files, locks, output, interrupts, devices and shipped resources."""
