"""Pictures of the plane: colours of classes are where their samples are, and paths where they went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from samplers.exact.families import ClassMixture
from samplers.exact.problems import GaussianMixture
from sdlab.sweep import plane
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.plan import load_plan

LAWS = ClassMixture(GaussianMixture(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 0.1), [0, 1])
SIGMAS = (3.0, 1.0, 0.0)
BLUE, RED = ((31, 119, 180), (214, 39, 40))


def is_near(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int]) -> bool:
    """Whether the colour, possibly on white, is at a place of the plane."""
    reach = 1.6 * 1.1
    column, row = (int((one / reach + 1) * plane.SIDE / 2) for one in (x, -y))
    patch = picture[row - 3 : row + 4, column - 3 : column + 4].reshape(-1, 3).astype(int)
    ink, wanted = 255 - patch[patch.sum(1).argmin()], 255 - np.array(colour)
    share = float(ink @ wanted / (wanted @ wanted))  # of the colour on white
    return share > 0.4 and bool(abs(ink - share * wanted).max() < 40)


def test_classes_have_their_colours_where_their_samples_are():
    ends = torch.stack([torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])]).repeat(20, 1)
    starts = torch.tensor([[-1.4, -1.4]]).repeat(40, 1)  # at σ = 1, where coordinates are divided by √2
    paths, samples = plane.draw(torch.stack([starts, ends]), SIGMAS, LAWS)
    assert paths.shape == samples.shape == (plane.SIDE, plane.SIDE, 3)
    for picture in (paths, samples):
        assert is_near(picture, 1, 0, BLUE)
        assert is_near(picture, 0, 1, RED)
        assert not is_near(picture, -1, 1, BLUE)
    assert is_near(paths, 0.0, -0.5, BLUE)  # half-way from (−1, −1)
    assert is_near(paths, -0.5, 0.0, RED)
    assert (samples[200:, :100] == 255).all()  # the start is white where only samples are shown


def test_the_contours_are_those_of_the_data_and_samples_beyond_the_picture_are_left_out():
    far = torch.full((1, 8, 2), 1e6)
    _, samples = plane.draw(far, (1.0, 0.0), LAWS)
    assert is_near(samples, 1.1, 0, (160, 160, 160))  # one standard deviation from the mean
    assert not is_near(samples, 1.0, 0.0, (160, 160, 160))
    assert samples.min() > 100


TOML = """
model = "class_mixture"
images = 64
batch = {batch}
device = "cpu"
metrics = ["mmd"]
[cells]
sampler = "euler"
grid = "karras"
guidance = {{ name = "cfg", scale = 2.0 }}
steps = 4
"""


def test_the_pictures_of_a_cell_do_not_depend_on_its_batches(tmp_path: Path):
    drawn = []
    for batch in (64, 24):
        file = tmp_path / "plane.toml"
        file.write_text(TOML.format(batch=batch), encoding="utf-8")
        plan = load_plan(file)
        bench = ModelBench(plan)
        assert list(bench.prompts) == ["paths", "samples"]
        drawn.append(bench.run(plan.cells[0], lambda _: None, range(plan.images)).thumbnails)
    assert drawn[0].shape == (2, plane.SIDE, plane.SIDE, 3)
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() <= 8  # the colours where lines cross
    assert (drawn[0] != 255).any(axis=(1, 2, 3)).all()
