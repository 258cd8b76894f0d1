"""sdlab: a research testbed for diffusion sampling."""

__version__ = "0.2.0.dev0"
