"""A sweep file becomes exactly the cells it describes, or one line for each of its mistakes."""

import hashlib
import re
from functools import cache
from pathlib import Path

import pytest
from fake_bench import LEVELS, TOML

import samplers
from sdlab import plugins
from sdlab.metrics import METRICS
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER
from sdlab.sweep.cell import Cell, Choice, digest
from sdlab.sweep.pairs import pairs
from sdlab.sweep.passes import network_passes, passes_per_image, reference_passes, steps_within
from sdlab.sweep.plan import Pictures, Plan, load_plan
from sdlab.system.errors import UsageError
from sdlab.system.resources import ROOT
from sdlab.worlds.scenes import parse
from sdlab.worlds.scenes.captions import facts


@cache
def shipped(name: str) -> Plan:
    return load_plan(ROOT / "experiments" / f"{name}.toml")


def labels(file: Path, toml: str) -> list[str]:
    file.write_text(toml, encoding="utf-8")
    return [cell.label for cell in load_plan(file).cells]


def mistakes(file: Path, toml: str) -> list[str]:
    file.write_text(toml, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_plan(file)
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize("name", ["...toml", "..toml", ".toml", "..."])
def test_a_file_whose_name_is_that_of_another_folder_needs_a_name(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_text(TOML)
    with pytest.raises(UsageError) as caught:
        load_plan(path)
    text = f'{path}: cannot name the run directory after this file; add `name` to it, like "my_sweep"'
    assert str(caught.value) == text
    path.write_text(f'name = "mine"\n{TOML}')
    assert load_plan(path).name == "mine"


@pytest.mark.parametrize("path", ["~nosuchuser/x", "a\\u0000b", "a" * 300])
@pytest.mark.parametrize(
    ("key", "toml"),
    [
        ("model", TOML.replace('"scenes"', '"PATH"')),
        ("prompts.file", re.sub(r"list = .*", 'file = "PATH"', TOML)),
        ("prompts.list[0]", re.sub(r"list = .*", 'list = [{text = "a", image = "PATH"}]', TOML)),
        ("image.init", TOML.replace("[cells]", '[image]\ninit = "PATH"\n[cells]\nstrength = 0.5')),
        ("metric_files.clip", TOML + '[metric_files]\nclip = "PATH"\n'),
        ("cells.sampler[0].name", re.sub(r"sampler = .*", 'sampler = {path = "PATH.py:X"}', TOML)),
    ],
)
def test_paths_that_no_file_can_have_are_named_with_their_key(key: str, toml: str, path: str, file: Path):
    [line] = mistakes(file, toml.replace("PATH", path))
    assert line.startswith(f"{key}: ")
    assert line.isprintable()
    assert any(fault in line for fault in ("there is no such user", "cannot contain NUL", "the path is too long"))


def test_keys_with_control_characters_forge_no_line(file: Path):
    lines = mistakes(file, '"\\u001b[31mkey" = 1\n"a\\nerror: b" = 2\n' + TOML)
    assert len(lines) == 2
    assert all(line.isprintable() for line in lines)


def test_wrappers_of_guidance_are_options_or_a_chain(file):
    wrapped = '{ name = "cfg", scale = 3.0, interval = [0.28, 5.42] }, ["interval", { name = "cfg", scale = 3.0 }]'
    assert labels(file, TOML.replace('{ name = "cfg", scale = 3.0 }', wrapped).replace('"none", ', "")) == [
        f"{sampler} · trailing · cfg scale=3 interval=0.28,5.42 · {steps} steps"
        for sampler in ("ddim", "heun")
        for steps in (5, 10)
    ]


def test_a_strategy_without_wrappers_has_the_key_it_always_had():
    choice = Choice(name="cfg", options={"scale": 3.0})
    assert choice.complete(GUIDANCE) == {"name": "cfg", "scale": 3.0}
    assert Choice(name="cfg", options={"interval": [0.3, 5]}).complete(GUIDANCE) == {
        "name": "cfg", "scale": 7.5, "interval": (0.3, 5),
    }  # fmt: skip


def test_every_combination_is_a_cell_in_the_order_of_the_file(file):
    assert labels(file, TOML) == [
        f"{sampler} · trailing · {guidance} · {steps} steps"
        for sampler in ("ddim", "heun")
        for guidance in ("none", "cfg scale=3")
        for steps in (5, 10)
    ]


def test_a_single_value_is_a_list_of_one(file):
    toml = TOML.replace('["ddim", "heun"]', '"ddim"').replace("[5, 10]", "5")
    assert labels(file, toml) == ["ddim · trailing · none · 5 steps", "ddim · trailing · cfg scale=3 · 5 steps"]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        ("steps = 5", 4),
        ('sampler = "heun"', 4),
        ('sampler = "heun"\nsteps = [5, 10]', 4),
        ('sampler = "heun"\nsteps = 5', 6),
        ('guidance = { name = "cfg" }', 4),
        ('guidance = { name = "cfg", scale = 3 }', 4),
        ('guidance = { name = "cfg", scale = 4.0 }', 8),
        ('sampler = { name = "ddim", eta = 0.0 }', 4),  # a default, written out
        ('sampler = ["ddim", "heun"]\nguidance = "none"', 4),
    ],
)
def test_an_exclusion_drops_cells_that_match_all_its_keys(file, exclude, left):
    assert len(labels(file, TOML + f"[[exclude]]\n{exclude}\n")) == left


