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
    """Calls a sampler function as ComfyUI 0.3.64 does (`comfy.samplers.KSAMPLER`), with noise scaled before and after.

    It is called here with fewer arguments, and it makes the `extra_args` that ComfyUI's guiders make.
    """

    def __init__(self, sampler_function: Any, extra_options: dict[str, Any] | None = None) -> None:
        self.function, self.options = sampler_function, extra_options or {}

    def sample(
        self, wrapped: Any, sigmas: Tensor, noise: Tensor, latent: Tensor, callback: Any = None, mask: Any = None
    ) -> Tensor:
        sampling = wrapped.model_patcher.get_model_object("model_sampling")
        inner = _Inpaint(wrapped, sigmas, noise, latent)
        x = sampling.noise_scaling(sigmas[0], noise, latent, bool(sigmas[0] >= sampling.sigma_max))
        steps = len(sigmas) - 1
        k_callback = callback and (lambda now: callback(now["i"], now["denoised"], now["x"], steps))
        extra = {"seed": SEED, "model_options": wrapped.model_options, "denoise_mask": mask}
        samples = self.function(inner, x, sigmas, extra_args=extra, callback=k_callback, disable=True, **self.options)
        return sampling.inverse_noise_scaling(sigmas[-1], samples)


class _Inpaint:
    """`KSamplerX0Inpaint`: where the mask is 0, the latents are kept."""

    def __init__(self, wrapped: Any, sigmas: Tensor, noise: Tensor, latent: Tensor) -> None:
        self.inner_model, self.sigmas, self.noise, self.latent_image = wrapped, sigmas, noise, latent

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Any, model_options: Any, seed: int) -> Tensor:
        assert sigma.shape == (len(x),)
        assert seed == SEED
        if denoise_mask is None:
            return self.inner_model.predict(x, sigma, model_options)
        kept = self.inner_model.sampling.noise_scaling(sigma.view(-1, 1, 1, 1), self.noise, self.latent_image)
        out = self.inner_model.predict(x * denoise_mask + kept * (1 - denoise_mask), sigma, model_options)
        return out * denoise_mask + self.latent_image * (1 - denoise_mask)


class CONST:
    """A rectified flow. A shift s maps the time u to t = s u/(1 + (s − 1) u), as in `ModelSamplingDiscreteFlow`."""

    def __init__(self, shift: float = 1.0) -> None:
        u = torch.arange(1, 1001) / 1000
        self.sigmas = shift * u / (1 + (shift - 1) * u)
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - sigma)


class Discrete:
    """A table of levels, as of Stable Diffusion."""

    def __init__(self, sigmas: Tensor | None = None) -> None:
        self.sigmas = torch.tensor(TABLE.sigmas) if sigmas is None else sigmas
        self.log_sigmas = self.sigmas.log()
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool = False) -> Tensor:
        return noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent


class Wrapped:
    """A guider: data of standard deviation ½ around 1 with the prompt and around −1 without, with known denoisers.

    The prediction without the prompt is computed and handed over as in `comfy.samplers.sampling_function`. A guider
    without a negative prompt has `negative` false.
    """

    def __init__(self, sampling: Any, cfg: float = 1.0, negative: bool = True) -> None:
        self.sampling, self.model_patcher, self.cfg, self.negative = sampling, self, cfg, negative
        self.model_options: dict[str, Any] = {}

    def get_model_object(self, name: str) -> Any:
        assert name == "model_sampling"
        return self.sampling

    def predict(self, x: Tensor, sigma: Tensor, model_options: dict[str, Any]) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1)
        if isinstance(self.sampling, CONST):
            x, sigma = x / (1 - sigma), sigma / (1 - sigma)
        without = self.negative and (self.cfg != 1 or model_options.get("disable_cfg1_optimization", False))
        uncond = denoised(x, sigma, -1.0) if without else torch.zeros_like(x)
        result = uncond + self.cfg * (denoised(x, sigma) - uncond)
        for function in model_options.get("sampler_post_cfg_function", []):
            args = {"denoised": result, "uncond_denoised": uncond, "uncond": ["negative"] if without else None}
            result = function(args)
        return result


