"""The stages: each learns, and what they write is a model that loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training import QUIET, TINY, keys, write

import samplers
from sdlab.guidance import GUIDANCE
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES
from sdlab.model.noise_schedule import NAMED
from sdlab.model.tokenizer import train_vocabulary
from sdlab.model.vae import Vae
from sdlab.pipeline import Pipeline
from sdlab.system.errors import RunError, UsageError
from sdlab.system.lock import locked
from sdlab.train import run
from sdlab.train.folder import configuration, update
from sdlab.train.stages import STAGES
from sdlab.train.stages.disturbances import MEASURED, haze, weather
from sdlab.train.stages.evaluator import EvaluatorStage
from sdlab.train.stages.evaluator_config import EvaluatorTraining
from sdlab.train.stages.unet import UnetStage
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.stages.vae import VaeStage, psnr
from sdlab.train.stages.vae_config import VaeTraining
from sdlab.train.timesteps import fractions
from sdlab.train.world_pictures import WorldPictures
from sdlab.weights.model_folder import load_part, read_config, save_config, save_part
from sdlab.weights.model_loader import load
from sdlab.weights.vocabulary import write_vocabulary
from sdlab.worlds import scenes
from sdlab.worlds.evaluator import Evaluator
from sdlab.worlds.registry import open_world
from sdlab.worlds.second_evaluator import SecondEvaluator


@pytest.fixture(autouse=True)
def few_measured_pictures(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.train.stages.evaluator._BATCHES", 1)
    monkeypatch.setattr("sdlab.train.stages.evaluator._BATCH", 32)


def learn(stage: str, folder: Path, **changes: object) -> dict[str, float]:
    return run(stage, write(folder / f"{stage}.toml", stage, keys(folder, out=folder / stage, **changes)), QUIET)


@pytest.mark.slow
def test_the_stages_make_a_model_that_generates(tmp_path: Path):
    folder = tmp_path / "model"
    save_config(folder, TINY)
    measured = {}
    for stage in STAGES:
        measured |= learn(stage, tmp_path)
    assert measured["psnr_db"] > 5
    config = read_config(folder)
    assert config.vae.scale == pytest.approx(measured["scale"])
    pipeline = Pipeline(load(folder))
    context, uncond = pipeline.encode(["a red circle"]), pipeline.encode([""])
    assert context.shape == (1, 24, 16)
    assert not torch.equal(context, uncond)
    assert isinstance(load_part(folder / "evaluator.safetensors", partial(Evaluator, scenes.HEADS)), Evaluator)


@pytest.mark.slow
def test_the_stages_train_on_every_world(tmp_path: Path):
    """The captions of the model are those of the world, and so is what its reader predicts."""
    portraits = open_world("portraits")
    save_config(tmp_path / "model", replace(TINY, text=replace(TINY.text, context_length=64)))
    measured = {}
    for stage in ("text", "clip", "evaluator"):
        measured |= learn(stage, tmp_path, world="portraits")
    assert {"captions_right", "found_among_256", "attribute_accuracy"} <= set(measured)
    vocabulary = (tmp_path / "model" / "vocab.json").read_text(encoding="utf-8")
    assert "without" in vocabulary
    load_part(tmp_path / "model" / "evaluator.safetensors", partial(Evaluator, portraits.HEADS))


def test_pictures_are_of_the_world_that_the_configuration_names(tmp_path: Path):
    config = VaeTraining(**keys(tmp_path, world="portraits", complete_captions=1))
    batch = config.pictures("heldout").batch(4, torch.Generator().manual_seed(1))
    world = open_world("portraits")
    truth = world.sample(4, torch.Generator().manual_seed(1), "heldout")
    assert batch.images().equal(world.render(truth))
    captions = batch.captions(torch.Generator().manual_seed(2))
    assert captions == world.describe(truth, torch.Generator().manual_seed(2), complete=True)
    half = VaeTraining(**keys(tmp_path, world="portraits", complete_captions=0.5)).pictures("train")
    batch = half.batch(400, torch.Generator().manual_seed(3))
    facts = [len(world.facts(world.parse(c))) for c in batch.captions(torch.Generator().manual_seed(4))]
    states = world.state(batch.truth, torch.Generator().manual_seed(5), complete=True)
    whole = [found == len(world.facts(state)) for found, state in zip(facts, states, strict=True)]
    assert 0.45 < sum(whole) / len(whole) < 0.65  # some of the other captions happen to state every fact
    with pytest.raises(UsageError, match=r"`world`: unknown world 'portrait' \(did you mean 'portraits'\?\)"):
        learn("vae", tmp_path, world="portrait")


NEEDS = {"clip": ["text"], "unet": ["text", "vae"]}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.slow
def test_every_stage_learns(stage: str, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    for before in NEEDS.get(stage, ()):
        learn(before, tmp_path)
    more = {"cache": 64} if stage == "unet" else {}
    learn(stage, tmp_path, steps=61, batch=16, lr=3e-3, **more)
    header, *rows = (tmp_path / stage / "log.csv").read_text().splitlines()
    losses = [float(row.split(",")[1]) for row in rows]
    assert header.startswith("step,loss")
    assert len(losses) == 7
    assert min(losses[-2:]) < 0.97 * losses[0]


@pytest.mark.parametrize("stage", NEEDS)
def test_a_stage_says_what_it_lacks(stage: str, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    with pytest.raises(UsageError, match=r"clip\.safetensors: no such file"):
        learn(stage, tmp_path)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("key", ["model", "out"])
def test_a_file_in_place_of_a_folder_is_a_usage_error(stage: str, key: str, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "deeper"):
        path = write(tmp_path / "t.toml", stage, keys(tmp_path, **{key: place}))
        with pytest.raises(UsageError, match=rf"`{key}` must be a folder, but .*/file is a file"):
            run(stage, path, QUIET)


@pytest.mark.parametrize(
    ("size", "message"),
    [(10, r"config\.json: text\.vocab_size: size must be at least 514, got 10"), (514, "'circle' must be one token")],
)
def test_a_vocabulary_that_is_too_small_is_a_usage_error(size: int, message: str, tmp_path: Path):
    save_config(tmp_path / "model", replace(TINY, text=replace(TINY.text, vocab_size=size)))
    with pytest.raises(UsageError, match=message):
        learn("text", tmp_path)


@pytest.mark.parametrize("stage", ["clip", "unet"])
def test_a_vocabulary_of_another_size_than_the_text_encoder_is_a_usage_error(stage: str, tmp_path: Path):
    folder, text = tmp_path / "model", replace(TINY.text, vocab_size=520)
    save_config(folder, replace(TINY, text=text))
    assert TINY.vision is not None
    save_part(folder / "clip.safetensors", Clip(text, TINY.vision))
    save_part(folder / "vae.safetensors", Vae(TINY.vae))
    write_vocabulary(folder, *train_vocabulary(["a red circle"] * 9, 530))
    with pytest.raises(UsageError, match=r"vocab\.json: has 5\d\d tokens, but text\.vocab_size of .*model is 520"):
        learn(stage, tmp_path)


@pytest.mark.parametrize("stage", ["text", "clip"])
def test_clip_cannot_be_trained_without_a_vision_encoder(stage: str, tmp_path: Path):
    save_config(tmp_path / "model", replace(TINY, vision=None))
    with pytest.raises(UsageError, match=rf"config\.json: `vision` is null; the {stage} stage needs a vision encoder"):
        learn(stage, tmp_path)


def test_clip_leaves_the_text_encoder_as_it_is(tmp_path: Path):
    """The U-Net was trained on its states, or will be: in whichever order the two are trained."""
    folder = tmp_path / "model"
    save_config(folder, TINY)
    texts = []
    for stage in ("text", "clip"):
        learn(stage, tmp_path)
        built = partial(Clip, replace(TINY.text, vocab_size=read_config(folder).text.vocab_size), TINY.vision)
        texts.append(load_part(folder / "clip.safetensors", built).text.state_dict())
    assert texts[0].keys() == texts[1].keys()
    for key, value in texts[0].items():
        assert value.equal(texts[1][key]), key


@dataclass(frozen=True)
class Stripes:
    """Pictures of another source: one colour each, with two captions to choose from."""

    colours: Tensor  # (B, 3)

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, index: slice | Tensor) -> Stripes:
        return Stripes(self.colours[index])

    def images(self) -> Tensor:
        return self.colours[:, :, None, None].expand(-1, -1, 64, 64)

    def captions(self, generator: torch.Generator) -> Sequence[str]:
        return [("a stripe", "stripes")[k] for k in torch.randint(2, (len(self),), generator=generator).tolist()]


class StripeSource:
    def batch(self, n: int, generator: torch.Generator) -> Stripes:
        return Stripes(2 * torch.rand(n, 3, generator=generator) - 1)


def test_vae_and_unet_train_on_any_captioned_pictures(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    learn("text", tmp_path)
    save_part(tmp_path / "model" / "vae.safetensors", Vae(TINY.vae))
    source, generator = StripeSource(), torch.Generator().manual_seed(0)
    vae = VaeStage(VaeTraining(**keys(tmp_path)), source, unseen=source)
    unet = UnetStage(UnetTraining(**keys(tmp_path)), source, {"stripes": source})
    cached = UnetStage(UnetTraining(**keys(tmp_path, cache=8)), source, {"stripes": source})
    for stage in (vae, unet, cached):
        (loss,) = stage.losses(0, stage.draw(generator))
        loss.value.backward()
        assert any(bool(p.grad.any()) for p in stage.trained[loss.name].module.parameters() if p.grad is not None)
    kept = cached.cache
    assert kept.shape == (8, 4, 16, 16)
    assert len(kept.flatten(1).unique(dim=0)) == 8
    assert unet.cache is None


@pytest.mark.parametrize("focus", [None, 0.3, 0.77])
def test_timesteps_are_drawn_as_their_distribution_says(focus: float | None):
    drawn = fractions(20_000, torch.Generator().manual_seed(0), focus).double()
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    places = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    below = (drawn[:, None] < places).double().mean(0)
    normal = places if focus is None else torch.special.ndtr((places.logit() - torch.tensor(focus).logit()) / 0.8)
    torch.testing.assert_close(below, 0.7 * normal + 0.3 * places, atol=2e-3, rtol=0)


def test_psnr_is_that_of_its_definition():
    a = torch.zeros(1, 3, 8, 8)
    assert float(psnr(a + 0.02, a)) == pytest.approx(40.0, abs=1e-3)  # an error of 1 % of the range


@pytest.mark.parametrize("disturb", [weather, haze, *MEASURED.values()])
def test_disturbances_keep_pictures_recognisable(disturb: Callable[[Tensor, torch.Generator], Tensor]):
    images = scenes.render(scenes.sample(64, torch.Generator().manual_seed(0)))
    disturbed = disturb(images, torch.Generator().manual_seed(1))
    assert disturbed.shape == images.shape
    assert torch.equal(disturbed, images) == (disturb is MEASURED["clean"])
    assert psnr(disturbed, images).min() > 12
    assert disturbed.equal(disturb(images, torch.Generator().manual_seed(1)))


def test_the_accuracy_of_both_evaluators_is_stated_under_disturbances(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    save_part(tmp_path / "model" / "vae.safetensors", Vae(TINY.vae))
    for second, network in ((False, Evaluator), (True, SecondEvaluator)):
        config = EvaluatorTraining(**keys(tmp_path, second=second))
        stage = EvaluatorStage(config, WorldPictures(scenes, "all"))
        with torch.no_grad():
            measured = stage.finish()
        kinds = ["clean", "blur", "noise", "jpeg", "reconstructed"]
        suffixes = ["" if kind == "clean" else f"_{kind}" for kind in kinds]
        assert list(measured) == [f"{name}{s}" for s in suffixes for name in ("attribute_accuracy", "wholly_right")]
        name = "second_evaluator" if second else "evaluator"
        load_part(tmp_path / "model" / f"{name}.safetensors", partial(network, scenes.HEADS))


def test_the_halves_of_objects():
    """Read off the relation, which fixes the halves of two objects relative to each other, and off single objects."""
    world = scenes.sample(400, torch.Generator().manual_seed(0), "all")
    facts = scenes.marks(world).view(400, 4, 18).bool()
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


def test_two_processes_do_not_train_into_one_folder(tmp_path: Path):
    with locked(tmp_path / "vae"), pytest.raises(RunError, match="is in use by process"):
        learn("vae", tmp_path)


def test_what_a_run_cannot_use_is_reported_in_a_line(tmp_path: Path):
    (tmp_path / "file").touch()
    for error, message, changes in (
        (UsageError, r"run\.toml: device: 'cuda:99' is not on this machine", {"device": "cuda:99"}),
        (UsageError, r'run\.toml: device: should be "auto", "cpu"', {"device": "tpu"}),
        (UsageError, r"run\.toml: `out` must be a folder, but .*file is a file", {"out": tmp_path / "file" / "out"}),
    ):
        with pytest.raises(error, match=message):
            run("vae", write(tmp_path / "run.toml", "vae", keys(tmp_path, **changes)), QUIET)


def test_a_model_folder_is_made_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, there = tmp_path / "model", list[bool]()
    monkeypatch.setattr(EvaluatorStage, "__init__", lambda *_: None)
    monkeypatch.setattr("sdlab.train.loop.train", lambda *_: there.append(model.is_dir()) or {})
    path = write(tmp_path / "run.toml", "evaluator", keys(tmp_path))
    model.symlink_to("nowhere")
    with pytest.raises(RunError, match=r"^cannot make the folder .*model: "):
        run("evaluator", path, QUIET)
    model.unlink()
    run("evaluator", path, QUIET)
    assert there == [True]


def test_untrained_configuration_is_the_scenes_one(tmp_path: Path):
    assert configuration(tmp_path) == SCENES
    update(tmp_path, vae=replace(SCENES.vae, scale=0.5))
    assert configuration(tmp_path).vae.scale == 0.5
    assert configuration(tmp_path).text == SCENES.text


@pytest.mark.parametrize(
    ("prediction", "schedule"),
    [("eps", "scaled_linear"), ("x0", "zero_snr"), ("flow", "flow"), ("edm", "edm")],
)
@pytest.mark.slow
def test_a_model_of_every_prediction_is_trained_stored_and_sampled(prediction: str, schedule: str, tmp_path: Path):
    folder = tmp_path / "model"
    save_config(folder, TINY)
    for stage in ("text", "vae"):
        learn(stage, tmp_path)
    learn("unet", tmp_path, prediction=prediction, noise_schedule=schedule)
    config = read_config(folder)
    assert (config.prediction, config.levels) == (prediction, NAMED[schedule])
    pipeline = Pipeline(load(folder))
    context = pipeline.encode(["a red circle"])
    sigmas = samplers.grid("karras", steps=4, levels=pipeline.levels)
    cfg = GUIDANCE["cfg"](scale=3.0)
    latents = pipeline.sample(context, pipeline.encode([""]), samplers.make("ddim"), sigmas, cfg, seeds=[0])
    assert pipeline.decode(latents).shape == (1, 3, 64, 64)


def test_a_prediction_that_does_not_fit_the_noise_schedule_is_a_usage_error(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    for changes, message in (
        ({"prediction": "eps", "noise_schedule": "flow"}, "cannot be 'eps' if levels end in pure noise"),
        ({"prediction": "edm"}, "'edm' needs levels with kind 'edm'"),
        ({"noise_schedule": "zero_snr", "prediction": "eps"}, "cannot be 'eps' if levels end in pure noise"),
    ):
        with pytest.raises(UsageError, match=rf"`prediction` and `noise_schedule`: ModelConfig\.prediction {message}"):
            learn("unet", tmp_path, **changes)
    assert read_config(tmp_path / "model") == TINY
