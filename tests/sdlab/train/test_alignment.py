"""Alignment losses of the U-Net: with features of the clean picture, and of predicted pictures with captions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from training import QUIET, TINY, keys, write

from sdlab.model.clip import Clip
from sdlab.model.diffusion import Unet
from sdlab.model.encoder import Encoder
from sdlab.system.errors import UsageError
from sdlab.train import run
from sdlab.train.learner import Learner
from sdlab.train.losses.alignment import FEATURES, alignment_loss
from sdlab.train.losses.text_alignment import text_alignment_loss
from sdlab.train.stages.unet import UnetStage
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.weights.model_folder import load_part, read_config, save_config, save_part


def learn(stage: str, folder: Path, **changes: object) -> None:
    run(stage, write(folder / f"{stage}.toml", stage, keys(folder, out=folder / stage, **changes)), QUIET)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the U-Net stage needs."""
    folder = tmp_path_factory.mktemp("ready")
    save_config(folder / "model", TINY)
    for stage in ("text", "vae", "clip"):
        learn(stage, folder)
    return folder


def stage(folder: Path, **changes: object) -> UnetStage:
    return UnetTraining(**keys(folder, **changes)).build()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(len(shape)))


def test_named_points_of_the_networks():
    unet, encoder = Unet(TINY.unet), Encoder(TINY.vae)
    for p in (*unet.parameters(), *encoder.parameters()):
        p.data += 0.1 * torch.randn(p.shape, generator=seeded())
    x, t, context = noise(2, 4, 16, 16), torch.tensor([3.0, 500.0]), noise(2, 24, 16)
    middle, prediction = unet.points(x, t, context)
    assert prediction.equal(unet(x, t, context))
    assert middle.shape == (2, TINY.unet.widths[-1], 8, 8)
    seen: list[Tensor] = []
    unet.middle[-1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    unet(x, t, context)
    assert middle.equal(seen[0])
    images = noise(2, 3, 64, 64)
    features = encoder.features(images)
    assert features.shape == (2, TINY.vae.widths[-1], 16, 16)
    assert encoder.conv_out(F.silu(encoder.norm_out(features))).equal(encoder(images))


def test_the_alignment_loss_is_one_minus_the_cosine_of_each_position():
    features, projected = noise(2, 5, 8, 8), noise(2, 5, 4, 4)
    pooled = features.view(2, 5, 4, 2, 4, 2).mean((3, 5))
    cosines = [
        (projected[b, :, i, j] @ pooled[b, :, i, j]) / (projected[b, :, i, j].norm() * pooled[b, :, i, j].norm())
        for b in range(2)
        for i in range(4)
        for j in range(4)
    ]
    torch.testing.assert_close(alignment_loss(projected, features), 1 - torch.stack(cosines).mean())
    torch.testing.assert_close(alignment_loss(3 * pooled, features), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(alignment_loss(-pooled, features), torch.tensor(2.0))


@pytest.mark.slow
def test_without_options_the_loss_is_bit_for_bit_the_error_of_v(ready: Path):
    """The order in which the generator is used is part of it: captions, dropped captions, timesteps, noise."""
    plain = stage(ready, batch=8)
    plain.unet.conv_out.weight.data = noise(4, 8, 3, 3)
    (loss,) = plain.losses(0, plain.draw(seeded(5)))
    generator = seeded(5)
    batch = plain.draw.source.batch(8, generator)
    x0 = plain._encode(batch.images())
    captions = batch.captions(generator)
    dropped = torch.rand(8, generator=generator) < 0.1
    shares = (torch.arange(8) + torch.rand(8, generator=generator)) / 8
    t = (shares * 1000).long()
    table = torch.tensor(TINY.noise_schedule().sigmas, dtype=torch.float64)
    alpha = (1 + table.square()).rsqrt().float()[t].view(-1, 1, 1, 1)
    spread = (table * (1 + table.square()).rsqrt()).float()[t].view(-1, 1, 1, 1)
    eps = torch.randn(x0.shape, generator=generator)
    context = plain.text(plain.tokenizer(["" if d else c for d, c in zip(dropped, captions, strict=True)]))
    predicted = plain.unet(alpha * x0 + spread * eps, t, context)
    assert loss.value.equal(F.mse_loss(predicted, alpha * eps - spread * x0))
    assert loss.parts == {}
    other = stage(ready, batch=8, alignment={"features": "latents"})
    (aligned,) = other.losses(0, other.draw(seeded(5)))
    (same,) = stage(ready, batch=8).losses(0, other.draw(seeded(5)))
    torch.testing.assert_close(aligned.value - 0.5 * aligned.parts["alignment"], same.value)


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.slow
def test_the_middle_is_aligned_and_the_frozen_networks_stay(ready: Path, features: str):
    aligned = stage(ready, batch=8, alignment={"features": features, "hidden": 32})
    module = aligned.trained["unet"].module
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    found = []
    for _ in range(25):
        (loss,) = aligned.losses(0, aligned.draw(seeded(1)))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        found.append(float(loss.parts["alignment"].detach()))
    assert found[-1] < 0.7 * found[0]
    assert all(p.grad is None for p in (*aligned.vae.parameters(), *aligned.text.parameters()))


@pytest.mark.slow
def test_the_projector_is_checkpointed_and_the_unet_alone_is_stored(ready: Path):
    aligned = stage(ready, alignment={"features": "vae", "hidden": 8})
    trained = aligned.trained["unet"]
    names = {name.partition(".")[0] for name in Learner(trained, aligned.config).state_dict()["module"]}
    assert names == {"unet", "projector"}
    assert trained.stored is aligned.unet
    save_part(ready / "unet.safetensors", trained.stored)
    load_part(ready / "unet.safetensors", lambda: Unet(TINY.unet))  # refuses any other tensor


@pytest.mark.parametrize("table", ["alignment", "text_alignment"])
@pytest.mark.slow
def test_an_untrained_vision_encoder_is_a_usage_error(ready: Path, tmp_path: Path, table: str):
    shutil.copytree(ready / "model", tmp_path / "model")
    config = read_config(ready / "model")
    save_part(tmp_path / "model" / "clip.safetensors", Clip(config.text, TINY.vision))  # as the text stage leaves it
    message = rf"`{table}` needs a vision encoder, but that of .*clip\.safetensors is untrained; run the clip stage"
    with pytest.raises(UsageError, match=message):
        stage(tmp_path, **{table: {"weight": 1.0}})


def test_the_reader_is_not_among_the_features():
    with pytest.raises(ValueError, match="Input should be 'clip', 'vae' or 'latents'"):
        UnetTraining(out="x", steps=1, batch=1, lr=1, alignment={"features": "evaluator"})


def test_the_gradient_of_text_alignment_raises_the_score():
    torch.manual_seed(0)
    clip = Clip(TINY.text, TINY.vision).eval()
    pictures = noise(3, 3, 64, 64).clamp(-1, 1).requires_grad_()
    tokens = torch.randint(1, 600, (3, 24), generator=seeded())

    def score() -> Tensor:
        return (clip.embed_image(pictures) * clip.embed_text(tokens)).sum(1).mean()

    before = float(score().detach())
    loss = text_alignment_loss(clip, pictures, tokens)
    assert float(loss.detach()) == pytest.approx(1 - before, abs=1e-6)
    [gradient] = torch.autograd.grad(loss, pictures)
    pictures.data -= 0.5 * gradient / gradient.abs().max()
    assert float(score().detach()) > before + 0.01


@pytest.mark.slow
def test_text_alignment_applies_to_captions_at_low_noise_levels(ready: Path):
    chosen = stage(ready, batch=16, drop_caption=0.4, text_alignment={"weight": 2.0, "below": 1.5})
    example = chosen.draw(seeded(4))
    latents = chosen._latents(example)
    predicted = noise(*latents[0].shape).requires_grad_()
    [gradient] = torch.autograd.grad(chosen._text_alignment(example, *latents, predicted, 1.5), predicted)
    applies = (example.sigma < 1.5) & ~example.dropped
    assert 0 < applies.sum() < 16
    assert gradient.flatten(1).any(1).equal(applies)
    (loss,) = chosen.losses(0, example)
    (plain,) = stage(ready, batch=16, drop_caption=0.4).losses(0, example)
    torch.testing.assert_close(loss.value, plain.value + 2 * loss.parts["text_alignment"])
    assert chosen._text_alignment(example, *latents, predicted, below=1e-6) == 0
