"""Sweeps: a TOML file becomes a plan, whose cells are run one by one into a store."""