def test_an_exclusion_that_matches_nothing_is_noted(file):
    file.write_text(TOML + "[[exclude]]\nsteps = 7\n", encoding="utf-8")
    assert load_plan(file).notes == ("exclude[0] matches no cell",)


def test_an_extra_cell_takes_missing_choices_from_the_cells(file):
    toml = (
        TOML.replace("steps =", 'grid = "karras"\nsteps =')
        + '[[extra]]\nsampler = "euler"\nguidance="none"\nsteps = 50'
    )
    assert labels(file, toml)[8:] == ["euler · karras · none · 50 steps"]


def test_extra_cells_need_no_others(file):
    toml = TOML.partition("[cells]")[0] + '[[extra]]\nsampler = { name = "ddim", eta = 1.0 }\nsteps = 1'
    assert labels(file, toml) == ["ddim eta=1 · trailing · none · 1 step"]


def test_a_cell_written_twice_runs_once_and_is_noted(file):
    file.write_text(TOML.replace('"ddim", "heun"', '"ddim", { name = "ddim", eta = 0 }'), encoding="utf-8")
    plan = load_plan(file)
    assert [cell.sampler.label for cell in plan.cells] == ["ddim"] * 4
    assert plan.notes == ("4 cells are listed twice and run once",)


def test_prompts_come_from_a_set_a_file_or_a_list(file):
    head, _, tail = TOML.partition('list = ["a red circle", "a blue star", "a green moon"]')
    (file.parent / "prompts.txt").write_text("a cat\n\n  a dog \n", encoding="utf-8")
    file.write_text(head + 'file = "prompts.txt"' + tail, encoding="utf-8")
    assert load_plan(file).prompts == ("a cat", "a dog")
    file.write_text(head + 'set = "scenes"\ncount = 5' + tail, encoding="utf-8")
    five = load_plan(file).prompts
    file.write_text(head + 'set = "scenes"' + tail, encoding="utf-8")
    assert load_plan(file).prompts[:5] == five  # a larger count only adds
    assert len(load_plan(file).prompts) == 16


def test_each_altered_prompt_differs_from_its_picture_in_one_fact(file):
    head, _, tail = TOML.partition('list = ["a red circle", "a blue star", "a green moon"]')
    found = []
    for name in ("scenes", "scenes_altered"):
        file.write_text(head + f'set = "{name}"\ncount = 64' + tail, encoding="utf-8")
        found.append([parse(prompt) for prompt in load_plan(file).prompts])
    for shown, asked in zip(*found, strict=True):
        different = sum(a != b for a, b in zip(facts(shown), facts(asked), strict=True))
        exchanged = {shown.things, tuple(reversed(shown.things))} == {asked.things, tuple(reversed(asked.things))}
        colours = sorted(str(t.colour) for t in shown.things) == sorted(str(t.colour) for t in asked.things)
        assert different == 1 or exchanged or colours
        assert shown != asked


EDIT = TOML.replace("[cells]", '[image]\nset = "scenes"\n[cells]').replace("[5, 10]", "[5, 10]\nstrength = [0.4, 1]")


def test_strength_is_an_axis_like_the_others(file):
    found = labels(file, EDIT)
    assert len(found) == 16
    assert found[:3] == [
        "ddim · trailing · none · 5 steps · strength 0.4",
        "ddim · trailing · none · 5 steps · strength 1",
        "ddim · trailing · none · 10 steps · strength 0.4",
    ]
    assert len(labels(file, EDIT + "[[exclude]]\nstrength = 1\nsteps = 5\n")) == 12
    extra = '[[extra]]\nsampler = "euler"\nguidance = "none"\nsteps = 3\nstrength = 0.7\n'
    assert labels(file, EDIT + extra)[16:] == ["euler · trailing · none · 3 steps · strength 0.7"]


def test_an_extra_cell_of_a_sweep_over_strengths_needs_a_strength(file):
    extra = '[[extra]]\nsampler = "euler"\nguidance = "none"\nsteps = 3\n'
    text = "extra[0].strength: missing; say how far to move away from the input pictures, like [0.4, 0.8]"
    assert mistakes(file, EDIT + extra) == [text]


BUDGET = TOML.replace("steps = [5, 10]", "passes = [5, 10]")


