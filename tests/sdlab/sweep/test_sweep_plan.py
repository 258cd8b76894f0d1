"""A sweep file becomes exactly the cells it describes, or one line for each of its mistakes."""

import hashlib
from pathlib import Path

import pytest
from fake_bench import TOML

from sdlab.errors import UsageError
from sdlab.resources import ROOT
from sdlab.sweep import Cell, Choice, load_plan
from sdlab.sweep.cell import digest
from sdlab.sweep.cost import network_passes


def labels(file: Path, toml: str) -> list[str]:
    file.write_text(toml, encoding="utf-8")
    return [cell.label for cell in load_plan(file).cells]


def mistakes(file: Path, toml: str) -> list[str]:
    file.write_text(toml, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_plan(file)
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]


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
def test_an_exclusion_drops_what_matches_all_its_keys(file, exclude, left):
    assert len(labels(file, TOML + f"[[exclude]]\n{exclude}\n")) == left


def test_an_exclusion_that_matches_nothing_is_noted(file):
    file.write_text(TOML + "[[exclude]]\nsteps = 7\n", encoding="utf-8")
    assert load_plan(file).notes == ("exclude[0] matches no cell",)


def test_an_extra_cell_takes_what_it_leaves_out_from_the_cells(file):
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
    assert plan.notes == ("4 cells written twice, run once",)


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


def test_the_default_sweep_is_36_cells_of_256_images():
    plan = load_plan(ROOT / "experiments" / "cfg_vs_steps.toml")
    assert (len(plan.cells), plan.images) == (36, 256)
    assert len({cell.sampler.name for cell in plan.cells}) == 4


BAD = [
    ('model = "scenes"', 'modle = "scenes"', [
        'model: missing; it should be a model, like "scenes"',
        "modle: unknown key 'modle' (did you mean 'model'?); known: batch, cells, device, dtype, exclude, extra, "
        "images, metrics, model, name, prompts, seed",
    ]),
    ('model = "scenes"', 'model = "scnes"', [
        "model: unknown model 'scnes' (did you mean 'scenes'?); known: scenes, sd15, or the path of a model folder",
    ]),
    ('model = "scenes"', 'model = "no/folder"', ["model: there is no model folder 'no/folder'"]),
    ("images = 16", "images = 0", ["images: should be at least 1, got 0"]),
    ("images = 16", "images = 1.5", ["images: should be a whole number, got 1.5"]),
    ("images = 16", "images = true", ["images: should be a whole number, got True"]),
    ("images = 16", 'dtype = "bf16"', [
        "dtype: should be one of float32, bfloat16, float16, got 'bf16' (did you mean 'bfloat16'?)",
    ]),
    ("images = 16", 'name = "a/b"', ["name: should be letters, digits, '_', '-' and '.', got 'a/b'"]),
    ('device = "cpu"', 'device = "gpu"', [
        'device: should be "auto", "cpu", "cuda", "cuda:1" or "mps" (where there is one), got \'gpu\'',
    ]),
    ('device = "cpu"', 'device = "cuda:99"', None),
    ('["fid", "clip_score"]', "[]", ["metrics: should have at least one value, got []"]),
    ('["fid", "clip_score"]', '["fidd", 3]', [
        "metrics[0]: unknown metric 'fidd' (did you mean 'fid'?); known: clip_score, fid, kid, prompt_accuracy",
        "metrics[1]: should be a text in quotes, got 3",
    ]),
    ("list = [", 'set = "scenes"\nlist = [', ["prompts: should have one of set, file and list, got set, list"]),
    ("list = [", "count = 3\nlist = [", ["prompts.count: goes with set alone; with list every prompt is used"]),
    ('"ddim", "heun"', '"ddim", { name = "dpmpp2m" }, "eular", 3', [
        "cells.sampler[1].name: unknown sampler 'dpmpp2m' (did you mean 'dpmpp_2m'?); known: SAMPLERS",
        "cells.sampler[2]: unknown sampler 'eular' (did you mean 'euler'?); known: SAMPLERS",
        'cells.sampler[3]: should be a name like "ddim" or a table like {name = "ddim", …}, got 3',
    ]),
    ('["ddim", "heun"]', '[{name="ddim", etaa=1, eta="x"}, {name="ddim", eta=2}, {name="ddim", eta=nan}]',
     [
        "cells.sampler[0].etaa: unknown option of ddim (did you mean 'eta'?); it takes: eta",
        "cells.sampler[0].eta: should be a number, got 'x'",
        "cells.sampler[1]: DDIM.eta must lie in [0, 1], got 2",
        "cells.sampler[2].eta: should be a number, got nan",
    ]),
    ("scale = 3.0", "scale = -3.0", [
        "cells.guidance[1]: ClassifierFree.scale must be a number of at least 0, got -3.0",
    ]),
    ("steps = [5, 10]", 'steps = [5, -1, 5000, "x"]', [
        "cells.steps[1]: should be at least 1, got -1",
        "cells.steps[2]: grid 'trailing' cannot have 5000 levels: the model has 1000 timesteps",
        "cells.steps[3]: should be a whole number, got 'x'",
    ]),
    ("steps = [5, 10]", "steps = []", ["cells.steps: should have at least one value, got []"]),
    ("steps = [5, 10]", 'steps = 5\ngrid = "karas"', None),
    ("steps = [5, 10]", 'stps = 5', [
        "cells.steps: missing; it should be whole numbers from 1, like [5, 10, 20]",
        "cells.stps: unknown key 'stps' (did you mean 'steps'?); known: grid, guidance, sampler, steps",
    ]),
    ("steps = [5, 10]", "steps = 5\n[[exclude]]\nsteps = 5", [
        "cells: no cell is left: give [cells] or [[extra]], or exclude less",
    ]),
    ("steps = [5, 10]", "steps = 5\n[[exclude]]", [
        "exclude[0]: an empty exclusion would drop every cell; give sampler, grid, guidance or steps",
    ]),
    ("steps = [5, 10]", 'steps = 5\n[[exclude]]\nsampler = { name = "ddim", foo = 1 }', [
        "exclude[0].sampler[0].foo: unknown option of ddim; it takes: eta",
    ]),
    ("steps = [5, 10]", 'steps = 5\n[[extra]]\nsampler = "ddim"\nsteps = 2000', [
        'extra[0].guidance: missing; it should be a guidance, like {name = "cfg", scale = 3.0}; [cells] has not one '
        "alone that could be taken",
        "extra[0].steps: grid 'trailing' cannot have 2000 levels: the model has 1000 timesteps",
    ]),
    ("[cells]", "[cell]", None),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "lines"), BAD)
