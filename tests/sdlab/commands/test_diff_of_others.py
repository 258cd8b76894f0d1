"""`sdlab diff` of pictures of other tools, and of cells of runs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console

import samplers
from sdlab.commands import of_a1111, of_comfyui
from sdlab.commands.differing import Source, compare, read, with_models
from sdlab.commands.drawing import generate
from sdlab.commands.factors import factors
from sdlab.commands.foreign import Unreadable
from sdlab.commands.inline_choice import build_choice
from sdlab.commands.request import Request
from sdlab.commands.sweep import sweep
from sdlab.sweep.axes import SAMPLER, grids
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.store import Store
from sdlab.system.errors import UsageError

A1111 = """a red circle
on a white background
Negative prompt: blur, noise
Steps: 3, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 4.5, Seed: 17, Size: 48x64, Model hash: 6ce0161689, \
Model: v1-5-pruned, Clip skip: 2, TI hashes: "one: ab, two: cd", Version: v1.10.1"""
GRAPH: dict[str, Any] = {
    "3": {"class_type": "KSampler", "inputs": {
        "seed": 17, "steps": 3, "cfg": 4.5, "sampler_name": "dpmpp_2m", "scheduler": "karras", "denoise": 1.0,
        "model": ["4", 0], "positive": ["10", 0], "negative": ["7", 0], "latent_image": ["5", 0],
    }},
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5-pruned.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 48, "height": 64, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["11", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blur, noise", "clip": ["4", 1]}},
    "10": {"class_type": "FluxGuidance", "inputs": {"conditioning": ["6", 0], "guidance": 1}},
    "11": {"class_type": "PrimitiveString", "inputs": {"value": "a red circle\non a white background"}},
}  # fmt: skip


def changed(**inputs: Any) -> str:
    """The graph with other inputs of its KSampler."""
    return json.dumps({**GRAPH, "3": {**GRAPH["3"], "inputs": {**GRAPH["3"]["inputs"], **inputs}}})


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(name: str, field: str, text: str) -> Path:
    info = PngInfo()
    info.add_itxt(field, text)
    Image.new("RGB", (48, 64)).save(name, pnginfo=info)
    return Path(name)


def test_both_tools_describe_the_same_picture():
    theirs, graph = of_a1111.read(A1111), of_comfyui.read(json.dumps(GRAPH))
    assert theirs.request == Request(
        "a red circle\non a white background", "blur, noise", "", size=(64, 48), sampler="dpmpp_2m",
        grid="karras dialect=a1111", steps=3, guidance="cfg scale=4.5", seed=17,
    )  # fmt: skip
    assert [factor.name for factor in factors(theirs.request, graph.request)] == ["grid.dialect"]
    assert (theirs.checkpoint, graph.checkpoint) == ("v1-5-pruned", "v1-5-pruned.safetensors")
    assert theirs.notes == ("these settings are ignored: Clip skip",)
    assert graph.notes == ()


@pytest.mark.parametrize("tool", [of_a1111, of_comfyui])
def test_every_name_has_a_sampler_and_a_grid_of_that_dialect(tool):
    for name in tool.SAMPLERS.values():
        build_choice(SAMPLER, name)
    dialect = "a1111" if tool is of_a1111 else "comfyui"
    levels = samplers.discrete_levels()
    for name in tool.GRIDS.values():
        assert len(build_choice(grids(levels), f"{name} dialect={dialect}", steps=10, levels=levels)) == 11


@pytest.mark.parametrize(
    ("name", "sampler", "grid"),
    [
        ("Sampler: Euler a, Schedule type: Automatic", "euler_ancestral", "linspace dialect=a1111"),
        ("Sampler: DPM++ 2M SDE, Schedule type: Automatic", "dpmpp_2m_sde", "exponential dialect=a1111"),
        ("Sampler: DPM++ SDE Karras", "dpmpp_sde", "karras dialect=a1111"),
        ("Sampler: LMS", "lms", "linspace dialect=a1111"),
        ("Sampler: DDIM", "ddim", "leading"),
    ],
)
def test_schedules_of_earlier_versions_and_automatic_ones(name: str, sampler: str, grid: str):
    found = of_a1111.read(f"a cat\nSteps: 20, {name}, CFG scale: 7, Seed: 1, Size: 512x512").request
    assert (found.sampler, found.grid, found.negative) == (sampler, grid, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a cat", "the parameters have no steps, sampler and seed"),
        ("a cat\nSteps: 20, Sampler: Euler, Seed: 1, Denoising strength: 0.5", "the picture was made from another"),
        ("a cat\nSteps: x, Sampler: Euler, Seed: 1", "Steps should be a number, got 'x'"),
        ("a cat\nSteps: 9, Sampler: Eulr, Seed: 1", "sampler 'Eulr' has no counterpart in sdlab; write the options"),
    ],
)
def test_unreadable_parameters_are_one_reason(text: str, message: str):
    with pytest.raises(Unreadable, match=f"^{message}"):
        of_a1111.read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "the graph is not one of ComfyUI"),
        ('{"1": 3}', "the graph is not one of ComfyUI"),
        (json.dumps({**GRAPH, "30": GRAPH["3"]}), "the graph has 2 KSamplers"),
        (changed(denoise=0.6), "the picture was made from another picture"),
        (changed(latent_image=["4", 0]), "the picture was made from another picture"),
        (changed(start_at_step=2), "the KSampler runs a part of its steps"),
        (changed(scheduler="odd"), "scheduler 'odd' has no counterpart"),
        (changed(positive=["99", 0]), "the graph has an input of the KSampler that leads nowhere"),
        (changed(positive=["5", 0]), "the graph has an input of the KSampler that leads nowhere"),
        (
            json.dumps({**GRAPH, "10": {"class_type": "x", "inputs": {"conditioning": ["10", 0]}}}),
            "the positive prompt",
        ),
    ],
)
def test_unreadable_graphs_are_one_reason(text: str, message: str):
    with pytest.raises(Unreadable, match=f"^{message}"):
        of_comfyui.read(text)


def test_syntax_that_is_taken_as_text_is_noted():
    notes = of_a1111.read("a (red:1.2) <lora:x:1> cat\nSteps: 9, Sampler: Euler, Seed: 1").notes
    assert [note.split(",")[0] for note in notes] == ["networks in the prompt", "weights and schedules in the prompt"]
    assert of_a1111.read("a cat (sitting)\nSteps: 9, Sampler: Euler, Seed: 1").notes == ()


def test_two_pictures_of_other_tools_are_drawn_with_the_model_that_is_given():
    a, b = picture("a.png", "parameters", A1111), picture("b.png", "prompt", changed(steps=2))
    found = compare(*with_models(read(a, "cpu"), read(b, "cpu"), "scenes"))
    assert [factor.name for factor in found.factors] == ["grid.dialect", "steps"]
    assert sum(found.shares) == pytest.approx(found.distance(found.whole)[0])
    assert any(note.startswith("a.png: these settings are ignored: Clip skip") for note in found.notes)
    assert any("ComfyUI draws other noise from a seed" in note for note in found.notes)


def test_a_picture_of_another_tool_takes_the_model_of_the_other_source():
    [ours] = generate(Request("a red circle", steps=2, device="cpu"), Path("out"), Console(quiet=True))
    a, b = with_models(read(ours, "cpu"), read(picture("b.png", "parameters", A1111), "cpu"))
    assert (a.request.model, b.request.model) == ("scenes", "scenes")
    with pytest.raises(UsageError, match="--model is for pictures of other tools"):
        with_models(a, a, "scenes")


def test_without_a_model_the_checkpoints_are_named():
    one = read(picture("b.png", "parameters", A1111), "cpu")
    with pytest.raises(UsageError, match="other tools name a checkpoint, 'v1-5-pruned', and no file; give --model"):
        with_models(one, one)


SWEEP = """
model = "scenes"
images = 4
seed = 5
device = "cpu"
metrics = []
[prompts]
list = ["a red circle", "a blue star"]
negative = "blur"
[cells]
sampler = [{ name = "ddim", eta = 0.5 }, "heun"]
guidance = { name = "cfg", scale = 3.0, interval = [0.3, 5.0] }
steps = 2
"""


@pytest.fixture
def run(here: Path) -> Path:
    (here / "s.toml").write_text(SWEEP, encoding="utf-8")
    assert sweep("s.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    return Path("runs/s")


def of_cell(text: str, image: int = 0) -> Source:
    return read(Path(text), "cpu", image)


def test_a_cell_is_drawn_again_as_it_was_in_the_run(run: Path):
    request = of_cell(f"{run}:1", 3).request
    assert (request.prompt, request.negative, request.seed) == ("a blue star", "blur", 8)
    assert request.sampler == "ddim eta=0.5"
    [path] = generate(request, Path("out"), Console(quiet=True))
    with Store(run / "results.sqlite") as store:
        key = next(row.key for row in store.rows() if row.cell.sampler.name == "ddim")
        pictures = store.thumbnails(key)[1]  # type: ignore[index]
    drawn = Image.open(path)
    apart = [abs(a - b) for a, b in zip(drawn.tobytes(), pictures[3].tobytes(), strict=True)]
    assert max(apart) <= 2  # a batch of one may round differently from a batch of four
    assert of_cell(f"{run}:{key[:6]}").request.sampler == "ddim eta=0.5"


def test_two_cells_differ_in_their_settings(run: Path):
    found = compare(*with_models(of_cell(f"{run}:1"), of_cell(f"{run}:2")))
    assert [factor.name for factor in found.factors] == ["sampler"]
    assert found.shares == [pytest.approx(found.distance(found.whole)[0])]


@pytest.mark.parametrize(
    ("cell", "image", "message"),
    [
        ("3", 0, "runs/s:3: no such cell; cells are numbered from 1 to 2, or give a key"),
        ("x", 0, "runs/s:x: no such cell"),
        ("1", 4, "--image must be from 0 to 3, the images of runs/s, got 4"),
    ],
)
def test_a_cell_or_image_that_is_not_there_is_one_line(run: Path, cell: str, image: int, message: str):
    with pytest.raises(UsageError) as caught:
        of_cell(f"{run}:{cell}", image)
    assert str(caught.value).startswith(message)


def test_a_cell_without_prompts_is_refused(here: Path):
    toml = 'model = "mixture"\nimages = 4\nmetrics = ["reference_error"]\n[cells]\nsampler = "euler"\nsteps = 2\n'
    (here / "s.toml").write_text(toml, encoding="utf-8")
    assert sweep("s.toml", identify, ModelBench, console=Console(file=io.StringIO())) == 0
    with pytest.raises(UsageError, match="only cells of text-to-image models are compared"):
        of_cell("runs/s:1")
