"""Metrics against closed forms and against pictures whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from sdlab import scenes
from sdlab.errors import UsageError
from sdlab.metrics import METRICS
from sdlab.metrics.clip import ClipScorer
from sdlab.metrics.distances import Distances
from sdlab.metrics.features import InceptionFeatures
from sdlab.metrics.meters import EVALUATOR, Meters
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES
from sdlab.model.model_loader import load, load_part
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.resources import find
from sdlab.scenes.captions import state
from sdlab.scenes.reader import Evaluator, check, read
from sdlab.train.evaluator import weather


def cloud(n: int, seed: int, mean: float = 0.0, std: float = 1.0, d: int = 4) -> Tensor:
    """n draws of N(mean, std²) in d dimensions, moved and scaled to have exactly that mean and (co)variance."""
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    root = torch.linalg.cholesky(x.T @ x / (n - 1))
    return (torch.linalg.solve_triangular(root, x.T, upper=False).T * std + mean).float()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-1.0, 0.5)])
def test_fid_of_gaussians_is_the_closed_form(mean: float, std: float):
    # Dowson & Landau 1982: |m₁ − m₂|² + tr(S₁ + S₂ − 2 (S₁ S₂)^½), here d ((Δm)² + (σ₁ − σ₂)²)
    found = Distances(cloud(500, 0)).fid(cloud(400, 1, mean, std))
    assert found.value == pytest.approx(4 * (mean**2 + (std - 1) ** 2), abs=1e-3)


@pytest.mark.parametrize("name", ["fid", "kid"])
def test_the_standard_error_is_the_spread_over_repeated_sets(name: str):
    generator = torch.Generator().manual_seed(0)
    distance = getattr(Distances(torch.randn(2000, 8, generator=generator)), name)
    found = [distance(0.5 + torch.randn(100, 8, generator=generator)) for _ in range(40)]
    spread = torch.tensor([f.value for f in found]).std()
    claimed = torch.tensor([f.stderr for f in found]).mean()
    assert 0.6 < float(claimed / spread) < 1.6


def test_kid_is_about_zero_for_one_distribution_and_grows_with_distance():
    generator = torch.Generator().manual_seed(0)

    def draw(n: int) -> Tensor:
        return torch.randn(n, 8, generator=generator)

    distances = Distances(draw(1000))
    same, near, far = (distances.kid(draw(200) + shift) for shift in (0.0, 0.3, 1.0))
    assert abs(same.value) < 4 * same.stderr
    assert 4 * near.stderr < near.value < far.value


def test_a_metric_leaves_the_global_random_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Distances(cloud(50, 0)).kid(cloud(50, 1))
    assert torch.equal(torch.rand(3), expected)


def test_features_given_in_advance_score_as_if_the_network_ran_inside_torchmetrics():
    class Network(nn.Module):
        num_features = 6

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(3 * 8 * 8, 6)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1))

    generator = torch.Generator().manual_seed(1)
    real, fake = torch.randn(60, 3, 8, 8, generator=generator), 0.5 + torch.randn(50, 3, 8, 8, generator=generator)
    network = Network()
    metric = FrechetInceptionDistance(network)
    metric.update(real, real=True)
    metric.update(fake, real=False)
    with torch.no_grad():
        found = Distances(network(real)).fid(network(fake))
    assert found.value == pytest.approx(float(metric.compute()), rel=1e-4)


def test_inception_says_which_file_it_lacks(tmp_path):
    with pytest.raises(UsageError, match=r"inception\.pth: no such file"):
        InceptionFeatures(tmp_path / "inception.pth")


def test_clip_score_is_a_hundred_cosines_and_each_prompt_is_embedded_once():
    vocab, merges = train_vocabulary(["a red circle", "a blue star"] * 5, 560)
    tokenizer = Tokenizer(vocab, merges, 24)
    torch.manual_seed(0)
    clip = Clip(SCENES.text, SCENES.vision).eval()
    images = scenes.render(scenes.sample(3, torch.Generator().manual_seed(0)))
    prompts = ["a red circle", "a blue star", "a red circle"]
    scorer = ClipScorer(clip, tokenizer)
    with torch.no_grad():
        cosines = (clip.embed_image(images) * clip.embed_text(tokenizer(prompts))).sum(1)
    expected = (100 * cosines).clamp(min=0)
    torch.testing.assert_close(scorer(images, prompts), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scorer(images[:1], ["a blue star"]).shape, torch.Size([1]))


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return load_part(find(EVALUATOR), Evaluator)


@pytest.mark.parametrize("spoil", [False, True], ids=["clean", "blurred and noised"])
def test_the_reader_is_right_on_unseen_renders(evaluator: Evaluator, spoil: bool):
    generator = torch.Generator().manual_seed(987_654)
    world = scenes.sample(512, generator, "all")
    images = scenes.render(world)
    readings = read(evaluator, weather(images, generator) if spoil else images)
    statements = state(world, generator, leave_out=False)
    facts = [fact for s, r in zip(statements, readings, strict=True) for fact in check(s, r)]
    assert sum(facts) / len(facts) >= 0.99


def test_the_reader_tells_pictures_from_near_misses(evaluator: Evaluator):
    from sdlab.scenes.captions import alter

    generator = torch.Generator().manual_seed(3)
    world = scenes.sample(256, generator)
    statements = [alter(s, torch.randint(1 << 30, (2,), generator=generator)) for s in state(world, generator, False)]
    readings = read(evaluator, scenes.render(world))
    wrong = [not all(check(s, r)) for s, r in zip(statements, readings, strict=True)]
    # Two things of one kind in exchanged places state the same picture, which is rare.
    assert sum(wrong) / len(wrong) > 0.97


@pytest.fixture(scope="module")
def meters() -> Meters:
    return Meters(tuple(METRICS), load("scenes"))


def test_real_renders_score_as_real(meters: Meters):
    found = meters.real(128)
    assert set(found.values) == set(METRICS)
    assert found.values["prompt_accuracy"] > 0.99
    assert abs(found.values["kid"]) < 4 * found.stderr["kid"] + 0.01
    assert found.per_image["clip_score"].shape == (128,)


def test_worse_pictures_score_worse(meters: Meters):
    generator = torch.Generator().manual_seed(1)
    world = scenes.sample(96, generator)
    captions, images = scenes.describe(world, generator), scenes.render(world)
    good = meters.measure(images, captions).values
    shuffled = meters.measure(images.roll(1, 0), captions).values
    faded = meters.measure(images * 0.3, captions).values
    assert shuffled["clip_score"] < good["clip_score"] - 5
    assert shuffled["prompt_accuracy"] < 0.7
    assert shuffled["fid"] == pytest.approx(good["fid"], rel=0.01)  # the same set of pictures
    assert faded["fid"] > 2 * good["fid"]
    assert faded["kid"] > good["kid"]


def test_a_prompt_that_cannot_be_checked_is_named(meters: Meters):
    with pytest.raises(UsageError, match="finds no object of the scenes world in the prompt 'a cat'"):
        meters.measure(torch.zeros(1, 3, 64, 64), ["a cat"])
