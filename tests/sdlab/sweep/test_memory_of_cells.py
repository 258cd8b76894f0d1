"""The memory of a cell does not grow with the number of its pictures."""

from __future__ import annotations

import gc
import textwrap
from pathlib import Path

import pytest
from torch import Tensor

from sdlab.sweep.bench import ModelBench
from sdlab.sweep.plan import load_plan
from sdlab.system.limits import GALLERY

MODEL = """
    import torch
    import samplers
    from sdlab.backends.custom_model import CustomModel

    def model():
        flow = lambda x, sigma, sigma_next: 0 * x
        decode = lambda x: x.clamp(-1, 1).repeat(1, 3, 40, 40)
        return CustomModel(lambda x, sigma: 0 * x, samplers.discrete_levels(), (1, 1, 1), flow=flow, decode=decode)
"""
TOML = """
model = "mine.py:model"
batch = 8
device = "cpu"
images = {images}
metrics = {metrics}
[cells]
sampler = "euler"
steps = 1
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(textwrap.dedent(MODEL), encoding="utf-8")


def pictures_alive() -> int:
    """The number of pictures of 40 × 40 in memory, in tensors of any type."""
    gc.collect()
    kept = [one for one in gc.get_objects() if type(one) is Tensor and one.numel() and 40 in one.shape[-2:]]
    storages = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() / one.element_size() for one in kept}
    return round(sum(storages.values()) / (3 * 40 * 40))


@pytest.mark.parametrize("metrics", ["[]", '["reference_error"]'])
@pytest.mark.slow
def test_few_pictures_are_kept_at_a_time(metrics: str):
    Path("s.toml").write_text(TOML.format(images=4 * GALLERY, metrics=metrics), encoding="utf-8")
    bench = ModelBench(load_plan("s.toml"))
    found = list[int]()

    def look(share: float) -> None:
        if share > (len(found) + 1) / 10:
            found.append(pictures_alive())

    result = bench.run(bench.plan.cells[0], look, range(bench.plan.images))
    shown = 8 if "error" in metrics else GALLERY
    assert len(result.thumbnails) == len(bench.prompts) == shown
    assert len(found) > 8
    assert 0 < max(found) <= shown + 2 * 64  # metrics see 64 at a time
