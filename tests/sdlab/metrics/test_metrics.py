"""Metrics against closed forms and against pictures whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log10
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from sdlab.metrics import METRICS, MetricFiles, labelled, openai_clip
from sdlab.metrics import meters as meters_module
from sdlab.metrics.changes import changes_made
from sdlab.metrics.clip import ClipScorer
from sdlab.metrics.distances import Distances, Statistics
from sdlab.metrics.features import InceptionFeatures
from sdlab.metrics.meters import Meters
from sdlab.metrics.needs import EVALUATOR, complaints, missing_files
from sdlab.metrics.reference import read_statistics
from sdlab.metrics.resemblance import EQUAL, feature_distance, psnr, ssim
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES, SD15
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.system.resources import find
from sdlab.train.stages.evaluator import weather
from sdlab.weights.model_folder import load_part
from sdlab.weights.model_loader import load
from sdlab.weights.vocabulary import write_vocabulary
from sdlab.worlds import scenes
from sdlab.worlds.scenes.captions import Statement, Thing, state
from sdlab.worlds.scenes.reader import Evaluator, Reading, Seen, check, read


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


@pytest.mark.parametrize("n", [5, 20, 39])
def test_fid_of_few_pictures_in_many_dimensions_is_that_of_torchmetrics(n: int):
    generator = torch.Generator().manual_seed(n)
    real = torch.randn(200, 40, generator=generator, dtype=torch.float64)
    few = 0.3 + torch.randn(n, 40, generator=generator, dtype=torch.float64)
    distances = Distances(real)
    assert distances._fid_of_few(few) == pytest.approx(distances._fid_once(few), rel=1e-6)


def test_statistics_serve_fid_as_well_as_the_pictures_and_kid_not_at_all():
    real, few = cloud(300, 0, d=12), cloud(40, 1, 0.4, 1.3, d=12)
    distances = Distances(Statistics.of(real))
    assert distances.fid(few).value == pytest.approx(Distances(real).fid(few).value, rel=1e-4)
    with pytest.raises(ValueError, match="KID needs the reference's features"):
        distances.kid(few)


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
    from sdlab.worlds.scenes.captions import alter

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
    assert set(found.values) == {name for name, info in METRICS.items() if info.of_pictures and not info.of_input}
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


def renders(n: int, seed: int = 0) -> Tensor:
    return scenes.render(scenes.sample(n, torch.Generator().manual_seed(seed)))


def noisy(images: Tensor, strength: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + strength * noise).clamp(-1, 1)


def test_psnr_is_20_decibels_for_each_factor_of_ten():
    """Pictures in [−1, 1] a constant c apart: 10 log₁₀ (2² / c²)."""
    images = torch.zeros(4, 3, 16, 16)
    others = images + torch.tensor([0.0, 0.02, 0.2, 2.0]).view(4, 1, 1, 1)
    expected = [EQUAL, 20 * log10(2 / 0.02), 20 * log10(2 / 0.2), 0.0]
    torch.testing.assert_close(psnr(images, others), torch.tensor(expected), rtol=1e-4, atol=1e-4)


def test_ssim_is_the_formula_of_the_paper():
    """Wang et al. 2004, equation 13, written out: Gaussian windows of 11 pixels, σ = 1.5, the edges mirrored."""
    a, b = renders(3).double(), noisy(renders(3), 0.3).double()
    found = ssim(a, b)
    torch.testing.assert_close(ssim(a, a), torch.ones(3, dtype=torch.float64))
    a, b = (F.pad(images, (5, 5, 5, 5), mode="reflect") for images in (a, b))
    x = torch.arange(11, dtype=torch.float64) - 5
    kernel = torch.exp(-(x**2) / (2 * 1.5**2))
    window = torch.outer(kernel, kernel) / kernel.sum() ** 2

    def mean(images: Tensor) -> Tensor:
        return F.conv2d(images, window.expand(3, 1, 11, 11), groups=3)

    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    expected = ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean((1, 2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_the_feature_distance_is_that_of_unit_vectors_place_by_place(evaluator: Evaluator):
    a, b = renders(2, 0), renders(2, 1)
    expected = []
    for one, other in zip(a, b, strict=True):
        total = 0.0
        f, g = one[None], other[None]
        for layer in (evaluator.fine, evaluator.coarse):
            f, g = layer(f), layer(g)
            cosines = F.cosine_similarity(f, g)[0]
            total += float((2 - 2 * cosines).mean())  # |u − v|² = 2 − 2 u·v
        expected.append(total)
    torch.testing.assert_close(feature_distance(evaluator, a, b), torch.tensor(expected), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["psnr", "ssim", "feature_distance"])
@torch.no_grad()
def test_the_more_a_picture_changes_the_less_it_resembles(evaluator: Evaluator, name: str):
    measure: Callable[[Tensor, Tensor], Tensor]
    measure = {"psnr": psnr, "ssim": ssim, "feature_distance": lambda a, b: feature_distance(evaluator, a, b)}[name]
    images = renders(8)
    found = torch.stack([measure(noisy(images, strength), images) for strength in (0.0, 0.05, 0.2, 0.8)])
    better = 1 if METRICS[name].better == "higher" else -1
    assert torch.all(better * found.diff(dim=0) < 0)
    torch.testing.assert_close(measure(images, noisy(images, 0.2)), found[2])  # the same both ways


def test_changes_are_counted_among_what_the_input_lacked():
    """Asked: a small red circle on white. The input was a small blue circle on black; a result may mend one or both."""
    asked = Statement((Thing(shape=0, colour=0, size=0),), background=0)

    def seen(colour: int, background: int) -> Reading:
        return Reading((Seen(Thing(0, colour, 0), 30.0, 30.0),), background)

    before, after = seen(5, 2), [seen(5, 2), seen(0, 2), seen(5, 0), seen(0, 0)]
    found = changes_made([asked] * 4, [before] * 4, after)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.5, 0.5, 1.0]))
    nothing = Reading((), 0)  # what was there and is lost is no change that was asked for
    torch.testing.assert_close(changes_made([asked], [before], [nothing]), torch.tensor([0.5]))
    torch.testing.assert_close(changes_made([asked], [seen(0, 0)], [nothing]), torch.tensor([1.0]))


def test_metrics_of_image_to_image_are_measured_with_inputs_and_only_then(meters: Meters):
    world = scenes.sample(16, torch.Generator().manual_seed(1))
    captions, images = scenes.describe(world, torch.Generator().manual_seed(1)), scenes.render(world)
    without = meters.measure(images, captions)
    found = meters.measure(images, captions, images)
    assert {name for name, info in METRICS.items() if info.of_input} == found.values.keys() - without.values.keys()
    assert (found.values["psnr"], found.values["feature_distance"]) == (EQUAL, pytest.approx(0, abs=1e-6))
    assert found.per_image["ssim"].shape == (16,)
    moved = meters.measure(images, captions, images.roll(1, 0))
    assert moved.values["changes_made"] > 0.9  # from another scene to the one that the caption describes


def tiny_clip(folder: Path, act: str = "quick_gelu") -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP of random weights in a folder, as transformers writes it."""
    folder.mkdir()
    vocab, merges = train_vocabulary(["a red circle", "a blue star on white"] * 5, 600)
    write_vocabulary(folder, vocab, merges)
    both = {"intermediate_size": 64 * 4, "num_hidden_layers": 2, "hidden_act": act}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**both, "hidden_size": 64, "vocab_size": len(vocab), "num_attention_heads": 4, "eos_token_id": 2},
        vision_config={**both, "hidden_size": 64, "num_attention_heads": 2, "image_size": 48, "patch_size": 16},
        projection_dim=32,
    )
    model = CLIPModel(config).eval()
    for parameter in model.parameters():  # livelier than its initial weights, so that pictures and prompts differ
        torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(folder)
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    sizes = {"size": {"shortest_edge": 48}, "crop_size": {"height": 48, "width": 48}}
    return model, CLIPProcessor(CLIPImageProcessorPil(**sizes), tokenizer)


