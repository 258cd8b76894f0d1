"""`sdlab generate` from a prompt and from a picture. Mistakes are reported before anything is written."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from lab_model import lab_pipeline
from PIL import Image

import samplers
from sdlab import cli, plugins
from sdlab.guidance import GUIDANCE, make
from sdlab.picture import read_picture, to_bytes
from sdlab.pipeline import Pipeline
from sdlab.system.files import add
from sdlab.worlds import scenes

PROMPT = "a large red circle left of a large blue square on a white background"


class Done(NamedTuple):
    status: int
    out: list[str]
    err: list[str]


Sdlab = Callable[..., Done]


@pytest.fixture
def sdlab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Sdlab:
    """Runs a command in `tmp_path`."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr("sys.argv", ["sdlab", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return Done(int(caught.value.code or 0), printed.out.splitlines(), printed.err.splitlines())

    return run


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture of another size and shape than the model's."""
    scene = to_bytes(scenes.render(scenes.sample(1, torch.Generator().manual_seed(5))))[0].numpy()
    Image.fromarray(scene).resize((200, 160)).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_every_picture_is_written_as_it_is_named_and_none_is_replaced(sdlab: Sdlab):
    first, second = (sdlab("generate", PROMPT, "--steps", "2", "--out", "a/b") for _ in range(2))
    assert (first.status, len(first.out)) == (0, 1)
    assert first.out != second.out
    assert Path(first.out[0]).read_bytes() == Path(second.out[0]).read_bytes()


def test_a_picture_is_the_same_alone_and_among_others(sdlab: Sdlab):
    many = sdlab("generate", PROMPT, "--steps", "2", "-n", "3", "--seed", "4")
    alone = sdlab("generate", PROMPT, "--steps", "2", "--seed", "6")
    assert Path(many.out[2]).read_bytes() == Path(alone.out[0]).read_bytes()


def test_more_than_one_picture_comes_with_a_contact_sheet(sdlab: Sdlab):
    done = sdlab("generate", PROMPT, "--steps", "1", "-n", "3", "--size", "48x64")
    [line] = [line for line in done.err if line.startswith("contact sheet: ")]
    sheet = pixels(line.removeprefix("contact sheet: "))
    assert sheet.shape == (2 * 64 + 4, 2 * 48 + 4, 3)  # three pictures in two columns, 4 pixels apart
    for i, path in enumerate(done.out):
        y, x = i // 2 * 68, i % 2 * 52
        np.testing.assert_array_equal(sheet[y : y + 64, x : x + 48], pixels(path))
    assert np.all(sheet[68:, 52:] == 255)
    assert not any("contact" in line for line in sdlab("generate", PROMPT, "--steps", "1").err)


def test_width_comes_first_in_a_size_and_odd_latents_work(sdlab: Sdlab):
    [path] = sdlab("generate", PROMPT, "--steps", "1", "--size", "104x152").out
    assert Image.open(path).size == (104, 152)


def test_the_parameters_in_the_file_are_those_that_were_chosen(sdlab: Sdlab, photo: Path):
    plain, edited = (
        json.loads(Image.open(sdlab("generate", PROMPT, "--steps", "2", *options).out[0]).text["sdlab"])
        for options in (["--device", "auto"], ["--init-image", "photo.jpg"])
    )
    assert plain["device"] in ("cpu", "cuda")
    assert (plain["height"], plain["width"], plain["guidance"], plain["n"]) == (64, 64, "cfg scale=3.0", 1)
    assert (plain["strength"], plain["fit"]) == (None, None)
    assert (edited["init_image"], edited["strength"], edited["fit"]) == (str(photo.resolve()), 0.6, "crop")


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_strength_0_gives_the_reconstruction_of_the_vae(sdlab: Sdlab, photo: Path, fit: str):
    options = "--init-image", "photo.jpg", "--strength", "0", "--fit", fit, "--size", "48x64"
    [path] = sdlab("generate", PROMPT, *options).out
    pipeline = lab_pipeline()
    expected = pipeline.decode(pipeline.encode_image(read_picture(photo, (64, 48), fit)[None]))  # type: ignore[arg-type]
    np.testing.assert_array_equal(pixels(path), to_bytes(expected)[0].numpy())


