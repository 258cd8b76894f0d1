"""The backend of diffusers pipelines: the network of a pipeline folder as a denoiser.

A family of pipelines is one file, and one line in `families`.
"""
