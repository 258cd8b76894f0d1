"""The nodes for ComfyUI, against a stand-in with the parts of its interface that they use."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import samplers

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
TABLE = samplers.discrete_levels()
SEED = 11


class KSAMPLER:
    """Calls a sampler function as ComfyUI does: scaled noise, levels with a 0 at the end, `extra_args`, a callback."""

    def __init__(self, sampler_function: Any, extra_options: dict[str, Any] | None = None) -> None:
        self.function, self.options = sampler_function, extra_options or {}

    def sample(self, wrapped: Any, sigmas: Tensor, noise: Tensor, latent: Tensor, callback: Any = None) -> Tensor:
        sampling = wrapped.model_patcher.get_model_object("model_sampling")
        x = sampling.noise_scaling(sigmas[0], noise, latent)
        extra = {"seed": SEED, "model_options": {}, "denoise_mask": None}
        inner = _Inpaint(wrapped)
        return self.function(inner, x, sigmas, extra_args=extra, callback=callback, disable=True, **self.options)


class _Inpaint:
    def __init__(self, wrapped: Any) -> None:
        self.inner_model = wrapped

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any, seed: int) -> Tensor:
        assert sigma.shape == (len(x),)
        assert seed == SEED
        return self.inner_model.predict(x, sigma)


class CONST:
    """A rectified flow."""

    sigma_max, sigma_min = torch.tensor(1.0), torch.tensor(0.001)
    sigmas = torch.linspace(0.001, 1, 1000)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        return sigma * noise + (1 - sigma) * latent


class Discrete:
    """A table of levels, as of Stable Diffusion."""

    sigmas = torch.tensor(TABLE.sigmas)
    log_sigmas = sigmas.log()
    sigma_max, sigma_min = sigmas[-1], sigmas[0]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor) -> Tensor:
        return sigma * noise + latent


class Wrapped:
    """A model with data of standard deviation ½ around 1, whose denoiser is known."""

    def __init__(self, sampling: Any) -> None:
        self.sampling, self.model_patcher = sampling, self

    def get_model_object(self, name: str) -> Any:
        assert name == "model_sampling"
        return self.sampling

    def predict(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        if isinstance(self.sampling, CONST):
            return denoised(x / (1 - sigma), sigma / (1 - sigma))
        return denoised(x, sigma)


def denoised(x: Tensor, sigma: Any) -> Tensor:
    sigma = torch.as_tensor(sigma)
    return 1 + (x - 1) * 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2)


@pytest.fixture(scope="module")
def nodes():
    """The package, imported where ComfyUI's modules are stand-ins."""
    comfy, sampling, kept = ModuleType("comfy"), ModuleType("comfy.model_sampling"), dict(sys.modules)
    sampling.CONST = CONST  # type: ignore[attr-defined]
    comfy.model_sampling = sampling  # type: ignore[attr-defined]
    comfy.samplers = SimpleNamespace(KSAMPLER=KSAMPLER)  # type: ignore[attr-defined]
    sys.modules |= {"comfy": comfy, "comfy.model_sampling": sampling, "comfy.samplers": comfy.samplers}  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location(
        "comfy_sdlab", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["comfy_sdlab"] = package
    spec.loader.exec_module(package)
    yield package
    sys.modules.clear()
    sys.modules.update(kept)


def drawn(count: int = 3) -> Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(SEED))


def built(nodes: ModuleType, name: str, **values: Any) -> Any:
    node = nodes.NODE_CLASS_MAPPINGS[name]()
    (made,) = getattr(node, node.FUNCTION)(**values)
    return made


def defaults(nodes: ModuleType, name: str) -> dict[str, Any]:
    """The values of the widgets as a user finds them."""
    widgets = nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"]
    return {key: widget[1]["default"] for key, widget in widgets.items() if len(widget) > 1}


USABLE = [name for name in samplers.SAMPLERS if not name.endswith("cfg_pp")]


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("sampling", [Discrete(), CONST()], ids=["table", "flow"])
def test_a_node_samples_as_our_loop_does(nodes, name, sampling):
    """From a picture in the middle of the grid, where float32 knows 1 − t to seven digits."""
    levels = TABLE if isinstance(sampling, Discrete) else samplers.flow_levels()
    sigmas = samplers.grid("trailing", steps=10, levels=levels)[-6:]
    sampler = samplers.make(name).with_levels(levels)
    own = samplers.seeded([SEED + 1, SEED + 2, SEED + 3])
    latent = torch.full((3, 4, 4, 4), 0.5)
    wanted = samplers.run(sampler, denoised, latent + drawn() * sigmas[0], sigmas, noise=own)
    options = defaults(nodes, "sdlab_grid_trailing") | {"steps": 5, "denoise": 0.5}
    theirs = built(nodes, "sdlab_grid_trailing", model=Wrapped(sampling), **options)
    node = built(nodes, f"sdlab_{name}", **defaults(nodes, f"sdlab_{name}"))
    torch.testing.assert_close(node.sample(Wrapped(sampling), theirs, drawn(), latent), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "dpmpp_sde"])
