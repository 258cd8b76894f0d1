"""Network parity: our networks agree with those of transformers and diffusers in float64, from one checkpoint."""

import pytest
import torch
from diffusers.models.embeddings import Timesteps
from references import (
    SMALL,
    checkpoint,
    our_text,
    our_unet,
    our_vae,
    relative_error,
    their_text,
    their_unet,
    their_vae,
)

from sdlab.model.config import SCENES, SD15
from sdlab.model.diffusion import timestep_embedding

EXACT = 1e-12  # rounding alone leaves about 2e-15


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module", params=[SMALL, SCENES], ids=lambda config: config.name)
def config(request):
    return request.param


@pytest.fixture(scope="module")
def weights(config):
    return checkpoint(config, torch.float64)


@pytest.fixture(scope="module")
def texts(weights, config):
    return our_text(weights, config), their_text(weights, config)


@pytest.fixture(scope="module")
def vaes(weights, config):
    return our_vae(weights, config), their_vae(weights, config)


@pytest.fixture(scope="module")
def unets(weights, config):
    return our_unet(weights, config), their_unet(weights, config)


@torch.no_grad()
@pytest.mark.parametrize("missing", [0, 1, 20])
def test_text_encoder(texts, config, missing):
    ours, theirs = texts
    vocabulary, length = config.text.vocab_size, config.text.context_length - missing
    tokens = torch.randint(vocabulary, (3, length), generator=torch.Generator().manual_seed(0))
    tokens[1, length // 2 :] = vocabulary - 1  # as a short prompt is padded
    assert relative_error(ours(tokens), theirs(tokens).last_hidden_state) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (64, 64), (56, 104), (72, 40)])
def test_vae_encoder(vaes, size):
    ours, theirs = vaes
    images = normal(2, 3, *size).clamp(-1, 1)
    posterior, wanted = ours.encode(images), theirs.encode(images).latent_dist
    assert relative_error(posterior.mean, wanted.mean) < EXACT
    assert relative_error(posterior.logvar, wanted.logvar) < EXACT
    noise = normal(*posterior.mean.shape, seed=2)
    assert relative_error(posterior.sample(noise), wanted.mean + wanted.std * noise) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (7, 13), (9, 5)])
def test_vae_decoder(vaes, config, size):
    ours, theirs = vaes
    z = normal(2, config.vae.latent_channels, *size)
    assert relative_error(ours.decode(z), theirs.decode(z).sample) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (8, 24), (12, 20), (10, 9), (7, 13), (1, 1)])
def test_unet_at_any_size(unets, config, size):
    """With v1.5, latents of 7 × 13 belong to a picture of 56 × 104: multiples of 8, not of 64."""
    ours, theirs = unets
    x, t = normal(3, config.unet.latent_channels, *size), torch.tensor([0.0, 407.0, 999.0])
    context = normal(3, 77, config.text.width, seed=2)
    assert relative_error(ours(x, t, context), theirs(x, t, context).sample) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("t", [0.0, 1.0, 0.25, 333.3, 998.75, 999.0])
def test_unet_at_any_timestep(unets, config, t):
    ours, theirs = unets
    x, context = normal(2, config.unet.latent_channels, 8, 16), normal(2, 11, config.text.width, seed=2)
    assert relative_error(ours(x, torch.tensor([t, t]), context), theirs(x, t, context).sample) < EXACT


def test_timesteps_are_embedded_bit_by_bit_as_in_the_reference():
    width, t = SD15.unet.width, torch.arange(0, 999, 0.25)
    assert torch.equal(timestep_embedding(t, width), Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)(t))
