"""Queries whose input is made from earlier predictions, and self-attention guidance."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from perturbations import inputs, small_unet, softmax_attention
from scipy.ndimage import gaussian_filter
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.denoiser import NetworkDenoiser
from sdlab.guidance import Found, Guided, Input, Level, Query, State
from sdlab.guidance.needs import Offer, lacking, needed
from sdlab.model.attention_maps import AttentionMaps
from sdlab.model.diffusion import Unet
from sdlab.model.parametrisation import Eps
from sdlab.sweep.pass_clock import PassClock

UNET = small_unet()
MODEL = NetworkDenoiser(UNET, samplers.discrete_levels(), Eps())
SIGMA = 1.7
X, T, COND, UNCOND = inputs(4)
CONTEXTS = {"cond": COND, "uncond": UNCOND}


def eps(x: Tensor, context: Tensor, sigma: float = SIGMA) -> Tensor:
    return (x - MODEL(x, sigma, context)) / sigma


def hand_made_map(unet: Unet, x: Tensor, t: Tensor, context: Tensor, name: str) -> Tensor:
    """The attention that each position of a transformer receives: the gradient of the output by its value."""
    (stage,) = [one for one in unet.stages() if one.names[:1] == (name,)]
    assert stage.transformer is not None
    attention, seen = stage.transformer.block.self_attention, list[Tensor]()
    handle = attention.register_forward_hook(lambda _, given, __: seen.append(given[0]))
    size = list[tuple[int, int]]()
    other = stage.transformer.register_forward_hook(lambda _, given, __: size.append(tuple(given[0].shape[2:])))
    unet(x, t, context)
    handle.remove()
    other.remove()
    (tokens,) = seen
    values = torch.eye(tokens.shape[1], dtype=torch.float64)[None].expand(len(x), -1, -1)

    class Values(torch.nn.Module):
        heads, query, key = attention.heads, attention.query, attention.key

        def value(self, _: Tensor) -> Tensor:  # every head has all tokens as its values
            return torch.cat([values] * attention.heads, dim=2)

    outputs = softmax_attention(Values(), attention.query(tokens), tokens, tokens)  # type: ignore[arg-type]
    matrix = outputs.unflatten(2, (attention.heads, -1)).mean(2)  # (B, queries, keys)
    return matrix.sum(1).unflatten(1, size[0])


@pytest.mark.parametrize("layer", ["m0", "d0", "u2"])
def test_recorded_attention_is_the_sum_over_queries_of_the_mean_over_heads(layer: str):
    maps = AttentionMaps([layer])
    plain = UNET(X, T, COND)
    assert torch.equal(UNET(X, T, COND, attention=maps), plain)
    want = hand_made_map(UNET, X, T, COND, layer)
    torch.testing.assert_close(maps.mean([layer], (want.shape[1], want.shape[2])), want, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(want.mean((1, 2)), torch.ones(len(X), dtype=torch.float64))
    assert want.std() > 1e-3


def test_the_attention_of_several_transformers_is_the_mean_at_the_size_of_the_latents():
    maps = AttentionMaps(["m0", "u2"])
    UNET(X, T, COND, attention=maps)
    parts = [F.interpolate(hand_made_map(UNET, X, T, COND, one)[:, None], (8, 12))[:, 0] for one in ("m0", "u2")]
    torch.testing.assert_close(maps.mean(["m0", "u2"], (8, 12)), (parts[0] + parts[1]) / 2, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(maps.mean(["u2"], (8, 12)), parts[1], rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="the model recorded no attention of the layers u3"):
        maps.mean(["u3"], (8, 12))
    with pytest.raises(ValueError, match="unknown layer 'u9'"):
        UNET(X, T, COND, attention=AttentionMaps(["u9"]))


@pytest.mark.parametrize("cfg", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("layers", [("auto",), ("m0", "u1")])
def test_self_attention_guidance_is_the_papers(cfg: float, layers: tuple[str, ...]):
    """In ε, with the U-Net's own x, as the algorithm is printed."""
    scale, blur, context = 0.9, 1.3, COND if cfg == 1 else UNCOND
    noise, alpha = eps(X, context), 1 / (1 + SIGMA**2)
    maps = AttentionMaps(layers)
    MODEL(X, SIGMA, context, attention=maps)
    attended = (maps.mean(layers, (8, 12)) > 1.0).double()[:, None]
    assert 0.1 < attended.mean() < 0.9
    paper_x = alpha**0.5 * X
    clean = (paper_x - (1 - alpha) ** 0.5 * noise) / alpha**0.5
    soft = torch.from_numpy(gaussian_filter(clean.numpy(), blur, axes=(2, 3), mode="reflect", truncate=8.0))
    degraded = alpha**0.5 * (attended * soft + (1 - attended) * clean) + (1 - alpha) ** 0.5 * noise
    worse = eps(degraded / alpha**0.5, context)
    plain = eps(X, UNCOND) + cfg * (eps(X, COND) - eps(X, UNCOND))
    want = X - SIGMA * (plain + scale * (noise - worse))
    denoise = Guided(guidance.make("sag", scale=scale, cfg=cfg, blur=blur, layers=layers), MODEL, CONTEXTS)
    torch.testing.assert_close(denoise(X, SIGMA), want, rtol=1e-8, atol=1e-8)
    assert (want - (X - SIGMA * plain)).flatten(1).norm(dim=1).min() > 1e-3
    assert denoise.passes == {0.0: 2, 1.0: 2, 4.0: 3}[cfg]


