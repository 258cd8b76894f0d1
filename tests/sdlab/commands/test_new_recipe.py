"""`sdlab new recipe`: what a user gets for a folder of pictures, and that `sdlab train` accepts it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from sdlab.commands.app import app
from sdlab.model.config import ModelConfig
from sdlab.system.errors import RunError, UsageError
from sdlab.train.config_file import load_recipe
from sdlab.train.new_recipe import choice
from sdlab.train.new_recipe.survey import Survey, survey
from sdlab.train.preflight import prepare
from sdlab.train.stages import STAGES

COLOURS = ("red", "green", "blue", "black", "white", "orange")


def pictures(folder: Path, count: int = 19, size: tuple[int, int] = (40, 60)) -> Path:
    """Plain pictures of a height and a width, with captions; the last one is 50 × 48."""
    folder.mkdir()
    for i in range(count):
        colour = COLOURS[i % len(COLOURS)]
        height, width = (50, 48) if i == count - 1 else size
        Image.new("RGB", (width, height), colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a plain {colour} picture")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["new", "recipe", *arguments])
    if done.exception:
        raise done.exception
    return done.stdout


def test_a_recipe_for_a_folder_is_accepted_by_train(here: Path):
    data = pictures(here / 'the "best"\t\x7f pictures').name
    path, estimate = invoke("mine", "--data", data).splitlines()
    assert path == "mine.toml"
    minutes, _, more = estimate.removeprefix("estimate on this machine: ").partition("; ")
    assert more == "to start: sdlab train mine.toml"
    total, *each = map(int, re.findall(r"\d+", minutes))
    assert total == sum(each) > 0
    assert len(each) == 3

    parts = load_recipe(Path("mine.toml"))
    assert [(part.name, part.config.data) for part in parts] == [(name, data) for name in ("clip", "vae", "unet")]
    assert all(part.config.batch <= 18 for part in parts)
    prepare(Path("mine.toml"), parts)  # the checks of `sdlab train`
    config = ModelConfig.from_json(Path("out/mine/model/config.json").read_text())
    assert config.image_size == 32  # of 40 × 60 pixels
    assert config.text.context_length == 16

    text = Path("mine.toml").read_text()
    assert "# 19 pictures with captions, 1 of them held out for measurements." in text
    assert "# They have 40 × 60 to 50 × 48 pixels (height × width); the model has 32 × 32," in text
    assert "# The longest caption has 6 tokens.\n" in text
    assert f"# Estimate on this machine: {minutes}, from 3 steps of each stage." in text


def test_nothing_is_overwritten(here: Path):
    pictures(here / "plain")
    (here / "mine.toml").write_text("my work")
    (here / "out/other").mkdir(parents=True)
    for name, taken in (("mine", "mine.toml"), ("mine.toml", "mine.toml"), ("other", "out/other")):
        with pytest.raises(UsageError) as error:
            invoke(name, "--data", "plain")
        assert str(error.value) == f"{taken} already exists and was not changed; choose another name"
    assert (here / "mine.toml").read_text() == "my work"


def test_bad_folders_and_names_are_one_line(here: Path):
    pictures(here / "few", count=16)
    (here / "empty").mkdir()
    bare = pictures(here / "bare")
    for path in bare.glob("*.txt"):
        path.unlink()
    few = "few: has 16 pictures with captions, of which 1 are held out; training needs at least 16 more than that"
    nothing = "has no pictures; give a folder of pictures (PNG, JPEG, WebP, BMP or TIFF) with captions, or tar shards"
    for data, message in (
        ("few", few),
        ("bare", "bare: has no picture with a caption"),
        ("empty", f"empty: {nothing}"),
    ):
        with pytest.raises(UsageError) as error:
            invoke("mine", "--data", data)
        assert str(error.value) == message
    with pytest.raises(UsageError, match=r"^gone: no such file or directory$"):
        invoke("mine", "--data", "gone")
    with pytest.raises(UsageError, match=r"^sdlab new recipe: `--data` is missing; give a folder"):
        invoke("mine")
    with pytest.raises(UsageError, match=r"^a recipe's name must consist of letters, digits, _ and -; got 'a/b'$"):
        invoke("a/b", "--data", "few")
    with pytest.raises(UsageError, match=r"^sdlab new sampler: `--data` is for recipes; remove it$"):
        raise CliRunner().invoke(app, ["new", "sampler", "mine", "--data", "few"]).exception
    assert not list(here.glob("*.toml"))


def test_places_that_cannot_be_written_are_found_before_the_survey(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.train.new_recipe.write.survey", None)
    with pytest.raises(RunError, match=r"^cannot write gone/mine\.toml: no such file or directory$"):
        invoke("mine", "--data", "plain", "--out", "gone")
    assert list(here.iterdir()) == []


def test_a_folder_with_any_name_gets_a_recipe_that_can_be_read(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sdlab.train.new_recipe.write.seconds_per_step", lambda *_: dict.fromkeys(STAGES, 1.0))
    pictures(here / "plain")
    (here / "a\nb\x1b").mkdir()
    invoke("mine", "--data", "plain", "--out", "a\nb\x1b")
    assert len(load_recipe(here / "a\nb\x1b" / "mine.toml")) == 3


def test_the_survey_counts_what_is_there(here: Path):
    pictures(here / "plain")
    found = survey("plain")
    assert found.tokens == 6  # a start, "a plain red picture" as words, and an end
    assert found.vocabulary > 514
    assert (found.train, found.held, found.side) == (18, 1, 40)
    assert (found.smallest, found.largest) == ((40, 60), (50, 48))


@pytest.mark.parametrize("scale", [choice.CPU, choice.GPU])
@pytest.mark.parametrize("train", [16, 300, 5_000, 1_000_000])
@pytest.mark.parametrize("side", [10, 64, 100, 200, 4000])
def test_every_choice_is_a_valid_model_and_every_table_a_valid_stage(side: int, train: int, scale: choice.Scale):
    found = Survey(train, 1, (side, side), (side, side), side, vocabulary=900, tokens=200)
    config = choice.network("any", found, scale)  # raises if its sizes do not fit together
    assert ModelConfig.from_json(config.to_json()) == config
    assert config.latent_shape[1] in (16, 32)
    assert config.image_size <= max(32, min(side, scale.side))
    for name, table in choice.stages(found, scale).items():
        assert STAGES[name](data="d", out=Path("out"), **table).batch <= train


def test_more_pictures_get_more_steps_and_wider_networks():
    chosen = [Survey(n, 1, (64, 64), (64, 64), 64, 900, 20) for n in (300, 5_000, 50_000)]
    steps = [choice.stages(one, choice.CPU)["unet"]["steps"] for one in chosen]
    widths = [choice.network("any", one, choice.CPU).unet.width for one in chosen]
    assert steps == sorted(set(steps))
    assert widths == [48, 64, 96]
