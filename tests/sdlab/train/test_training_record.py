"""What a run shows of itself: loss curves, sheets of pictures and TensorBoard event files."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor, nn
from training import QUIET, TINY, Line, Toy, keys

from sdlab.model.vae import Vae
from sdlab.system.errors import UsageError
from sdlab.train import loss_curves as curves
from sdlab.train.log import LossLog
from sdlab.train.loop import _progress, train
from sdlab.train.loss_curves import draw_curves
from sdlab.train.schedule import learning_rate
from sdlab.train.sheet import sheet
from sdlab.train.stages import STAGES
from sdlab.train.stages.unet_preview import samples
from sdlab.train.stages.vae_config import VaeTraining
from sdlab.weights.model_folder import save_config


@pytest.fixture(autouse=True)
def loss_curves() -> None:
    """They are drawn here."""


def toy(folder: Path, **changes: object) -> Toy:
    return Toy(**keys(folder, **changes))


def test_a_run_leaves_its_loss_curves(tmp_path: Path):
    config = toy(tmp_path)
    train(Line(config), config, QUIET)
    with Image.open(config.out / "losses.png") as picture:
        assert picture.size == (840, 260)  # the loss and the learning rate
        assert len(np.unique(np.array(picture.convert("L")))) > 20  # drawn on


def test_an_interrupted_run_leaves_its_loss_curves_too(tmp_path: Path):
    config = toy(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        train(Line(config, interrupt_at=2), config, QUIET)
    assert (config.out / "losses.png").exists()


def test_the_log_gives_each_column_with_its_steps(tmp_path: Path):
    log = LossLog(tmp_path / "log.csv", 0)
    assert log.series() == {}
    log.row(0, {"vae_loss": 2.0})
    log.row(10, {"vae_loss": 1.0, "discriminator_loss": 0.5})
    expected = {"vae_loss": ([0, 10], [2.0, 1.0]), "discriminator_loss": ([10], [0.5])}
    assert log.series() == expected
    assert LossLog(tmp_path / "log.csv", 15).series() == expected  # read from the file


def test_each_value_has_its_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    figures = []

    class Kept(curves.Figure):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(**kwargs)
            figures.append(self)

    monkeypatch.setattr(curves, "Figure", Kept)
    steps = list(range(0, 50_000, 10))
    falling, signed = [1000 / (step + 1) for step in steps], [(-1.0) ** (step // 10) for step in steps]
    broken = [float("nan"), *falling[1:]]
    draw_curves(tmp_path / "x.png", {"l1": (steps, falling), "real_logit": (steps, signed), "kl": (steps, broken)})
    (figure,) = figures
    assert [axes.get_title() for axes in figure.axes] == ["l1", "real logit", "kl"]
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear", "log"]
    points = figure.axes[0].lines[0].get_xydata()
    assert len(points) == 1000  # means of 5
    np.testing.assert_allclose(points[1], [70.0, np.mean(falling[5:10])])


def test_a_sheet_puts_every_picture_in_its_place():
    pictures = torch.linspace(-1, 1, 6).view(2, 3, 1, 1, 1).expand(2, 3, 3, 4, 5)
    page = sheet(pictures)
    assert page.shape == (3, 2 * 4 + 2, 3 * 5 + 2 * 2)
    assert page.dtype == torch.uint8
    corners = page[0, ::6, ::7]
    assert corners.tolist() == [[0, 51, 102], [153, 204, 255]]
    assert (page[:, 4:6] == 255).all()
    assert (page[:, :, 5:7] == 255).all()


class Showing(Line):
    """A line whose preview is a picture of its slope."""

    def __init__(self, config: Toy) -> None:
        super().__init__(config)
        self.shown: list[float] = []

    def preview(self) -> Tensor:
        assert not self.line.training
        self.shown.append(float(self.line.weight))
        return self.line.weight.detach().expand(1, 2, 3, 4, 4)


def test_previews_show_the_average_and_leave_the_run_as_it_is(tmp_path: Path):
    plain, shown = toy(tmp_path / "a", steps=25), toy(tmp_path / "b", steps=25, preview_every=10)
    train(Line(plain), plain, QUIET)
    stage = Showing(shown)
    found = train(stage, shown, QUIET)
    assert sorted(p.name for p in (shown.out / "previews").iterdir()) == ["0.png", "10.png", "20.png", "25.png"]
    assert stage.shown[-1] == found["slope"]
    states = [torch.load(config.out / "checkpoint.pt")["trained"]["line"] for config in (plain, shown)]
    assert repr(states[0]) == repr(states[1])
    assert all(value.equal(states[1]["module"][key]) for key, value in states[0]["module"].items())


def test_a_stage_without_pictures_says_so_at_once(tmp_path: Path):
    stage = Line(config := toy(tmp_path, preview_every=5))
    with pytest.raises(UsageError, match="`preview_every`: the toy stage has no pictures to show; remove the key"):
        train(stage, config, QUIET)
    assert stage.seen == []


@pytest.mark.slow
def test_the_vae_shows_pictures_and_their_reconstructions(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    config = VaeTraining(**keys(tmp_path, steps=2, batch=2, preview_every=2))
    stage = config.build()
    train(stage, config, QUIET)
    with Image.open(config.out / "previews" / "2.png") as picture:
        assert picture.size == (8 * 66 - 2, 2 * 66 - 2)
    images, decoded = stage.preview()
    expected = stage.vae.decode(stage.vae.encode(images).mean)
    torch.testing.assert_close(decoded, expected)
    assert images.equal(stage.preview()[0])


@pytest.mark.slow
def test_the_unet_shows_pictures_and_samples_of_their_captions(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    for stage in ("text", "vae", "unet"):
        more = {"preview_every": 2, "cache": 8} if stage == "unet" else {}
        config = STAGES[stage](**keys(tmp_path, out=tmp_path / stage, steps=2, batch=2, **more))
        train(built := config.build(), config, QUIET)
    with Image.open(tmp_path / "unet" / "previews" / "2.png") as picture:
        assert picture.size == (8 * 66 - 2, 2 * 66 - 2)
    with torch.no_grad():
        images, drawn = built.preview()
    assert images.shape == drawn.shape == (8, 3, 64, 64)
    assert drawn.isfinite().all()


def test_samples_are_those_of_the_denoiser():
    """A network that predicts the v of one clean latent: every sample is the picture of that latent."""
    torch.manual_seed(0)
    vae, latent = Vae(TINY.vae).eval(), torch.randn(4, 16, 16)

    class Exact(nn.Module):
        def forward(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
            sigma = torch.tensor([TINY.noise_schedule().sigma(float(one)) for one in t]).view(-1, 1, 1, 1)
            alpha = (1 + sigma**2) ** -0.5
            return (alpha * x - latent) / (alpha * sigma)  # v, where x = α x₀ + α σ ε

    contexts = {"cond": torch.zeros(2, 24, 16), "uncond": torch.zeros(1, 24, 16)}
    pictures = samples(Exact(), vae, TINY, contexts, torch.randn(2, 4, 16, 16))
    with torch.no_grad():
        expected = vae.decode(vae.from_latents(latent.unsqueeze(0)))
    torch.testing.assert_close(pictures, expected.expand_as(pictures), atol=1e-3, rtol=0)


def test_event_files_need_their_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = toy(tmp_path, tensorboard=True)
    with pytest.raises(UsageError, match=r"`tensorboard` needs a package .*; run: pip install 'sdlab\[tensorboard\]'"):
        train(Line(config), config, QUIET)


def test_event_files_hold_losses_and_sheets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    calls: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            calls.append(("open", log_dir, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, step))

        def add_image(self, name: str, page: Tensor, step: int) -> None:
            calls.append((name, tuple(page.shape), step))

        def close(self) -> None:
            calls.append(("close",))

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    config = toy(tmp_path, steps=12, tensorboard=True, preview_every=12)
    train(Showing(config), config, QUIET)
    picture = "preview", (3, 4, 10)
    folder = str(config.out / "tensorboard")
    assert calls == [
        ("open", folder, 0), (*picture, 0), ("loss", 0), ("lr", 0), ("loss", 10), ("lr", 10), ("loss", 11), ("lr", 11),
        (*picture, 12), ("close",),
    ]  # fmt: skip
    calls.clear()
    longer = toy(tmp_path, steps=13, tensorboard=True)
    train(Showing(longer), longer, QUIET)
    assert calls == [("open", folder, 12), ("loss", 12), ("lr", 12), ("close",)]


def test_the_learning_rates_are_in_the_log(tmp_path: Path):
    config = toy(tmp_path, steps=25, warmup=4)
    train(Line(config), config, QUIET)
    expected = [learning_rate(step, 1e-2, 4, 25) for step in (0, 10, 20, 24)]
    assert LossLog(config.out / "log.csv", 25).series()["lr"] == ([0, 10, 20, 24], pytest.approx(expected, rel=1e-5))


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_bar_and_the_time_left_are_seen_beside_many_losses(width: int):
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    with _progress(console) as progress:
        progress.update(progress.add_task("vae", total=100, note="adversarial_weight 0.5 " * 20), completed=50)
    (line,) = console.file.getvalue().splitlines()
    assert line.startswith("vae ━━━━━━━━━━ ")
    assert " 50/100 0:00:00 -:--:-- " in line.replace("╺", " ")
    assert len(line) <= width
