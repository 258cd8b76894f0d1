"""Networks of EDM and k-diffusion as custom models: the exact denoiser of a Gaussian, through each preconditioning."""

from __future__ import annotations

import io
import runpy
from math import exp, log, sqrt
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

import samplers
from samplers.exact.problems import Gaussian
from sdlab.adapters.edm import PRECONDITIONINGS, edm_model, preconditioned
from sdlab.commands.sweep import sweep
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.store import Store
from sdlab.system.errors import RunError, UsageError

LAW = Gaussian(torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64), torch.tensor([0.2, 0.7, 1.9], dtype=torch.float64))
LEVELS = (0.02, 0.4, 3.0, 70.0)
# σ from c_noise, and the factors by hand (Karras et al. 2022, table 1)
SIGMA = {
    "edm": lambda c: exp(4 * c),
    "ve": lambda c: 2 * exp(c),
    "vp": lambda c: sqrt(exp(19.9 / 2 * (c / 999) ** 2 + 0.1 * c / 999) - 1),
}
FACTORS = {
    "edm": lambda s: (0.25 / (s**2 + 0.25), s * 0.5 / sqrt(s**2 + 0.25), 1 / sqrt(s**2 + 0.25), log(s) / 4),
    "ve": lambda s: (1.0, s, 1.0, log(s / 2)),
    "vp": lambda s: (1.0, -s, 1 / sqrt(s**2 + 1), 999 * (sqrt(0.01 + 39.8 * log(1 + s**2)) - 0.1) / 19.9),
}


class Raw(nn.Module):
    """The network F whose preconditioned D is the denoiser of the Gaussian."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.calls = name, list[tuple[Tensor, Tensor]]()
        self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        self.calls.append((x, noise))
        sigma = torch.tensor([SIGMA[self.name](c) for c in noise.tolist()], dtype=torch.float64)
        skip, out, scale = torch.tensor([FACTORS[self.name](s)[:3] for s in sigma.tolist()], dtype=torch.float64).T
        x = x / scale[:, None]
        rows = [LAW.denoise(row[None], s) for row, s in zip(x, sigma.tolist(), strict=True)]
        return self.weight * (torch.cat(rows) - skip[:, None] * x) / out[:, None]


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_denoiser_of_a_gaussian_through_a_preconditioning(name: str):
    """Equal to rounding, also for images at levels of their own."""
    model = edm_model(Raw(name), (3,), precondition=name)
    x = samplers.seeded([0, 1, 2, 3])(torch.empty(4, 3)).double() * torch.tensor(LEVELS)[:, None]
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    wanted = torch.cat([LAW.denoise(row[None], s) for row, s in zip(x, LEVELS, strict=True)])
    torch.testing.assert_close(model.denoise(x, levels), wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(model.denoise(x, 0.4), LAW.denoise(x, 0.4), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PRECONDITIONINGS)
@pytest.mark.parametrize("sigma", LEVELS)
def test_what_the_network_gets_is_that_of_the_table(name: str, sigma: float):
    raw = Raw(name)
    x = torch.ones(1, 3, dtype=torch.float64)
    preconditioned(raw, name)(x, torch.tensor([sigma], dtype=torch.float64))
    [(scaled, noise)] = raw.calls
    _, _, scale, wanted = FACTORS[name](sigma)
    torch.testing.assert_close(scaled, scale * x, rtol=1e-12, atol=0)
    assert noise.item() == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(("name", "ends"), [("edm", (0.002, 80)), ("ve", (0.02, 100)), ("vp", (0.010486, 152.17))])
def test_the_levels_are_those_of_the_table(name: str, ends: tuple[float, float]):
    levels = edm_model(Raw(name), (3,), precondition=name).levels
    assert (levels.sigma_min, levels.sigma_max) == pytest.approx(ends, rel=1e-3)


def test_a_network_of_k_diffusion_is_sampled_as_the_exact_model_is():
    """`model(x, sigma)` with one level per image."""

    class Plain(nn.Module):
        def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
            assert sigma.shape == (len(x),)
            return LAW.denoise(x, float(sigma[0]))

    model = edm_model(Plain(), (3,), sigma_range=(0.05, 20.0))
    sigmas = samplers.grid("karras", steps=6, levels=model.levels)
    x = samplers.seeded([0, 1])(torch.empty(2, 3)) * sigmas[0]
    found = samplers.run(samplers.make("heun"), model.denoise, x, sigmas)
    wanted = samplers.run(samplers.make("heun"), LAW.denoise, x, sigmas)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


MINE = """
from pathlib import Path
import torch
from torch import nn
from sdlab.adapters.edm import edm_model


