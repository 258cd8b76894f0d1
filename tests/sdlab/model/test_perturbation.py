"""Perturbed passes of the U-Net, held to a plain implementation, and mixed with plain ones in a batch."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from perturbations import CONFIGS, PERTURBATIONS, SMALL, PlainTransformer, inputs, small_unet
from torch import nn

from sdlab.guidance.nag import ContrastedAttention
from sdlab.guidance.pag import IdentityAttention
from sdlab.guidance.seg import BlurredQueries
from sdlab.guidance.tsg import NoisyTime
from sdlab.model.config import SCENES, SD15
from sdlab.model.diffusion import Unet
from sdlab.model.perturbation import Perturbation
from sdlab.model.place import Place

EACH = pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda one: type(one).__name__)


def expected(unet: Unet, perturbation: Perturbation, x, t, context, negative):
    """The pass with the named transformers replaced by `PlainTransformer`."""
    copy = deepcopy(unet)
    for stage in copy.stages():
        if stage.transformer is not None and not set(stage.names).isdisjoint(perturbation.layers):
            plain: nn.Module = PlainTransformer(stage.transformer, perturbation, negative, stage.names[0])
            stage.transformer = plain  # type: ignore[assignment]
    return copy(x, t, context)


@EACH
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("layers", [("auto",), ("all",), ("m0", "u1")], ids=str)
def test_a_perturbed_pass_is_the_one_of_the_paper(perturbation, name, layers):
    config, one = CONFIGS[name], replace(perturbation, layers=layers)
    if not config.layers.keys() >= set(layers):
        pytest.skip("no such transformer")
    unet, (x, t, context, negative) = small_unet(config), inputs(2, config)
    got = unet(x, t, context, [one, one], negative)
    torch.testing.assert_close(got, expected(unet, one, x, t, context, negative), rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("layer", SMALL.transformers)
def test_a_perturbation_changes_the_prediction_in_every_transformer(perturbation, layer):
    unet, (x, t, context, negative) = small_unet(), inputs(1)
    plain, got = unet(x, t, context), unet(x, t, context, [replace(perturbation, layers=(layer,))], negative)
    assert (got - plain).norm() > 1e-3 * plain.norm()


def test_each_row_of_a_mixed_batch_is_the_row_alone():
    rows = [None, *PERTURBATIONS, None, *(replace(one, layers=("down", "u2")) for one in PERTURBATIONS)]
    unet, (x, t, context, negative) = small_unet(), inputs(len(rows))
    got = unet(x, t, context, rows, negative)
    for i, one in enumerate(rows):
        at = slice(i, i + 1)
        alone = (
            unet(x[at], t[at], context[at], [one], negative[at]) if one is not None else unet(x[at], t[at], context[at])
        )
        torch.testing.assert_close(got[at], alone, rtol=1e-9, atol=1e-9)
    assert torch.equal(got[[0]], unet(x, t, context)[[0]])


def test_a_call_without_perturbations_is_the_plain_call():
    unet, (x, t, context, negative) = small_unet(), inputs(2)
    assert torch.equal(unet(x, t, context, [None, None], negative), unet(x, t, context))


@EACH
def test_gradients_pass_through_a_perturbation(perturbation):
    unet, (x, t, context, negative) = small_unet(), inputs(1)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(unet(x, t, context, [perturbation], negative).square().sum(), x)
    assert gradient.isfinite().all()
    step = 1e-6 * torch.randn_like(x)
    ends = [unet(x + sign * step, t, context, [perturbation], negative).square().sum() for sign in (1, -1)]
    torch.testing.assert_close((ends[0] - ends[1]) / 2, (gradient * step).sum(), rtol=1e-5, atol=1e-12)


def test_noise_on_the_timestep_embedding_reaches_every_residual_block():
    unet, (x, t, context, _) = small_unet(), inputs(2)
    noisy, copy = NoisyTime(key="a", seed=7, size=0.8), deepcopy(unet)
    last = copy.time_embed[2]
    last.register_forward_hook(lambda *args: noisy.change(args[2], args[2], Place()))
    torch.testing.assert_close(unet(x, t, context, [noisy, noisy]), copy(x, t, context), rtol=1e-9, atol=1e-9)


def test_noise_on_the_timestep_embedding_is_relative_to_its_size():
    states = torch.tensor([[1.0], [30.0]]).double() * torch.randn(2, 20000).double()
    change = NoisyTime(key="a", size=0.5).change(states, states, Place()) - states
    ratios = change.square().mean(1).sqrt() / states.square().mean(1).sqrt()
    torch.testing.assert_close(ratios, torch.full((2,), 0.5).double(), rtol=4 / 200, atol=0)  # 4 standard errors
    torch.testing.assert_close(change.mean(1) / states.std(1), torch.zeros(2).double(), rtol=0, atol=0.5 * 4 / 141)
    again = NoisyTime(key="a", seed=1, size=0.5).change(states, states, Place()) - states
    assert torch.corrcoef(torch.stack([change[0], again[0]]))[0, 1].abs() < 4 / 141


def test_a_blur_of_zero_changes_nothing_and_a_large_one_is_the_mean():
    unet, (x, t, context, _) = small_unet(), inputs(1)
    ends = {blur: unet(x, t, context, [BlurredQueries(("all",), blur)]) for blur in (0.0, 35.0, 1e9, float("inf"))}
    torch.testing.assert_close(ends[0.0], unet(x, t, context), rtol=1e-12, atol=1e-12)
    for blur in (35.0, 1e9):
        torch.testing.assert_close(ends[blur], ends[float("inf")], rtol=1e-8, atol=1e-8)


def test_names_of_transformers():
    assert SCENES.unet.transformers == ("d0", "d1", "m0", "u0", "u1", "u2", "u3")
    assert SD15.unet.transformers == (*(f"d{i}" for i in range(6)), "m0", *(f"u{i}" for i in range(9)))
    assert CONFIGS["middle only"].transformers == ("m0",)
    with torch.device("meta"):
        for config in (*CONFIGS.values(), SD15.unet):
            named = [stage.names[0] for stage in Unet(config).stages() if stage.transformer is not None]
            assert tuple(named) == config.transformers


def test_names_of_several_transformers():
    assert SD15.unet.layers["auto"] == SD15.unet.layers["middle"] == ("m0",)
    assert SD15.unet.layers["down"] == tuple(f"d{i}" for i in range(6))
    assert SD15.unet.layers["all"] == SD15.unet.transformers
    assert SCENES.unet.layers["auto"] == ("u2",)  # the first of two with the tokens of the finest level
    assert CONFIGS["three levels"].layers["auto"] == ("u3",)
    assert CONFIGS["middle only"].layers == {"m0": ("m0",), "auto": ("m0",), "middle": ("m0",), "all": ("m0",)}


@pytest.fixture(scope="module")
def sd15():
    """Without weights."""
    with torch.device("meta"):
        return Unet(SD15.unet)


@EACH
def test_sd15_can_be_perturbed_in_its_middle_block(sd15, perturbation):
    with torch.device("meta"):
        context = torch.empty(2, 77, 768)
        assert sd15(torch.empty(2, 4, 64, 64), torch.empty(2), context, [perturbation, None], context).shape[1] == 4


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            ("midle",),
            r"unknown layer 'midle' \(did you mean 'middle'\?\); known: all, auto, d0, d1, down, m0, middle, u0",
        ),
        (("m0", "d7"), r"unknown layer 'd7'.*; known: all, auto, d0, d1, down, m0"),
    ],
)
def test_an_unknown_layer_is_an_error_and_not_a_plain_pass(layers, message):
    unet, (x, t, context, _) = small_unet(), inputs(1)
    with pytest.raises(ValueError, match=message):
        unet(x, t, context, [IdentityAttention(layers)])


def test_what_else_is_refused():
    unet, (x, t, context, _) = small_unet(), inputs(1)
    with pytest.raises(ValueError, match="ContrastedAttention needs negative contexts"):
        unet(x, t, context, [ContrastedAttention()])
    with pytest.raises(ValueError, match="layers must name at least one transformer"):
        IdentityAttention(())
    with pytest.raises(ValueError, match="unknown layer 'down'"):
        small_unet(CONFIGS["middle only"])(x, t, context, [IdentityAttention(("down",))])
