"""`sdlab diff`: which settings make two pictures differ, on the lab model."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from typer.testing import CliRunner

from sdlab.commands.app import app
from sdlab.commands.differing import MOST, Differences, compare, read
from sdlab.commands.drawing import generate, prepare
from sdlab.commands.factors import factors
from sdlab.commands.request import Request
from sdlab.system.errors import SdlabError, UsageError

A = Request("a red circle on a white background", sampler="ddim", steps=2, guidance="cfg scale=3", device="cpu")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(request: Request) -> Path:
    [path] = generate(request, Path("out"), Console(quiet=True))
    return path


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=np.float64)


def names(a: Request, b: Request) -> list[str]:
    return [factor.name for factor in factors(a, b)]


@pytest.mark.parametrize(
    ("b", "found"),
    [
        (replace(A), []),
        (replace(A, steps=3, seed=1, prompt="a blue star"), ["steps", "seed", "prompt"]),
        (replace(A, sampler="ddim eta=0.5"), ["sampler.eta"]),
        (replace(A, sampler="ddim:eta=0"), []),  # the default written out
        (replace(A, sampler="heun"), ["sampler"]),
        (replace(A, guidance="cfg scale=5", grid="karras:rho=5"), ["grid", "guidance.scale"]),
        (replace(A, size=(48, 64), dtype="bfloat16", negative="blur"), ["negative", "size", "dtype"]),
        (replace(A, init_image="in.png", strength=0.5, fit="crop"), ["input picture"]),
        (replace(A, init_image="in.png", strength=1.0, fit="crop", invert=True, caption="a star"), ["input picture"]),
    ],
)
def test_settings_differ_by_value_and_not_by_spelling(b: Request, found: list[str]):
    assert names(A, b) == found


def test_swapping_every_setting_in_any_order_makes_the_other_request():
    b = replace(A, sampler="ddim eta=0.5", grid="karras rho=5", guidance="cfg scale=5", steps=4, seed=9, negative="x")
    a = replace(A, sampler="ddim clip=1", grid="karras rho=7")
    found = factors(a, b)
    assert {factor.name for factor in found} == {
        "sampler.eta", "sampler.clip", "grid.rho", "guidance.scale", "steps", "seed", "negative",
    }  # fmt: skip
    for order in (found, found[::-1]):
        request = a
        for factor in order:
            request = factor.swap(request)
        assert factors(request, b) == []
    assert names(found[0].swap(a), b) == [factor.name for factor in found[1:]]


def test_options_of_lists_and_texts_survive_a_swap():
    a = replace(A, guidance="cfg scale=3 interval=[0.3,5]")
    [factor] = factors(a, replace(a, guidance="cfg scale=4 interval=[0.3,5]"))
    assert factor.swap(a).guidance == "cfg scale=4 interval=[0.3,5]"
    assert (factor.before, factor.after) == ("3", "4")


def test_the_distances_are_those_of_the_files_and_the_shares_sum_to_one(here: Path):
    first, second = draw(A), draw(replace(A, sampler="dpmpp_2m", steps=3, seed=5))
    found = compare(read(first, "cpu"), read(second, "cpu"))
    assert [factor.name for factor in found.factors] == ["sampler", "steps", "seed"]
    assert found.notes == []
    assert len(found.drawn) == 8
    between = np.sqrt(np.mean((pixels(first) - pixels(second)) ** 2))
    assert found.distance(found.whole)[0] == pytest.approx(between, rel=1e-5)
    assert found.distance(frozenset()) == (0.0, 0.0)
    alone = draw(replace(A, seed=5))
    assert found.distance(frozenset({2}))[0] == pytest.approx(
        np.sqrt(np.mean((pixels(first) - pixels(alone)) ** 2)), rel=1e-5
    )
    assert sum(found.shares) == pytest.approx(between, rel=1e-5)
    assert found.shares[2] > found.shares[0]  # another seed is another picture


def column(found: Differences, name: str) -> list[object]:
    return next(list(one.values) for one in found.table.columns if one.name == name)


def test_the_only_setting_explains_the_whole(here: Path):
    (here / "a.toml").write_text('prompt = "a red circle"\nsteps = 2\n')
    (here / "b.toml").write_text('prompt = "a red circle"\nsteps = 3\nsize = "64x64"\n')
    found = compare(read(here / "a.toml", "cpu"), read(here / "b.toml", "cpu"))
    assert column(found, "setting") == ["steps", "all"]
    assert (column(found, "A"), column(found, "B")) == (["2", ""], ["3", ""])
    assert column(found, "share") == [pytest.approx(1.0), 1.0]
    assert column(found, "alone_pixels")[0] == column(found, "after_pixels")[0] == column(found, "alone_pixels")[1]
    found.draw(here / "sheet.png")
    assert Image.open(here / "sheet.png").height > 3 * 64


def test_the_command_prints_the_table_and_draws_the_sheet(here: Path):
    (here / "a.toml").write_text('prompt = "a red circle"\nsteps = 2\nsampler = "ddim"\n')
    (here / "b.toml").write_text('prompt = "a red circle"\nsteps = 2\nsampler = "ddim eta=1"\n')
    arguments = ["diff", "a.toml", "b.toml", "--device", "cpu", "--format", "csv", "--sheet", "sheet.png"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    header, eta, whole = csv.reader(done.stdout.splitlines())
    assert header == ["setting", "A", "B", "alone_pixels", "alone_latents", "after_pixels", "after_latents", "share"]
    assert eta[:3] == ["sampler.eta", "0", "1"]
    assert eta[3:5] == eta[5:7] == whole[3:5]
    assert float(eta[3]) > 0
    assert Path("sheet.png").is_file()


@pytest.mark.slow
def test_many_settings_are_swapped_in_turn(here: Path):
    b = replace(A, sampler="dpmpp_2m", grid="karras", guidance="cfg scale=4", steps=3, seed=5, prompt="a blue star")
    count = len(factors(A, b))
    assert count > MOST
    found = compare(read(draw(A), "cpu"), read(draw(b), "cpu"))
    assert len(found.drawn) == 2 * count  # none, each alone and all in turn, of which the first is alone
    assert sum(found.shares) == pytest.approx(found.distance(found.whole)[0])
    assert "in the order of the table" in " ".join(found.table.caption)


def test_pictures_of_two_sizes_are_compared_at_the_size_of_a(here: Path):
    found = compare(read(draw(A), "cpu"), read(draw(replace(A, size=(64, 48))), "cpu"))
    assert column(found, "setting") == ["size", "all"]
    assert (column(found, "A")[0], column(found, "B")[0]) == ("64x64", "48x64")
    assert found.distance(found.whole)[0] > 0


def test_a_changed_file_is_reported(here: Path):
    first, second = draw(A), draw(replace(A, seed=1))
    with Image.open(first) as picture:
        info = PngInfo()
        info.add_itxt("sdlab", picture.text["sdlab"])  # type: ignore[attr-defined]
        Image.fromarray(255 - np.asarray(picture)).save(first, pnginfo=info)
    [note] = compare(read(first, "cpu"), read(second, "cpu")).notes
    assert note.startswith(f"{first}: drawn again, it differs from the file by ")


def foreign(field: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        info = PngInfo()
        info.add_text(field, "a cat\nSteps: 20, Sampler: Euler a")
        Image.new("RGB", (8, 8)).save(folder / "a.png", pnginfo=info)
        return folder / "a.png"

    return write


def toml(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.toml").write_text(text)
        return folder / "a.toml"

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (foreign("parameters"), "a.png was drawn by AUTOMATIC1111's web UI: the parameters have no steps, sampler and"),
        (foreign("prompt"), "a.png was drawn by ComfyUI: the graph is not one of ComfyUI"),
        (foreign("Title"), "a.png has no parameters of sdlab; choose a PNG file written by sdlab generate"),
        (toml('prompt = "a"\nstep = 3'), "a.toml: unknown option 'step' (did you mean 'steps'?); known: "),
        (toml("steps = 3"), "a.toml: `prompt` is missing; it should be a text"),
        (toml('prompt = "a"\nsteps = "3"'), "a.toml: steps: should be a whole number, got '3'"),
        (toml('prompt = "a"\nn = 2'), "a.toml: has 2 pictures; choose a file with one of them, or set n = 1"),
    ],
)
def test_what_cannot_be_read_is_one_line(here: Path, write: Callable[[Path], Path], message: str):
    path = write(here)
    with pytest.raises(UsageError) as caught:
        read(path)
    [line] = caught.value.lines
    assert line.removeprefix(f"{here}/").startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "a.toml and b.toml have the same settings"),
        (
            {"model": "portraits"},
            "model: A has 'scenes' and B has 'portraits'; only pictures of one model ",
        ),
        ({"sampler": "dimm"}, "--sampler: unknown sampler 'dimm' (did you mean 'ddim'?)"),
    ],
)
def test_what_cannot_be_compared_is_one_line(here: Path, changes: dict[str, str], message: str):
    for name, options in (("a.toml", {}), ("b.toml", changes)):
        Path(name).write_text("".join(f'{k} = "{v}"\n' for k, v in {"prompt": "a red circle", **options}.items()))
    with pytest.raises(UsageError) as caught:
        compare(read(Path("a.toml"), "cpu"), read(Path("b.toml"), "cpu"))
    assert str(caught.value).startswith(message)


def test_settings_that_do_not_work_together_are_named(here: Path):
    listed = "explicit sigmas=[14.0,2.0,0.5]"
    for name, options in (("a.toml", {"steps": 2}), ("b.toml", {"steps": 3, "grid": listed})):
        values = {"prompt": "a red circle", **options}
        Path(name).write_text("".join(f"{k} = {v!r}\n" for k, v in values.items()))
    assert prepare(read(Path("b.toml"), "cpu").request).steps == 3
    with pytest.raises(UsageError, match=r"^A with grid of B cannot be drawn: --grid: "):
        compare(read(Path("a.toml"), "cpu"), read(Path("b.toml"), "cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sheet", "sheet.txt"], "--sheet: sheet.txt must end in .png"),
        (["--sheet", "."], "--sheet: . must end in .png"),
        (["--sheet", "a.png"], "--sheet: a.png is one of the pictures; choose another name"),
        (["--sheet", "nowhere/s.png"], "cannot write nowhere/s.png: no such file or directory"),
        (["--image", "1"], "--image has no effect, because it is for cells of runs; leave it out"),
    ],
)
def test_mistakes_in_options_are_found_before_anything_is_drawn(here: Path, arguments: list[str], message: str):
    Path("a.png").write_bytes(b"kept")
    done = CliRunner().invoke(app, ["diff", "a.png", "b.toml", *arguments])
    assert isinstance(done.exception, SdlabError)
    assert str(done.exception) == message
    assert Path("a.png").read_bytes() == b"kept"
