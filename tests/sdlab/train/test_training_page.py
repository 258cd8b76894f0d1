"""The page on training: its tables are those of the configurations, its figures those of the model card."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from sdlab.model.config import SCENES
from sdlab.model.noise_schedule import NAMED
from sdlab.train.stages import STAGES
from sdlab.train.stages.unet_config import UnetTraining

PAGE = Path("docs/training.md").read_text(encoding="utf-8")


def test_the_tables_of_keys_are_current():
    spec = importlib.util.spec_from_file_location("make", "docs/make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    assert make.made(PAGE, make.PARTS["training.md"]()) == PAGE, "run: make docs"


@pytest.mark.parametrize("stage", STAGES)
def test_every_key_of_a_stage_is_on_the_page(stage: str):
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## Configuration keys")[1], flags=re.MULTILINE))
    assert STAGES[stage].model_fields.keys() <= rows
    assert f"\n### `{stage}`\n" in PAGE


def test_the_commands_and_minutes_are_those_of_the_model_card():
    card = Path("data/scenes/README.md").read_text(encoding="utf-8")

    def commands(text: str) -> list[str]:
        return re.findall(r"^    (sdlab train \S+\.toml)$", text, flags=re.MULTILINE)

    def minutes(text: str) -> list[str]:
        return re.findall(r"^\| [^|]+ \| +(\d+\.\d) \|", text, flags=re.MULTILINE)

    assert len(minutes(card)) == 8
    assert minutes(PAGE) == minutes(card)
    assert commands(card) == ["sdlab train experiments/train/scenes.toml"]
    assert commands(card)[0] in commands(PAGE.split("## The lab models")[1])


def test_the_keys_of_the_section_on_objectives_are_valid():
    section = PAGE.split("## Objectives of the U-Net")[1].split("\n## ")[0]
    lines = re.findall(r"^    (\w+ = .*)$", section, flags=re.MULTILINE)
    given = tomllib.loads("\n".join(lines))
    assert {"prediction", "noise_schedule", "timesteps", "weighting", "alignment", "text_alignment"} == given.keys()
    UnetTraining(out=Path("out"), steps=1, batch=1, lr=1e-3, **given)
    for row in re.findall(r"^\| [^|]+ \| (`.*`) \|$", section, flags=re.MULTILINE):
        chosen = tomllib.loads("\n".join(re.findall(r"`([^`]+)`", row)))
        config = UnetTraining(out=Path("out"), steps=1, batch=1, lr=1e-3, **chosen)
        replace(SCENES, prediction=config.prediction, levels=NAMED[config.noise_schedule])