def test_a_budget_of_passes_gives_each_cell_the_most_steps_that_fit(file):
    file.write_text(BUDGET, encoding="utf-8")
    plan = load_plan(file)
    steps = {
        ("ddim", "none"): (5, 10), ("ddim", "cfg scale=3"): (2, 5),
        ("heun", "none"): (3, 5), ("heun", "cfg scale=3"): (1, 3),
    }  # fmt: skip
    assert [cell.steps for cell in plan.cells] == [n for pair in steps.values() for n in pair]
    assert [passes_per_image(plan, cell) for cell in plan.cells] == [5, 10, 4, 10, 5, 9, 2, 10]
    assert plan.cells[-1].label == "heun · trailing · cfg scale=3 · 10 passes (3 steps)"
    for cell in plan.cells:  # one step more would cost too much
        assert network_passes(cell.model_copy(update={"steps": cell.steps + 1}), LEVELS) > cell.budget


@pytest.mark.parametrize("budget", [5, 10, 20])
@pytest.mark.parametrize("name", sorted(samplers.SAMPLERS))
def test_every_nonadaptive_sampler_keeps_every_budget(name, budget):
    choices = Choice(name=name), Choice(name="trailing"), Choice(name="none")
    cell = Cell(sampler=choices[0], grid=choices[1], guidance=choices[2], steps=1)
    if name == "dpm_adaptive":
        with pytest.raises(
            ValueError,
            match="dpm_adaptive is adaptive, so its steps do not follow from a budget; give `steps`",
        ):
            steps_within(budget, cell, LEVELS)
        return
    costs = [network_passes(cell.model_copy(update={"steps": steps}), LEVELS) for steps in range(1, budget + 1)]
    assert steps_within(budget, cell, LEVELS) == max(n for n, cost in enumerate(costs, 1) if cost <= budget)


def test_an_extra_cell_may_have_a_budget_where_the_cells_have_steps_and_vice_versa(file):
    cells, extra = TOML.replace("[5, 10]", "5"), '[[extra]]\nsampler = "heun"\nguidance = "none"\n'
    assert labels(file, cells + extra + "passes = 3\n")[-1] == "heun · trailing · none · 3 passes (2 steps)"
    cells = cells.replace("steps = 5", "passes = 4")
    assert labels(file, cells + extra + "steps = 3\n")[-1] == "heun · trailing · none · 3 steps"


def test_cells_over_budget_can_be_excluded(file):
    toml = BUDGET.replace('"ddim"', '"dpm_adaptive"').replace("[5, 10]", "[1, 10]")
    assert mistakes(file, toml) == [
        "cells.passes: dpm_adaptive is adaptive, so its steps do not follow from a budget; give `steps`",
        "cells.passes: heun · trailing · cfg scale=3 takes more than 1 network pass for any number of steps",
    ]
    toml += '[[exclude]]\nsampler = "dpm_adaptive"\n[[exclude]]\nguidance = { name = "cfg" }\npasses = 1\n'
    assert len(labels(file, toml)) == 3


@pytest.mark.slow
def test_a_budget_above_the_longest_grid_takes_the_longest_grid(file):
    toml = BUDGET.replace("[5, 10]", "1500").replace('["ddim", "heun"]', '"heun"')
    assert "heun · trailing · none · 1500 passes (750 steps)" in labels(file, toml)


def test_what_is_compared_is_an_axis_or_an_option_that_cells_differ_in(file):
    toml = TOML.replace("images = 16", 'images = 16\ncompare = "guidance.scale"')
    assert mistakes(file, toml) == ["compare: no two cells differ only in guidance.scale"]
    file.write_text(toml.replace('"none"', '{ name = "cfg", scale = 7.5 }'), encoding="utf-8")
    assert load_plan(file).compare == "guidance.scale"


def test_steps_are_compared_beside_cells_with_a_budget(file):
    toml = BUDGET.replace("images = 16", 'images = 16\ncompare = "steps"')
    assert mistakes(file, toml) == ["compare: no two cells differ only in steps"]
    extra = "".join(
        f'[[extra]]\nsampler = "ddim"\nguidance = "none"\ngrid = "karras"\nsteps = {steps}\n' for steps in (3, 7)
    )
    file.write_text(toml + extra, encoding="utf-8")
    plan = load_plan(file)
    assert [[plan.cells[i].steps for i in pair] for pair in pairs(plan.cells, "steps")] == [[3, 7]]


