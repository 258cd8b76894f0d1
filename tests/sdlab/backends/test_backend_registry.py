"""A new backend is one file and one line in the registry."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

import samplers
from samplers.exact.problems import Gaussian
from sdlab.backends import registry
from sdlab.backends.base import Backend, Kind, Mistakes, Opened
from sdlab.commands.sweep import sweep
from sdlab.denoiser import unwatched
from sdlab.guidance import Guided
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.store import Store


class Grey(Opened):
    """A model that draws grey pictures of 8 × 8 pixels, as light as its option says, whatever the prompt."""

    ignores = frozenset({"dtype", "compile"})
    draws_pictures = conditional = True
    image_size = 8
    files = ()

    def __init__(self, name: str, options: Mapping[str, Any], folder: Path) -> None:
        self.name = self.label = name
        self.options = self.identity = options
        self.levels = samplers.continuous_levels(0.01, 10.0)
        self.seconds_per_pass = {"cpu": 1e-3}

    def load(
        self, device: str, dtype: torch.dtype, compile: bool, others: Collection[str] = (), gradients: bool = False
    ) -> Backend:
        return Loaded(self.levels, float(self.options["light"]))


class Loaded(Backend):
    def __init__(self, levels: samplers.Levels, light: float) -> None:
        self.levels, self.law = levels, Gaussian(1e-3, light)

    def contexts(self, prompts: Sequence[str], negative: str) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(prompts), 1), torch.zeros(1, 1)

    def sample(self, cond, uncond, sampler, sigmas, strategy, seeds, *, watch=unwatched, on_step=None, **_):  # type: ignore[no-untyped-def]
        x = samplers.seeded(seeds)(torch.empty(len(seeds), 3, 8, 8)) * sigmas[0]
        denoise = Guided(strategy, watch(lambda x, s, _: self.law.denoise(x, s)), {"cond": cond, "uncond": uncond})
        return samplers.run(sampler, denoise, x, sigmas, on_step=on_step)

    def decode(self, samples: Tensor) -> Tensor:
        return samples.clamp(-1, 1)


TOML = """
model = { name = "grey", light = 0.5 }
images = 3
batch = 2
device = "cpu"
metrics = ["reference_error"]
[prompts]
list = ["a", "b"]
[cells]
sampler = "heun"
grid = "karras"
guidance = { name = "cfg", scale = 2.0 }
steps = 8
"""


def test_a_backend_with_a_line_in_the_registry_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(registry.BACKENDS, "grey", Kind(lambda: {"grey": "grey pictures"}, lambda path: False, Grey))
    assert registry.names()["grey"] == "grey pictures"
    Path("sweep.toml").write_text(TOML, encoding="utf-8")
    assert sweep("sweep.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with Store(Path("runs/sweep/results.sqlite")) as store:
        [row] = store.rows()
        found = store.thumbnails(row.key)
    assert row.network_passes == 2 * 15  # two passes per call, and one call in the last of Heun's steps
    assert row.metrics["reference_error"] < 0.01
    assert found is not None
    assert found[0] == ["a", "b", "a"]
    np.testing.assert_allclose(found[1], 191, atol=2)
    with Image.open("runs/sweep/contact_sheet.png") as sheet:
        sheet.load()


def test_every_name_belongs_to_one_backend():
    names = [name for kind in registry.BACKENDS.values() for name in kind.names()]
    assert len(names) == len(set(names))
    assert {"scenes", "sd15", "gaussian"} <= set(names)


def test_a_name_that_no_backend_opens_is_a_mistake():
    with pytest.raises(Mistakes, match=r"unknown model 'gausian' \(did you mean 'gaussian'\?\)"):
        registry.open_model("gausian", {}, Path())
    with pytest.raises(Mistakes, match="model file or folder 'no/where' not found"):
        registry.open_model("no/where", {}, Path())
