"""`sdlab bench`: operations are counted as by hand, rates follow from the times, and mistakes are one line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from sdlab.commands import speed
from sdlab.commands.app import run
from sdlab.model.config import SCENES, SD15
from sdlab.system.errors import UsageError


def test_the_operations_of_a_text_encoder_are_those_counted_by_hand():
    """12 w² multiplications per token in the layers, and 2 w per pair of tokens in attention. Each has an addition."""
    config = replace(SCENES.text, layers=3)
    width, length = config.width, config.context_length
    by_hand = 2 * config.layers * (12 * width**2 * length + 2 * width * length**2)
    assert speed.operations(replace(SCENES, text=config))["clip"] == by_hand


def test_a_pass_of_stable_diffusion_has_the_operations_that_the_field_reports():
    """About 340 billion multiplications and additions at 512 × 512, which are twice as many operations."""
    assert speed.operations(SD15)["unet"] == pytest.approx(2 * 340e9, rel=0.2)


def test_rates_and_shares_follow_from_the_times(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    times = np.array([[1.0, 2.0, 9.0], [2.0, 4.0, 4.0], [0.5, 0.5, 0.5], [1.0, 1.0, 3.0], [4.0, 8.0, 8.0]])
    monkeypatch.setattr(speed, "_timed", lambda *_: times)
    assert run(["bench", "--batch", "2", "--rounds", "3", "--dtype", "float32", "--format", "json"]) == 0
    rows = {row["part"]: row for row in json.loads(capsys.readouterr().out)}
    matrix, convolution, network = (rows[name] for name in (speed.MATRIX, speed.CONVOLUTION, "network pass"))
    assert (matrix["ms"], matrix["ms_low"], matrix["ms_high"]) == (2000, 1500, 5500)
    assert matrix["gflops"] == pytest.approx(2 * 1024**3 / 2 / 1e9)
    assert (matrix["ms_per_image"], convolution["share_of_peak"]) == (None, 100)
    assert network["ms_per_image"] == 500
    assert network["gflops"] == pytest.approx(2 * network["gflop_per_image"] / 1.0)
    assert network["share_of_peak"] == pytest.approx(100 * network["gflops"] / convolution["gflops"])


def test_the_first_round_is_left_out(monkeypatch: pytest.MonkeyPatch):
    ticks = iter([0.0, 100.0, *(t for k in range(3) for t in (float(k), k + 2.0))])  # only the first call is slow
    monkeypatch.setattr(speed, "perf_counter", lambda: next(ticks))
    part = speed.Part(lambda: None, 1.0)
    found = speed._timed({"one": part}, 3, speed.torch.device("cpu"), speed.Console(quiet=True))
    assert found.tolist() == [[2.0, 2.0, 2.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch", "0"], "--batch must be from 1 to 65536, got 0"),
        (["--rounds", "1"], "--rounds must be from 2 to 10000, got 1"),
        (["--dtype", "int8"], "--dtype must be one of auto, float32, bfloat16, float16, got 'int8'"),
        (["--device", "tpu"], "--device: "),
        (["--format", "xml"], "xml"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str):
    with pytest.raises(UsageError) as error:
        run(["bench", *options])
    (line,) = error.value.lines
    assert message in line
