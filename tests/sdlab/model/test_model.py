"""The networks: the checkpoint's names and shapes, the formulas of the papers, and training from scratch."""

import gzip
import json
from dataclasses import replace
from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdlab.model.attention import Attention, FeedForward, SpatialAttention, SpatialTransformer, attend
from sdlab.model.blocks import Downsample, ResidualBlock, Upsample
from sdlab.model.clip import Clip, ClipText, quick_gelu
from sdlab.model.config import SCENES, SD15, ModelConfig
from sdlab.model.diffusion import Unet, timestep_embedding
from sdlab.model.noise_schedule import EdmLevels, FlowLevels
from sdlab.model.vae import DiagonalGaussian, Vae
from sdlab.system.errors import UsageError
from sdlab.weights import layout_original as original

LENGTH = SCENES.text.context_length
KEYS = json.loads(gzip.decompress((Path(__file__).parents[2] / "data" / "sd15_keys.json.gz").read_bytes()))
BUILD = {
    "clip": lambda config: ClipText(config.text),
    "vae": lambda config: Vae(config.vae),
    "unet": lambda config: Unet(config.unet),
}


def shapes(part, config):
    with torch.device("meta"):
        return {key: list(t.shape) for key, t in BUILD[part](config).state_dict().items()}


def shaken(module):
    """The network away from its zero initialisation, so that each path carries a signal."""
    for p in module.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return module.eval()


# Names and shapes


@pytest.mark.parametrize(("part", "count"), [("clip", 196), ("vae", 248), ("unet", 686)])
def test_sd15_has_exactly_the_tensors_of_the_checkpoint(part, count):
    renamed = [(original.rename(key), shape) for key, (shape, _) in KEYS.items()]
    theirs = [(target[1], shape) for target, shape in renamed if target and target[0] == part]
    assert len(theirs) == count
    assert dict(theirs) == shapes(part, SD15)


def test_every_other_key_of_the_checkpoint_is_ignored_by_name():
    ignored = [key for key in KEYS if original.rename(key) is None]
    assert len(KEYS) - len(ignored) == 196 + 248 + 686
    assert sum("position_ids" in key for key in ignored) == 1
    assert not any(".weight" in key or ".bias" in key for key in ignored)


def test_an_unknown_key_of_a_network_is_not_ignored():
    for key in ("model.diffusion_model.label_emb.0.0.weight", "first_stage_model.quantize.embedding.weight"):
        with pytest.raises(KeyError, match=key):
            original.rename(key)


@pytest.mark.parametrize(("part", "parameters"), [("clip", 123060480), ("vae", 83653863), ("unet", 859520964)])
def test_sd15_parameter_counts_are_the_published_ones(part, parameters):
    assert sum(torch.Size(shape).numel() for shape in shapes(part, SD15).values()) == parameters


def test_group_norm_epsilons():
    with torch.device("meta"):
        vae, unet = Vae(SD15.vae), Unet(SD15.unet)
    assert {m.eps for m in vae.modules() if isinstance(m, nn.GroupNorm)} == {1e-6}
    inside = {id(m.norm) for m in unet.modules() if isinstance(m, SpatialTransformer)}
    norms = [m for m in unet.modules() if isinstance(m, nn.GroupNorm)]
    assert {m.eps for m in norms if id(m) in inside} == {1e-6}
    assert {m.eps for m in norms if id(m) not in inside} == {1e-5}
    assert len(inside) == 16


def test_scenes_unet_costs_what_a_cpu_can_afford():
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Unet(SCENES.unet)(torch.empty(1, *SCENES.latent_shape), torch.empty(1), torch.empty(1, LENGTH, 128))
    assert 0.15e9 < counter.get_total_flops() / 2 < 0.25e9


# Formulas


