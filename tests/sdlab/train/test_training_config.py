"""Configuration files of training: each stage has its keys, and mistakes are reported at once and in full."""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from pathlib import Path
from typing import get_args

import pytest
from annotated_types import Le, Lt
from pydantic import BaseModel, ValidationError

from sdlab.commands import train as train_command
from sdlab.picture import FITS
from sdlab.system.errors import UsageError
from sdlab.train import mistakes
from sdlab.train.captioned_config import CaptionedTraining
from sdlab.train.config import Training
from sdlab.train.config_file import load_config
from sdlab.train.stages import STAGES

GOOD = 'out = "x"\nsteps = 1\nbatch = 1\nlr = 0.1\n'


def complaints(stage: str, path: Path, text: str) -> list[str]:
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        load_config(stage, path)
    return [line.removeprefix(f"{path}: ") for line in str(error.value).splitlines()]


def test_mistakes_are_reported_all_at_once(tmp_path: Path):
    found = complaints(
        "vae", tmp_path / "bad.toml", 'steps = -1\nbatch = "many"\nlearn_rate = 1\nlr = 0.1\nwarmpu = 2\n'
    )
    known = ", ".join(STAGES["vae"].model_fields)
    assert found == [
        "`out` is missing; add it",
        "`steps` = -1 is invalid: input should be greater than or equal to 1",
        "`batch` = 'many' is invalid: input should be a valid integer",
        f"unknown key `learn_rate`; the vae stage has {known}",
        f"unknown key `warmpu` (did you mean 'warmup'?); the vae stage has {known}",
    ]


@pytest.mark.parametrize(
    ("stage", "table", "sentence"),
    [
        ("vae", {"perceptual": {"wieght": 1.0, "weight": 1.0}},
         "unknown key `perceptual.wieght` (did you mean 'weight'?); `perceptual` has weight, weights"),
        ("unet", {"weighting": {"name": "p2", "gama": 1.0}},
         "unknown key `weighting.gama` (did you mean 'gamma'?); `weighting` has name, k, gamma"),
        ("unet", {"timesteps": {"sigma": 1.0}}, "unknown key `timesteps.sigma`; `timesteps` has mean, std, shift"),
    ],
)  # fmt: skip
def test_a_typo_in_a_table_lists_the_keys_of_the_table(stage: str, table: dict[str, object], sentence: str):
    with pytest.raises(ValidationError) as error:
        STAGES[stage](out=Path("out"), steps=1, batch=1, lr=1.0, **table)
    assert [mistakes.sentence(STAGES[stage], one) for one in error.value.errors()] == [sentence]


@pytest.mark.parametrize("key", ["start", "teacher"])
def test_a_path_without_quotes_is_told_what_would_be_right(key: str, tmp_path: Path):
    wrong = f"`{key}` = 5 is invalid: must be a path, in quotes"
    assert complaints("text", tmp_path / "t.toml", f"{GOOD}{key} = 5\n") == [wrong]


OWN = {name: [key for key in kind.model_fields if key not in Training.model_fields] for name, kind in STAGES.items()}


OF_PICTURES = ["data", "fit", "mirror", "held_out"]
SIZED = ["image_size", "preview_every", "shard"]


@pytest.mark.parametrize("key", sorted({key for own in OWN.values() for key in own}))
def test_a_key_of_another_stage_is_refused(key: str, tmp_path: Path):
    owners = [stage for stage in STAGES if key in OWN[stage]]
    shared = dict.fromkeys(OF_PICTURES, "clip, vae and unet stages") | dict.fromkeys(SIZED, "vae and unet stages")
    named = shared.get(key, f"{owners[0]} stage")
    for stage in STAGES.keys() - set(owners):
        found = complaints(stage, tmp_path / "t.toml", f"{GOOD}{key} = 0.5\n")
        assert found == [f"`{key}` belongs to the {named}; remove it here"]


def test_each_stage_has_its_own_keys():
    assert {name: own for name, own in OWN.items() if own} == {
        "text": ["teacher"],
        "clip": [*OF_PICTURES, "grounding"],
        "vae": [*OF_PICTURES, *SIZED, "kl", "l1", "l2", "perceptual", "adversarial"],
        "unet": [
            *OF_PICTURES, *SIZED, "cache", "drop_caption", "focus", "timesteps", "prediction", "noise_schedule",
            "weighting", "alignment", "text_alignment",
        ],
        "evaluator": ["second"],
    }  # fmt: skip


def test_a_mistake_in_a_weighting_is_named_by_its_key(tmp_path: Path):
    for line, wrong in (
        (
            'weighting = {name = "min_snr", gamma = 0}',
            "`weighting.gamma` = 0 is invalid: input should be greater than 0",
        ),
        (
            'weighting = {name = "minsnr"}',
            "`weighting`: unknown weighting 'minsnr' (did you mean 'min_snr'?); known: edm, min_snr, p2, soft_min_snr",
        ),
        ("weighting = {gamma = 3}", "`weighting.name` is missing; add it"),
        (
            "focus = 0.5\ntimesteps = {}",
            "`focus` and `timesteps` both choose the distribution of timesteps; remove one of them",
        ),
    ):
        assert complaints("unet", tmp_path / "t.toml", f"{GOOD}{line}\n") == [wrong]


