"""The page on training: its tables are those of the configurations, its figures those of the model card."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from sdlab.train.stages import STAGES

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
        return re.findall(r"^    ((?:sdlab train|mkdir) .*experiments/.*)$", text, flags=re.MULTILINE)

    def minutes(text: str) -> list[str]:
        return re.findall(r"^\| [^|]+ \| +(\d+\.\d) \|", text, flags=re.MULTILINE)

    assert len(minutes(card)) == 6
    assert minutes(PAGE) == minutes(card)
    assert len(commands(card)) == 7
    assert commands(PAGE) == commands(card)
