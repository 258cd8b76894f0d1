"""Worlds of captioned pictures, each with a renderer, captions and a reader."""
