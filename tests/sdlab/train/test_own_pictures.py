"""The stages on a user's pictures: from a folder of pictures to a model that generates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from training import QUIET, TINY, keys, write

from sdlab.picture import to_bytes
from sdlab.pipeline import Pipeline
from sdlab.system.errors import UsageError
from sdlab.train import run
from sdlab.train.captioned_config import CaptionedTraining
from sdlab.train.sources.own_pictures import OwnPictures
from sdlab.train.stages.clip_config import ClipTraining
from sdlab.train.stages.clip_pair import ClipPairStage
from sdlab.train.stages.unet_config import UnetTraining
from sdlab.train.stages.vae_config import VaeTraining
from sdlab.weights.model_folder import read_config, save_config
from sdlab.weights.model_loader import load
from sdlab.worlds.registry import open_world


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 captioned pictures of the world `scenes`, in a folder with caption files."""
    folder, world = tmp_path_factory.mktemp("pictures"), open_world("scenes")
    generator = torch.Generator().manual_seed(0)
    truth = world.sample(40, generator, "all")
    shown = zip(to_bytes(world.render(truth)), world.describe(truth, generator), strict=True)
    for i, (pixels, caption) in enumerate(shown):
        Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(caption)
    return folder


def learn(stage: str, folder: Path, **changes: object) -> dict[str, float]:
    return run(stage, write(folder / f"{stage}.toml", stage, keys(folder, out=folder / stage, **changes)), QUIET)


@pytest.mark.slow
def test_a_model_is_trained_from_a_folder_of_pictures(pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", replace(TINY, text=replace(TINY.text, vocab_size=4000)))
    measured = learn("clip", tmp_path, data=pictures)
    assert 0 <= measured["found_among_2"] <= 1
    assert learn("vae", tmp_path, data=pictures)["psnr_db"] > 0
    measured = learn("unet", tmp_path, data=pictures)
    assert {"loss_train", "loss_heldout"} <= measured.keys()
    text = read_config(tmp_path / "model").text
    assert 514 < text.vocab_size < 4000  # a few captions need fewer merges than there is room for
    assert Pipeline(load(tmp_path / "model")).encode(["a red circle"]).shape[0] == 1


def test_both_encoders_learn_from_pairs_alone(pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    learn("clip", tmp_path, data=pictures, steps=80, batch=16, lr=3e-3, warmup=10)
    rows = (tmp_path / "clip" / "log.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows]
    assert losses[-1] < 0.9 * losses[0]
    stage = ClipTraining(**keys(tmp_path, data=str(pictures))).build()
    (loss,) = stage.losses(0, stage.draw(torch.Generator().manual_seed(0)))
    loss.value.backward()
    clip = stage.trained["clip"].module
    for encoder in (clip.text, clip.vision):
        assert all(bool(p.grad is not None and p.grad.any()) for p in encoder.parameters() if p.ndim > 1)


def test_equal_captions_are_no_mistakes(pictures: Path, tmp_path: Path):
    """With one caption for all pictures, the loss is the entropy of a uniform choice, whatever the weights."""
    save_config(tmp_path / "model", TINY)
    config = ClipTraining(**keys(tmp_path, data=str(pictures)))
    train, unseen = (config.own_pictures(str(pictures), split) for split in ("train", "heldout"))
    same = replace(train, entries=tuple(replace(one, captions=("all alike",)) for one in train.entries))
    stage = ClipPairStage(config, same, unseen)
    drawn = stage.draw(torch.Generator().manual_seed(0))
    (loss,) = stage.losses(0, drawn)
    assert float(loss.parts["found"]) == 1
    logits, equal = stage._compare(*drawn)
    assert bool(equal.all())
    expected = torch.logsumexp(logits.T, 1).mean() - logits.mean()  # columns; every row is uniform
    assert float(loss.value.detach()) == pytest.approx((float(expected) + torch.tensor(4.0).log().item()) / 2, abs=1e-5)


@pytest.mark.parametrize("kind", [ClipTraining, VaeTraining, UnetTraining])
def test_too_few_pictures_are_reported_before_training(kind: type[CaptionedTraining], pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    few = (
        f"{pictures}: 2 pictures are held out and 38 are left to train on, which is less than `batch` = 64; "
        "add pictures or lower `batch`"
    )
    with pytest.raises(UsageError) as error:
        kind(**keys(tmp_path, data=str(pictures), batch=64)).build()
    assert str(error.value) == few
    mirrored = kind(**keys(tmp_path, data=str(pictures), batch=64, mirror=True)).captioned("train")
    assert isinstance(mirrored, OwnPictures)
    assert len(mirrored) == 76


@pytest.mark.slow
def test_a_cache_holds_each_picture_once(pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    learn("clip", tmp_path, data=pictures)
    learn("vae", tmp_path, data=pictures)
    for mirror, count in ((False, 38), (True, 76)):
        stage = UnetTraining(**keys(tmp_path, data=str(pictures), cache=1000, mirror=mirror)).build()
        assert stage.cache is not None
        assert len(stage.draw.cache) == len(stage.cache) == count


@pytest.mark.slow
def test_a_stage_can_train_on_smaller_pictures_and_the_next_continues_on_whole_ones(pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    learn("clip", tmp_path, data=pictures)
    learn("vae", tmp_path, data=pictures, image_size=32)
    small = UnetTraining(
        **keys(
            tmp_path, data=str(pictures), image_size=32, alignment={"features": "clip"}, text_alignment={"weight": 1}
        )
    ).build()
    example = small.draw(torch.Generator().manual_seed(0))
    assert (example.images.shape, example.noise.shape) == ((4, 3, 32, 32), (4, 4, 8, 8))
    [loss] = small.losses(0, example)
    assert loss.value.isfinite()
    assert small.preview().shape == (2, 8, 3, 32, 32)
    learn("unet", tmp_path, data=pictures, image_size=32)
    before = (tmp_path / "model" / "unet.safetensors").read_bytes()
    whole = UnetTraining(**keys(tmp_path, data=str(pictures), start=str(tmp_path / "model"))).build()
    assert whole.draw(torch.Generator()).noise.shape == (4, 4, 16, 16)
    assert read_config(tmp_path / "model").image_size == 64
    assert before == (tmp_path / "model" / "unet.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "side", "multiple"), [(VaeTraining, 34, 4), (UnetTraining, 36, 8)])
def test_a_size_that_does_not_fit_the_networks_is_refused(
    kind: type[CaptionedTraining], side: int, multiple: int, pictures: Path, tmp_path: Path
):
    save_config(tmp_path / "model", TINY)
    with pytest.raises(UsageError, match=rf"`image_size` must be a multiple of {multiple} for .*model, got {side}$"):
        kind(**keys(tmp_path, data=str(pictures), image_size=side)).build()
    with pytest.raises(ValueError, match="`image_size` needs `data`; pictures of a world have one size"):
        kind(**keys(tmp_path, image_size=32))
    with pytest.raises(ValueError, match="image_size"):
        ClipTraining(**keys(tmp_path, data=str(pictures), image_size=32))


def test_the_parts_of_the_data_do_not_overlap(pictures: Path, tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    config = VaeTraining(**keys(tmp_path, data=str(pictures), held_out=0.25))
    train, held = config.captioned("train"), config.captioned("all")
    assert isinstance(train, OwnPictures)
    assert isinstance(held, OwnPictures)
    assert (len(train), len(held)) == (30, 10)
    assert not set(train.entries) & set(held.entries)
    assert train.batch(4, torch.Generator()).images().shape == (4, 3, 64, 64)
