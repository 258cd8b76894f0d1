"""Sweeps. A TOML file becomes a plan, and its cells are run one by one and stored."""
