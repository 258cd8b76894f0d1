"""The call that makes a model faster: what it changes, what it leaves alone, and that a pipeline changes nothing."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from perturbations import PERTURBATIONS
from torch import nn

from sdlab.cpu import attention as cpu_attention
from sdlab.cpu.compiled import is_compiled
from sdlab.cpu.optimise import optimise_for_inference, optimise_network
from sdlab.cpu.pack import is_packed
from sdlab.cpu.packed import can_pack
from sdlab.model import attention
from sdlab.model.config import SCENES
from sdlab.model.stable_diffusion import StableDiffusion
from sdlab.pipeline import Pipeline
from sdlab.weights.model_loader import load

CPU = torch.device("cpu")
FAST = [
    pytest.param(dtype, marks=pytest.mark.skipif(not can_pack(CPU, dtype), reason=f"no fast {dtype} here"))
    for dtype in (torch.float32, torch.bfloat16)
]


def attention_of(network: nn.Module) -> set[attention.Attend]:
    found = (attention.Attention, attention.SpatialAttention)
    return {part.attend for part in network.modules() if isinstance(part, found)}


def layers(model: StableDiffusion) -> list[nn.Module]:
    return [part for network in (model.unet, model.vae) for part in network.modules()]


def picture(model: StableDiffusion) -> torch.Tensor:
    pipeline = Pipeline(model)
    context = pipeline.encode(["a red circle"])
    x0 = pipeline.denoiser(torch.ones(1, *model.config.latent_shape), 2.0, context)
    return pipeline.decode(x0)


@pytest.mark.parametrize("dtype", FAST)
def test_unet_and_vae_are_packed_and_their_attention_is_swapped(dtype: torch.dtype):
    model = load("scenes", dtype=dtype)
    optimise_for_inference(model)
    for network in (model.unet, model.vae):
        assert is_packed(network)
        assert attention_of(network) == {cpu_attention.attend}
    assert not is_packed(model.text)
    assert attention_of(model.text) == {attention.attend}


@torch.inference_mode()
@pytest.mark.parametrize("dtype", FAST)
def test_a_perturbed_pass_stays_the_same(dtype: torch.dtype):
    plain = load("scenes", dtype=dtype).unet
    fast, exact = deepcopy(plain), deepcopy(plain).double()
    optimise_network(fast, CPU, dtype)
    rows = [None, *(replace(one, layers=("all",)) for one in PERTURBATIONS)]
    torch.manual_seed(0)
    x = torch.randn(len(rows), *SCENES.latent_shape)
    t, contexts = torch.linspace(100, 900, len(rows)), torch.randn(2, len(rows), 24, SCENES.unet.context_width)
    want = exact(x, t, contexts[0], rows, contexts[1])
    errors = [(u(x, t, contexts[0], rows, contexts[1]) - want).flatten(1).norm(dim=1) for u in (plain, fast)]
    assert (errors[1] < 2 * errors[0] + 1e-6 * want.flatten(1).norm(dim=1)).all()


@torch.inference_mode()
def test_the_picture_stays_the_same():
    plain = load("scenes")
    fast = deepcopy(plain)
    optimise_for_inference(fast)
    torch.testing.assert_close(picture(fast), picture(plain), rtol=0, atol=2 / 255 + 1e-6)  # one level of a byte


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this PyTorch cannot pack")
def test_a_second_call_changes_nothing():
    model = load("scenes")
    optimise_for_inference(model)
    once = layers(model)
    optimise_for_inference(model)
    optimise_for_inference(model, compile=True)
    assert layers(model) == once
    assert not is_compiled(model.unet)


def test_other_devices_and_dtypes_are_left_alone():
    assert not can_pack(torch.device("cuda"), torch.float32)
    assert not can_pack(CPU, torch.float64)
    model = load("scenes", dtype=torch.float64)
    before = layers(model)
    optimise_for_inference(model)
    assert layers(model) == before
    assert attention_of(model.unet) == {attention.attend}


@pytest.mark.skipif(not can_pack(CPU, torch.float32), reason="this PyTorch cannot pack")
def test_a_compiled_unet_is_not_packed(monkeypatch: pytest.MonkeyPatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: compiled.append(options) or call)
    model = load("scenes")
    optimise_for_inference(model, compile=True)
    optimise_for_inference(model)
    assert compiled == [{"options": {"freezing": True}, "dynamic": False}]
    assert (is_packed(model.unet), is_packed(model.vae)) == (False, True)
    assert attention_of(model.unet) == {attention.attend}


def test_a_pipeline_changes_nothing_in_its_model():
    model = load("scenes")
    before, state = layers(model), {key: t.clone() for key, t in model.unet.state_dict().items()}
    picture(model)
    Pipeline(model, offload="cpu", tiles="always")
    assert layers(model) == before
    assert attention_of(model.unet) | attention_of(model.vae) == {attention.attend}
    assert all(torch.equal(t, state[key]) for key, t in model.unet.state_dict().items())