def test_strength_1_gives_the_picture_of_the_prompt_alone(sdlab: Sdlab, photo: Path):
    [edited] = sdlab("generate", PROMPT, "--steps", "2", "--init-image", "photo.jpg", "--strength", "1").out
    [plain] = sdlab("generate", PROMPT, "--steps", "2").out
    np.testing.assert_array_equal(pixels(edited), pixels(plain))


CAPTION = "a small star under a large heart on black"


def inverted(*options: str) -> tuple[str, ...]:
    return ("--init-image", "photo.jpg", "--invert", "--caption", CAPTION, "--steps", "8", "--cfg", "1", *options)


@pytest.mark.parametrize("sampler", ["bdia", "belm", "edict", "ddim:refinements=8"])
def test_an_inverted_picture_comes_back_with_its_caption(sdlab: Sdlab, photo: Path, sampler: str):
    done = sdlab("generate", CAPTION, *inverted("--sampler", sampler))
    pipeline = lab_pipeline()
    expected = pipeline.decode(pipeline.encode_image(read_picture(photo, (64, 64))[None]))
    assert np.abs(pixels(done.out[0]).astype(int) - to_bytes(expected)[0].numpy().astype(int)).max() <= 2
    [line] = [line for line in done.err if line.startswith("round-trip error ")]
    error, through, alone = map(float, re.findall(r"[\d.]+(?:e-?\d+)?", line.partition("error ")[2]))
    assert error < 1e-2
    assert through == pytest.approx(alone, abs=0.2)
    assert sdlab("generate", CAPTION, *inverted("--sampler", sampler, "--seed", "9")).err == done.err


def test_an_inverted_picture_changes_with_another_prompt(sdlab: Sdlab, photo: Path):
    other = "a small red star under a large heart on white"
    kept, changed = (pixels(sdlab("generate", text, *inverted()).out[0]).astype(float) for text in (CAPTION, other))
    assert np.abs(changed - kept).mean() > 5
    gentle = pixels(sdlab("generate", other, *inverted("--strength", "0.5")).out[0]).astype(float)
    assert np.abs(gentle - kept).mean() < np.abs(changed - kept).mean()


def test_strength_0_of_an_inversion_is_the_reconstruction_of_the_vae(sdlab: Sdlab, photo: Path):
    [path] = sdlab("generate", PROMPT, *inverted("--strength", "0")).out
    pipeline = lab_pipeline()
    expected = pipeline.decode(pipeline.encode_image(read_picture(photo, (64, 64))[None]))
    np.testing.assert_array_equal(pixels(path), to_bytes(expected)[0].numpy())


def test_the_command_of_an_inverted_picture_draws_it_again(sdlab: Sdlab, photo: Path):
    [path] = sdlab("generate", PROMPT, *inverted()).out
    [command] = [line for line in sdlab("show", path).out if line.strip().startswith("sdlab generate")]
    [again] = sdlab(*shlex.split(command)[1:], "--out", "again").out
    np.testing.assert_array_equal(pixels(path), pixels(again))


def test_in_between_the_picture_shows_through(sdlab: Sdlab, photo: Path):
    def far(strength: str) -> float:
        options = "--steps", "10", "--init-image", "photo.jpg", "--strength", strength
        picture = read_picture(photo, (64, 64)).permute(1, 2, 0).numpy() * 127.5 + 127.5
        return float(np.abs(pixels(sdlab("generate", PROMPT, *options).out[0]) - picture).mean())

    assert far("0.1") < far("0.5") < far("1")