def test_one_picture_serves_every_prompt_or_each_prompt_has_its_own(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (file.parent / "a.png").touch()
    one = EDIT.replace('set = "scenes"', 'init = "a.png"\nfit = "pad"')
    file.write_text(one, encoding="utf-8")
    plan = load_plan(file)
    assert plan.pictures is not None
    assert (plan.pictures.files, plan.pictures.fit) == ((str(file.parent / "a.png"),) * 3, "pad")
    own = EDIT.replace('[image]\nset = "scenes"\n', "")
    file.write_text(own.replace('"a blue star"', '{ text = "a blue star", image = "b.png" }'), encoding="utf-8")
    plan = load_plan(file)
    assert plan.prompts == ("a red circle", "a blue star", "a green moon")
    assert plan.pictures is not None
    assert plan.pictures.files == (None, "b.png", None)  # not there: told when the sweep starts, with all else
    assert [plan.starts_from_a_picture(i) for i in range(5)] == [False, True, False, False, True]


def test_passes_are_fewer_with_less_strength_and_the_mean_of_the_prompts(file):
    file.write_text(EDIT, encoding="utf-8")
    plan = load_plan(file)
    passes = {cell.label: passes_per_image(plan, cell) for cell in plan.cells}
    assert passes["ddim · trailing · none · 10 steps · strength 0.4"] == 4
    assert passes["ddim · trailing · cfg scale=3 · 10 steps · strength 0.4"] == 8
    assert passes["heun · trailing · none · 10 steps · strength 0.4"] == 7
    assert passes["ddim · trailing · none · 10 steps · strength 1"] == 10
    own = EDIT.replace('[image]\nset = "scenes"\n', "").replace("images = 16", "images = 9")
    file.write_text(own.replace('"a blue star"', '{ text = "a blue star", image = "b.png" }'), encoding="utf-8")
    plan = load_plan(file)
    assert passes_per_image(plan, plan.cells[2]) == pytest.approx((10 + 4 + 10) / 3)


def test_the_key_of_a_cell_without_pictures_has_not_changed(file):
    file.write_text(TOML, encoding="utf-8")
    plan = load_plan(file)
    cell = plan.cells[2]
    complete = {
        "sampler": cell.sampler.complete(SAMPLER), "grid": cell.grid.complete(GRID),
        "guidance": cell.guidance.complete(GUIDANCE), "steps": 5,
    }  # fmt: skip
    values = {
        "numbers": 1, "model": "weights", "prompts": plan.prompts, "negative": "", "images": 16, "seed": 0,
        "dtype": "float32", "device": "cpu", "metrics": ["clip_score", "fid"], "cell": complete,
    }  # fmt: skip
    assert plan.key(cell, "weights") == digest(values)


def test_compiled_and_uncompiled_cells_differ(file):
    file.write_text(TOML, encoding="utf-8")
    plain, compiled = load_plan(file), load_plan(file, {"compile": True})
    assert (plain.compile, compiled.compile) == (False, True)
    assert plain.key(plain.cells[0], "weights") != compiled.key(compiled.cells[0], "weights")


def test_the_key_depends_on_strength_and_on_which_pictures_there_are(file):
    file.write_text(EDIT, encoding="utf-8")
    plan = load_plan(file)
    cell = plan.cells[0]
    pictures = [
        None,
        Pictures(set="scenes"),
        Pictures(set="scenes_heldout"),
        Pictures(set="scenes", fit="pad"),
        Pictures(files=("a", "a", "a")),
        Pictures(files=("a", "a", None)),
    ]
    keys = {plan.model_copy(update={"pictures": one}).key(cell, "weights") for one in pictures}
    keys |= {plan.key(cell.model_copy(update={"strength": s}), "weights") for s in (None, 0.0, 0.5)}
    assert len(keys) == len(pictures) + 3
    elsewhere = plan.model_copy(update={"pictures": Pictures(files=("a",) * 3)})
    same = plan.model_copy(update={"pictures": Pictures(files=("b",) * 3)})  # what is in it, `weights` tells
    assert elsewhere.key(cell, "weights") == same.key(cell, "weights")


def test_a_model_can_be_a_table_that_names_its_files(file):
    (file.parent / "v.json").touch()
    model = 'model = { name = "sd15", weights = "w.ckpt", vocab = "v.json" }'
    file.write_text(TOML.replace('model = "scenes"', model), encoding="utf-8")
    plan = load_plan(file)
    assert plan.model == "sd15"
    assert plan.source == Choice(name="sd15", options={"weights": "w.ckpt", "vocab": str(file.parent / "v.json")})
    assert load_plan(file, {"model": "scenes"}).source == Choice(name="scenes")


def test_a_custom_sampler_is_found_beside_the_sweep(file, monkeypatch):
    monkeypatch.setattr(plugins, "_PLUGINS", {})
    monkeypatch.setitem(samplers.SAMPLERS, "mine.py:Mine", samplers.SAMPLERS["euler"])  # taken out again afterwards
    (file.parent / "mine.py").write_text(
        "from samplers import Sampler\n"
        "class Mine(Sampler):\n"
        "    def step(self, denoise, x, sigma, sigma_next, memory, noise): return denoise(x, sigma), None\n"
    )
    toml = TOML.replace('"ddim", "heun"', '{ path = "mine.py:Mine" }, "mine.py:Mine"')
    file.write_text(toml, encoding="utf-8")
    plan = load_plan(file)
    assert [cell.sampler.name for cell in plan.cells] == ["mine.py:Mine"] * 4
    assert passes_per_image(plan, plan.cells[0]) == 5
    [line] = mistakes(file, toml.replace("mine.py:Mine", "mine.py:Yours", 1).replace(', "mine.py:Mine"', ""))
    assert line.startswith("cells.sampler[0].name: mine.py: does not define 'Yours'")


def test_metrics_may_be_absent(file):
    for text in ("metrics = []\n", ""):
        file.write_text(TOML.replace('metrics = ["fid", "clip_score"]\n', text), encoding="utf-8")
        assert load_plan(file).metrics == ()


@pytest.mark.parametrize(
    ("name", "cells", "prompts"),
    [
        ("img2img_strength", 18, 128),
        ("sd15_cfg_vs_steps", 27, 4),
        ("sd15_gallery", 1, 6),
        ("exact_mixture", 32, 0),
        ("toy2d_guidance", 21, 0),
        ("guidance_strategies", 57, 32),
        ("guidance_interval", 17, 32),
        ("published_guidance", 22, 32),
        ("samplers_at_budget", 157, 128),
        ("published_vs_corrected", 56, 64),
        ("truncation_error", 76, 32),
        ("stochasticity", 60, 32),
        ("min_of_three", 18, 64),
        ("fid_sample_size", 5, 512),
        ("cfg_scale", 28, 128),
        ("grids", 60, 64),
        ("endings", 36, 128),
        ("inversion", 25, 8),
    ],
)
def test_the_shipped_sweeps_are_valid(name, cells, prompts):
    plan = shipped(name)
    assert (len(plan.cells), len(plan.prompts)) == (cells, prompts)


def test_the_sweep_over_budgets_has_every_sampler_at_every_budget_it_can_keep():
    cells = shipped("samplers_at_budget").cells
    names = set(samplers.SAMPLERS) - {"dpm_adaptive"}
    assert {(cell.sampler.name, cell.budget) for cell in cells} >= {(name, n) for name in names for n in (5, 10, 20)}
    assert all(network_passes(cell, LEVELS) <= cell.budget for cell in cells if cell.budget is not None)
    assert {cell.sampler.name for cell in cells if cell.budget is None} == {"dpm_adaptive"}


def test_every_sampler_with_a_published_variant_is_compared_with_its_correction():
    cells = shipped("published_vs_corrected").cells
    built = {name: samplers.make(name) for name in samplers.SAMPLERS}
    guided = shipped("published_guidance").cells  # CFG++ samplers
    compared = {c.sampler.name for c in cells} | {c.sampler.name for c in guided if "variant" in c.sampler.options}
    assert compared == {name for name, rule in built.items() if hasattr(rule, "variant")}
    assert len(pairs(cells, "sampler.variant")) == len(cells) / 2


def test_the_default_sweep_is_27_cells_of_64_images():
    plan = shipped("cfg_vs_steps")
    assert (len(plan.cells), plan.images) == (27, 64)
    assert len({cell.sampler.name for cell in plan.cells}) == 3


BAD = [
    ('model = "scenes"', 'modle = "scenes"', [
        'model: missing; it should be a model, like "scenes"',
        "modle: unknown key 'modle' (did you mean 'model'?); known: batch, cells, compare, compile, device, dtype, "
        "exclude, extra, image, images, metric_files, metrics, model, name, prompts, reference_steps, seed, "
        "timing_rounds",
    ]),
    ('model = "scenes"', 'model = "scnes"', [
        "model: unknown model 'scnes' (did you mean 'scenes'?); known: class_mixture, data_set, gaussian, mixture, "
        "portraits, scenes, sd15, or the path of a model file or folder",
    ]),
    ('model = "scenes"', 'model = "no/folder"', ["model: model file or folder 'no/folder' not found"]),
    ('model = "scenes"', "model = 3", [
        'model: should be a name, a file or a folder, like "scenes" or {name = "sd15", weights = "…"}, got 3',
    ]),
    ('model = "scenes"', 'model = { name = "sd15", wieghts = "a.ckpt" }', [
        "model.wieghts: unknown key 'wieghts' (did you mean 'weights'?); known: merges, name, vocab, weights",
    ]),
    ('model = "scenes"', 'model = { name = "sd15", weights = 3, vocab = [] }', [
        "model.weights: should be a path in quotes, got 3", "model.vocab: should be a path in quotes, got []",
    ]),
    ("images = 16", "images = 0", ["images: should be at least 1, got 0"]),
    ("images = 16", "images = 1.5", ["images: should be a whole number, got 1.5"]),
    ("images = 16", "images = true", ["images: should be a whole number, got True"]),
    ("images = 16", 'dtype = "bf16"', [
        "dtype: should be one of auto, float32, bfloat16, float16, got 'bf16' (did you mean 'bfloat16'?)",
    ]),
    ("images = 16", 'name = "a/b"', ["name: should be letters, digits, '_', '-' and '.', got 'a/b'"]),
    ('device = "cpu"', 'device = "gpu"', [
        'device: should be "auto", "cpu", "cuda", "cuda:1" or "mps" (on a Mac), got \'gpu\'',
    ]),
    ('device = "cpu"', 'device = "cuda:99"', None),
    ('["fid", "clip_score"]', '["fidd", 3]', [
        "metrics[0]: unknown metric 'fidd' (did you mean 'fid'?); known: METRICS",
        "metrics[1]: should be text in quotes, got 3",
    ]),
    ("list = [", 'set = "scenes"\nlist = [', ["prompts: needs exactly one of `set`, `file` and `list`, got set, list"]),
    ("list = [", "count = 3\nlist = [", ["prompts.count: `count` goes with `set`; with `list` every prompt is used"]),
    ('"ddim", "heun"', '"ddim", { name = "dpmpp2m" }, "eular", 3', [
        "cells.sampler[1].name: unknown sampler 'dpmpp2m' (did you mean 'dpmpp_2m'?); known: SAMPLERS",
        "cells.sampler[2]: unknown sampler 'eular' (did you mean 'euler'?); known: SAMPLERS",
        'cells.sampler[3]: should be a name like "ddim" or a table like {name = "ddim", …}, got 3',
    ]),
    ('["ddim", "heun"]', '[{name="ddim", etaa=1, eta="x"}, {name="ddim", eta=2}, {name="ddim", eta=nan}]',
     [
        "cells.sampler[0].etaa: unknown option of ddim (did you mean 'eta'?); "
        "it takes: eta, clip, clip_noise, refinements",
        "cells.sampler[0].eta: should be a number, got 'x'",
        "cells.sampler[1].eta: must be in [0, 1], got 2",
        "cells.sampler[2].eta: should be a number, got nan",
    ]),
    ('{ name = "cfg", scale = 3.0 }', '{ name = "cfg", interval = [5.0, 0.3] }, ["interval"], ["intrval", "cfg"]', [
        "cells.guidance[1].interval: must be [low, high] with low < high, got [5.0, 0.3]",
        "cells.guidance[2]: a chain ends with a strategy, like [\"interval\", \"apg\"], got ['interval']",
        "cells.guidance[3]: unknown wrapper 'intrval' (did you mean 'interval'?); known: interval, schedule",
    ]),
    ('{ name = "cfg", scale = 3.0 }', '{ name = "cfg", interval = 3 }, { name = "cfg", interval = "x" }', [
        "cells.guidance[1].interval: should be a list, got 3",
        "cells.guidance[2].interval: should be a list, got 'x'",
    ]),
    ('{ name = "cfg", scale = 3.0 }', '{ name = "cfg", schedule = "liner" }', [
        "cells.guidance[1]: unknown schedule 'liner' (did you mean 'linear'?); known: beta, cosine, linear, power",
    ]),
    ("scale = 3.0", "scale = -3.0", [
        "cells.guidance[1].scale: must be a number of at least 0, got -3.0",
    ]),
    ("steps = [5, 10]", 'steps = [5, -1, 5000, "x"]', [
        "cells.steps[1]: should be at least 1, got -1",
        "cells.steps[2]: grid 'trailing' cannot have 5000 levels: the model has 1000 timesteps",
        "cells.steps[3]: should be a whole number, got 'x'",
    ]),
    ("steps = [5, 10]", "steps = []", ["cells.steps: should have at least one value, got []"]),
    ("steps = [5, 10]", 'steps = 5\ngrid = "karas"', None),
    ("steps = [5, 10]", 'stps = 5', [
        "cells.steps: missing; it should be whole numbers from 1, like [5, 10, 20]; or give `passes`, the "
        "network passes per image",
        "cells.stps: unknown key 'stps' (did you mean 'steps'?); known: grid, guidance, images, passes, "
        "sampler, seed, steps, strength",
    ]),
    ("steps = [5, 10]", "steps = 5\n[[exclude]]\nsteps = 5", [
        "cells: no cells are left; add [cells] or [[extra]], or exclude fewer",
    ]),
    ("steps = [5, 10]", "steps = 5\n[[exclude]]", [
        "exclude[0]: an empty `[[exclude]]` would drop every cell; give sampler, grid, guidance, passes, steps, "
        "strength, images or seed",
    ]),
    ("steps = [5, 10]", 'steps = 5\n[[exclude]]\nsampler = { name = "ddim", foo = 1 }', [
        "exclude[0].sampler[0].foo: unknown option of ddim; it takes: eta, clip, clip_noise, refinements",
    ]),
    ("steps = [5, 10]", 'steps = 5\n[[extra]]\nsampler = "ddim"\nsteps = 2000', [
        'extra[0].guidance: `cells.guidance` lists several strategies; name one in this `[[extra]]`, like '
        '{name = "cfg", scale = 3.0}',
        "extra[0].steps: grid 'trailing' cannot have 2000 levels: the model has 1000 timesteps",
    ]),
    ("steps = [5, 10]", 'steps = 5\npasses = 5', [
        "cells.steps: steps follow from `passes`; give only one of the two",
    ]),
    ("steps = [5, 10]", 'passes = [0, "x"]', [
        "cells.passes[0]: should be at least 1, got 0", "cells.passes[1]: should be a whole number, got 'x'",
    ]),
    ("steps = [5, 10]", 'passes = 5\nstrength = 0.5\n[image]\nset = "scenes"', [
        "cells.passes: `passes` does not work with input pictures; give `steps`",
    ]),
    ("images = 16", 'compare = "smpler.eta"', [
        "compare: unknown axis 'smpler' (did you mean 'sampler'?); known: grid, guidance, passes, sampler, steps, "
        'strength, or an option of one, like "sampler.variant"',
    ]),
    ("[cells]", "[cell]", None),
    ("steps = [5, 10]", "steps = 5\nstrength = 0.5", [
        "cells.strength: `strength` goes with input pictures; add [image] with `init` or `set`",
    ]),
    ("[cells]", '[image]\nset = "scenes"\n[cells]', [
        "cells.strength: missing; say how far to move away from the input pictures, like [0.4, 0.8]",
    ]),
    ("steps = [5, 10]", 'steps = 5\nstrength = [-0.1, 2, "x"]\n[image]\nset = "scenes"', [
        "cells.strength[0]: should be at least 0.0, got -0.1",
        "cells.strength[1]: should be at most 1.0, got 2",
        "cells.strength[2]: should be a number, got 'x'",
    ]),
    ("steps = [5, 10]", 'steps = [5, 20]\nstrength = [0.1, 0.5]\n[image]\nset = "scenes"', [
        "cells.strength: strength 0.1 of 5 steps is less than one step; give at least 0.2, more steps, or 0 to keep "
        "the picture",
    ]),
    ("steps = [5, 10]", "steps = 5\nstrength = 0.5\n[image]\nfit = 'pad'", [
        "image: needs `init` (a picture) or `set`",
    ]),
    ("steps = [5, 10]", 'steps = 5\nstrength = 0.5\n[image]\nset = "scenes"\ninit = "a.png"', [
        "image: input pictures come from several places (image.init, image.set); keep one",
    ]),
    ("steps = [5, 10]", 'steps = 5\nstrength = 0.5\n[image]\nset = "scnes"\nfit = "squeeze"', [
        "image.set: unknown picture set 'scnes' (did you mean 'scenes'?); known: portraits, "
        "portraits_heldout, scenes, scenes_heldout",
        "image.fit: should be one of crop, pad, stretch, got 'squeeze'",
    ]),
    ('"a red circle", "a blue star", "a green moon"', '"a red circle", { text = "a", picture = "b" }, 3', [
        'prompts.list[1]: should be a text in quotes or a table like {text = "…", image = "…"}, got '
        "{'text': 'a', 'picture': 'b'}",
        'prompts.list[2]: should be a text in quotes or a table like {text = "…", image = "…"}, got 3',
    ]),
    ("[prompts]", "[metric_files]\nincpetion = 'a'\nclip = 3\n[prompts]", [
        "metric_files.clip: should be text in quotes, got 3",
        "metric_files.incpetion: unknown key 'incpetion' (did you mean 'inception'?); known: clip, dinov2, "
        "inception, reference, world",
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "lines"), BAD)
def test_a_mistake_is_one_line_with_its_place_and_its_fix(file, old, new, lines):
    found = mistakes(file, TOML.replace(old, new))
    assert all("\n" not in line and ": " in line for line in found)
    if lines is not None:
        known = {"SAMPLERS": ", ".join(sorted(samplers.SAMPLERS)), "METRICS": ", ".join(sorted(METRICS))}
        assert found == [re.sub("SAMPLERS|METRICS", lambda name: known[name[0]], line) for line in lines]


def test_all_mistakes_are_reported_at_once(file):
    toml = TOML
    for old, new in (("scenes", "scnes"), ("= 16", "= -3"), ('"fid"', '"fidd"'), ("heun", "huen"), ("[5,", "[0,")):
        toml = toml.replace(old, new)
    places = [line.partition(":")[0] for line in mistakes(file, toml)]
    assert places == ["model", "images", "metrics[0]", "cells.sampler[1]", "cells.steps[0]"]


def test_a_file_that_is_not_toml_is_reported_with_its_line(file):
    assert mistakes(file, "model = \n") == ["is not TOML: Invalid value (at line 1, column 9)"]


def test_a_missing_file_is_reported_with_the_nearest_name(file):
    with pytest.raises(UsageError, match=r"quik.toml: no such file \(did you mean 'quick.toml'\?\)"):
        load_plan(file.with_name("quik.toml"))


def test_a_missing_prompt_file_is_reported(file):
    toml = TOML.replace('list = ["a red circle", "a blue star", "a green moon"]', 'file = "none.txt"')
    path = file.with_name("none.txt")
    assert mistakes(file, toml) == [f"prompts.file: {path}: no such file or directory"]


def test_a_mistake_on_the_command_line_is_reported_as_such(file):
    with pytest.raises(UsageError, match=r"^--images: should be at least 1, got 0$"):
        load_plan(file, {"images": 0})


def test_the_key_depends_on_all_that_determines_the_values_and_on_nothing_else(file):
    plan = load_plan(file)
    cell = plan.cells[2]
    key = plan.key(cell, "weights")
    same = [plan.model_copy(update={"batch": 1}), plan.model_copy(update={"name": "x", "notes": ("y",)})]
    changes = {"prompts": ("a",), "negative": "b", "images": 8, "seed": 1, "dtype": "float16", "device": "cuda"}
    other = [plan.model_copy(update={name: value}) for name, value in {**changes, "metrics": ("fid",)}.items()]
    assert {p.key(cell, "weights") for p in same} == {key}
    assert len({key, plan.key(cell, "others"), *(p.key(cell, "weights") for p in other)}) == 2 + len(other)
    assert len({plan.key(c, "weights") for c in plan.cells}) == len(plan.cells)
    spelled = cell.model_copy(update={"sampler": Choice(name="ddim", options={"eta": 0})})
    assert plan.key(spelled, "weights") == key


def test_the_digest_is_the_same_on_every_machine():
    wanted = hashlib.sha256(b'{"a":[true,2.5,null],"b":1.0}').hexdigest()[:16]
    assert digest({"b": 1, "a": [True, 2.5, None]}) == digest({"a": (True, 2.5, None), "b": 1.0}) == wanted


@pytest.mark.parametrize(
    ("sampler", "guidance", "passes"),
    [
        ("ddim", Choice(name="none"), 10),
        ("ddim", Choice(name="cfg", options={"scale": 3.0}), 20),
        ("ddim", Choice(name="cfg", options={"scale": 1.0}), 10),
        ("heun", Choice(name="none"), 19),  # two calls per step, one in the step to zero
        ("heun", Choice(name="cfg"), 38),
        ("ddim", Choice(name="cfg_interval", options={"sigma_low": 0.0, "sigma_high": 1e-9}), 10),
    ],
)
def test_network_passes_are_counted_exactly(sampler, guidance, passes):
    cell = Cell(sampler=Choice(name=sampler), grid=Choice(name="trailing"), guidance=guidance, steps=10)
    assert network_passes(cell, LEVELS) == passes


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        ("images = 16", "images = 1000000000", "images: should be at most 1000000, got 1000000000"),
        ("images = 16", 'images = "64"', "images: should be a whole number, got '64'"),
        ("images = 16", f"images = 0x{'f' * 6000}", "images: should be at most 1000000, got an integer of 24000 bits"),
        ("images = 16", "batch = 100000000000", "batch: should be at most 65536, got 100000000000"),
        ("images = 16", f"seed = {2**64}", f"seed: should be less than 4611686018427387904, got {2**64}"),
        ("[5, 10]", "1000000000", "cells.steps[0]: should be at most 10000, got 1000000000"),
        ("steps = [5, 10]", "passes = 1000000000", "cells.passes[0]: should be at most 10000, got 1000000000"),
        ("[5, 10]", str([5] * 2501), "cells: makes 10,004 cells, and a sweep has at most 10,000; list fewer values"),
        (
            '"ddim"',
            '{ name = "restart", repeats = 1000000000 }',
            "cells.sampler[0].repeats: must be an integer of at most 10000, got 1000000000",
        ),
        (
            '"ddim"',
            f'{{ name = "ddim", eta = {10**400} }}',
            "cells.sampler[0]",
        ),
    ],
    ids=lambda text: text[:30],
)
def test_every_number_has_a_limit(file, old, new, wrong):
    (found,) = mistakes(file, TOML.replace(old, new))
    assert found.startswith(wrong)


