"""The text stage with a teacher: a new text encoder takes the place of another."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from training import QUIET, TINY, keys, write

from sdlab.model.clip import Clip
from sdlab.system.errors import UsageError
from sdlab.train import run, run_all
from sdlab.weights.model_folder import load_part, read_config, save_config


def learn(folder: Path, name: str, **changes: object) -> dict[str, float]:
    table = keys(folder, out=folder / name, **changes)
    return run("text", write(folder / f"{name}.toml", "text", table), QUIET)


def tensors(folder: Path) -> dict[str, Tensor]:
    config = read_config(folder)
    return load_part(folder / "clip.safetensors", partial(Clip, config.text, config.vision)).state_dict()


@pytest.fixture
def taught(tmp_path: Path) -> dict[str, Tensor]:
    """The weights of the CLIP in the folder `model`, the teacher."""
    save_config(tmp_path / "model", TINY)
    learn(tmp_path, "first")
    return tensors(tmp_path / "model")


def test_the_student_has_weights_of_its_own_and_the_states_of_the_teacher(taught: dict[str, Tensor], tmp_path: Path):
    model = tmp_path / "model"
    teacher = tmp_path / "clip.safetensors"
    (model / "clip.safetensors").rename(teacher)
    untrained = learn(tmp_path, "second", teacher=teacher, seed=1, steps=1, lr=1e-9)
    measured = learn(tmp_path, "third", teacher=teacher, seed=1, steps=300, batch=32, lr=2e-2, ema=0.9)
    assert untrained["error"] > 1  # a guess without the caption has 1, the variance of the teacher's states
    assert measured["error"] < 0.2
    for name, tensor in tensors(model).items():
        assert torch.equal(tensor, taught[name]) == (not name.startswith("text.")), name  # the vision encoder is kept


def test_a_student_that_starts_as_the_teacher_differs_by_nothing(taught: dict[str, Tensor], tmp_path: Path):
    model = tmp_path / "model"
    assert learn(tmp_path, "same", teacher=model, start=model, steps=1, lr=1e-12, ema=0.0)["error"] < 1e-12
    for name, tensor in tensors(model).items():
        torch.testing.assert_close(tensor, taught[name], msg=name)


def test_a_missing_teacher_is_noticed_before_anything_is_trained(tmp_path: Path):
    save_config(tmp_path / "model", TINY)
    with pytest.raises(UsageError, match=r"nowhere\.safetensors"):
        learn(tmp_path, "second", teacher=tmp_path / "nowhere.safetensors")
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"model = '{tmp_path / 'model'}'\nout = '{tmp_path}'\nsteps = 2\nbatch = 2\nlr = 1e-3\n[text]\n"
        f"[again]\nstage = 'text'\nteacher = '{tmp_path / 'nowhere.safetensors'}'\n"
    )
    with pytest.raises(UsageError, match=r"\[again\]: needs .*nowhere\.safetensors, which is missing"):
        list(run_all(recipe, QUIET))
    assert not (tmp_path / "text").exists()