def test_a_custom_sampler_draws(sdlab: Sdlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_PLUGINS", {})
    monkeypatch.setitem(samplers.SAMPLERS, "mine.py:Mine", samplers.SAMPLERS["ddpm"])  # removed again afterwards
    (tmp_path / "mine.py").write_text("from samplers import SAMPLERS\nclass Mine(SAMPLERS['euler']): pass\n")
    own, euler = (sdlab("generate", PROMPT, "--steps", "2", "--sampler", s) for s in ("mine.py:Mine", "euler"))
    np.testing.assert_array_equal(pixels(own.out[0]), pixels(euler.out[0]))
    assert sdlab("generate", PROMPT, "--sampler", "yours.py:Mine").err == [
        "error: --sampler: yours.py: no such file or directory"
    ]


FAILING = """
from dataclasses import dataclass
from samplers.grids import GRIDS
from sdlab.guidance import Affine


def few(steps, levels):
    if steps > 4:
        raise KeyError("no more than four")
    return GRIDS["karras"](steps, levels)


@dataclass(frozen=True)
class High(Affine):
    def weight(self, sigma):
        if sigma > 5:
            raise SystemExit(3)
        return 2.0
"""


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--grid", "failing.py:few", "--steps", "9"], "KeyError: 'no more than four' (line 9 of failing.py)"),
        (["--guidance", "failing.py:High"], "SystemExit: 3 (line 17 of failing.py)"),
    ],
)
def test_custom_code_that_fails_on_this_grid_is_one_line(
    options: list[str], reason: str, sdlab: Sdlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plugins, "_PLUGINS", {})
    monkeypatch.setitem(samplers.GRIDS, "failing.py:few", samplers.GRIDS["karras"])  # removed again afterwards
    monkeypatch.setitem(GUIDANCE, "failing.py:High", GUIDANCE["none"])
    (tmp_path / "failing.py").write_text(FAILING)
    done = sdlab("generate", PROMPT, *options)
    assert (done.status, done.err) == (1, [f"error: {reason}; traceback in out/plugins.log"])
    assert "Traceback" in (tmp_path / "out/plugins.log").read_text()


RULES = """
from sdlab.guidance import Affine
class Fading(Affine):
    def __init__(self, scale=5.0):
        self.scale = scale
    def weight(self, sigma):
        return 1 + (self.scale - 1) * min(1.0, sigma)
"""


def test_any_guidance_strategy_draws(sdlab: Sdlab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plugins, "_PLUGINS", {})
    monkeypatch.setitem(GUIDANCE, "rules.py:Fading", GUIDANCE["none"])  # removed again afterwards
    (tmp_path / "rules.py").write_text(RULES)

    def drawn(*options: str) -> np.ndarray:
        return pixels(sdlab("generate", PROMPT, "--steps", "3", *options).out[0])

    plain, default = drawn("--guidance", "none"), drawn()
    np.testing.assert_array_equal(drawn("--cfg", "1"), plain)
    np.testing.assert_array_equal(drawn("--guidance", "cfg scale=3"), default)
    np.testing.assert_array_equal(drawn("--guidance", "cfg_interval scale=3 sigma_low=0 sigma_high=inf"), default)
    np.testing.assert_array_equal(drawn("--guidance", "rules.py:Fading scale=1"), plain)
    assert not np.array_equal(drawn("--guidance", "rules.py:Fading scale=9"), plain)
    assert not np.array_equal(default, plain)


def test_a_sampler_and_a_grid_take_options(sdlab: Sdlab):
    [path] = sdlab("generate", PROMPT, "--steps", "3", "--sampler", "ddim eta=1", "--grid", "karras rho=5").out
    pipeline = lab_pipeline()
    sigmas = samplers.grid("karras", steps=3, levels=pipeline.levels, rho=5)
    cond, uncond = pipeline.encode([PROMPT]), pipeline.encode([""])
    latents = pipeline.sample(cond, uncond, samplers.make("ddim", eta=1), sigmas, make("cfg", scale=3.0), [0])
    np.testing.assert_array_equal(pixels(path), to_bytes(pipeline.decode(latents))[0].numpy())