def test_files_that_cannot_be_read(tmp_path: Path):
    with pytest.raises(UsageError, match=r"none\.toml: no such file"):
        load_config("vae", tmp_path / "none.toml")
    with pytest.raises(UsageError, match=f"{tmp_path}: is a directory"):
        load_config("vae", tmp_path)
    assert complaints("vae", tmp_path / "t.toml", "steps = ")[0].startswith("is not TOML: ")


def test_an_unknown_stage_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match=r"unknown stage 'vea' \(did you mean 'vae'\?\)"):
        load_config("vea", tmp_path / "t.toml")


def test_a_mistake_is_reported_before_torch_is_imported(tmp_path: Path):
    path = tmp_path / "t.toml"
    path.write_text(f"{GOOD}kl = 1")
    code = (
        "import sys; from pathlib import Path; from sdlab.system.errors import UsageError\n"
        "from sdlab.train.config_file import load_config\n"
        f"try: load_config('unet', Path({str(path)!r}))\n"
        "except UsageError: sys.exit(1 if 'torch' in sys.modules else 0)\n"
        "sys.exit(2)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_registry_holds_each_stage_under_its_name():
    assert list(STAGES) == ["text", "clip", "vae", "unet", "evaluator"]
    for name, kind in STAGES.items():
        assert kind.stage == name
        assert kind.__doc__
        for key, field in kind.model_fields.items():
            assert field.description, f"{name}: {key} has no description"


def test_the_command_line_offers_every_stage():
    told = get_args(inspect.get_annotations(train_command.command, eval_str=True)["what"])[1].help
    assert set(told.split("(")[1].split(")")[0].split(", ")) == set(STAGES)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("threads = 100000", "`threads` = 100000 is invalid: input should be less than or equal to 256"),
        ("seed = 18446744073709551616", "`seed` = 18446744073709551616 is invalid: input should be less than"),
        ("seed = -1", "`seed` = -1 is invalid: input should be greater than or equal to 0"),
        ('warmup = "3"', "`warmup` = '3' is invalid: input should be a valid integer"),
        ('kl = "0.1"', "`kl` = '0.1' is invalid: input should be a valid number"),
        ("weight_decay = inf", "`weight_decay` = inf is invalid: input should be a finite number"),
        ("save_every = 10000000000", "`save_every` = 10000000000 is invalid: input should be less than or equal to"),
        (f"save_every = 0x{'f' * 6000}", "`save_every` = an integer of 24000 bits is invalid"),
        (f"save_every = {'9' * 6000}", "is not TOML: Exceeds the limit"),
        (f"save_every = {'[' * 9000}", "is not TOML: "),
    ],
    ids=lambda text: text[:20],
)
def test_numbers_have_limits_and_are_written_without_quotes(line: str, wrong: str, tmp_path: Path):
    good = 'out = "out"\nsteps = 4\nbatch = 2\nlr = 1\n'
    (found,) = complaints("vae", tmp_path / "bad.toml", f"{good}{line}\n")
    assert wrong in found


def unlimited(table: type[BaseModel]) -> list[str]:
    """The keys of a table, and of those inside it, whose numbers have no upper limit."""
    found = []
    for key, field in table.model_fields.items():
        for kind in typing.get_args(field.annotation) or [field.annotation]:
            if kind in (int, float) and not any(isinstance(limit, Le | Lt) for limit in field.metadata):
                found.append(key)
            elif inspect.isclass(kind) and issubclass(kind, BaseModel):
                found += [f"{key}.{inner}" for inner in unlimited(kind)]
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_every_number_has_a_limit(stage: str):
    assert unlimited(STAGES[stage]) == []


def test_a_length_needs_snapshots(tmp_path: Path):
    found = complaints("vae", tmp_path / "t.toml", f"{GOOD}ema_length = 0.1\n")
    assert found == ["`ema_length` needs snapshots of the averages; set `snapshot_every`"]


def test_pictures_come_from_a_world_or_from_data(tmp_path: Path):
    path = tmp_path / "t.toml"
    for key, value in (("world", '"scenes"'), ("complete_captions", 0.5)):
        found = complaints("vae", path, f'{GOOD}data = "mine"\n{key} = {value}\n')
        assert found == [f"`{key}` belongs to a world and `data` replaces it; remove one of the two"]
    found = complaints("unet", path, f"{GOOD}mirror = true\n")
    assert found == ["`mirror` needs `data`; a world has its own pictures"]
    assert get_args(CaptionedTraining.model_fields["fit"].annotation) == FITS
