"""Folders of pictures from any tool, measured like the cells of a sweep."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from sdlab.commands.evaluate import command
from sdlab.metrics import METRICS, MetricFiles
from sdlab.metrics.folder import measure_folder, open_folder
from sdlab.picture import to_bytes
from sdlab.report.evaluate import evaluate
from sdlab.system.errors import UsageError
from sdlab.worlds import scenes


def save(folder: Path, pictures: Tensor, name: str = "{}.png") -> Path:
    """Write pictures with names that are not padded: 0.png … 10.png."""
    folder.mkdir()
    for i, picture in enumerate(to_bytes(pictures).numpy()):
        Image.fromarray(picture).save(folder / name.format(i))
    return folder


def captioned(n: int) -> tuple[Tensor, list[str]]:
    generator = torch.Generator().manual_seed(4)
    world = scenes.sample(n, generator)
    return scenes.render(world), scenes.describe(world, generator)


@pytest.fixture(autouse=True)
def few_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renders that features are scaled by; fewer are as good here."""
    monkeypatch.setattr("sdlab.metrics.features.REFERENCE", 128)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Twelve pictures that follow their captions, a noisy copy of them, and the file of the captions."""
    pictures, prompts = captioned(12)
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    good = save(tmp_path / "good", pictures)
    return good, save(tmp_path / "noisy", (pictures + 0.3 * noise).clamp(-1, 1)), tmp_path / "prompts.txt"


def rows(capsys: Any, *arguments: Any, **options: Any) -> list[dict[str, str]]:
    command(*arguments, **{"metrics": None, "device": "cpu", "format": "csv", **options})
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_line_i_of_the_prompts_belongs_to_picture_i_in_natural_order(made, capsys):
    """In the order of letters 10.png would come before 2.png, and most pictures would miss their captions."""
    good, _, prompts = made
    (row,) = rows(capsys, [good], prompts, metrics="prompt_accuracy")
    assert float(row["prompt_accuracy"]) > 0.98
    assert [path.name for path in open_folder(good).paths] == [f"{i}.png" for i in range(12)]


def test_folders_are_compared_picture_by_picture(made, capsys):
    good, noisy, prompts = made
    first, second = rows(capsys, [good, noisy], prompts, inputs=good, metrics="psnr,ssim")
    assert (first["psnr_standing"], second["psnr_standing"]) == ("best", "behind")
    a, b = (measure_folder(one, ["ssim"], inputs=good)["ssim"].per_image.numpy() for one in (good, noisy))
    assert float(second["ssim_difference"]) == pytest.approx(float((b - a).mean()), rel=1e-5)
    error = stats.sem(b)
    assert float(second["ssim_stderr"]) == pytest.approx(error, rel=1e-5)
    half = stats.t.ppf(0.975, 11) * error
    assert float(second["ssim_ci_high"]) - float(second["ssim"]) == pytest.approx(half, rel=1e-5)


def test_all_possible_metrics_are_measured_by_default(made, tmp_path: Path):
    good, _, prompts = made
    lines = prompts.read_text(encoding="utf-8").splitlines()

    def possible(*given: Any, files: MetricFiles | None = None) -> set[str]:
        folder = open_folder(*given, files=files)
        return {name for name in METRICS if folder.can_measure(name)}

    alone = {"saturation", "contrast"}
    read = alone | {"fid", "kid", "mind", "precision", "recall", "density", "coverage"}
    assert possible(good) == read
    assert possible(good, lines) == read | {"prompt_accuracy", "reader_disagreement"}
    assert possible(good, lines[:6] * 2) == read | {"prompt_accuracy", "reader_disagreement", "diversity"}
    assert possible(good, None, good) == read | {"psnr", "ssim", "feature_distance"}
    assert possible(save(tmp_path / "large", torch.zeros(5, 3, 32, 32))) == alone


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"clip": "nowhere"}, "metric_files.clip: nowhere"),
        ({"reference": "nowhere"}, "metric_files.reference: nowhere: not found"),
        ({"inception": "nowhere", "reference": "nowhere"}, "metric_files.inception: nowhere: not found"),
    ],
)
def test_files_that_the_user_names_and_that_are_missing_are_no_reason_to_leave_a_metric_out(made, files, message):
    good, _, prompts = made
    given = MetricFiles(**files)
    opened = open_folder(good, prompts.read_text(encoding="utf-8").splitlines(), files=given)
    with pytest.raises(UsageError, match=message):
        evaluate([opened], [], given)


def test_real_pictures_are_a_reference_of_the_lab_evaluator(made, tmp_path: Path):
    """The distance to the same pictures is 0, and that of noisy ones is not."""
    good, noisy, _ = made
    files = MetricFiles(reference=str(good))
    table = evaluate([open_folder(one, files=files) for one in (good, noisy)], ["fid"], files)
    fid = next(column for column in table.columns if column.name == "fid")
    assert fid.heading == "FID (lab, own reference) ↓"
    assert fid.values[0] == pytest.approx(0, abs=1e-3)
    assert fid.values[1] > 1
    assert any("12 images are few for 64 features" in line for line in table.caption)


def test_repeated_prompts_are_the_units(made, tmp_path: Path, capsys):
    good, _, _ = made
    text = "\n".join([f"a {color} star" for color in ("red", "blue", "green", "yellow")] * 3)
    (tmp_path / "few.txt").write_text(text)
    (row,) = rows(capsys, [good], tmp_path / "few.txt", metrics="prompt_accuracy")
    values = measure_folder(good, ["prompt_accuracy"], prompts=text.splitlines())["prompt_accuracy"].per_image
    assert values is not None
    means = values.double().view(3, 4).mean(0).numpy()  # of the four prompts
    assert float(row["prompt_accuracy_stderr"]) == pytest.approx(max(stats.sem(means), 1 / 5), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "3.png").write_bytes(b"text"), "3.png: is not a picture in a supported format"),
        (lambda folder: Image.new("RGB", (64, 63)).save(folder / "3.png"), "3.png: is 63 × 64, and 0.png is 64 × 64; "),
        (lambda folder: [path.unlink() for path in folder.iterdir()], ": has no pictures"),
        (lambda folder: (folder / "3.png").unlink(), "has 11 pictures for 12 prompts; give one per picture"),
    ],
)
def test_bad_pictures_are_one_line(change: Any, message: str, made):
    good, _, prompts = made
    change(good)
    with pytest.raises(UsageError) as caught:
        command([good], prompts, format="csv", device="cpu")
    (line,) = caught.value.lines
    assert message in line
    assert str(good) in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "fdi"}, "unknown metric 'fdi' (did you mean 'fid'?); known: "),
        ({"device": "quantum"}, "--device: "),
        ({"format": "xml"}, "--format: unknown format 'xml'"),
        (
            {"real": Path("no"), "metrics": "fid"},
            "--real: no: not found; it should be a folder of real",
        ),
        ({"prompts": Path("no.txt")}, "no.txt: "),
        ({"metrics": "w2"}, "metrics: w2: not possible, because "),
    ],
)
def test_a_mistake_is_one_line(options: dict[str, Any], message: str, made):
    good, _, _ = made
    with pytest.raises(UsageError) as caught:
        command([good], **{"device": "cpu", **options})
    (line,) = caught.value.lines
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"clip": Path("openai"), "metrics": "saturation"},
            "--clip: has no effect, because it is only for cmmd, clip_score, directional_similarity",
        ),
        (
            {"real": Path("photos"), "metrics": "saturation,contrast"},
            "--real: has no effect, because it is only for fid, kid, mind, cmmd, precision, recall, density, coverage, "
            "diversity",
        ),
    ],
)
def test_an_option_that_no_metric_uses_is_a_mistake(options: dict[str, Any], line: str, made):
    good, _, _ = made
    with pytest.raises(UsageError) as caught:
        command([good], **{"device": "cpu", **options})
    assert [*caught.value.lines] == [line]


def test_an_option_that_no_possible_metric_uses_is_a_mistake_with_the_reasons(tmp_path: Path):
    large = save(tmp_path / "large", torch.zeros(5, 3, 32, 32))
    with pytest.raises(UsageError) as caught:
        command([large], clip=Path("openai"), device="cpu")
    assert [*caught.value.lines] == [
        "--clip: has no effect, because it is only for cmmd, clip_score, directional_similarity",
        "metrics: cmmd: needs real pictures; name a folder of them as reference in [metric_files]",
        f"metrics: clip_score, directional_similarity: not possible, because {large} has no prompts",
    ]


def test_too_few_pictures_for_a_metric_are_refused(tmp_path: Path):
    few = save(tmp_path / "few", captioned(3)[0])
    with pytest.raises(UsageError, match="metrics: fid: needs at least 4 images per cell, got 3"):
        command([few], metrics="fid", device="cpu")


def test_folders_of_other_sizes_are_flagged(made, tmp_path: Path):
    good, noisy, _ = made
    for name in ("10.png", "11.png"):
        (noisy / name).unlink()
    table = evaluate([open_folder(good), open_folder(noisy)], ["fid"], MetricFiles())
    assert table.caption[-2:] == (
        "The folders have different numbers of pictures, so they are not compared picture by picture.",
        "FID (lab) depends on the number of pictures; do not compare these.",
    )


def test_a_hostile_folder_name_is_text(made, tmp_path: Path, capsys):
    good, _, _ = made
    hostile = good.rename(tmp_path / "a|b<i>\x1b[31m&$")
    for form in ("table", "md", "csv", "latex", "html"):
        command([hostile], inputs=hostile, metrics="psnr", device="cpu", format=form)
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "<i>" not in out or form in ("table", "csv")
