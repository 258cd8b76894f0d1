"""`sdlab show` reads what a picture was made with, and its command makes the same file again, byte for byte."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from typer.testing import CliRunner

import samplers
import sdlab
from sdlab import plugins
from sdlab.commands import app as cli
from sdlab.commands.inline_choice import absolute_choice
from sdlab.commands.request import Request
from sdlab.commands.show import show
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.system.text import shown
from sdlab.worlds import scenes

PROMPT = "a large red circle left of a large blue square on a white background"
AWKWARD = '-it\'s "red" $HOME `x` \\ é 红 🎨 | ; * ~ !!\n--steps 9'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a picture in it."""
    monkeypatch.chdir(tmp_path)
    scene = to_bytes(scenes.render(scenes.sample(1, torch.Generator().manual_seed(5))))[0].numpy()
    Image.fromarray(scene).resize((200, 160)).save("my photo.png")
    return tmp_path


def run(*arguments: str) -> list[str]:
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "3", "--sampler", "euler_ancestral", "--grid", "karras", "--seed", "4294967297", "--cfg", "0.1"],
        ["--steps", "2", "--init-image", "my photo.png", "--strength", "0.7", "--fit", "pad", "--size", "48x64"],
        [
            "--steps",
            "2",
            "--guidance",
            "cfg_interval scale=5 sigma_low=0.3",
            "--sampler",
            "ddim eta=0.5",
            "--grid",
            "karras",
        ],
        ["--steps", "2", "--negative", "-it's blue", "--dtype", "bfloat16", "--offload", "--tiles", "always"],
    ],
)
@pytest.mark.parametrize("prompt", [PROMPT, AWKWARD], ids=["plain", "awkward"])
def test_the_command_makes_the_same_file_again(here: Path, prompt: str, options: list[str]):
    [first] = run("generate", *options, "--", prompt)
    program, *words = in_bash(run_show(first))
    assert program == "sdlab"
    [second] = run(*words)
    assert first != second
    assert Path(first).read_bytes() == Path(second).read_bytes()


def run_show(path: str) -> str:
    """The command that is printed: all after the empty line, for a prompt may have lines of its own."""
    text = "\n".join(run("show", path))
    return text.rpartition("\n\n")[2]