def test_offload_and_tiles_on_this_device_change_nothing_in_a_small_picture(sdlab: Sdlab):
    options = "--steps", "2", "--device", "cpu"
    plain, moved, whole = (
        pixels(sdlab("generate", PROMPT, *options, *more).out[0]) for more in ([], ["--offload"], ["--tiles", "never"])
    )
    np.testing.assert_array_equal(whole, plain)
    # What moves has no weights packed for the CPU: of 255, a level from sums in another order.
    assert np.abs(moved.astype(int) - plain).max() <= 1


@pytest.mark.slow
def test_a_compiled_network_draws_the_same_picture(sdlab: Sdlab):
    options = "--steps", "2", "--device", "cpu"
    plain, fast = (sdlab("generate", PROMPT, *options, *more).out[0] for more in ([], ["--compile"]))
    assert np.abs(pixels(fast).astype(int) - pixels(plain)).max() <= 1  # of 255: sums in another order


def test_taken_names_are_skipped_even_by_concurrent_writers(tmp_path: Path):
    def write(number: int) -> Path:
        return add(tmp_path / "picture.png", lambda draft: draft.write_text(str(number)))

    (tmp_path / "picture.png").write_text("mine")
    with ThreadPoolExecutor(8) as pool:
        places = list(pool.map(write, range(8)))
    assert (tmp_path / "picture.png").read_text() == "mine"
    assert {path.name for path in places} == {f"picture-{k}.png" for k in range(2, 10)}
    assert {path.read_text() for path in places} == set("01234567")
    assert len(list(tmp_path.iterdir())) == 9


def test_running_out_of_memory_is_one_line(sdlab: Sdlab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Pipeline, "decode", lambda self, latents: torch.empty(2**52))
    done = sdlab("generate", PROMPT, "--steps", "1", "--device", "cpu")
    assert done == (1, [], ["error: out of memory; use a smaller --size or --dtype bfloat16"])