def test_timestep_embedding_is_cosines_then_sines():
    got = timestep_embedding(torch.tensor([0.0, 7.25]), 320)
    frequencies = [10000 ** (-i / 160) for i in range(160)]
    want = torch.tensor([[f(7.25 * w) for f in (torch.cos, torch.sin) for w in map(torch.tensor, frequencies)]])
    torch.testing.assert_close(got[1:], want)
    assert got[0].tolist() == [1.0] * 160 + [0.0] * 160


def test_attention_is_the_softmax_average_of_each_head():
    q, k, v = torch.randn(2, 5, 12), torch.randn(2, 7, 12), torch.randn(2, 7, 12)
    heads = []
    for h in range(3):
        part = slice(4 * h, 4 * h + 4)
        scores = q[..., part] @ k[..., part].mT / sqrt(4)
        heads.append(scores.softmax(-1) @ v[..., part])
    torch.testing.assert_close(attend(q, k, v, heads=3), torch.cat(heads, -1))


def test_biases_of_the_attention_projections():
    plain, clip = Attention(8, 2, context_width=6), Attention(8, 2, qkv_bias=True)
    assert plain.query.bias is None
    assert plain.key.bias is None
    assert plain.value.bias is None
    assert plain.out.bias is not None
    assert plain.key.weight.shape == (8, 6)
    assert clip.query.bias is not None


def test_feed_forward_gates_its_first_half_by_the_gelu_of_its_second():
    f, x = FeedForward(4), torch.randn(2, 3, 4)
    h = x @ f.value_and_gate.weight.T + f.value_and_gate.bias
    gate = 0.5 * h[..., 16:] * (1 + torch.erf(h[..., 16:] / sqrt(2)))
    torch.testing.assert_close(f(x), f.out(h[..., :16] * gate))


def test_quick_gelu():
    assert quick_gelu(torch.tensor(2.0)).item() == pytest.approx(2 / (1 + exp(-1.702 * 2)))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_downsampling_reads_the_pixels_that_its_padding_implies(asymmetric):
    down, x = Downsample(1, asymmetric), torch.arange(64.0).reshape(1, 1, 8, 8)
    for row in range(3):
        for column in range(3):
            nn.init.zeros_(down.conv.weight)
            nn.init.zeros_(down.conv.bias)
            down.conv.weight.data[0, 0, row, column] = 1
            padded = F.pad(x, (0, 1, 0, 1) if asymmetric else (1, 1, 1, 1))
            assert torch.equal(down(x), padded[:, :, row : row + 8 : 2, column : column + 8 : 2][:, :, :4, :4])