def test_a_mistake_is_one_line_with_its_place_and_the_way_out(file, old, new, lines):
    from samplers import SAMPLERS

    found = mistakes(file, TOML.replace(old, new))
    assert all("\n" not in line and ": " in line for line in found)
    if lines is not None:
        assert found == [line.replace("SAMPLERS", ", ".join(sorted(SAMPLERS))) for line in lines]


def test_all_mistakes_are_told_at_once(file):
    toml = TOML
    for old, new in (("scenes", "scnes"), ("= 16", "= -3"), ('"fid"', '"fidd"'), ("heun", "huen"), ("[5,", "[0,")):
        toml = toml.replace(old, new)
    places = [line.partition(":")[0] for line in mistakes(file, toml)]
    assert places == ["model", "images", "metrics[0]", "cells.sampler[1]", "cells.steps[0]"]


def test_a_file_that_is_no_toml_is_told_with_the_line(file):
    assert mistakes(file, "model = \n") == ["is not TOML: Invalid value (at line 1, column 9)"]


def test_a_file_that_is_not_there_is_told_with_the_nearest(file):
    with pytest.raises(UsageError, match=r"quik.toml: there is no such file \(did you mean 'quick.toml'\?\)"):
        load_plan(file.with_name("quik.toml"))


def test_a_prompt_file_that_is_not_there_is_told(file):
    toml = TOML.replace('list = ["a red circle", "a blue star", "a green moon"]', 'file = "none.txt"')
    path = file.with_name("none.txt")
    assert mistakes(file, toml) == [f"prompts.file: cannot read {str(path)!r}: No such file or directory"]


def test_a_mistake_on_the_command_line_is_told_as_such(file):
    with pytest.raises(UsageError, match=r"^--images: should be at least 1, got 0$"):
        load_plan(file, {"images": 0})


def test_the_key_depends_on_all_that_determines_the_numbers_and_on_nothing_else(file):
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
        ("heun", Choice(name="none"), 19),  # two calls a step, one in the step to zero
        ("heun", Choice(name="cfg"), 38),
        ("ddim", Choice(name="cfg_interval", options={"sigma_low": 0.0, "sigma_high": 1e-9}), 10),
    ],
)
def test_network_passes_are_counted_exactly(sampler, guidance, passes):
    cell = Cell(sampler=Choice(name=sampler), grid=Choice(name="trailing"), guidance=guidance, steps=10)
    assert network_passes(cell) == passes
