"""The search space: ranges, proposals, mistakes, and the two halves of the images."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdlab.search.document import halves, load_search
from sdlab.search.space import Span, Suggest, read_space
from sdlab.sweep.plan import cell_of, load_plan
from sdlab.system.errors import UsageError
from sdlab.system.toml import toml

SEARCH = """
model = "scenes"
images = 32
device = "cpu"
metrics = ["clip_score", "fid"]
[prompts]
list = ["a red circle", "a blue star", "a green moon"]
[cells]
sampler = ["ddim", "heun"]
grid = ["trailing", { name = "karras", rho = { from = 3.0, to = 9.0 } }]
guidance = ["none", { name = "cfg", scale = { from = 1.0, to = 8.0 } }]
steps = { from = 5, to = 20 }
"""


class Fixed(Suggest):
    """Proposes the last alternative, and a share of every range."""

    def __init__(self, share: float) -> None:
        self.share, self.names = share, list[str]()

    def one_of(self, name: str, texts: Sequence[str]) -> int:
        self.names.append(name)
        return len(texts) - 1

    def number(self, name: str, span: Span) -> float:
        self.names.append(name)
        value = span.low + self.share * (span.high - span.low)
        return round(value) if span.whole else value


CELLS: dict[str, Any] = {
    "sampler": ["ddim", "heun"],
    "guidance": ["none", {"name": "cfg", "scale": {"from": 1.0, "to": 8.0}, "interval": [{"from": 0, "to": 2}, 5.0]}],
    "steps": {"from": 5, "to": 20},
}


def test_the_ends_of_a_space_are_a_sweep_of_all_alternatives():
    space, mistakes = read_space(CELLS)
    assert mistakes == []
    low = {"grid": ["trailing"], "guidance": ["none", {"name": "cfg", "scale": 1.0, "interval": [0, 5.0]}]}
    assert space.at("low") == {**low, "sampler": ["ddim", "heun"], "steps": [5]}
    assert space.at("high")["guidance"][1] == {"name": "cfg", "scale": 8.0, "interval": [2, 5.0]}


def test_a_proposal_has_one_value_for_each_axis_and_asks_only_for_what_it_uses():
    space, _ = read_space(CELLS)
    suggest = Fixed(0.5)
    assert space.proposal(suggest) == {
        "sampler": "heun",
        "grid": "trailing",
        "guidance": {"name": "cfg", "scale": 4.5, "interval": [1, 5.0]},
        "steps": 12,
    }
    assert suggest.names == ["guidance", "guidance[1].scale", "guidance[1].interval[0]", "sampler", "steps"]


@given(st.floats(1e-9, 1e6), st.floats(1e-9, 1e6), st.floats(0, 1))
def test_a_rounded_number_stays_in_its_range_and_near_the_number(one: float, other: float, share: float):
    low, high = sorted((one, other))
    value = min(max(low + share * (high - low), low), high)
    rounded = Span(low, high).rounded(value)
    assert low <= rounded <= high
    assert abs(rounded - value) <= 0.005 * value


@pytest.mark.parametrize(
    ("cells", "count"),
    [
        ({"sampler": "ddim", "steps": 5}, 1),
        ({"sampler": ["ddim", "heun"], "steps": {"from": 5, "to": 8}}, 8),
        ({"sampler": ["heun", {"name": "lms", "order": {"from": 1, "to": 3}}], "steps": [5, 6]}, 8),
        ({"sampler": "ddim", "steps": [5, {"from": 6.0, "to": 8.0}]}, float("inf")),
    ],
    ids=["one", "whole numbers", "an option", "numbers"],
)
def test_the_number_of_cells_is_known(cells: dict[str, Any], count: float):
    assert read_space(cells)[0].cells == count


def test_ranges_of_whole_numbers_are_those_between_whole_numbers():
    assert Span(5, 20).whole
    assert not Span(5, 20.0).whole


@pytest.mark.parametrize("prompts", [1, 3, 8, 16, 20, 32])
def test_every_image_keeps_its_seed_and_its_prompt(tmp_path: Path, prompts: int):
    file = tmp_path / "a.toml"
    listed = toml([f"prompt {i}" for i in range(prompts)])
    swept = SEARCH.replace('["a red circle", "a blue star", "a green moon"]', listed)
    file.write_text(re.sub(r"\{ from = (\S+), to = \S+ \}", r"\1", swept), encoding="utf-8")
    plan = load_plan(file)
    whole = [(plan.seed + i, plan.prompts[i % prompts]) for i in range(plan.images)]
    parts = [(h.seed + i, h.prompts[i % len(h.prompts)]) for h in halves(plan) for i in range(h.images)]
    assert parts == whole


def test_trials_measure_the_quality_alone_and_the_front_all_metrics(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text(SEARCH + '[search]\nquality = "fid"\n', encoding="utf-8")
    search = load_search(file)
    assert (search.first.metrics, search.second.metrics) == (("fid",), ("clip_score", "fid"))
    assert (search.quality.name, search.settings.trials) == ("fid", 60)


def test_the_study_depends_on_the_ranges_and_not_on_the_number_of_trials(tmp_path: Path):
    def study(text: str) -> str:
        file = tmp_path / "a.toml"
        file.write_text(text, encoding="utf-8")
        return load_search(file).study("weights")

    assert study(SEARCH) == study(SEARCH + "[search]\ntrials = 99\n")
    assert (
        len({study(SEARCH), study(SEARCH.replace("8.0", "7.0")), study(SEARCH.replace("images = 32", "images = 64"))})
        == 3
    )


BAD = [
    ("to = 20", "to = 5", "cells.steps: `from` should be below `to`, got {'from': 5, 'to': 5}"),
    ("to = 20", 'to = "20"', "cells.steps: should be a range like {from = 1.0, to = 8.0}, got {'from': 5, 'to': '20'}"),
    ("from = 1.0, to = 8.0", "from = 1.0", "cells.guidance[1].scale: should be a range like"),
    ("from = 1.0, to = 8.0", "from = 1.0, to = nan", "cells.guidance[1].scale: should be a range like"),
    ("to = 8.0", "to = 8.0, lgo = true", "cells.guidance[1].scale.lgo: unknown key 'lgo' (did you mean 'log'?)"),
    ("to = 8.0", "to = 8.0, log = 1", "cells.guidance[1].scale.log: should be true or false, got 1"),
    ("from = 1.0, to = 8.0", "from = 0, to = 8.0, log = true", "cells.guidance[1].scale: `log` needs a range above 0"),
    ("from = 5,", "from = 0,", "cells.steps[0]: should be at least 1, got 0"),
    ("to = 20", "to = 2000", "cells.steps[0]: grid 'trailing'"),
    ("to = 20 }", "to = 20.0 }", "cells.steps[0]: should be a whole number, got 20.0"),
    ("scale = {", "scael = {", "cells.guidance[1].scael: unknown option of cfg (did you mean 'scale'?)"),
    ('"heun"]', '"hoin"]', "cells.sampler[1]: unknown sampler 'hoin'"),
    ("images = 32", "images = 8", "images: should be at least 16, half of them for the trials, got 8"),
    ("images = 32", 'images = {until = 0.1, metric = "clip_score", most = 64}', "images: should be a whole number"),
    ('metrics = ["clip_score", "fid"]', "", "metrics: missing; a search needs a metric"),
    ("[prompts]", "[search]\ntrials = 0\n[prompts]", "search.trials: should be at least 1, got 0"),
    ("[prompts]", "[search]\ntrails = 9\n[prompts]", "search.trails: unknown key 'trails' (did you mean 'trials'?)"),
    ("[prompts]", '[search]\nquality = "kid"\n[prompts]', "search.quality: 'kid' is not measured; add it to `metrics`"),
    ('["clip_score", "fid"]', '["saturation"]', "metrics: neither a lower nor a higher saturation is better"),
    ("[prompts]", '[[exclude]]\nsampler = "ddim"\n[prompts]', "exclude: a search file has no `exclude`"),
    ("[prompts]", '[[extra]]\nsampler = "ddim"\n[prompts]', "extra: a search file has no `extra`"),
    ("images = 32", 'images = 32\nsearch = "tpe"', "search: should be a table, got 'tpe'"),
    ("[cells]", "[cell]", "cells: missing; a search needs [cells] with lists or ranges"),
]


@pytest.mark.parametrize(("text", "other", "message"), BAD, ids=[message[:50] for *_, message in BAD])
def test_a_mistake_is_reported_with_its_place(tmp_path: Path, text: str, other: str, message: str):
    file = tmp_path / "a.toml"
    assert text in SEARCH
    file.write_text(SEARCH.replace(text, other, 1), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_search(file)
    assert any(line.startswith(f"{file}: {message}") for line in caught.value.lines), caught.value.lines
    assert len(set(caught.value.lines)) == len(caught.value.lines)


def test_a_file_with_one_cell_is_no_search(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text('model = "gaussian"\nmetrics = ["w2"]\n[cells]\nsampler = "ddim"\nsteps = 5\n', encoding="utf-8")
    with pytest.raises(UsageError, match=r"cells: there is one cell; give lists, or ranges"):
        load_search(file)


def test_an_option_on_the_command_line_is_named_in_its_mistake(tmp_path: Path):
    file = tmp_path / "a.toml"
    file.write_text(SEARCH, encoding="utf-8")
    with pytest.raises(UsageError, match="--trials: should be at least 1, got 0"):
        load_search(file, {"trials": 0})
    assert load_search(file, {"trials": 7, "images": 64}).settings.trials == 7


def test_options_that_are_valid_alone_and_not_together_are_a_mistake_of_the_cell(tmp_path: Path):
    levels = load_plan_levels(tmp_path)
    raw = {"sampler": "ddim", "grid": "trailing", "guidance": {"name": "cfg", "interval": [2.0, 1.0]}, "steps": 5}
    with pytest.raises(UsageError, match="guidance"):
        cell_of(raw, levels, tmp_path)


def load_plan_levels(folder: Path) -> Any:
    file = folder / "a.toml"
    file.write_text(SEARCH, encoding="utf-8")
    return load_search(file).first.opened.levels