def set_model_options_post_cfg_function(
    model_options: dict[str, Any], function: Any, disable_cfg1_optimization: bool = False
) -> dict[str, Any]:
    """Adds a function that is called after CFG, in place (`comfy.model_patcher`)."""
    model_options["sampler_post_cfg_function"] = [*model_options.get("sampler_post_cfg_function", []), function]
    if disable_cfg1_optimization:
        model_options["disable_cfg1_optimization"] = True
    return model_options


def denoised(x: Tensor, sigma: Any, center: float = 1.0) -> Tensor:
    sigma = torch.as_tensor(sigma)
    return center + (x - center) * 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2)


class Guided:
    """The same denoiser in the σ clock, with the unconditional prediction."""

    def __init__(self, cfg: float) -> None:
        self.cfg = cfg

    def __call__(self, x: Tensor, sigma: Any) -> Tensor:
        return self.with_uncond(x, sigma)[0]

    def with_uncond(self, x: Tensor, sigma: Any) -> tuple[Tensor, Tensor]:
        uncond = denoised(x, sigma, -1.0)
        return uncond + self.cfg * (denoised(x, sigma) - uncond), uncond


@pytest.fixture(scope="module")
def nodes():
    """The package, imported where ComfyUI's modules are stand-ins."""
    kept = dict(sys.modules)
    parts: dict[str, Any] = {
        "model_sampling": SimpleNamespace(CONST=CONST),
        "samplers": SimpleNamespace(KSAMPLER=KSAMPLER),
        "model_patcher": SimpleNamespace(set_model_options_post_cfg_function=set_model_options_post_cfg_function),
    }
    comfy = ModuleType("comfy")
    vars(comfy).update(parts)
    sys.modules |= {"comfy": comfy, **{f"comfy.{name}": part for name, part in parts.items()}}
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


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@pytest.mark.parametrize("sampling", [Discrete(), CONST()], ids=["table", "flow"])
def test_a_node_samples_as_our_loop_does(nodes, name, sampling):
    """From a picture in the middle of the grid, where float32 knows 1 − t to seven digits."""
    levels = TABLE if isinstance(sampling, Discrete) else samplers.flow_levels()
    sigmas = samplers.grid("trailing", steps=10, levels=levels)[-6:]
    sampler = samplers.make(name).with_levels(levels)
    own = samplers.seeded([SEED + 1, SEED + 2, SEED + 3])
    latent = torch.full((3, 4, 4, 4), 0.5)
    denoise = Guided(1.0) if name.endswith("cfg_pp") else denoised
    wanted = samplers.run(sampler, denoise, latent + drawn() * sigmas[0], sigmas, noise=own)
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


@pytest.mark.parametrize("name", [name for name in samplers.SAMPLERS if name.endswith("cfg_pp")])
@pytest.mark.parametrize("cfg", [0.6, 1.0])
def test_cfg_pp_gets_the_unconditional_prediction(nodes, name, cfg):
    sigmas = samplers.grid("karras", steps=6, levels=TABLE)[-4:]
    wanted = samplers.run(samplers.make(name), Guided(cfg), drawn() * sigmas[0], sigmas)
    node = built(nodes, f"sdlab_{name}", **defaults(nodes, f"sdlab_{name}"))
    guider = Wrapped(Discrete(), cfg)
    found = node.sample(guider, torch.tensor(sigmas), drawn(), torch.zeros(3, 4, 4, 4))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert guider.model_options == {}  # as it was, for other samplers
    with pytest.raises(ValueError, match=r"CFG\+\+ needs the unconditional prediction; use a guider with a negative"):
        node.sample(Wrapped(Discrete(), cfg, negative=False), torch.tensor(sigmas), drawn(), torch.zeros(3, 4, 4, 4))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m_sde", "heun", "ddim_cfg_pp", "rectified_cfg_pp"])