PROMPTS = ["a red circle", "A blue star, on white!", "something else entirely 7"]


def test_openais_clip_scores_as_transformers_does(tmp_path: Path):
    model, processor = tiny_clip(tmp_path / "clip")
    scorer = ClipScorer(*openai_clip.load(tmp_path / "clip"))
    images = renders(3)[..., :50]  # 64 × 50, so that the preparation must cut
    with torch.inference_mode():
        found = scorer(images, PROMPTS)
    pictures = [Image.fromarray(image.numpy()) for image in to_bytes(images)]
    inputs = processor(text=PROMPTS, images=pictures, return_tensors="pt", padding=True)
    with torch.inference_mode():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    expected = (100 * logits.diagonal()).clamp(min=0)
    assert expected.max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 64), (100, 33), (31, 77)])
def test_pictures_are_prepared_as_by_transformers(height: int, width: int):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    expected = processor([Image.fromarray(a.numpy()) for a in to_bytes(images)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(openai_clip.prepare(images, 48), expected, rtol=1e-4, atol=1e-4)


def test_weights_of_clip_may_be_a_pickle_of_tensors(tmp_path: Path):
    model, _ = tiny_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(77)[None]},
               tmp_path / "clip" / "pytorch_model.bin")  # fmt: skip
    clip, _, _ = openai_clip.load(tmp_path / "clip")
    torch.testing.assert_close(clip.log_scale, model.logit_scale.detach())


