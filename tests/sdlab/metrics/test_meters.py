"""Metrics together: loaded once, measured batch by batch, on pictures whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

import samplers
from samplers.exact import law
from sdlab.backends.exact_models import gaussian
from sdlab.metrics import METRICS, Batch, Meters, MetricFiles, Result, Run, Tools, fid, inception, kid, missing_files
from sdlab.metrics.base import INPUTS, PICTURES, PROMPTS, SAMPLES
from sdlab.metrics.features import Statistics
from sdlab.metrics.lab import Lab
from sdlab.metrics.psnr import EQUAL
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes

pytestmark = pytest.mark.slow

OF_PICTURES = [
    metric
    for name, metric in METRICS.items()
    if "pictures" in metric.needs and not missing_files([name], MetricFiles())
]


@pytest.fixture(scope="module")
def tools() -> Tools:
    model = load("scenes")
    assert model.clip is not None
    return Tools(size=(64, 64), clip=(model.clip, model.tokenizer))


@pytest.fixture(scope="module")
def meters(tools: Tools) -> Meters:
    return Meters([metric for metric in OF_PICTURES if "inputs" not in metric.needs], tools)


@pytest.fixture(scope="module")
def to_inputs(tools: Tools) -> Meters:
    return Meters(OF_PICTURES, tools)


def measure(
    meters: Meters,
    pictures: Tensor,
    prompts: list[str] | None = None,
    inputs: Tensor | None = None,
    captions: list[str] | None = None,
) -> dict[str, Result]:
    units = [i // 2 for i in range(len(pictures))]  # two images per prompt
    measurement = meters.start(Run(len(pictures), units=units))
    measurement.update(Batch(range(len(pictures)), pictures, prompts, inputs, captions=captions))
    return measurement.results()


def captioned(n: int, seed: int = 1) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(seed)
    world = scenes.sample(n, generator)
    return scenes.render(world), scenes.describe(world, generator)


def test_real_renders_score_as_real(meters: Meters, to_inputs: Meters):
    found = meters.real(128)
    assert set(found) == {metric.name for metric in OF_PICTURES if metric.needs <= PICTURES | PROMPTS}
    assert set(to_inputs.real(8)) == set(found)  # those of image-to-image are not of real renders
    assert found["prompt_accuracy"].value > 0.99
    assert found["kid"].stderr is not None
    assert abs(found["kid"].value) < 4 * found["kid"].stderr + 0.01
    assert found["clip_score"].per_image is not None
    assert found["clip_score"].per_image.shape == (128,)


def test_there_are_no_real_renders_of_another_size():
    assert Meters([METRICS["psnr"]], Tools(size=(512, 512))).real(4) == {}
    assert Meters([METRICS["w2"]], Tools()).real(4) == {}


def test_real_pictures_of_a_folder_say_what_is_near_to_real(tmp_path: Path):
    for i in range(3):
        Image.new("RGB", (40, 32), (255, 0, 0) if i else (128, 128, 128)).save(tmp_path / f"{i}.png")
    tools = Tools(size=(32, 32), files=MetricFiles(reference=str(tmp_path)))
    found = Meters([METRICS["saturation"], METRICS["psnr"]], tools).real(64)
    assert set(found) == {"saturation"}  # renders would say nothing about these pictures
    assert found["saturation"].value == pytest.approx(2 / 3)  # of all pictures, whatever the number of generated ones
    assert Meters([METRICS["psnr"]], tools).real(64) == {}


def test_worse_pictures_score_worse(meters: Meters):
    images, captions = captioned(96)
    good = measure(meters, images, captions)
    shuffled = measure(meters, images.roll(1, 0), captions)
    faded = measure(meters, images * 0.3, captions)
    assert shuffled["clip_score"].value < good["clip_score"].value - 5
    assert shuffled["prompt_accuracy"].value < 0.7
    assert shuffled["fid"].value == pytest.approx(good["fid"].value, rel=0.01)  # the same set of pictures
    assert faded["fid"].value > 2 * good["fid"].value
    assert faded["kid"].value > good["kid"].value


def test_pictures_may_come_in_any_order_and_number(to_inputs: Meters):
    images, captions = captioned(12)
    inputs = images.roll(1, 0)
    before = captions[-1:] + captions[:-1]  # those of the inputs
    whole = measure(to_inputs, images, captions, inputs, before)
    measurement = to_inputs.start(Run(12, units=[i // 2 for i in range(12)]))
    for indices in ([3, 7], [11, 0, 10, 1, 9], [2], [8, 4, 5, 6]):
        texts = [[lines[i] for i in indices] for lines in (captions, before)]
        measurement.update(Batch(indices, images[indices], texts[0], inputs[indices], captions=texts[1]))
    for name, found in measurement.results().items():
        assert found.value == pytest.approx(whole[name].value, rel=1e-4, abs=1e-5), name
        assert found.stderr == pytest.approx(whole[name].stderr, rel=1e-3, abs=1e-5), name
        if METRICS[name].per_image:
            assert found.per_image is not None
            torch.testing.assert_close(found.per_image, whole[name].per_image, rtol=1e-4, atol=1e-4)
        else:
            assert found.per_image is None


def test_the_evaluator_is_loaded_once_and_sees_each_picture_once(tools: Tools, meters: Meters):
    seen = list[int]()
    lab = tools.shared(Lab)
    counting = lab.evaluator.fine.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    three = Meters([METRICS[name] for name in ("fid", "kid", "prompt_accuracy")], tools)
    assert seen == []  # the reference set is that of `meters`
    measure(three, *captioned(70))
    counting.remove()
    assert seen == [64, 6]


def test_metrics_of_image_to_image_compare_with_the_inputs(to_inputs: Meters):
    images, captions = captioned(16)
    same = measure(to_inputs, images, captions, images, captions)
    assert {name for name in same if METRICS[name].needs >= INPUTS} == {
        "changes_made", "directional_similarity", "psnr", "ssim", "feature_distance",
    }  # fmt: skip
    assert (same["psnr"].value, same["feature_distance"].value) == (EQUAL, pytest.approx(0, abs=1e-6))
    moved = measure(to_inputs, images, captions, images.roll(1, 0), captions[-1:] + captions[:-1])
    assert moved["changes_made"].value > 0.9  # from another scene to the one that the caption describes
    assert (same["directional_similarity"].value, moved["directional_similarity"].value > 0.3) == (0.0, True)


def test_the_reference_error_is_the_distance_to_the_end_of_each_samples_flow():
    ends = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    measurement = Meters([METRICS["reference_error"]], Tools()).start(Run(3, flow_ends=lambda: ends))
    measurement.update(Batch([2, 0], samples=torch.tensor([[2.0, 4.0], [3.0, 3.0]])))
    measurement.update(Batch([1], samples=torch.tensor([[1.0, 1.0]])))
    found = measurement.results()["reference_error"]
    assert found.per_image is not None
    torch.testing.assert_close(found.per_image, torch.tensor([3.0, 0.0, 8.0**0.5]).double())
    assert found.value == pytest.approx((3 + 8**0.5) / 3)


def test_w2_depends_on_the_laws_and_not_on_the_samples():
    model, sampler, sigmas = gaussian(), samplers.make("heun"), (10.0, 3.0, 1.0, 0.0)
    assert model.law is not None
    measurement = Meters([METRICS["w2"]], Tools()).start(Run(2, sampler=sampler, sigmas=sigmas, law=model.law))
    measurement.update(Batch([0, 1], samples=torch.full((2, 3), 7.0)))
    found = measurement.results()["w2"]
    assert found == Result(law.distance(sampler, model.law, sigmas, law.noise_at(model.law, 10.0)))
    assert METRICS["w2"].needs == SAMPLES


class Mean3(inception.Inception):
    """Stands in for Inception, whose weights cannot be had here: the mean and the spread of each channel."""

    num_features = 6

    def __init__(self, weights: Path, device: object) -> None:
        self.weights = weights

    def __call__(self, pictures: Tensor) -> Tensor:
        flat = pictures.flatten(2)
        return torch.cat([flat.mean(2), flat.std(2)], dim=1).float()


def test_with_files_of_inception_fid_compares_with_the_users_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(inception, "Inception", Mean3)
    real, fake = captioned(24)[0], captioned(20, 2)[0] * 0.7
    (tmp_path / "real" / "more").mkdir(parents=True)
    for i, picture in enumerate(to_bytes(real).numpy()):
        Image.fromarray(picture).save(tmp_path / "real" / ("more" if i % 2 else "") / f"{i:02}.png")
    (tmp_path / "real" / "notes.txt").write_text("no picture")
    weights = tmp_path / "i.pth"
    weights.write_bytes(b"mean and spread of the channels")

    def found(names: list[str], reference: str) -> dict[str, Result]:
        files = MetricFiles(inception=str(weights), reference=str(tmp_path / reference))
        return measure(Meters([METRICS[name] for name in names], Tools(size=(64, 64), files=files)), fake)

    pictures, features = found(["fid", "kid"], "real"), Mean3(Path(), None)
    order = sorted(range(24), key=lambda i: (f"{i:02}.png", 0) if not i % 2 else ("more", i))
    rounded = features(to_bytes(real[order]).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert pictures["fid"].value == pytest.approx(fid.distance(features(fake), Statistics.of(rounded)), rel=1e-5)
    assert pictures["kid"].value == pytest.approx(kid.estimate(features(fake), kid.Subsets(rounded)).value, rel=1e-4)
    statistics = Statistics.of(rounded)
    np.savez(tmp_path / "r.npz", mu=statistics.mean, sigma=statistics.covariance)
    assert found(["fid"], "r.npz")["fid"].value == pytest.approx(pictures["fid"].value, rel=1e-4)


def test_inception_reports_the_missing_file(tmp_path: Path):
    with pytest.raises(UsageError, match=r"inception\.pth: not found; it should be pt_inception-2015-12-05"):
        inception.Inception(tmp_path / "inception.pth")


def test_statistics_of_another_form_are_refused_in_one_line(tmp_path: Path):
    path = tmp_path / "r.npz"
    np.savez(path, mu=np.zeros(3), sigma=np.zeros((3, 3)))
    with pytest.raises(UsageError, match=r"should have 2048 features, got shapes \(3,\) and \(3, 3\)"):
        inception.read_statistics(path, 2048)
    for spoil in (lambda: np.savez(path, mean=np.zeros(3)), lambda: path.write_text("dear diary")):
        spoil()
        with pytest.raises(UsageError, match=r"is not an \.npz file with the arrays mu and sigma"):
            inception.read_statistics(path, 2048)


def test_every_field_of_a_batch_is_split_alike():
    n = 7
    rows = torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1)
    texts = [str(i) for i in range(n)]
    whole = Batch(range(n), rows, texts, 10 + rows, 20 + rows, texts)
    parts = list(whole.split(3))
    assert [len(part.indices) for part in parts] == [3, 3, 1]
    for part in parts:
        indices = list(part.indices)
        assert part.prompts == part.captions == [str(i) for i in indices]
        for field, first in ((part.pictures, 0), (part.inputs, 10), (part.samples, 20)):
            assert field is not None
            assert field.flatten().tolist() == [first + i for i in indices]


def test_each_picture_is_scored_with_its_own_prompt_in_every_batch(tools: Tools):
    """In one call of 150 images, and in calls of 7: each as if it were measured alone."""
    pictures, prompts = captioned(150)
    meters = Meters([METRICS["clip_score"], METRICS["prompt_accuracy"]], tools)
    together, apart = meters.start(Run(150)), meters.start(Run(150))
    together.update(Batch(range(150), pictures, prompts))
    for start in range(0, 150, 7):
        part = slice(start, start + 7)
        apart.update(Batch(range(150)[part], pictures[part], prompts[part]))
    for name in ("clip_score", "prompt_accuracy"):
        alone = [
            float(measure(meters, pictures[i : i + 1], prompts[i : i + 1])[name].value) for i in (0, 63, 64, 100, 149)
        ]
        for found in (together, apart):
            values = found.results()[name].per_image
            assert values is not None
            assert values[[0, 63, 64, 100, 149]].tolist() == pytest.approx(alone, abs=1e-3)


def test_the_standard_error_of_a_mean_is_the_textbook_one():
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    assert Result.mean(values).stderr == pytest.approx(stats.sem(values.numpy()), rel=1e-6)
