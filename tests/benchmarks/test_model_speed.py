"""Speed beside diffusers with the same weights: the ratios in each table are what counts.

    pytest tests/benchmarks/test_model_speed.py -m slow --benchmark-enable

measures at the full size of v1.5 (7 GiB, minutes; `-k "not compiled"` leaves out the compilers), on a GPU where there
is one. Without `--benchmark-enable` the small sizes run once, to see that they can.
"""

import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline

import samplers
from sdlab import guidance
from sdlab.model.compiled import compiled
from sdlab.model.config import SD15
from sdlab.model.pack import pack
from sdlab.model.packed import can_pack

sys.path.append(str(Path(__file__).parents[1] / "parity"))

import references as r

pytestmark = pytest.mark.slow

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16][: 3 if DEVICE == "cuda" else 2]
SIZES = {"small": r.SMALL, "v1.5": SD15}
BATCH, STEPS, ROUNDS = 2, 20, 5
PROMPT, NEGATIVE = "A cat stretching on the floor, highly detailed", "blurry"


def last(network):
    """In channels-last format, which ours always has."""
    return network.to(memory_format=torch.channels_last)


def as_in_a_pipeline(weights, config):
    """Ours, with its weights packed where a pipeline would do it."""
    unet = r.our_unet(weights, config)
    if can_pack(torch.device(DEVICE), unet.conv_in.weight.dtype):
        pack(unet)
    return unet


UNETS = {
    "sdlab": as_in_a_pipeline,
    "sdlab, as stored": r.our_unet,
    "sdlab, compiled": lambda *given: compiled(r.our_unet(*given), torch.device(DEVICE)),
    "diffusers": r.their_unet,
    "diffusers, channels-last": lambda *given: last(r.their_unet(*given)),
    "diffusers, compiled": lambda *given: compiled(last(r.their_unet(*given)), torch.device(DEVICE)),
}


@lru_cache(maxsize=1)
def weights(size, dtype):
    return {key: tensor.to(DEVICE, dtype) for key, tensor in r.checkpoint(SIZES[size], torch.float32).items()}


def measure(benchmark, run):
    def timed():
        out = run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()
        return out

    with torch.inference_mode():
        assert benchmark.pedantic(timed, rounds=ROUNDS, warmup_rounds=2).isfinite().all()


def skip_unless_measuring(benchmark, size, name):
    """What takes minutes."""
    if benchmark.disabled and (size != "small" or "compiled" in name):
        pytest.skip("runs with --benchmark-enable alone")


@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_unet(benchmark, size, dtype, name):
    skip_unless_measuring(benchmark, size, name)
    config = SIZES[size]
    benchmark.group = f"U-Net of {size}, {config.image_size} × {config.image_size}, batch {BATCH}, {dtype}"
    unet = UNETS[name](weights(size, dtype), config)
    x = torch.randn(BATCH, *config.latent_shape, device=DEVICE, dtype=dtype)
    t = torch.full((BATCH,), 481.0, device=DEVICE)
    context = torch.randn(BATCH, config.text.context_length, config.text.width, device=DEVICE, dtype=dtype)
    if name.startswith("sdlab"):
        measure(benchmark, lambda: unet(x, t, context))
    else:
        measure(benchmark, lambda: unet(x, t, context).sample)


def our_run(weights, config, vocabulary):
    pipeline = r.our_pipeline(weights, config, vocabulary)
    sigmas = samplers.grid("leading", steps=STEPS, levels=pipeline.levels, offset=1)
    rule, strategy = samplers.make("ddim"), guidance.make("cfg", scale=7.5)

    def run():
        cond, uncond = pipeline.encode([PROMPT]), pipeline.encode([NEGATIVE])
        return pipeline.decode(pipeline.sample(cond, uncond, rule, sigmas, strategy, [0]))

    return run


def their_run(weights, config, vocabulary):
    pipeline = StableDiffusionPipeline(
        scheduler=r.their_scheduler(to_one=True), **r.their_components(weights, config, vocabulary)
    )
    pipeline.set_progress_bar_config(disable=True)
    return lambda: (
        pipeline(
            PROMPT, negative_prompt=NEGATIVE, num_inference_steps=STEPS, guidance_scale=7.5, output_type="pt"
        ).images
    )


RUNS = {"sdlab": our_run, "diffusers": their_run}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_text_to_image(benchmark, tmp_path, size, dtype, name):
    skip_unless_measuring(benchmark, size, name)
    config = SIZES[size]
    benchmark.group = f"Text-to-image of {size}, {config.image_size} × {config.image_size}, {STEPS} steps, {dtype}"
    measure(benchmark, RUNS[name](weights(size, dtype), config, r.unpack_vocabulary(tmp_path)))