def test_upsampling_repeats_pixels():
    up, x = Upsample(1), torch.randn(1, 1, 2, 2)
    nn.init.zeros_(up.conv.weight)
    nn.init.zeros_(up.conv.bias)
    up.conv.weight.data[0, 0, 1, 1] = 1
    torch.testing.assert_close(up(x), x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_kl_and_samples_of_the_posterior():
    gaussian = DiagonalGaussian.from_moments(torch.randn(3, 8, 2, 2))
    std = (gaussian.logvar / 2).exp()
    normal = torch.distributions.Normal(gaussian.mean, std)
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(gaussian.kl(), kl.sum((1, 2, 3)))
    noise = torch.randn(3, 4, 2, 2)
    torch.testing.assert_close(gaussian.sample(noise), gaussian.mean + std * noise)


def test_log_variance_is_clamped():
    moments = torch.tensor([0.0, 0.0, -1000.0, 1000.0]).reshape(1, 4, 1, 1)
    assert DiagonalGaussian.from_moments(moments).logvar.flatten().tolist() == [-30.0, 20.0]


# The text and the vision tower


def test_text_attention_is_causal():
    text = shaken(ClipText(SCENES.text))
    tokens = torch.randint(0, 1024, (1, LENGTH))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 1024
    with torch.no_grad():
        before, after = text(tokens), text(changed)
    torch.testing.assert_close(before[:, :12], after[:, :12])
    assert (before[:, 12] - after[:, 12]).abs().max() > 1e-3


def test_text_embedding_is_read_at_the_first_end_token():
    clip = shaken(Clip(SCENES.text, SCENES.vision))
    tokens = torch.full((1, LENGTH), 1023)
    tokens[0, :4] = torch.tensor([1022, 5, 6, 7])
    tail = tokens.clone()
    tail[0, 9:-1] = 3
    with torch.no_grad():
        torch.testing.assert_close(clip.embed_text(tokens), clip.embed_text(tail))


def test_clip_scores_are_scaled_cosines():
    clip = Clip(SCENES.text, SCENES.vision).eval()
    images, tokens = torch.randn(2, 3, 64, 64), torch.randint(0, 1024, (3, LENGTH))
    with torch.no_grad():
        a, b, scores = clip.embed_image(images), clip.embed_text(tokens), clip(images, tokens)
    torch.testing.assert_close(a.norm(dim=1), torch.ones(2))
    assert clip.log_scale.item() == pytest.approx(log(1 / 0.07))
    torch.testing.assert_close(scores, (a @ b.T) / 0.07)


# Training from scratch


def test_residual_branches_start_at_zero():
    x = torch.randn(2, 16, 8, 8)
    assert torch.equal(ResidualBlock(16, 16, 8, 1e-5, time_width=4)(x, torch.randn(2, 4)), x)
    assert torch.equal(SpatialAttention(16, 8)(x), x)
    assert torch.equal(SpatialTransformer(16, 4, 6, 8)(x, torch.randn(2, 3, 6)), x)


def trained_parts():
    def unet():
        m = shaken(Unet(SCENES.unet))
        x, t, context = torch.randn(2, *SCENES.latent_shape), torch.tensor([3.0, 700.5]), torch.randn(2, LENGTH, 128)
        return m, m(x, t, context).square().mean()

    def vae():
        m = shaken(Vae(SCENES.vae))
        image, posterior = m(torch.randn(2, 3, 64, 64), torch.randn(2, *SCENES.latent_shape))
        return m, image.square().mean() + posterior.kl().mean()

    def clip():
        m = shaken(Clip(SCENES.text, SCENES.vision))
        scores = m(torch.randn(2, 3, 64, 64), torch.randint(0, 1024, (2, LENGTH)))
        return m, F.cross_entropy(scores, torch.arange(2))

    return [unet, vae, clip]


@pytest.mark.parametrize("part", trained_parts(), ids=lambda f: f.__name__)
def test_a_gradient_reaches_every_parameter(part):
    module, loss = part()
    loss.backward()
    # A key's bias shifts all scores of a query alike, which the softmax forgets: its gradient is zero.
    exempt = "key.bias"
    dead = [n for n, p in module.named_parameters() if not n.endswith(exempt) and not p.grad.abs().max() > 0]
    assert dead == []


def test_unet_learns_its_way_out_of_the_zeros_it_starts_with():
    torch.manual_seed(0)
    unet = Unet(replace(SCENES.unet, width=24))
    x, t, context = torch.randn(2, *SCENES.latent_shape), torch.rand(2) * 999, torch.randn(2, LENGTH, 128)
    assert not unet(x, t, context).any()
    adam = torch.optim.Adam(unet.parameters(), 1e-3)
    losses = []
    for _ in range(30):
        loss = (unet(x, t, context) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# What users of the networks rely on


def test_an_image_does_not_depend_on_its_batch():
    unet = shaken(Unet(SCENES.unet))
    x, t, context = torch.randn(3, *SCENES.latent_shape), torch.tensor([1.0, 2.0, 3.0]), torch.randn(3, LENGTH, 128)
    with torch.no_grad():
        torch.testing.assert_close(unet(x, t, context)[1:2], unet(x[1:2], t[1:2], context[1:2]), atol=1e-5, rtol=1e-4)


def test_time_and_context_matter_to_each_image():
    unet = shaken(Unet(SCENES.unet))
    x, t, context = torch.randn(1, *SCENES.latent_shape), torch.tensor([500.0]), torch.randn(1, LENGTH, 128)
    with torch.no_grad():
        base = unet(x, t, context)
        assert (unet(x, t + 0.5, context) - base).abs().max() > 1e-5
        assert (unet(x, t, -context) - base).abs().max() > 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_format_and_dtype_of_the_weights_change_nothing_but_rounding(dtype):
    unet, vae = shaken(Unet(SCENES.unet)), shaken(Vae(SCENES.vae))
    x, t, context = torch.randn(2, *SCENES.latent_shape), torch.tensor([10.0, 900.0]), torch.randn(2, LENGTH, 128)
    images = torch.rand(2, 3, 64, 64) * 2 - 1

    def outputs():
        return [unet(x, t, context).float(), vae.encode(images).mean, vae.decode(x).float()]

    with torch.no_grad():
        want = outputs()
        unet.to(dtype, memory_format=torch.channels_last)
        vae.to(dtype, memory_format=torch.channels_last)
        got = outputs()
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < (1e-4 if dtype == torch.float32 else 0.05) * b.norm()


def test_latents_are_scaled_in_one_place():
    vae = Vae(replace(SCENES.vae, scale=0.5, shift=3.0))
    z = torch.randn(1, 8, 2, 2)
    torch.testing.assert_close(vae.to_latents(z), (z - 3) * 0.5)
    torch.testing.assert_close(vae.from_latents(vae.to_latents(z)), z)


# Configurations


@pytest.mark.parametrize(
    "config",
    [
        SD15,
        SCENES,
        replace(SD15, name="flow", levels=FlowLevels(t_max=0.99), prediction="flow"),
        replace(SD15, name="edm", levels=EdmLevels(sigma_data=0.5), prediction="edm"),
    ],
    ids=lambda c: c.name,
)
def test_configuration_survives_json(config):
    assert ModelConfig.from_json(config.to_json()) == config


def test_latent_shapes():
    assert SD15.latent_shape == (4, 64, 64)
    assert SCENES.latent_shape == (4, 16, 16)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"groups"', '"gruops"', "x.json: vae.gruops: unknown key (did you mean 'groups'?)"),
        ('"heads": 8', '"heads": 7', "x.json: unet: UnetConfig.heads must divide the width 320, got 7"),
        ('"eps"', '"x"', "x.json: prediction: Input should be 'eps', 'v', 'x0', 'flow' or 'edm'"),
        ('"betas"', '"beats"', "x.json: levels.beats: unknown key (did you mean 'betas'?)"),
        ('"betas"', '"kind": "flwo", "betas"', "x.json: levels: unknown kind 'flwo'; known: 'table', 'flow', 'edm'"),
        ('"betas"', '"kind": "flow", "betas"', "x.json: levels.betas: unknown key"),
        ('"zero_snr": false', '"zero_snr": true', "x.json: ModelConfig.prediction cannot be 'eps' if levels end in"),
        ('"eps"', '"edm"', "x.json: ModelConfig.prediction 'edm' needs levels with kind 'edm'"),
        ('"width": 320', '"width": "320"', "x.json: unet.width: Input should be a valid integer"),
        ('"context_width": 768', '"context_width": 8', "x.json: ModelConfig.unet.context_width must equal text.width"),
        ('"image_size": 512', '"image_size": 500', "x.json: ModelConfig.image_size must be a multiple of 64, got 500"),
        ("{", "", "x.json: Invalid JSON"),
    ],
)
def test_a_mistake_in_a_configuration_is_reported(old, new, message):
    text = SD15.to_json()
    assert old in text
    with pytest.raises(UsageError) as error:
        ModelConfig.from_json(text.replace(old, new, 1), source="x.json")
    assert str(error.value).startswith(message)