@pytest.mark.parametrize("sampling", [Discrete(), CONST()], ids=["table", "flow"])
def test_latents_outside_the_mask_are_kept(nodes, name, sampling):
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1
    latent = torch.linspace(-1, 1, 3 * 4 * 4 * 4).view(3, 4, 4, 4)
    options = defaults(nodes, "sdlab_grid_trailing") | {"steps": 5, "denoise": 0.5}
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(sampling), **options)
    node = built(nodes, f"sdlab_{name}", **defaults(nodes, f"sdlab_{name}"))
    found = node.sample(Wrapped(sampling), sigmas, drawn(), latent, mask=mask)
    torch.testing.assert_close(found[..., 2:], latent[..., 2:], atol=1e-4, rtol=0)
    assert (found - latent)[..., :2].abs().max() > 0.1


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_grids_of_a_flow_have_the_shift_of_the_model(nodes, shift):
    """As ComfyUI's own grid `simple`, up to the start at t = 0.9999."""
    sampling = CONST(shift)
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(sampling), steps=8, denoise=1.0, ending="to_zero")
    simple = [*(float(sampling.sigmas[999 - 125 * i]) for i in range(8)), 0.0]
    assert sigmas.tolist() == pytest.approx(simple, abs=3e-3)
    assert float(sigmas[0]) == pytest.approx(0.9999)


def test_a_table_that_is_clamped_at_its_end_is_read(nodes):
    """As that of Stable Cascade, whose first levels are all 0.01."""
    sampling = Discrete(torch.cat([torch.full((20,), 0.01), torch.logspace(-1.9, 2, 500)]))
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(sampling), steps=4, denoise=1.0, ending="to_zero")
    assert float(sigmas[0]) == pytest.approx(100)
    sampler = built(nodes, "sdlab_euler", **defaults(nodes, "sdlab_euler"))
    assert sampler.sample(Wrapped(sampling), sigmas, drawn(), torch.zeros(3, 4, 4, 4)).isfinite().all()


def test_every_sampler_and_grid_has_a_node_but_grids_that_are_lists(nodes):
    names = nodes.NODE_CLASS_MAPPINGS.keys()
    grids = samplers.GRIDS.keys() - {"explicit", "blend"}
    assert names == {f"sdlab_{name}" for name in samplers.SAMPLERS} | {f"sdlab_grid_{name}" for name in grids}
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
    seen: list[tuple[int, Tensor, Tensor, int]] = []
    latent = torch.ones(3, 4, 4, 4)
    sampler = built(nodes, "sdlab_heun", **defaults(nodes, "sdlab_heun"))
    sampler.sample(Wrapped(Discrete()), sigmas, drawn(), latent, callback=lambda *now: seen.append(now))
    assert [(i, steps) for i, _, _, steps in seen] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert all(x0.shape == x.shape == latent.shape for _, x0, x, _ in seen)


def test_previews_of_a_flow_have_its_own_scale(nodes):
    """x = (1 − t) x₀ + t ε, which is of order 1 at every t."""
    seen: list[Tensor] = []
    sampler = built(nodes, "sdlab_euler", **defaults(nodes, "sdlab_euler"))
    times = torch.linspace(1, 0, 9)
    sampler.sample(Wrapped(CONST()), times, drawn(), torch.zeros(3, 4, 4, 4), callback=lambda *now: seen.append(now[2]))
    assert all(x.abs().max() < 6 for x in seen)


def test_an_image_depends_on_its_place_in_the_batch_alone(nodes):
    sampler = built(nodes, "sdlab_euler_ancestral", **defaults(nodes, "sdlab_euler_ancestral"))
    sigmas = built(nodes, "sdlab_grid_karras", model=Wrapped(Discrete()), **defaults(nodes, "sdlab_grid_karras"))
    whole = sampler.sample(Wrapped(Discrete()), sigmas, drawn(3), torch.zeros(3, 4, 4, 4))
    part = sampler.sample(Wrapped(Discrete()), sigmas, drawn(3)[:2], torch.zeros(2, 4, 4, 4))
    torch.testing.assert_close(part, whole[:2])


def test_without_a_step_the_latents_stay(nodes):
    sigmas = built(nodes, "sdlab_grid_trailing", model=Wrapped(Discrete()), steps=4, denoise=0.0, ending="to_zero")
    sampler = built(nodes, "sdlab_heun", **defaults(nodes, "sdlab_heun"))
    latent = drawn()
    assert not len(sigmas)  # at denoise 0
    for levels in (sigmas, torch.tensor([1.0])):
        inner = _Inpaint(Wrapped(Discrete()), levels, latent, latent)
        assert sampler.function(inner, latent, levels).equal(latent)
