"""Adapters: samplers and grids of sdlab in other tools."""
