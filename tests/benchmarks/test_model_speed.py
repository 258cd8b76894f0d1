"""Speed compared with diffusers on the same weights. Contestants take turns, so that other load affects all alike.

    pytest tests/benchmarks/test_model_speed.py -m slow --benchmark-enable

measures at the full size of v1.5 (an hour on two cores, ten minutes with `-k "unet and not compiled"`; 24 GiB suffice),
on a GPU where there is one, and asserts the promised speed on a CPU. Without `--benchmark-enable` the small sizes run
once, as a smoke test.
"""

from functools import lru_cache
from statistics import median
from time import perf_counter

import pytest
import references as r
import torch
from diffusers import StableDiffusionPipeline

import samplers
from sdlab import guidance
from sdlab.cpu.compiled import compile_for_inference
from sdlab.cpu.optimise import optimise_network
from sdlab.model.config import SD15
from sdlab.system.allocator import kept_memory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.bfloat16, torch.float16][: 3 if DEVICE == "cuda" else 2]
SIZES = {"small": r.SMALL, "v1.5": SD15}
BATCH, STEPS = 2, 20
PROMISED = 1.25  # times the speed of diffusers, on a CPU at the size of v1.5
PROMPT, NEGATIVE = "A cat stretching on the floor, highly detailed", "blurry"


def last(network):
    """The network in channels-last format, which ours always has."""
    return network.to(memory_format=torch.channels_last)


def optimised(weights, config):
    """Ours as it is generated with."""
    unet = r.our_unet(weights, config)
    optimise_network(unet, torch.device(DEVICE), unet.conv_in.weight.dtype)
    return unet


def compiled(network):
    """The network, compiled."""
    compile_for_inference(network, torch.device(DEVICE))
    return network


UNETS = {
    "eager": {
        "sdlab": optimised,
        "sdlab, as stored": r.our_unet,
        "diffusers": r.their_unet,
        "diffusers, channels-last": lambda *given: last(r.their_unet(*given)),
    },
    "compiled": {
        "sdlab": lambda *given: compiled(r.our_unet(*given)),
        "diffusers": lambda *given: compiled(last(r.their_unet(*given))),
        "diffusers, eager": r.their_unet,
    },
}


@lru_cache(maxsize=1)
def weights(size, dtype):
    return {key: tensor.to(DEVICE, dtype) for key, tensor in r.checkpoint(SIZES[size], torch.float32).items()}


def seconds(run):
    start = perf_counter()
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - start


def compare(benchmark, capsys, runs, rounds):
    """Print the best and the median time of each of `runs`, all in turn -> how many times as fast the first is.

    None where benchmarks are disabled.
    """
    with torch.inference_mode():
        for run in runs.values():  # where weights are packed, and kernels compiled
            assert run().isfinite().all()
        ours, *others = runs
        taken = {name: [] for name in others}

        def let_the_others_run():
            for name in others:
                taken[name].append(seconds(runs[name]))

        benchmark.pedantic(seconds, [runs[ours]], setup=let_the_others_run, rounds=rounds)
    if not benchmark.stats:
        return None
    taken = {ours: benchmark.stats.stats.data, **taken}
    times = {name: min(found) / min(taken[ours]) for name, found in taken.items()}
    benchmark.extra_info.update(seconds=taken, times=times)
    with capsys.disabled():
        print(f"\n{benchmark.group}, {rounds} rounds")
        for name, found in taken.items():
            print(
                f"{name:26} best {min(found):8.3f} s, median {median(found):8.3f} s, {times[name]:5.2f} × the first's"
            )
    return times


def keep_promise(times, size):
    if times and DEVICE == "cpu" and size == "v1.5":
        assert times["diffusers"] >= PROMISED


def skip_unless_measuring(benchmark, size, kind=""):
    """Skip what takes minutes."""
    if benchmark.disabled and (size != "small" or kind == "compiled"):
        pytest.skip("runs only with --benchmark-enable")


@pytest.mark.parametrize("kind", UNETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_unet(benchmark, capsys, size, dtype, kind):
    skip_unless_measuring(benchmark, size, kind)
    config = SIZES[size]
    benchmark.group = f"{kind} U-Net of {size}, {config.image_size} × {config.image_size}, batch {BATCH}, {dtype}"
    x = torch.randn(BATCH, *config.latent_shape, device=DEVICE, dtype=dtype)
    t = torch.full((BATCH,), 481.0, device=DEVICE)
    context = torch.randn(BATCH, config.text.context_length, config.text.width, device=DEVICE, dtype=dtype)

    def run(name, unet):
        return lambda: unet(x, t, context) if name.startswith("sdlab") else unet(x, t, context).sample

    given = weights(size, dtype), config
    times = compare(benchmark, capsys, {name: run(name, of(*given)) for name, of in UNETS[kind].items()}, rounds=5)
    keep_promise(times if kind == "eager" else None, size)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_vae_decoding(benchmark, capsys, size, dtype):
    """Ours keeps its memory while it decodes, as the pipeline does."""
    skip_unless_measuring(benchmark, size)
    config = SIZES[size]
    benchmark.group = f"VAE decoding of {size}, {config.image_size} × {config.image_size}, {dtype}"
    x = torch.randn(1, *config.latent_shape, device=DEVICE, dtype=dtype)
    ours = r.our_vae(weights(size, dtype), config)
    optimise_network(ours, torch.device(DEVICE), dtype)
    theirs = r.their_vae(weights(size, dtype), config)

    def our_decoding():
        with kept_memory():
            return ours.decode(x)

    runs = {"sdlab": our_decoding, "diffusers": lambda: theirs.decode(x).sample}
    keep_promise(compare(benchmark, capsys, runs, rounds=3), size)


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


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_text_to_image(benchmark, capsys, tmp_path, size, dtype):
    skip_unless_measuring(benchmark, size)
    config = SIZES[size]
    benchmark.group = f"Text-to-image of {size}, {config.image_size} × {config.image_size}, {STEPS} steps, {dtype}"
    given = weights(size, dtype), config, r.unpack_vocabulary(tmp_path)
    runs = {"sdlab": our_run(*given), "diffusers": their_run(*given)}
    keep_promise(compare(benchmark, capsys, runs, rounds=2), size)
