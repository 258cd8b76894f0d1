"""Network parity at the full size of v1.5 in float32: one network at a time, on small pictures, within 9 GiB."""

import pytest
import torch
from references import checkpoint, our_text, our_unet, our_vae, relative_error, their_text, their_unet, their_vae

from sdlab.model.config import SD15

CLOSE = 2e-5  # rounding of float32 leaves 2e-6 to 4e-6
pytestmark = pytest.mark.slow


@torch.no_grad()
def test_text_encoder():
    weights = checkpoint(SD15, torch.float32, ["clip"])
    tokens = torch.randint(0, 49408, (2, 77), generator=torch.Generator().manual_seed(0))
    wanted = their_text(weights, SD15)(tokens).last_hidden_state
    assert relative_error(our_text(weights, SD15)(tokens), wanted) < CLOSE


@torch.no_grad()
def test_vae():
    weights = checkpoint(SD15, torch.float32, ["vae"])
    ours, theirs = our_vae(weights, SD15), their_vae(weights, SD15)
    images, z = torch.rand(1, 3, 64, 104) * 2 - 1, torch.randn(1, 4, 8, 13)
    posterior, wanted = ours.encode(images), theirs.encode(images).latent_dist
    assert relative_error(posterior.mean, wanted.mean) < CLOSE
    assert relative_error(posterior.logvar, wanted.logvar) < CLOSE
    assert relative_error(ours.decode(z), theirs.decode(z).sample) < CLOSE


@torch.no_grad()
def test_unet():
    weights = checkpoint(SD15, torch.float32, ["unet"])
    x, t, context = torch.randn(1, 4, 32, 32), torch.tensor([481.0]), torch.randn(1, 77, 768)
    wanted = their_unet(weights, SD15)(x, t, context).sample
    assert relative_error(our_unet(weights, SD15)(x, t, context), wanted) < CLOSE