def test_each_image_is_at_its_own_level():
    sigmas = torch.tensor([0.4, 1.7, 0.4, 6.0], dtype=torch.float64)
    strategy = guidance.make("sag", cfg=2.0)
    together = Guided(strategy, MODEL, CONTEXTS)(X, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        alone = Guided(strategy, MODEL, {key: one[[i]] for key, one in CONTEXTS.items()})(X[[i]], sigma)
        torch.testing.assert_close(together[[i]], alone, rtol=1e-8, atol=1e-8)


@dataclass(frozen=True)
class Halved(Input):
    """Half the clean part, with the noise of x."""

    def at(self, found: Found, x: Tensor, sigma: Level) -> Tensor:
        """x′."""
        return x - 0.5 * found.x0


@dataclass(frozen=True)
class Chain:
    """Three rounds, of which only the last is blended."""

    label: float | None = None

    def queries(self, sigma: Level) -> tuple[Query, ...]:
        """The last of a chain."""
        middle = Query("uncond", input=Halved(Query("cond")))
        return (Query("cond", input=Halved(middle), label=self.label),)

    def combine(self, predictions: tuple[Tensor, ...], x: Tensor, sigma: Level, state: State) -> tuple[Tensor, State]:
        """The last prediction."""
        return predictions[0], state


@pytest.mark.parametrize("label", [None, 2.1])
def test_inputs_can_be_made_from_predictions_for_other_inputs(label: float | None):
    """x̂₀ of a query with another input has the ε predicted there, at x."""
    clock = PassClock()
    denoise = Guided(Chain(label), clock.watch(MODEL), CONTEXTS)
    found = denoise(X, SIGMA)
    first = X - SIGMA * eps(X, COND)
    second = X - SIGMA * eps(X - 0.5 * first, UNCOND)
    third = X - 0.5 * second
    if label is not None:  # the network gets the same scaled picture with another label
        third = third * ((1 + label**2) / (1 + SIGMA**2)) ** 0.5
    torch.testing.assert_close(found, X - SIGMA * eps(third, COND, label or SIGMA), rtol=1e-9, atol=1e-9)
    assert denoise.passes == clock.passes / len(X) == 3


def test_a_prediction_is_made_once_however_many_need_it():
    @dataclass(frozen=True)
    class Twice(Chain):
        def queries(self, sigma: Level) -> tuple[Query, ...]:
            halved = Halved(Query("cond"))
            return Query("cond", input=halved), Query("cond"), Query("uncond", input=halved)

    calls = list[int]()

    def model(x: Tensor, sigma: float, context: Tensor) -> Tensor:
        calls.append(len(x))
        return MODEL(x, sigma, context)

    denoise = Guided(Twice(), model, CONTEXTS)
    denoise(X, SIGMA)
    assert calls == [len(X), 2 * len(X)]
    assert denoise.passes == 3


def test_what_an_input_needs_is_known_before_the_run():
    queries = needed(Chain(), [SIGMA])
    assert Query("cond") in queries
    assert len(queries) == 3
    said = [lacking(query, Offer("mine", conditional=False)) for query in queries]
    assert 'model mine has no conditions; use "none"' in said
    sag = needed(guidance.make("sag"), [SIGMA])
    assert "model mine has no attention that can be read; use another strategy" in {
        lacking(query, Offer("mine")) for query in sag
    }
    (worse,) = (query for query in sag if query.input is not None)
    assert worse.input is not None
    elsewhere = replace(worse, input=replace(worse.input, layers=("mid",)))
    assert lacking(elsewhere, Offer("mine", layers=("m0", "auto"))) == (
        "model mine: unknown layer 'mid'; known: auto, m0"
    )


def test_an_input_of_another_shape_is_one_line():
    class Cropped(Halved):
        def at(self, found: Found, x: Tensor, sigma: Level) -> Tensor:
            return x[:, :, 1:]

    class Crops(Chain):
        def queries(self, sigma: Level) -> tuple[Query, ...]:
            return (Query("cond", input=Cropped(Query("cond"))),)

    with pytest.raises(ValueError, match=r"Cropped turns x of shape \(4, 4, 8, 12\) into \(4, 4, 7, 12\)"):
        Guided(Crops(), MODEL, CONTEXTS)(X, SIGMA)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blur": -1.0}, "SelfAttention.blur must be a number of at least 0, got -1.0"),
        ({"threshold": -1.0}, "SelfAttention.threshold must be a number of at least 0, got -1.0"),
        ({"layers": ()}, "SelfAttention.layers must name at least one transformer"),
    ],
)
def test_invalid_options(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        guidance.make("sag", **options)
