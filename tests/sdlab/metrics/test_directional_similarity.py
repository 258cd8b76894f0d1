"""Directional similarity: its formula, what it needs, and edits of the lab's pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from torch import Tensor

from sdlab.metrics import METRICS, Batch, Meters, MetricFiles, Run, Tools, complaints, openai_clip
from sdlab.metrics.base import CAPTIONS, INPUTS, PICTURES, PROMPTS, Subject
from sdlab.metrics.clip_space import ClipSpace
from sdlab.metrics.folder import measure_folder
from sdlab.picture import to_bytes
from sdlab.sweep.plan import load_plan
from sdlab.sweep.preflight import subject
from sdlab.sweep.prompts import picture_set, prompt_set
from sdlab.system.errors import UsageError
from sdlab.weights.model_loader import load
from sdlab.worlds import scenes

NAME = "directional_similarity"


def save(folder: Path, pictures: Tensor) -> None:
    folder.mkdir()
    for i, picture in enumerate(to_bytes(pictures).numpy()):
        Image.fromarray(picture).save(folder / f"{i}.png")


def test_it_is_the_cosine_of_two_differences_of_unit_vectors(tmp_path: Path):
    tiny_clip(tmp_path / "clip")
    before, after = scenes.render(scenes.sample(6, torch.Generator().manual_seed(1))).split(3)
    after[2] = before[2]  # an unchanged picture
    save(tmp_path / "in", before)
    save(tmp_path / "made", after)
    prompts, captions = ["a red circle", "a blue star", "a star"], ["a blue circle", "a star", "a circle"]
    files = MetricFiles(clip=str(tmp_path / "clip"))
    found = measure_folder(
        tmp_path / "made", [NAME], prompts=prompts, inputs=tmp_path / "in", captions=captions, files=files
    )[NAME]
    space = ClipSpace(*openai_clip.load(tmp_path / "clip"))
    picture = (space.pictures(after) - space.pictures(before)).double()
    text = (space.texts(prompts) - space.texts(captions)).double()
    expected = [float(p @ t / (p.norm() * t.norm())) for p, t in zip(picture[:2], text[:2], strict=True)]
    assert found.per_image is not None
    assert found.per_image.tolist() == pytest.approx([*expected, 0.0], abs=1e-5)
    assert found.value == pytest.approx(sum(expected) / 3, abs=1e-5)


@pytest.mark.slow
def test_requested_edits_score_higher_than_others():
    model = load("scenes")
    assert model.clip is not None
    meters = Meters([METRICS[NAME]], Tools((64, 64), (model.clip, model.tokenizer)))
    generator = torch.Generator().manual_seed(3)
    world = scenes.sample(64, generator)
    pictures, texts = scenes.render(world), scenes.describe(world, generator)
    (before, after), (captions, prompts) = pictures.split(32), (texts[:32], texts[32:])

    def value(before: Tensor, after: Tensor) -> float:
        measurement = meters.start(Run(32))
        measurement.update(Batch(range(32), after, prompts, before, captions=captions))
        return measurement.results()[NAME].value

    assert value(before, after) > value(before, after.roll(1, 0)) + 0.2
    assert value(after, before) == pytest.approx(-value(before, after), abs=1e-5)  # the opposite change


def test_it_needs_captions_that_differ_from_the_prompts():
    known = Subject(
        "scenes", 2, PICTURES | PROMPTS | INPUTS | CAPTIONS, (64, 64), ["a star", "a ring"], ["a star", "a heart"], True
    )
    assert complaints([NAME], known) == [
        f"metrics: {NAME}: the prompt 'a star' is also the caption of its input picture; the two should differ"
    ]
    unknown = Subject("scenes", 2, PICTURES | PROMPTS | INPUTS, (64, 64), ["a star", "a ring"], clip=True)
    assert complaints([NAME], unknown) == [
        f"metrics: {NAME}: not possible, because some input pictures of scenes have no caption"
    ]


def sweep(folder: Path, prompts: str, image: str) -> Path:
    Image.new("RGB", (64, 64)).save(folder / "in.png")
    (folder / "edit.toml").write_text(
        f'model = "scenes"\nimages = 4\nmetrics = ["{NAME}"]\n[prompts]\n{prompts}\n{image}\n'
        '[cells]\nsampler = "ddim"\nsteps = 2\nstrength = 0.5\n'
    )
    return folder / "edit.toml"


def test_the_pictures_of_a_set_have_the_captions_of_the_prompt_set(tmp_path: Path):
    plan = load_plan(sweep(tmp_path, 'set = "scenes_altered"\ncount = 4', '[image]\nset = "scenes"'))
    assert list(plan.captions) == prompt_set("scenes", 4)
    assert picture_set("scenes", 4).shape[0] == len(plan.captions)
    assert complaints([NAME], subject(plan)) == []


@pytest.mark.parametrize(
    ("prompts", "image", "captions"),
    [
        ('list = [{text = "a star", image = "in.png", caption = "a ring"}]', "", ["a ring"]),
        ('list = ["a star", "a heart"]', '[image]\ninit = "in.png"\ncaption = "a ring"', ["a ring", "a ring"]),
        ('list = [{text = "a star", image = "in.png"}]', "", []),
        (
            'list = [{text = "a star", image = "in.png", caption = "a ring"}, {text = "a ring", image = "in.png"}]',
            "",
            [],
        ),
    ],
)
def test_captions_of_files_are_given_beside_them(tmp_path: Path, prompts: str, image: str, captions: list[str]):
    plan = load_plan(sweep(tmp_path, prompts, image))
    assert list(plan.captions) == captions
    assert ("captions" in subject(plan).has) == bool(captions)


def test_another_caption_is_another_cell_and_none_keeps_old_rows(tmp_path: Path):
    keys, line = set[str](), 'list = [{text = "a star", image = "in.png"%s}]'
    for caption in ("", ', caption = "a ring"', ', caption = "a heart"'):
        plan = load_plan(sweep(tmp_path, line % caption, ""))
        keys.add(plan.key(plan.cells[0], "model"))
        assert plan.pictures is not None
        assert ("captions" in plan.pictures.complete()) == bool(caption)
    assert len(keys) == 3


def test_a_caption_without_its_picture_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match=r"image\.caption: `caption` goes with `init`; the pictures of a set have"):
        load_plan(sweep(tmp_path, 'set = "scenes_altered"', '[image]\nset = "scenes"\ncaption = "a ring"'))
    save(tmp_path / "made", torch.zeros(2, 3, 8, 8))
    with pytest.raises(UsageError, match="captions describe input pictures; give a folder of them too"):
        measure_folder(tmp_path / "made", ["psnr"], captions=["a", "b"])
    with pytest.raises(UsageError, match="has 2 pictures for 1 captions; give one per picture"):
        measure_folder(tmp_path / "made", ["psnr"], inputs=tmp_path / "made", captions=["a"])
