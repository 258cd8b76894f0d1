"""Pictures in, pictures out: image-to-image on the grid of text-to-image, any size, large ones in tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import pi

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, StableDiffusionImg2ImgPipeline
from torch import Tensor, nn

import samplers
from sdlab import guidance
from sdlab.denoiser import Model, Sigma
from sdlab.model.config import SCENES, SD15
from sdlab.model.stable_diffusion import StableDiffusion
from sdlab.model.tiling import tiled
from sdlab.model.vae import DiagonalGaussian
from sdlab.picture import from_bytes, to_bytes
from sdlab.pipeline import NotFinite, Pipeline, Tiles, latent_shape, tail
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes

PROMPT = "a large red circle left of a large blue square on a white background"
GUIDANCE = guidance.make("cfg", scale=3.0)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return load("scenes")


@pytest.fixture(scope="module")
def pipeline(model: StableDiffusion) -> Pipeline:
    return Pipeline(model)


class Watched(nn.Module):
    """Stands for a VAE of factor 8 that looks at no neighbour, and writes down what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[int, ...]] = []  # number, height and width

    def encode(self, images: Tensor) -> DiagonalGaussian:
        self.given.append((len(images), *images.shape[-2:]))
        mean = F.avg_pool2d(images, 8)
        return DiagonalGaussian(mean, torch.zeros_like(mean))

    def decode(self, z: Tensor) -> Tensor:
        self.given.append((len(z), *z.shape[-2:]))
        return F.interpolate(z[:, :3], scale_factor=8.0, mode="nearest")

    def to_latents(self, z: Tensor) -> Tensor:
        return z

    from_latents = to_latents


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return scenes.render(scenes.sample(4, torch.Generator().manual_seed(5)))


@pytest.fixture(scope="module")
def latents(pipeline: Pipeline, pictures: Tensor) -> Tensor:
    return pipeline.encode_image(pictures)


