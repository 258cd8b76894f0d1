"""sdlab: a research testbed for diffusion sampling."""

__version__ = "0.1.0"