def test_a_flow_from_pure_noise(nodes, name):
    """ComfyUI's own grids begin at t = 1, where σ is infinite."""
    times = torch.linspace(1, 0, 9)
    levels = samplers.flow_levels()
    sigmas = [levels.sigma_max, *(t / (1 - t) for t in times[1:].tolist())]
    own = samplers.seeded([SEED + 1, SEED + 2, SEED + 3])
    sampler = samplers.make(name).with_levels(levels)
    wanted = samplers.run(sampler, denoised, drawn() * sigmas[0], sigmas, noise=own)
    node = built(nodes, f"sdlab_{name}", **defaults(nodes, f"sdlab_{name}"))
    found = node.sample(Wrapped(CONST()), times, drawn(), torch.zeros(3, 4, 4, 4))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0)


def test_every_sampler_and_grid_has_a_node_but_those_that_cannot_work(nodes):
    names = nodes.NODE_CLASS_MAPPINGS.keys()
    grids = samplers.GRIDS.keys() - {"explicit", "blend"}
    assert names == {f"sdlab_{name}" for name in USABLE} | {f"sdlab_grid_{name}" for name in grids}
    assert names == nodes.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in nodes.NODE_CLASS_MAPPINGS.values():
        assert len(node.DESCRIPTION) > 40
        assert node.RETURN_TYPES in (("SAMPLER",), ("SIGMAS",))


def test_options_are_widgets_with_their_defaults(nodes):
    widgets = nodes.NODE_CLASS_MAPPINGS["sdlab_unipc"].INPUT_TYPES()["required"]
    assert widgets["kind"] == (["bh1", "bh2"], {"default": "bh2"})
    assert nodes.NODE_CLASS_MAPPINGS["sdlab_lms"].INPUT_TYPES()["required"]["max_order"][0] == "INT"
    assert nodes.NODE_CLASS_MAPPINGS["sdlab_ddim"].INPUT_TYPES()["required"]["eta"][1]["default"] == 0.0
    eta = built(nodes, "sdlab_ddim", eta=1.0)
    none = built(nodes, "sdlab_ddim", eta=0.0)
    sigmas = built(
        nodes, "sdlab_grid_karras", model=Wrapped(Discrete()), steps=4, denoise=1.0, ending="to_zero", rho=5.0
    )
    assert sigmas.tolist() == pytest.approx(samplers.grid("karras", steps=4, levels=TABLE, rho=5.0))
    one, two = (s.sample(Wrapped(Discrete()), sigmas, drawn(), torch.zeros(3, 4, 4, 4)) for s in (eta, none))
    assert not torch.allclose(one, two)


def test_part_of_a_grid_and_the_callback(nodes):
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(Discrete()), steps=4, denoise=0.5, ending="to_zero")
    assert sigmas.tolist() == pytest.approx(samplers.grid("trailing", steps=8, levels=TABLE)[-5:])
    seen: list[dict[str, Any]] = []
    latent = torch.ones(3, 4, 4, 4)
    sampler = built(nodes, "sdlab_heun", **defaults(nodes, "sdlab_heun"))
    sampler.sample(Wrapped(Discrete()), sigmas, drawn(), latent, callback=seen.append)
    assert [one["i"] for one in seen] == [0, 1, 2, 3]
    assert all(one["denoised"].shape == one["x"].shape == latent.shape for one in seen)


def test_an_image_depends_on_its_place_in_the_batch_alone(nodes):
    sampler = built(nodes, "sdlab_euler_ancestral", **defaults(nodes, "sdlab_euler_ancestral"))
    sigmas = built(nodes, "sdlab_grid_karras", model=Wrapped(Discrete()), **defaults(nodes, "sdlab_grid_karras"))
    whole = sampler.sample(Wrapped(Discrete()), sigmas, drawn(3), torch.zeros(3, 4, 4, 4))
    part = sampler.sample(Wrapped(Discrete()), sigmas, drawn(3)[:2], torch.zeros(2, 4, 4, 4))
    torch.testing.assert_close(part, whole[:2])


def test_at_denoise_0_the_latents_stay(nodes):
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(Discrete()), steps=4, denoise=0.0, ending="to_zero")
    sampler = built(nodes, "sdlab_heun", **defaults(nodes, "sdlab_heun"))
    latent = drawn()
    assert sampler.function(_Inpaint(Wrapped(Discrete())), latent, sigmas).equal(latent)
