"""What metrics need, as known before anything is loaded; and the registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdlab.metrics import (
    METRICS,
    MetricFiles,
    Subject,
    complaints,
    content_files,
    labelled,
    missing_files,
    unused_files,
)
from sdlab.metrics.base import ARROWS, Metric, Need
from sdlab.metrics.lab import evaluator_file

ALL = frozenset[Need]({"pictures", "prompts", "inputs", "captions", "samples", "repeated prompts"})
INCEPTION = MetricFiles(inception="i.pth", reference="r.npz")
FOLDER = MetricFiles(inception="i.pth", reference="real")


def sd15(files: MetricFiles | None = None, images: int = 8, lacks: Need = "samples") -> Subject:
    return Subject("sd15", images, ALL - {lacks}, size=(512, 512), files=files or MetricFiles())


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_every_metric_is_whole(metric: Metric):
    assert METRICS[metric.name] is metric
    assert metric.label
    assert metric.about
    assert metric.better in ARROWS
    assert metric.needs
    assert metric.needs <= ALL
    assert type(metric).__doc__


def test_every_file_of_a_metric_is_in_the_registry():
    def leaves(kind: type[Metric]) -> set[type[Metric]]:
        return {kind} if not kind.__subclasses__() else {one for sub in kind.__subclasses__() for one in leaves(sub)}

    ours = {one for one in leaves(Metric) if one.__module__.startswith("sdlab.")}  # other tests define metrics too
    assert {type(metric) for metric in METRICS.values()} == ours


def test_values_are_written_with_their_digits_or_in_powers_of_ten():
    assert METRICS["fid"].text(3.14159) == "3.14"
    assert [METRICS["reference_error"].text(v) for v in (0.00472, 0.08, 1.5, 4.72e-9, 1234.0)] == [
        "0.00472",
        "0.0800",
        "1.50",
        "4.72e-09",
        "1.23e+03",
    ]


@pytest.mark.parametrize(
    ("metrics", "subject", "line"),
    [
        (
            ["prompt_accuracy", "feature_distance"],
            sd15(),
            "metrics: prompt_accuracy, feature_distance: the lab evaluator reads pictures of 64 × 64 pixels, but those "
            "of sd15 are 512 × 512",
        ),
        (
            ["fid", "kid"],
            sd15(),
            "metrics: fid, kid: the lab evaluator reads pictures of 64 × 64 pixels, but those of sd15 are 512 × 512; "
            "for Inception's features, set inception and reference in [metric_files]",
        ),
        (
            ["clip_score"],
            sd15(),
            "metrics: clip_score: needs a CLIP with a vision tower, which sd15 lacks; name a folder with OpenAI's CLIP "
            "as clip in [metric_files]",
        ),
        (["fid"], sd15(INCEPTION, images=3), "metrics: fid: needs at least 4 images per cell, got 3"),
        (["recall"], sd15(FOLDER, images=5), "metrics: recall: needs at least 6 images per cell, got 5"),
        (
            ["fid", "kid", "recall", "diversity"],
            sd15(INCEPTION),
            "metrics: kid, recall: needs a folder of real pictures, but metric_files.reference has only statistics",
        ),
        (
            ["diversity"],
            sd15(FOLDER, lacks="repeated prompts"),
            "metrics: diversity: not possible, because sd15 has a prompt with one image only; make several of each "
            "prompt",
        ),
        (
            ["psnr", "ssim"],
            sd15(lacks="inputs"),
            "metrics: psnr, ssim: not possible, because some images of sd15 have no input picture",
        ),
        (
            ["fid", "psnr"],
            sd15(lacks="pictures"),
            "metrics: fid, psnr: not possible, because sd15 makes no pictures of a known size",
        ),
        (
            ["prompt_accuracy"],
            sd15(lacks="prompts"),
            "metrics: prompt_accuracy: not possible, because sd15 has no prompts",
        ),
        (
            ["reference_error", "w2"],
            sd15(lacks="samples"),
            "metrics: reference_error, w2: not possible, because sd15 is not a sweep",
        ),
        (
            ["w2"],
            sd15(lacks="pictures"),
            'metrics: w2: needs a model with Gaussian data, like "gaussian", but those of sd15 are not',
        ),
        (
            ["mmd", "class_probability"],
            sd15(lacks="pictures"),
            "metrics: mmd, class_probability: needs a model whose classes have a known law, like "
            '"class_mixture", and sd15 has none',
        ),
        (
            ["mmd", "class_probability"],
            Subject("ring", 8, ALL, classes=4),
            "metrics: mmd: needs at least 16 images per cell, 4 of each class, got 8",
        ),
        (
            ["reference_error"],
            Subject("scenes", 8, ALL, from_noise=False),
            "metrics: reference_error: needs samples that start from noise, but these start from pictures",
        ),
        (
            ["prompt_accuracy", "changes_made"],
            Subject("scenes", 8, ALL, size=(64, 64), prompts=["a red star", "a cat", "a dog"]),
            "metrics: prompt_accuracy, changes_made: the prompt 'a cat' states nothing about the scenes world; "
            "write it like 'a red circle above a small blue star on a grey background', or leave the metric out",
        ),
    ],
)
def test_an_impossible_metric_is_one_line(metrics: list[str], subject: Subject, line: str):
    assert complaints(metrics, subject) == [line]


def test_measurable_metrics_have_no_complaints():
    files = MetricFiles(inception="i.pth", reference="real", clip="c")
    assert complaints(["fid", "kid", "clip_score", "psnr", "ssim"], sd15(files)) == []
    prompts, captions = ["a red star"], ["a blue star"]
    whole = Subject("scenes", 8, ALL, (64, 64), prompts, captions, clip=True, gaussian=True, classes=2)
    assert complaints(list(METRICS), whole) == []


def test_everything_that_is_missing_is_named_at_once(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "vocab.json").touch()
    (tmp_path / "few").mkdir()
    files = MetricFiles(inception="i.pth", reference="real", clip=str(tmp_path / "clip"))
    lines = missing_files(list(METRICS), files)
    for words in (
        "metric_files.inception: i.pth: not found",
        "metric_files.reference: real: not found",
        "config.json of",
        "merges.txt of",
        "model.safetensors",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert all("\n" not in line for line in lines)
    assert missing_files(["prompt_accuracy"], files) == []  # what is not measured needs nothing
    few = missing_files(["fid"], MetricFiles(inception="i.pth", reference=str(tmp_path / "few")))
    assert any("has fewer than 4 pictures" in line for line in few)
    none = missing_files(["fid"], MetricFiles(inception="i"))
    assert any("metric_files.reference: missing" in line for line in none)


def test_a_missing_evaluator_is_named_with_the_metrics_that_need_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.metrics.lab.EVALUATOR", "data/nowhere.safetensors")
    assert missing_files(["fid", "psnr", "prompt_accuracy"], MetricFiles()) == [
        "metrics: fid, prompt_accuracy: the weights of the lab evaluator, data/nowhere.safetensors, were not found"
    ]
    monkeypatch.undo()
    monkeypatch.setattr("sdlab.metrics.lab.SECOND", "data/none.safetensors")
    assert missing_files(["prompt_accuracy", "reader_disagreement"], MetricFiles()) == [
        "metrics: reader_disagreement: the weights of the second lab evaluator, data/none.safetensors, were not found"
    ]


def test_values_depend_on_the_files_of_the_metrics_that_are_measured(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "1.png").touch()
    (tmp_path / "clip").mkdir()
    for name in ("config.json", "vocab.json", "merges.txt", "model.safetensors", "README"):
        (tmp_path / "clip" / name).touch()
    files = MetricFiles(inception="i.pth", reference=str(tmp_path / "real"), clip=str(tmp_path / "clip"))
    assert content_files(["psnr", "w2"], files) == []
    assert content_files(["prompt_accuracy", "fid"], MetricFiles()) == [evaluator_file(MetricFiles())]
    assert content_files(["kid", "fid"], files) == [Path("i.pth"), tmp_path / "real" / "1.png"]
    clip = content_files(["clip_score"], files)
    assert [path.name for path in clip] == ["config.json", "vocab.json", "merges.txt", "model.safetensors"]


def test_a_label_names_the_features_of_a_metric():
    files = MetricFiles(inception="i.pth", reference="r", clip="c")
    assert [labelled(name, files).label for name in ("fid", "kid", "recall", "clip_score", "psnr")] == [
        "FID (Inception)", "KID (Inception)", "recall (Inception)", "CLIP score (OpenAI)", "PSNR",
    ]  # fmt: skip
    assert [labelled(name, MetricFiles()).label for name in ("fid", "clip_score")] == ["FID (lab)", "CLIP score"]
    assert METRICS["fid"].label == "FID (lab)"


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_declares_the_files_that_it_reads(name: str, tmp_path: Path):
    for file in ("config.json", "vocab.json", "merges.txt", "model.safetensors", "real.png"):
        (tmp_path / file).touch()
    read = set[str]()
    for network in ({"inception": "i.pth"}, {"dinov2": str(tmp_path)}):  # of which a sweep has one
        files = MetricFiles.model_validate({**network, "reference": str(tmp_path), "clip": str(tmp_path)})
        whole = content_files([name], files)
        without = {key: content_files([name], files.model_copy(update={key: None})) for key in files.given}
        read |= {key for key, content in without.items() if content != whole}
    assert METRICS[name].reads == read


def test_files_that_no_metric_reads_come_with_those_that_do():
    files = MetricFiles(reference="real", clip="openai")
    assert unused_files(["fid", "clip_score"], files) == {}
    assert unused_files(["saturation", "fid"], files) == {"clip": ["cmmd", "clip_score", "directional_similarity"]}
    assert unused_files(["saturation"], files)["reference"][:2] == ["fid", "kid"]
