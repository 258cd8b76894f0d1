"""Load a model in a separate process and print, as JSON, how long it took and how much memory it needed.

    python load_and_measure.py WEIGHTS VOCABULARY_FOLDER DTYPE [STEPS]

With STEPS, a picture is also sampled and decoded. Linux only, as other systems cannot reset the peak.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

import torch

import samplers
from sdlab import guidance
from sdlab.cpu.optimise import optimise_for_inference
from sdlab.pipeline import Pipeline
from sdlab.weights.locate import ModelSource
from sdlab.weights.model_loader import load, open_model


def memory(field: str) -> int:
    """Bytes of this process: `VmRSS` now, `VmHWM` at its peak, pages of mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def main(weights: str, vocabulary: str, dtype: str, steps: str = "0") -> None:
    folder = Path(vocabulary)
    source = ModelSource("sd15", weights, folder / "vocab.json", folder / "merges.txt")
    open_model(source)  # all but the weights, so that the 80 MB of code that PyTorch imports do not count
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    start = perf_counter()
    model = load(source, dtype=getattr(torch, dtype))
    report: dict[str, float] = {"load_seconds": perf_counter() - start, "load_peak": memory("VmHWM") - before}
    parameters = [p for part in (model.text, model.vae, model.unet) for p in part.parameters()]
    report["weights"] = sum(p.numel() * p.element_size() for p in parameters)
    if int(steps):
        optimise_for_inference(model)
        pipeline = Pipeline(model)
        start = perf_counter()
        cond, uncond = pipeline.encode(["a photo of a cat"]), pipeline.encode([""])
        sigmas = samplers.grid("trailing", steps=int(steps), levels=pipeline.levels)
        strategy = guidance.make("cfg", scale=7.5)
        latents = pipeline.sample(cond, uncond, samplers.make("ddim"), sigmas, strategy, [0])
        report["sample_seconds"], start = perf_counter() - start, perf_counter()
        picture = pipeline.decode(latents)
        report["decode_seconds"] = perf_counter() - start
        report["height"], report["width"] = picture.shape[2:]
        report["finite"] = bool(latents.isfinite().all() and picture.isfinite().all())
    report["peak"] = memory("VmHWM")
    print(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