def test_without_a_compiler_nothing_is_compiled(sdlab: Sdlab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    done = sdlab("generate", PROMPT, "--device", "cpu", "--compile")
    assert done == (2, [], ["error: compile: needs a C++ compiler, but no-such-compiler was not found"])


def test_the_end_of_a_prompt_that_does_not_fit_is_reported(sdlab: Sdlab):
    done = sdlab(
        "generate", "a red circle " * 20 + "zebra", "--negative", "a blue star " * 20 + "okapi", "--steps", "1"
    )
    assert done.status == 0
    assert any("the prompt is too long" in line for line in done.err)
    assert any("the negative prompt is too long" in line for line in done.err)
    assert "zebra" in " ".join(done.err)
    assert "okapi" in " ".join(done.err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--compile", "--offload"],
            "--compile and --offload cannot be combined; leave one out",
        ),
        (["--size", "50x64"], "--size: both sides must be multiples of 4, got 50x64; the nearest is 48x64"),
        (["--size", "0x64"], "--size: each side must be from 1 to 16384, got 0"),
        (["--size", f"64x{'9' * 33}"], "--size: each side must be from 1 to 16384, got 999999999"),
        (["--size", f"64x{'9' * 9000}"], "--size: each side must be from 1 to 16384, got 999999999"),
        (["--steps", "1000000"], "--steps must be from 1 to 10000, got 1000000"),
        (["--steps", "0"], "--steps must be from 1 to 10000, got 0"),
        (["--seed", str(2**64)], f"--seed must be from 0 to 4611686018427387903, got {2**64}"),
        (["-n", "100000000000"], "-n must be from 1 to 1000000, got 100000000000"),
        (["--size", "64"], "--size must be width x height in pixels, like 512x384, got '64'"),
        (["--size", "64x-64"], "--size must be width x height in pixels, like 512x384, got '64x-64'"),
        (["--size", "²x64"], "--size must be width x height in pixels, like 512x384, got '²x64'"),
        (["--strength", "0.5"], "--strength needs --init-image"),
        (["--fit", "pad"], "--fit needs --init-image"),
        (["--invert"], "--invert needs --init-image"),
        (["--init-image", "photo.jpg", "--caption", "a red star"], "--caption needs --invert"),
        (
            ["--init-image", "photo.jpg", "--invert", "-n", "2"],
            "-n: --invert draws one picture, because nothing in it is random",
        ),
        (["--init-image", "none.jpg", "--invert"], "--init-image: none.jpg: no such file or directory"),
        (
            ["--init-image", "photo.jpg", "--invert", "--sampler", "heun"],
            "--sampler: heun cannot be inverted; use bdia, belm, edict, or ddim with eta 0 and without clip",
        ),
        (
            ["--init-image", "photo.jpg", "--invert", "--grid", "trailing"],
            '--grid: trailing ends at 0, where no noise is left to invert; add ending = "stop_at_sigma_min"',
        ),
        (
            ["--init-image", "photo.jpg", "--invert", "--guidance", "apg momentum=-0.5"],
            "--guidance: apg momentum=-0.5 cannot be inverted, because its predictions depend on the steps before",
        ),
        (
            ["--init-image", "photo.jpg", "--invert", "--size", "63x64"],
            "--size: both sides must be multiples of 4, got 63x64; the nearest is 64x64",
        ),
        (["--init-image", "photo.jpg", "--strength", "1.5"], "strength must be in [0, 1], got 1.5"),
        (["--init-image", "photo.jpg", "--strength", "nan"], "strength must be in [0, 1], got nan"),
        (["--init-image", "photo.jpg", "--fit", "squeeze"], "--fit must be one of crop, pad, stretch, got 'squeeze'"),
        (["--init-image", "none.jpg"], "--init-image: none.jpg: no such file or directory"),
        (["--init-image", "notes.txt"], "--init-image: notes.txt: is not a picture in a supported format"),
        (["--init-image", "."], "--init-image: .: is a directory"),
        (
            ["--cfg", "3", "--guidance", "none"],
            "--cfg and --guidance cannot be combined; write --guidance cfg:scale=3",
        ),
        (
            ["--guidance", "cfg scael=3"],
            "--guidance: scael: unknown option of cfg (did you mean 'scale'?); it takes: scale, schedule, interval",
        ),
        (
            ["--guidance", "cgf"],
            f"--guidance: unknown guidance 'cgf' (did you mean 'cfg'?); known: {', '.join(sorted(GUIDANCE))}",
        ),
        (
            ["--guidance", "cfg scale"],
            "--guidance: options are written key=value, without spaces; got 'scale' in 'cfg scale'",
        ),
        (["--sampler", "ddim eta=2"], "--sampler: eta: must be in [0, 1], got 2"),
        (["--model", "diffusers:my-pipeline"], "--model: my-pipeline: no such folder"),
        (["--tiles", "some"], "--tiles must be one of auto, always, never, got 'some'"),
        (
            ["--weights", "x.ckpt"],
            "model 'scenes': `weights` is only for 'sd15'; use the file or folder as the model",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    sdlab: Sdlab, photo: Path, tmp_path: Path, options: list[str], message: str
):
    (tmp_path / "notes.txt").write_text("dear diary")
    assert sdlab("generate", PROMPT, *options) == Done(2, [], [f"error: {message}"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "photo.jpg"]


def test_missing_files_of_sd15_are_all_named(sdlab: Sdlab):
    options = "--weights", "w.ckpt", "--vocab", "v.json", "--merges", "m.txt"
    done = sdlab("generate", PROMPT, "--model", "sd15", *options)
    assert done.status == 2
    assert all(any(name in line for line in done.err) for name in ("w.ckpt", "v.json", "m.txt"))


def test_a_folder_that_cannot_be_made_is_an_error(sdlab: Sdlab, tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    done = sdlab("generate", PROMPT, "--steps", "1", "--out", "taken")
    assert (done.status, len(done.err)) == (1, 1)
    assert done.err[0].startswith("error: cannot make the folder taken: ")
