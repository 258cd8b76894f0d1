"""Captioned picture worlds: scenes, their renderer, captions and readers."""