def draw(pipeline: Pipeline, sampler: str, seeds: Sequence[int], steps: int = 4, **options: object) -> Tensor:
    cond, uncond = (pipeline.encode([text]).expand(len(seeds), -1, -1) for text in (PROMPT, ""))
    sigmas = samplers.grid("trailing", steps=steps, levels=pipeline.levels)
    return pipeline.sample(cond, uncond, samplers.make(sampler), sigmas, GUIDANCE, seeds, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler_ancestral"])
def test_strength_1_is_text_to_image_bit_for_bit(pipeline: Pipeline, latents: Tensor, sampler: str):
    expected = draw(pipeline, sampler, [3, 1, 4, 1])
    assert torch.equal(draw(pipeline, sampler, [3, 1, 4, 1], init=latents, strength=1.0), expected)
    assert torch.equal(draw(pipeline, sampler, [3, 1, 4, 1], init=latents), expected)


def test_at_strength_0_the_picture_is_the_reconstruction_of_the_vae(
    pipeline: Pipeline, pictures: Tensor, latents: Tensor
):
    kept = draw(pipeline, "ddim", [3, 1, 4, 1], init=latents, strength=0.0)
    assert torch.equal(kept, latents)
    vae = pipeline.model.vae
    with torch.no_grad():
        reconstruction = vae.decode(vae.encode(pictures).mean)
    # `decode` rounds to the levels of a PNG, which lie 2/255 apart.
    torch.testing.assert_close(pipeline.decode(kept), reconstruction.clamp(-1, 1), rtol=0, atol=1.01 / 255)


def test_sampling_starts_from_the_picture_noised_to_the_level_of_the_tail(model: StableDiffusion, latents: Tensor):
    pipeline, seen = Pipeline(model), []

    def watch(network: Model) -> Model:
        def watched(x: Tensor, sigma: Sigma, context: Tensor) -> Tensor:
            seen.append((x[: len(x) // 2], sigma))  # guidance doubles the batch
            return network(x, sigma, context)

        return watched

    draw(pipeline, "euler", [9, 8, 7, 6], steps=10, init=latents, strength=0.5, watch=watch)
    sigmas = samplers.grid("trailing", steps=10, levels=pipeline.levels)
    assert [sigma for _, sigma in seen] == list(sigmas[5:10])
    noise = samplers.seeded([9, 8, 7, 6])(latents)
    torch.testing.assert_close(seen[0][0], latents + sigmas[5] * noise)


def test_the_stronger_the_further_from_the_picture(pipeline: Pipeline, latents: Tensor):
    far = [
        (draw(pipeline, "ddim", [3, 1, 4, 1], steps=10, init=latents, strength=s) - latents).square().mean()
        for s in (0.1, 0.4, 0.7, 1.0)
    ]
    assert far == sorted(far)
    assert far[0] < 0.3 * far[-1]


@pytest.mark.parametrize("steps", [1, 7, 20, 50])
@pytest.mark.parametrize("sixteenths", [0, 1, 5, 8, 13, 16])
def test_the_tail_has_as_many_steps_as_in_diffusers(steps: int, sixteenths: int):
    strength = sixteenths / 16
    reference = StableDiffusionImg2ImgPipeline.__new__(StableDiffusionImg2ImgPipeline)
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    reference.register_modules(scheduler=scheduler)
    _, count = reference.get_timesteps(steps, strength, "cpu")
    grid = samplers.grid("trailing", steps=steps, levels=samplers.discrete_levels())
    if strength > 0 and count == 0:  # diffusers returns the picture unchanged
        with pytest.raises(ValueError, match="is less than one step"):
            tail(grid, strength)
    else:
        assert tail(grid, strength) == grid[steps - count :]


def test_strengths_rounded_down_by_floats_give_the_intended_step():
    sigmas = tuple(range(100, -1, -1))
    assert [len(tail(sigmas, k / 100)) - 1 for k in range(101)] == list(range(101))


@pytest.mark.parametrize(("steps", "strength"), [(20, 0.04), (1, 0.99), (3, 1e-9)])
def test_a_strength_below_one_step_is_refused(steps: int, strength: float):
    sigmas = tuple(range(steps, -1, -1))
    with pytest.raises(
        ValueError, match=rf"strength {strength:g} of {steps} steps? is less than one step; give"
    ) as error:
        tail(sigmas, strength)
    message = str(error.value)
    assert tail(sigmas, 0) == (0,)
    least = float(message.split("at least ")[1].split(",")[0])
    assert len(tail(sigmas, least)) == 2


def test_one_negative_prompt_and_one_picture_serve_all_prompts(pipeline: Pipeline, latents: Tensor):
    cond, uncond = pipeline.encode([PROMPT, "a blue square", "a star"]), pipeline.encode([""])
    sigmas = samplers.grid("trailing", steps=2, levels=pipeline.levels)
    sampler, seeds, one = samplers.make("euler"), [1, 2, 3], latents[:1]
    found = pipeline.sample(cond, uncond, sampler, sigmas, GUIDANCE, seeds, init=one, strength=0.5)
    full = uncond.expand(3, -1, -1), one.expand(3, -1, -1, -1)
    assert torch.equal(
        found, pipeline.sample(cond, full[0], sampler, sigmas, GUIDANCE, seeds, init=full[1], strength=0.5)
    )
    for negative, start, numbers, message in (
        (full[0][:2], one, seeds, "got 3 prompts and 2 negative prompts; give one per prompt, or one for all"),
        (uncond, latents[:2], seeds, "got 3 prompts and 2 input pictures; give one per prompt, or one for all"),
        (uncond, one, seeds[:2], "got 3 prompts and 2 seeds; give one seed per prompt"),
        (uncond[:, 1:], one, seeds, r"contexts must have .* rows of one shape; got cond \(3, \d+, \d+\), uncond \(1, "),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.sample(cond, negative, sampler, sigmas, GUIDANCE, numbers, init=start, strength=0.5)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_strength_is_between_0_and_1(strength: float):
    with pytest.raises(ValueError, match=r"strength must be in \[0, 1\], got"):
        tail((1.0, 0.0), strength)


def test_strength_without_a_picture_is_refused(pipeline: Pipeline):
    with pytest.raises(ValueError, match=r"strength 0\.5 needs `init`, the latents of a picture"):
        draw(pipeline, "ddim", [0], strength=0.5)


def test_given_noise_the_posterior_is_sampled(pipeline: Pipeline, pictures: Tensor, latents: Tensor):
    vae, noise = pipeline.model.vae, samplers.seeded([1, 2, 3, 4])(latents)
    with torch.no_grad():
        expected = vae.to_latents(vae.encode(pictures).sample(noise))
    torch.testing.assert_close(pipeline.encode_image(pictures, noise), expected)
    torch.testing.assert_close(pipeline.encode_image(pictures, torch.zeros_like(noise)), latents)


def test_a_stream_of_noise_may_replace_the_seeds(pipeline: Pipeline, latents: Tensor):
    cond = pipeline.encode([PROMPT])
    arguments = cond, cond, samplers.make("ddpm"), (1.0, 0.5, 0.0), guidance.make("none")
    expected = pipeline.sample(*arguments, [5])
    assert torch.equal(pipeline.sample(*arguments, samplers.seeded([5])), expected)


@pytest.mark.parametrize("size", [(64, 64), (52, 76), (4, 200)])
def test_every_multiple_of_the_factor_is_a_size(pipeline: Pipeline, size: tuple[int, int]):
    """52 × 76 pixels are 13 × 19 latents: odd at the first levels of the U-Net. Height comes first, in tensors too."""
    latents = draw(pipeline, "euler", [0], steps=1, size=size)
    assert tuple(latents.shape[1:]) == latent_shape(SCENES, size) == (4, size[0] // 4, size[1] // 4)
    assert tuple(pipeline.decode(latents).shape) == (1, 3, *size)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (SCENES, (64, 50), "multiples of 4, got 50x64; the nearest is 48x64"),
        (SD15, (769, 510), "multiples of 8, got 510x769; the nearest is 512x768"),
        (SD15, (512, 0), "multiples of 8, got 0x512; the nearest is 8x512"),
    ],
)
def test_other_sizes_are_an_error_with_the_nearest_size(config, size: tuple[int, int], message: str):
    with pytest.raises(ValueError, match=message):
        latent_shape(config, size)


def test_the_vae_decodes_256_by_256_pixels_per_pass_and_at_least_one_picture(model: StableDiffusion):
    vae = Watched()
    pipeline = Pipeline(replace(model, vae=vae, config=replace(model.config, vae=SD15.vae)), tiles="never")
    pipeline.decode(torch.zeros(5, 4, 16, 16))
    pipeline.decode(torch.zeros(2, 4, 80, 80))
    pipeline.encode_image(torch.zeros(5, 3, 128, 128))
    assert vae.given == [(4, 16, 16), (1, 16, 16), (1, 80, 80), (1, 80, 80), (4, 128, 128), (1, 128, 128)]


def test_no_activation_of_the_lab_models_vae_is_too_large_for_glibc_to_reuse():
    model, sizes = load("scenes"), list[int]()
    for part in model.vae.modules():
        if not list(part.children()):
            part.register_forward_hook(lambda module, given, found: sizes.append(found.nbytes))
    pipeline = Pipeline(model)
    pipeline.encode_image(pipeline.decode(torch.zeros(32, *model.config.latent_shape)))
    assert 2**22 < max(sizes) < 2**25


@pytest.mark.parametrize(
    ("tiles", "side", "given"),
    [
        ("auto", 128, {(1, 128, 128)}),
        ("auto", 129, {(1, 64, 64)}),
        ("never", 129, {(1, 129, 129)}),
        ("always", 96, {(1, 64, 64)}),
        ("always", 40, {(1, 40, 40)}),
    ],
)
def test_above_128_by_128_latents_the_vae_runs_in_tiles_by_default(
    model: StableDiffusion, tiles: Tiles, side: int, given: set[tuple[int, ...]]
):
    vae = Watched()
    pipeline = Pipeline(replace(model, vae=vae, config=replace(model.config, vae=SD15.vae)), tiles=tiles)
    images = pipeline.decode(torch.rand(1, 4, side, side))
    assert set(vae.given) == given
    vae.given.clear()
    torch.testing.assert_close(pipeline.encode_image(images), F.avg_pool2d(images, 8))
    assert set(vae.given) == {(n, 8 * height, 8 * width) for n, height, width in given}


def double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


@pytest.mark.parametrize(("height", "width"), [(5, 9), (16, 16), (17, 40), (33, 16)])
def test_tiles_of_a_local_network_equal_the_whole(height: int, width: int):
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tiled(double, x, 16, 4, 1, 2), double(x))
    torch.testing.assert_close(tiled(lambda t: F.avg_pool2d(t, 2), double(x), 16, 4, 2, 1), x)


def test_no_tile_is_larger_than_asked_and_none_is_left_out():
    sizes = []
    x = torch.ones(1, 1, 100, 41)
    tiled(lambda t: sizes.append(tuple(t.shape[-2:])) or t, x, 16, 4, 1, 1)
    assert set(sizes) == {(16, 16)}
    assert len(sizes) == 8 * 4  # 16 + 7 · 12 = 100, and 16 + 3 · 12 covers 41


def waves(height: int, width: int) -> Tensor:
    """A smooth picture (1, 3, H, W), everywhere of the same kind: waves of 64 pixels, of which a tile holds eight."""
    y, x = torch.arange(height)[:, None] * pi / 32, torch.arange(width) * pi / 32
    return torch.stack([0.5 * torch.sin(k + x + k * y) for k in range(3)])[None]


@pytest.mark.slow
def test_a_smooth_picture_is_almost_the_same_in_tiles(model: StableDiffusion):
    picture = waves(640, 512)
    whole, parts = (Pipeline(model, tiles=tiles) for tiles in ("never", "always"))
    latents, in_tiles = whole.encode_image(picture), parts.encode_image(picture)
    f = model.config.vae.factor
    assert in_tiles.shape == latents.shape == (1, model.config.vae.latent_channels, 640 // f, 512 // f)
    assert (in_tiles - latents).square().mean() < 1e-3 * latents.square().mean()
    expected, found = whole.decode(latents), parts.decode(latents)
    assert found.shape == expected.shape == picture.shape
    assert (found - expected).abs().mean() < 0.005
    assert (found - expected).abs().max() < 0.05


def test_offloading_changes_no_value_and_returns_every_network(model: StableDiffusion, pictures: Tensor):
    moved: list[tuple[str, str]] = []
    networks = {"text": model.text, "unet": model.unet, "vae": model.vae}
    for name, network in networks.items():
        network.to = lambda device, name=name: moved.append((name, str(device)))  # type: ignore[method-assign]
    try:
        outcomes = []
        for pipeline in (Pipeline(model), Pipeline(model, offload="cpu")):
            init = pipeline.encode_image(pictures)
            outcomes.append(pipeline.decode(draw(pipeline, "ddim", [0, 1, 2, 3], init=init, strength=0.5)))
    finally:
        for network in networks.values():
            del network.to
    assert torch.equal(*outcomes)
    assert [name for name, _ in moved] == ["vae"] * 2 + ["text"] * 4 + ["unet"] * 2 + ["vae"] * 2


def test_decoded_pictures_survive_a_png(pipeline: Pipeline, latents: Tensor):
    images = pipeline.decode(latents)
    assert torch.equal(from_bytes(to_bytes(images)), images)


def test_infinity_of_the_vae_is_an_error_before_rounding_hides_it(
    pipeline: Pipeline, latents: Tensor, monkeypatch: pytest.MonkeyPatch
):
    def decode(z: Tensor) -> Tensor:
        return torch.stack([torch.zeros(3, 64, 64), torch.full((3, 64, 64), torch.inf)])

    monkeypatch.setattr(pipeline.model.vae, "decode", decode)
    with pytest.raises(NotFinite, match="the model returned NaN or infinity in the pictures") as caught:
        pipeline.decode(latents[:2])
    assert caught.value.rows == [1]
    assert caught.value.advice("float16") == "; in float16 networks may overflow, so try --dtype float32 or bfloat16"
    assert caught.value.advice("float32") == ""


def test_nan_of_the_unet_is_an_error(pipeline: Pipeline):
    cond = pipeline.encode([PROMPT]) * torch.nan
    with pytest.raises(NotFinite, match="the model returned NaN or infinity in the latents"):
        pipeline.sample(cond, cond, samplers.make("euler"), (1.0, 0.5, 0.0), guidance.make("none"), [0])