@pytest.mark.slow
def test_a_large_budget_is_planned_at_once(file):
    toml = BUDGET.replace("[5, 10]", "[999, 1500]").replace('["ddim", "heun"]', '["heun", "restart"]')
    file.write_text(toml, encoding="utf-8")
    for cell in load_plan(file).cells:
        assert network_passes(cell, LEVELS) <= cell.budget
        more = cell.model_copy(update={"steps": cell.steps + 1})
        assert network_passes(more, LEVELS) > cell.budget


def test_reference_steps_cost_passes_and_are_part_of_the_key_of_what_they_change(tmp_path: Path):
    toml = re.sub(r"metrics = .*", 'metrics = ["reference_error"]', TOML)

    def planned(text: str) -> Plan:
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return load_plan(path)

    default, few = planned(toml), planned(f"reference_steps = 40\n{toml}")
    assert default.reference_steps == 500
    cells = default.cells[:1]
    assert reference_passes(default, cells) - reference_passes(few, cells) == 500 - 40
    assert default.key(cells[0], "m") != few.key(cells[0], "m")
    unrelated = [planned(f"{steps}{TOML}") for steps in ("", "reference_steps = 40\n")]
    assert unrelated[0].key(cells[0], "m") == unrelated[1].key(cells[0], "m")
    with pytest.raises(UsageError, match=r"reference_steps: should be at least 10, got 3"):
        planned(f"reference_steps = 3\n{toml}")