def test_another_clip_than_openais_is_refused(tmp_path: Path):
    tiny_clip(tmp_path / "clip", act="gelu")
    with pytest.raises(UsageError, match=r"config\.json: is no CLIP of OpenAI's"):
        openai_clip.load(tmp_path / "clip")
    (tmp_path / "clip" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json: is not the configuration of a CLIP"):
        openai_clip.load(tmp_path / "clip")


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "vocab.json").touch()
    (tmp_path / "few").mkdir()
    files = MetricFiles(inception="i.pth", reference="real", clip=str(tmp_path / "clip"))
    lines = missing_files(tuple(METRICS), files)
    for words in (
        "i.pth: no such file",
        "real: no such folder",
        "config.json of",
        "merges.txt of",
        "model.safetensors",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert all("\n" not in line for line in lines)
    assert missing_files(("prompt_accuracy",), files) == []  # what is not measured needs nothing
    few = missing_files(("fid",), MetricFiles(inception="i.pth", reference=str(tmp_path / "few")))
    assert any("holds fewer than 4 pictures" in line for line in few)
    assert any(
        "metric_files.reference: missing" in line for line in missing_files(("fid",), MetricFiles(inception="i"))
    )


INCEPTION = MetricFiles(inception="i.pth", reference="r.npz")


@pytest.mark.parametrize(
    ("metrics", "files", "images", "inputs", "words"),
    [
        (
            ("prompt_accuracy",),
            MetricFiles(),
            8,
            True,
            "prompt_accuracy: the lab evaluator looks at pictures of 64 × 64",
        ),
        (
            ("fid", "kid"),
            MetricFiles(),
            8,
            True,
            "fid, kid: the lab evaluator looks at pictures of 64 × 64, 'sd15' makes",
        ),
        (("clip_score",), MetricFiles(), 8, True, "clip_score needs a vision tower, which 'sd15' lacks"),
        (("fid",), INCEPTION, 3, True, "fid and kid need at least 4 images a cell, got 3"),
        (("kid",), INCEPTION, 8, True, "kid compares with pictures, and metric_files.reference holds statistics alone"),
        (
            ("psnr", "ssim"),
            MetricFiles(),
            8,
            False,
            "psnr, ssim: compared with input pictures, which not every prompt has",
        ),
        (("psnr",), MetricFiles(reference="r"), 8, True, "metric_files.reference: goes with inception"),
    ],
)
def test_what_cannot_be_measured_on_sd15_is_one_line(metrics, files, images, inputs, words):
    [line] = complaints(metrics, SD15, files, images, inputs)
    assert words in line


def test_what_can_be_measured_on_sd15_is_not_complained_about():
    files = MetricFiles(inception="i.pth", reference="real", clip="c")
    assert complaints(("fid", "kid", "clip_score", "psnr", "ssim"), SD15, files, 8, True) == []
    assert complaints(tuple(METRICS), SCENES, MetricFiles(), 8, True) == []


def test_a_label_says_on_what_a_metric_is_measured():
    files = MetricFiles(inception="i.pth", reference="r", clip="c")
    assert [labelled(name, files).label for name in ("fid", "kid", "clip_score", "psnr")] == [
        "FID (Inception)", "KID (Inception)", "CLIP score (OpenAI)", "PSNR",
    ]  # fmt: skip
    assert [labelled(name, MetricFiles()).label for name in ("fid", "clip_score")] == ["FID (lab)", "CLIP score"]


class Mean3:
    """Stands for Inception, whose weights cannot be had here: the mean and the spread of each channel."""

    num_features = 6

    def __init__(self, weights: Path, device: object) -> None:
        self.weights = weights

    def __call__(self, images: Tensor) -> Tensor:
        flat = images.flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], dim=1).float()


