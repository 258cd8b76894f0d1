"""Training: the loop resumes exactly, every stage learns, and what the stages write is a model that loads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from sdlab.model.clip import Clip
from sdlab.model.config import SCENES, ClipTextConfig, ClipVisionConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.pipeline import Pipeline
from sdlab.system.errors import RunError, UsageError
from sdlab.system.lock import locked
from sdlab.train import STAGES, run
from sdlab.train.config import TrainConfig, load_config
from sdlab.train.loop import Average, learning_rate, train
from sdlab.train.stages.evaluator import weather
from sdlab.train.stages.text import where
from sdlab.train.stages.unet import UnetStage, fractions
from sdlab.train.stages.vae import psnr
from sdlab.weights.model_folder import load_part, read_config, save_config, save_part
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes
from sdlab.worlds.scenes.reader import Evaluator

QUIET = Console(quiet=True)

TINY = ModelConfig(
    name="tiny",
    image_size=64,
    text=ClipTextConfig(vocab_size=600, context_length=24, width=16, layers=1, heads=2),
    vision=ClipVisionConfig(image_size=64, patch=16, width=16, layers=1, heads=2, projection=16),
    vae=VaeConfig(width=8, multipliers=(1, 1, 1), residual_blocks=1, groups=2, scale=1.0),
    unet=UnetConfig(
        width=8, multipliers=(1, 1), residual_blocks=1, attention_rates=(2,), heads=2, context_width=16, groups=2
    ),
    levels=SCENES.levels,
    prediction="v",
)


def settings(tmp_path: Path, **changes: object) -> TrainConfig:
    given = {"model": str(tmp_path / "model"), "out": tmp_path / "out", "steps": 6, "batch": 4, "lr": 1e-2, "warmup": 2}
    return TrainConfig(**{**given, "precision": "float32", "scenes": 8, **changes})


class Line:
    """The smallest stage there is: fit y = 2x + 1 from noisy points, interrupted where told."""

    def __init__(self, stop_at: int | None = None, poison_at: int | None = None) -> None:
        torch.manual_seed(0)
        self.trained = nn.Linear(1, 1)
        self.stop_at, self.poison_at, self.seen = stop_at, poison_at, []

    def loss(self, step: int, generator: torch.Generator):
        if step == self.stop_at:
            raise KeyboardInterrupt
        x = torch.randn(64, 1, generator=generator)
        self.seen.append(float(x[0]))
        loss = (self.trained(x) - 2 * x - 1).square().mean()
        return loss * float("nan") if step == self.poison_at else loss, {}

    def finish(self) -> dict[str, float]:
        return {"slope": float(self.trained.weight), "offset": float(self.trained.bias)}


def test_the_loop_fits_a_line(tmp_path: Path):
    found = train(Line(), settings(tmp_path, steps=300, lr=0.05, ema=0.9, weight_decay=0.0), QUIET)
    assert found["slope"] == pytest.approx(2, abs=0.02)
    assert found["offset"] == pytest.approx(1, abs=0.02)


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path):
    whole, half, rest = Line(), Line(stop_at=17), Line()
    there, here = (settings(tmp_path, steps=40, out=tmp_path / name) for name in ("a", "b"))
    expected = train(whole, there, QUIET)
    with pytest.raises(KeyboardInterrupt):
        train(half, here, QUIET)
    found = train(rest, here, QUIET)
    assert half.seen + rest.seen == whole.seen
    assert {k: found[k] for k in ("slope", "offset")} == {k: expected[k] for k in ("slope", "offset")}
    logs = [(tmp_path / name / "log.csv").read_text().splitlines() for name in ("a", "b")]
    assert logs[0] == logs[1]


def test_a_run_starts_from_what_fits_in_older_weights(tmp_path: Path):
    old, new = (nn.Sequential(nn.Linear(2, 3), nn.Linear(3, width)) for width in (2, 1))
    save_part(tmp_path / "old.safetensors", old, torch.float32)
    stage, fresh = Line(), new[1].weight.detach().clone()
    stage.trained, stage.loss = new, lambda *_: (0 * new(torch.zeros(1, 2)).sum(), {})
    stage.finish = dict
    train(stage, settings(tmp_path, start=tmp_path / "old.safetensors", weight_decay=0.0), QUIET)
    torch.testing.assert_close(new[0].state_dict(), old[0].state_dict())
    torch.testing.assert_close(new[1].weight.detach(), fresh)


def test_weights_to_start_from_that_are_not_there_or_of_something_else_are_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"start: .*none\.safetensors: no such file"):
        train(Line(), settings(tmp_path, start=tmp_path / "none.safetensors"), QUIET)
    save_part(tmp_path / "other.safetensors", nn.Linear(7, 5), torch.float32)
    with pytest.raises(UsageError, match=r"other\.safetensors: has no tensor of the name and shape"):
        train(Line(), settings(tmp_path, start=tmp_path / "other.safetensors"), QUIET)


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path):
    config = settings(tmp_path)
    with locked(config.out), pytest.raises(RunError, match="is in use by process"):
        run("vae", write(tmp_path / "v.toml", config), QUIET)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path):
    train(Line(), settings(tmp_path), QUIET)
    with pytest.raises(UsageError, match=r"lr was 0\.01, is now 0\.5"):
        train(Line(), settings(tmp_path, lr=0.5), QUIET)


def test_a_damaged_checkpoint_is_named(tmp_path: Path):
    train(Line(), settings(tmp_path), QUIET)
    path = tmp_path / "out" / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"checkpoint\.pt: cannot be read"):
        train(Line(), settings(tmp_path), QUIET)


def test_a_diverging_run_stops_with_its_step(tmp_path: Path):
    with pytest.raises(RunError, match="gradient is nan at step 3"):
        train(Line(poison_at=3), settings(tmp_path), QUIET)


def test_the_learning_rate_warms_up_and_decays_to_zero(tmp_path: Path):
    config = settings(tmp_path, steps=1000, warmup=100, lr=1.0)
    rates = [learning_rate(step, config) for step in range(1001)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == 1.0
    assert rates[550] == pytest.approx(0.5, abs=0.01)
    assert rates[1000] == pytest.approx(0.0)


def test_the_average_of_constant_weights_is_those_weights():
    module = nn.Linear(3, 2)
    average = Average(module, 0.99)
    for step in range(10):
        average.update(module, step)
    torch.testing.assert_close(average.state["weight"], module.weight.detach())


def test_psnr_is_that_of_its_definition():
    a = torch.zeros(1, 3, 8, 8)
    assert float(psnr(a + 0.02, a)) == pytest.approx(40.0, abs=1e-3)  # an error of 1 % of the range


def test_weather_keeps_pictures_recognisable():
    images = scenes.render(scenes.sample(64, torch.Generator().manual_seed(0)))
    weathered = weather(images, torch.Generator().manual_seed(1))
    assert not torch.equal(weathered, images)
    assert psnr(weathered, images).min() > 15


def write(path: Path, config: TrainConfig) -> Path:
    rows = [f'model = "{config.model}"', f'out = "{config.out}"', f"steps = {config.steps}", f"batch = {config.batch}"]
    rows += [f"lr = {config.lr}", f"warmup = {config.warmup}", f'precision = "{config.precision}"']
    path.write_text("\n".join([*rows, f"scenes = {config.scenes}", f'device = "{config.device}"']))
    return path


def test_the_stages_make_a_model_that_generates(tmp_path: Path):
    folder = tmp_path / "model"
    save_config(folder, TINY)
    measured = {}
    for stage in STAGES:
        file = write(tmp_path / f"{stage}.toml", settings(tmp_path, out=tmp_path / stage))
        measured |= run(stage, file, QUIET)
    assert measured["psnr_db"] > 5
    config = read_config(folder)
    assert config.vae.scale == pytest.approx(measured["scale"])
    pipeline = Pipeline(load(folder))
    context, uncond = pipeline.encode(["a red circle"]), pipeline.encode([""])
    assert context.shape == (1, 24, 16)
    assert not torch.equal(context, uncond)
    assert isinstance(load_part(folder / "evaluator.safetensors", Evaluator), Evaluator)


NEEDS = {"clip": ["text"], "unet": ["text", "vae"]}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_learns(stage: str, tmp_path: Path):
    folder = tmp_path / "model"
    save_config(folder, TINY)
    for before in NEEDS.get(stage, ()):
        run(before, write(tmp_path / "before.toml", settings(tmp_path, out=tmp_path / before)), QUIET)
    config = settings(tmp_path, out=tmp_path / "learn", steps=61, batch=16, lr=3e-3, scenes=64)
    run(stage, write(tmp_path / "learn.toml", config), QUIET)
    header, *rows = (tmp_path / "learn" / "log.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows]
    assert header.startswith("step,loss")
    assert len(losses) == 7
    assert min(losses[-2:]) < 0.97 * losses[0]


@pytest.mark.parametrize("stage", NEEDS)
def test_a_stage_says_what_it_lacks(stage: str, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    with pytest.raises(UsageError, match=r"clip\.safetensors: no such file"):
        run(stage, write(tmp_path / "t.toml", settings(tmp_path)), QUIET)


def test_clip_leaves_the_text_tower_as_it_is(tmp_path: Path):
    """The U-Net was trained on its states, or will be: in whichever order the two are trained."""
    folder = tmp_path / "model"
    save_config(folder, TINY)
    texts = []
    for stage in ("text", "clip"):
        run(stage, write(tmp_path / f"{stage}.toml", settings(tmp_path, out=tmp_path / stage)), QUIET)
        built = partial(Clip, replace(TINY.text, vocab_size=read_config(folder).text.vocab_size), TINY.vision)
        texts.append(load_part(folder / "clip.safetensors", built).text.state_dict())
    assert texts[0].keys() == texts[1].keys()
    for key, value in texts[0].items():
        assert value.equal(texts[1][key]), key


def test_the_unet_is_not_compiled(tmp_path: Path):
    with pytest.raises(UsageError, match="compile: not for unet"):
        UnetStage(TrainConfig(out=tmp_path, steps=1, batch=1, lr=1e-3, compile=True))


@pytest.mark.parametrize("focus", [None, 0.3, 0.77])
def test_levels_are_drawn_as_their_distribution_says(focus: float | None):
    drawn = fractions(20_000, torch.Generator().manual_seed(0), focus).double()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    places = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    below = (drawn[:, None] < places).double().mean(0)
    normal = places if focus is None else torch.special.ndtr((places.logit() - torch.tensor(focus).logit()) / 0.8)
    torch.testing.assert_close(below, 0.7 * normal + 0.3 * places, atol=2e-3, rtol=0)


def test_where_things_stand():
    """Read off the relation, which fixes the halves of two objects relative to each other, and off single objects."""
    world = scenes.sample(400, torch.Generator().manual_seed(0), "all")
    facts = where(world).view(400, 4, 18).bool()
    assert (facts[:, 0] | facts[:, 1]).equal(facts[:, 2] | facts[:, 3])  # whatever is anywhere is in a half each way
    seen = facts.any(1)
    rows = torch.arange(400)
    assert seen[rows, world.colour[:, 0]].all()
    assert seen[rows, 8 + world.shape[:, 0]].all()
    assert seen[rows, 16 + world.size[:, 0]].all()
    assert (seen[:, :8].sum(1) <= world.count).all()
    alone = world.count == 1
    assert facts[alone, 0].any(1).equal(world.centre[alone, 0, 0] < 32)
    assert facts[alone, 2].any(1).equal(world.centre[alone, 0, 1] < 32)


def test_mistakes_in_a_description_are_told_all_at_once(tmp_path: Path):
    path = tmp_path / "bad.toml"
    path.write_text('out = "x"\nsteps = -1\nbatch = "many"\nlearning_rate = 1\nlr = 0.1\n')
    with pytest.raises(UsageError) as error:
        load_config(path)
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert any("steps" in line and "-1" in line for line in lines)
    assert any("batch" in line and "'many'" in line for line in lines)
    assert any("learning_rate: unknown key" in line for line in lines)


def test_what_a_run_cannot_use_is_told_in_a_line(tmp_path: Path):
    (tmp_path / "file").touch()
    for error, message, changes in (
        (UsageError, r"run\.toml: device: 'cuda:99' is not on this machine", {"device": "cuda:99"}),
        (UsageError, r'run\.toml: device: should be "auto", "cpu"', {"device": "tpu"}),
        (RunError, r"cannot make .*file/out: not a directory", {"out": tmp_path / "file" / "out"}),
    ):
        with pytest.raises(error, match=message):
            run("vae", write(tmp_path / "run.toml", settings(tmp_path, **changes)), QUIET)
    with pytest.raises(UsageError, match=f"{tmp_path}: cannot be read: is a directory"):
        load_config(tmp_path)


def test_the_shipped_descriptions_are_valid():
    folder = Path("experiments/train")
    shipped = {path.stem for path in folder.glob("*.toml") if load_config(path).steps > 0}
    assert shipped == {*STAGES, "vae_f4"}
    assert read_config(folder / "f4").vae.factor == 4  # what the VAE of the lab grew from


def test_untrained_configuration_is_the_scenes_one(tmp_path: Path):
    from sdlab.train.folder import configuration, update

    assert configuration(tmp_path) == SCENES
    update(tmp_path, vae=replace(SCENES.vae, scale=0.5))
    assert configuration(tmp_path).vae.scale == 0.5
    assert configuration(tmp_path).text == SCENES.text