class Classes(nn.Module):  # classes are pictures of one grey level each, known exactly; no class is their mean
    def __init__(self):
        super().__init__()
        self.grey = nn.Linear(3, 1, bias=False)

    def forward(self, x, sigma, class_labels=None):
        assert class_labels.shape == (len(x), 3) and class_labels.dtype == torch.float32
        none = class_labels.sum(1, keepdim=True) == 0
        return self.grey(torch.where(none, 1 / 3, class_labels))[..., None, None].expand_as(x) + 0 * x


def classes():
    return edm_model(Classes(), (3, 8, 8), Path(__file__).with_name("{weights}"), classes=3)
"""
TOML = """
model = "mine.py:classes"
images = 3
device = "cpu"
metrics = []
[cells]
sampler = "heun"
grid = "karras"
steps = 2
guidance = ["none", { name = "cfg", scale = 2.0 }]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE.replace("{weights}", "w.safetensors"))
    (tmp_path / "sweep.toml").write_text(TOML)
    return tmp_path


def test_a_sweep_with_classes_and_weights_from_safetensors(here: Path):
    """Class i has grey level w_i, and no class their mean."""
    weights = torch.tensor([[-0.4, 0.0, 0.3]])
    save_file({"grey.weight": weights}, here / "w.safetensors")
    model = runpy.run_path("mine.py")["classes"]()
    x = torch.zeros(3, 3, 8, 8)
    greys = model.denoise(x, 1.0, model.contexts[0])
    torch.testing.assert_close(greys, weights[0, :, None, None, None].expand_as(x))
    torch.testing.assert_close(model.denoise(x[:1], 1.0, model.contexts[1]), weights.mean().expand(1, 3, 8, 8))
    assert model.decode(greys).equal(greys)
    assert sweep("sweep.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        passes = {row.cell.guidance.name: row.network_passes for row in store.rows()}
    assert passes == {"none": 3, "cfg": 6}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"grey.weight": (1, 4)}, r"tensor 'grey.weight' has shape \(1, 4\), but the configuration needs \(1, 3\)"),
        ({"gray.weight": (1, 3)}, r"unknown tensor 'gray.weight' \(did you mean 'grey.weight'\?\)"),
    ],
)
def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, tensors: dict[str, tuple[int, int]], message: str):
    save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, tmp_path / "w.safetensors")
    network = nn.ModuleDict({"grey": nn.Linear(3, 1, bias=False)})
    with pytest.raises(RunError, match=message):
        edm_model(network, (3, 8, 8), tmp_path / "w.safetensors")


def test_a_pickle_is_not_executed(tmp_path: Path):
    """The official EDM files are pickled networks."""
    file = tmp_path / "edm.pkl"
    file.write_bytes(b"\x80\x04cos\nsystem\n\x8c\x10touch executed.py\x85R.")
    with pytest.raises(UsageError, match="a bare pickle, which is not read because that would execute it"):
        edm_model(nn.Linear(1, 1), (1,), file)
    with pytest.raises(UsageError, match="no such file of weights"):
        edm_model(nn.Linear(1, 1), (1,), tmp_path / "none.safetensors")


def test_an_unknown_preconditioning_is_named():
    with pytest.raises(ValueError, match="unknown preconditioning 'edn' \\(did you mean 'edm'"):
        edm_model(nn.Linear(1, 1), (1,), precondition="edn")