def test_with_files_of_inception_fid_compares_with_the_users_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(meters_module, "InceptionFeatures", Mean3)
    monkeypatch.setattr("sdlab.metrics.needs.find_spec", lambda name: name)
    (tmp_path / "i.pth").touch()
    real, fake = renders(24, 1), renders(20, 2) * 0.7
    (tmp_path / "real" / "more").mkdir(parents=True)
    for i, picture in enumerate(to_bytes(real).numpy()):
        Image.fromarray(picture).save(tmp_path / "real" / ("more" if i % 2 else "") / f"{i:02}.png")
    (tmp_path / "real" / "notes.txt").write_text("no picture")
    model = replace(load("scenes"), clip=None)
    pictures = Meters(("fid", "kid"), model, files(tmp_path, "real")).measure(fake, [""] * 20)
    features = Mean3(Path(), None)
    order = sorted(range(24), key=lambda i: (f"{i:02}.png", 0) if not i % 2 else ("more", i))
    rounded = to_bytes(real[order]).permute(0, 3, 1, 2).float() / 127.5 - 1
    expected = Distances(features(rounded))
    assert pictures.values["fid"] == pytest.approx(expected.fid(features(fake)).value, rel=1e-5)
    assert pictures.values["kid"] == pytest.approx(expected.kid(features(fake)).value, rel=1e-4)
    statistics = Statistics.of(features(rounded))
    np.savez(tmp_path / "r.npz", mu=statistics.mean, sigma=statistics.covariance)
    from_statistics = Meters(("fid",), model, files(tmp_path, "r.npz")).measure(fake, [""] * 20)
    assert from_statistics.values["fid"] == pytest.approx(pictures.values["fid"], rel=1e-4)


def files(folder: Path, reference: str) -> MetricFiles:
    return MetricFiles(inception=str(folder / "i.pth"), reference=str(folder / reference))


def test_statistics_of_another_form_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "r.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(UsageError, match=r"should be of 2048 features, got shapes \(3,\) and \(3, 3\)"):
        read_statistics(path, 2048)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(UsageError, match=r"is no \.npz with the arrays mu and sigma"):
        read_statistics(path, 2048)
    path.write_text("dear diary")
    with pytest.raises(UsageError, match=r"is no \.npz with the arrays mu and sigma"):
        read_statistics(path, 2048)