def in_bash(command: str) -> list[str]:
    """The words of a command as Bash reads them, which may have newlines."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True)
    return done.stdout.decode().split("\0")[:-1]


def test_each_picture_and_the_contact_sheet_have_their_own_commands(here: Path):
    paths = run("generate", PROMPT, "--steps", "2", "-n", "3", "--seed", "7")
    [alone] = run(*shlex.split(run_show(paths[1]))[1:])
    assert Path(alone).read_bytes() == Path(paths[1]).read_bytes()
    [sheet] = Path("out/generate").glob("*-7-to-9.png")
    assert len(run(*shlex.split(run_show(str(sheet)))[1:])) == 3
    [again] = Path("out/generate").glob("*-7-to-9-2.png")
    assert again.read_bytes() == sheet.read_bytes()


def test_the_printed_command_runs_in_a_shell(here: Path):
    [first] = run("generate", "--steps", "1", "--negative", "$PATH 'x'", "--", AWKWARD)
    script = f'sdlab() {{ {shlex.quote(sys.executable)} -m sdlab.cli "$@"; }}; {run_show(first)}'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=dict(os.environ), timeout=500)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == Path(first).read_bytes()


def test_every_parameter_is_printed_with_its_value(here: Path):
    [path] = run("generate", PROMPT, "--steps", "2", "--init-image", "my photo.png", "--seed", "3")
    shown = dict(line.split(None, 1) for line in run("show", path) if line and not line.startswith("sdlab "))
    assert (shown["prompt"], shown["seed"], shown["steps"], shown["size"]) == (PROMPT, "3", "2", "64x64")
    assert (shown["init_image"], shown["strength"], shown["fit"]) == (
        str(Path("my photo.png").resolve()),
        "0.6",
        "crop",
    )
    assert shown["version"] == sdlab.__version__


def test_a_request_survives_its_text():
    request = Request(
        AWKWARD, "n", "sd15", "w", "v", "m", "i", 0.25, "pad", True, "k", (8, 16), "a", "b", 3, "c", 2**60, 4
    )
    assert Request.from_text(request.to_text()) == (request, sdlab.__version__)


def signed(path: Path, content: Any) -> Path:
    info = PngInfo()
    info.add_text("sdlab", content if isinstance(content, str) else json.dumps(content))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_picture_of_an_older_version_is_read_with_a_warning(tmp_path: Path):
    lines = show(signed(tmp_path / "a.png", {"version": "0.0.1", "prompt": "a cat", "steps": 7})).lines()
    assert any(line.startswith("version") and "0.0.1 (this is " in line for line in lines)
    assert "--steps 7" in lines[-1]


def test_the_size_and_the_guidance_of_an_older_version_are_read(here: Path):
    """It wrote the width first, and a CFG scale for the guidance."""
    content = {"version": "0.1.0", "prompt": PROMPT, "size": [48, 64], "steps": 1, "cfg": 2.5, "seed": 3}
    found = show(signed(Path("old.png"), content))
    assert (found.request.size, found.request.guidance) == ((64, 48), "cfg scale=2.5")
    assert "size        48x64" in found.lines()
    assert "--size 48x64" in found.lines()[-1]
    [again] = run(*shlex.split(found.lines()[-1])[1:])
    [wanted] = run("generate", PROMPT, "--size", "48x64", "--steps", "1", "--cfg", "2.5", "--seed", "3")
    assert Image.open(again).size == (48, 64)
    assert Path(again).read_bytes() == Path(wanted).read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"version": "9", "prompt": "a", "size": 3}, "the text was not written by sdlab"),
        ({"version": "9", "prompt": "a", "height": 3}, "size.1: Input should be a valid integer"),
        ("{}", "the text was not written by sdlab"),
        ("[1]", "the text was not written by sdlab"),
        ("hello", "the text was not written by sdlab"),
        ("[" * 100_000, "the text was not written by sdlab"),
        ({"version": "9", "prompt": "a", "stepps": 3}, "stepps: Unexpected keyword argument"),
        ({"version": "9", "prompt": "a", "steps": "many"}, "steps: Input should be a valid integer"),
        ({"version": "9"}, "prompt: Field required"),
    ],
)
def test_parameters_of_another_form_are_refused_in_one_line(tmp_path: Path, content: Any, message: str):
    path = signed(tmp_path / "a.png", content)
    with pytest.raises(UsageError) as caught:
        show(path)
    assert str(caught.value) == f"{path} has parameters that this version of sdlab cannot read: {message}"


def test_untrusted_text_cannot_forge_lines_or_reach_the_terminal(here: Path, capsys: Any):
    evil = {
        "version": "1\x1b[2J",
        "prompt": "a\nversion  0\n\rsdlab generate x --model evil",
        "negative": "\x9b31m\u202e",
    }
    path = signed(Path("a.png"), evil)
    lines = run("show", str(path))
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith("version") for line in lines) == 1
    [command] = [line for line in lines if line.startswith("sdlab ")]
    assert in_bash(command)[2] == evil["prompt"]
    assert evil["negative"] in in_bash(command)


@pytest.mark.parametrize("key", ["version", "prompt", "model"])
def test_half_of_a_surrogate_pair_is_one_line(here: Path, key: str):
    content = {"version": "1", "prompt": "a", key: "\ud800"}
    try:
        lines = show(signed(Path("a.png"), content)).lines()
    except UsageError as error:
        lines = error.lines
    assert shown("\n".join(lines)).isprintable()


def test_the_command_works_in_any_folder(here: Path, monkeypatch: pytest.MonkeyPatch):
    [photo] = run("generate", PROMPT, "--steps", "1", "--out", "photos")
    Path("my sampler.py").write_text("import samplers\n\nclass Mine(samplers.SAMPLERS['euler']):\n    pass\n")
    monkeypatch.setattr(plugins, "_PLUGINS", {})
    for name in ("my sampler.py:Mine", f"{here}/my sampler.py:Mine"):
        monkeypatch.setitem(samplers.SAMPLERS, name, samplers.SAMPLERS["ddpm"])  # removed again afterwards
    sampler = '"my sampler.py:Mine" '
    options = ["--init-image", photo, "--strength", "1", "--steps", "2", "--sampler", sampler, "--out", "first"]
    [first] = run("generate", PROMPT, *options)
    words = in_bash(run_show(first))[1:]
    first = Path(first).resolve()
    elsewhere = here / "elsewhere" / "below"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    [second] = run(*words)
    assert first.read_bytes() == Path(second).read_bytes()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("dpmpp_2m", "dpmpp_2m"),
        ("ddim eta=0.5", "ddim eta=0.5"),
        ("my.py:Mine  order=2", "{}/my.py:Mine  order=2"),
        ('"a b.py:Mine" order=2', '"{}/a b.py:Mine" order=2'),
        ("/x/my.py:Mine", "/x/my.py:Mine"),
        ("", ""),
    ],
)
def test_a_custom_choice_gets_the_absolute_path_of_its_file(
    text: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert absolute_choice(text) == wanted.format(tmp_path)


def test_a_picture_without_parameters_is_an_error(tmp_path: Path):
    for name in ("a.png", "a.jpg", "a.gif"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        with pytest.raises(
            UsageError, match=r"has no parameters of sdlab; choose a PNG file written by sdlab generate"
        ):
            show(tmp_path / name)


def test_a_file_that_is_not_a_picture_is_an_error(tmp_path: Path):
    (tmp_path / "a.png").write_text("dear diary")
    with pytest.raises(UsageError, match=r"a\.png: is not a picture"):
        show(tmp_path / "a.png")
    with pytest.raises(UsageError, match=r"none\.png: no such file or directory$"):
        show(tmp_path / "none.png")
