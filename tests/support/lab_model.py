"""The lab model as the commands open it."""

from sdlab.cpu.optimise import optimise_for_inference
from sdlab.pipeline import Pipeline
from sdlab.weights.model_loader import load


def lab_pipeline() -> Pipeline:
    """A pipeline of `scenes` in float32, optimised for inference."""
    model = load("scenes")
    optimise_for_inference(model)
    return Pipeline(model)
