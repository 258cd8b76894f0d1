"""Certificates: their measurements are right, and false claims fail."""

import dataclasses
import errno
import inspect
import io
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import samplers
from samplers.euler import Euler
from samplers.exact.law import distance
from samplers.heun import Heun
from sdlab import plugins
from sdlab.certify import Subject, certify, subjects
from sdlab.certify.accuracy import accuracy, floor
from sdlab.certify.checks import calls_of, checks, memory_of
from sdlab.certify.fit import fit
from sdlab.certify.orders import measure
from sdlab.certify.page import write_page
from sdlab.certify.problems import GAUSSIAN, LINE, line_quantiles, use_grid
from sdlab.certify.run import run
from sdlab.certify.subjects import FAMILIES
from sdlab.commands.app import app
from sdlab.system.errors import RunError, UsageError
from sdlab.system.resources import ROOT

pytestmark = pytest.mark.slow

# The fit.


def test_the_fit_finds_the_exponent_and_its_error():
    steps = (16, 32, 64, 128)
    exact = fit(steps, [7 * n**-2.5 for n in steps])
    assert exact.order == pytest.approx(2.5, abs=1e-12)
    assert exact.spread == pytest.approx(0, abs=1e-9)
    bent = [7 * n**-2.0 * (1.1 if n == 64 else 1.0) for n in steps]
    line, covariance = np.polyfit(np.log(steps[1:]), np.log(bent[1:]), 1, cov="unscaled")
    rest = np.log(bent[1:]) - np.polyval(line, np.log(steps[1:]))
    assert fit(steps, bent).order == pytest.approx(-line[0])
    assert fit(steps, bent).spread == pytest.approx(math.sqrt(covariance[0, 0] * (rest @ rest)))


def test_errors_of_rounding_are_no_order():
    assert fit((1, 2, 3), [1e-13, 2e-13, 1e-14]).exact
    assert fit((1, 2, 3), [1e-13, 2e-13, 1e-14]).text == "exact"
    assert math.isnan(fit((1, 2, 3), [1.0, 1e-13, 1e-14]).order)


# Orders and errors.


@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("ddpm", 1), ("heun", 2), ("dpmpp_3m", 3)])
def test_a_true_claim_holds(name, order):
    found = certify(subjects(name)[0])
    assert found.ok, found.faults
    assert found.claimed == order
    assert found.orders.lowest == pytest.approx(order, abs=0.1)


def test_a_start_of_lower_order_is_recognised():
    """Third order by looking back: as it runs the start keeps it at second, with full memory it is third."""
    orders = measure(samplers.make("dpmpp_3m"))
    assert orders.path["gaussian"].order == pytest.approx(2, abs=0.1)
    assert orders.full["gaussian"].order == pytest.approx(3, abs=0.1)


def test_published_formulas_have_their_measured_order():
    assert measure(samplers.make("dpmpp_3m", variant="published")).lowest == pytest.approx(2, abs=0.15)
    assert measure(samplers.make("dpmpp_sde", variant="published"), strong=False).lowest == pytest.approx(1, abs=0.15)


@pytest.mark.slow
def test_adaptive_steps_are_measured_by_what_their_tolerance_costs():
    orders = measure(samplers.make("dpm_adaptive", pair="12"))
    assert orders.lowest == pytest.approx(2, abs=0.15)


def test_stochastic_errors_are_given_at_every_level():
    orders = measure(samplers.make("ddpm"), strong=False)
    assert len(orders.levels) == 20
    sigmas, means, variances = zip(*orders.levels, strict=True)
    assert sigmas[-1] == pytest.approx(0.02)
    assert max(means) < 1e-12  # from the right mean, the mean of Gaussian data is a fixed point
    assert 0 < min(variances) < max(variances) < 1


def test_errors_at_a_budget_are_those_of_the_most_steps_it_pays_for():
    found = {one.budget: one for one in accuracy(Heun(), (5, 10))}
    assert [(one.steps, one.passes) for one in found.values()] == [(3, 5), (5, 9)]
    spread = math.sqrt(0.2**2 + 0.7**2 + 1.9**2)
    assert found[10].gaussian == pytest.approx(distance(Heun(), GAUSSIAN, use_grid(5)) / spread)
    assert found[10].mixture < found[5].mixture
    assert accuracy(samplers.make("dpm_3s"), (1,))[0].steps == 1


def test_quantiles_of_the_line_are_those_of_its_samples():
    drawn = LINE.sample(200_000, torch.Generator().manual_seed(3), torch.float64).sort().values
    expected = line_quantiles(0.0, 1000)
    got = drawn[100::200]
    assert (got - expected).abs().mean() < 4 * floor() * LINE.marginal_variance(0.0).sqrt()


# Claims that do not hold.


@dataclass(frozen=True)
class Boasts(Euler):
    order: ClassVar[int] = 2


@dataclass(frozen=True)
class Miscounts(Heun):
    def nfe(self, sigmas):
        return 2 * (len(sigmas) - 1)


@dataclass(frozen=True)
class Writes(Euler):
    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        return x.lerp_(denoise(x, sigma), 1 - sigma_next / sigma), None


@dataclass(frozen=True)
class Mixes(Euler):
    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        x, memory = super().step(denoise, x, sigma, sigma_next, memory, noise)
        return x + 1e-3 * (x.mean(0) - x), memory


@dataclass(frozen=True)
class Hoards(Euler):
    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        x, _ = super().step(denoise, x, sigma, sigma_next, None, noise)
        return x, (*(memory or ()), x)


@dataclass(frozen=True)
class TakesTheLogOfZero(Euler):
    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        math.log(sigma / sigma_next)
        return super().step(denoise, x, sigma, sigma_next, memory, noise)


@dataclass(frozen=True)
class Exits(Euler):
    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        raise SystemExit(0)


@dataclass(frozen=True)
class Drifts(Euler):
    """Its noise is of the wrong size: the law does not converge."""

    stochastic: ClassVar[bool] = True

    def step(self, denoise, x, sigma, sigma_next, memory, noise):
        x, _ = super().step(denoise, x, sigma, sigma_next, None, noise)
        return x + 0.3 * sigma_next * math.sqrt(1 - sigma_next / sigma) * noise(x), None


@pytest.mark.parametrize(
    ("rule", "check", "detail"),
    [
        (Boasts(), "order", "claims 2, measured gaussian 1.00"),
        (Miscounts(), "calls", "nfe is 2 for 1 steps to 0, but it made 1 calls"),
        (Writes(), "states", "step 1 of 1 (sigma 14.61 to 0): step must not modify x or memory in place"),
        (Mixes(), "images", "when sampled alone"),
        (Hoards(), "memory", "keeps 12 states after 12 steps and 24 after 24"),
        (TakesTheLogOfZero(), "states", "(sigma 14.61 to 0): ZeroDivisionError: float division by zero"),
        (Exits(), "states", "(sigma 14.61 to 0): SystemExit: 0"),
        (Drifts(), "order", "claims 1, measured mean exact, variance"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Euler | Heun) else "",
)
def test_a_false_claim_fails(rule, check, detail):
    found = certify(Subject("mine", rule, {"only": "orders"}))
    (fault,) = [fault for fault in found.faults if fault.name == check]
    assert detail in fault.detail
    assert "\n" not in fault.detail


def test_the_checks_of_every_sampler_pass():
    """The cheap checks, on every sampler as it comes; orders are measured in CI by `sdlab certify` itself."""
    wrong = {name: [c for c in checks(kind()) if not c.ok] for name, kind in samplers.SAMPLERS.items()}
    assert not {name: found for name, found in wrong.items() if found}


def test_memory_and_calls_are_counted():
    assert [memory_of(samplers.make(name)) for name in ("euler", "dpmpp_2m", "lms")] == [0, 1, 4]
    assert [calls_of(samplers.make(name), use_grid(7)) for name in ("euler", "heun", "dpm_3s")] == [7, 13, 19]


# What is certified.


def test_options_are_tried_one_by_one():
    labels = [subject.label for subject in subjects("dpmpp_3m_sde")]
    assert labels[0] == "dpmpp_3m_sde"
    assert {"dpmpp_3m_sde eta=0.0", "dpmpp_3m_sde eta=0.3", "dpmpp_3m_sde variant=published"} <= set(labels)
    assert [s.label for s in subjects("unipc")] == [
        "unipc", "unipc lower_order_final=True", "unipc max_order=1", "unipc max_order=3", "unipc kind=bh1",
        "unipc corrector=False",
    ]  # fmt: skip


def test_every_sampler_has_a_family():
    assert {subjects(name)[0].family for name in samplers.SAMPLERS} <= set(FAMILIES)


# The command.


def test_the_command_writes_a_table_and_files(tmp_path):
    console = Console(record=True, width=130, file=io.StringIO())
    assert run(["heun", "ddpm"], tmp_path, console) == 0
    text = console.export_text()
    assert "2.01 / 2.01" in text
    assert "every claim holds" in text
    content = json.loads((tmp_path / "certificates.json").read_text(encoding="utf-8"))
    heun, ddpm = (next(c for c in content["certificates"] if c["name"] == name) for name in ("heun", "ddpm"))
    assert (heun["name"], heun["claimed"], heun["ok"]) == ("heun", 2, True)
    assert heun["measured"] == pytest.approx(2, abs=0.05)
    assert [one["budget"] for one in heun["accuracy"]] == [5, 10, 20, 50]
    assert len(ddpm["orders"]["levels"]) == 20
    assert (tmp_path / "certificates.png").read_bytes().startswith(b"\x89PNG")


def test_a_claim_that_fails_is_the_exit_status(tmp_path, monkeypatch):
    monkeypatch.setitem(plugins.REGISTRIES["sampler"], "boasts", Boasts)
    console = Console(record=True, width=200, file=io.StringIO())
    assert run(["boasts"], tmp_path, console) == 1
    assert "boasts: order: claims 2, measured gaussian 1.00 ± 0.00, mixture 1.00 ± 0.00" in console.export_text()
    assert not json.loads((tmp_path / "certificates.json").read_text(encoding="utf-8"))["certificates"][0]["ok"]


@dataclass(frozen=True)
class Picky(Euler):
    count: int = 1

    def __post_init__(self):
        if self.count != 1:
            raise TypeError("it can only be 1")


def test_values_that_a_sampler_rejects_in_any_way_are_skipped():
    assert [one.options for one in subjects("picky", Picky())] == [{}]


@pytest.mark.parametrize("names", [["euler"], ["guidance", "none"]])
def test_a_place_that_cannot_be_written_is_found_before_measuring(names, tmp_path, monkeypatch):
    monkeypatch.setattr("sdlab.certify.run.measured", None)
    monkeypatch.setattr("sdlab.certify.strategies.run.measured", None)
    monkeypatch.setattr(Path, "touch", full_disk)
    done = CliRunner().invoke(app, ["certify", *names, "--out", str(tmp_path / "new")])
    assert isinstance(done.exception, RunError)
    assert str(done.exception).startswith(f"cannot write {tmp_path}/new/")
    assert str(done.exception).endswith(".json: no space left on device")


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("names", "line"),
    [
        (["hein"], "unknown sampler 'hein' (did you mean 'heun'?); known: "),
        (["gone.py:X"], "gone.py: no such file or directory"),
    ],
)
def test_an_unknown_name_is_reported(names, line, tmp_path):
    done = CliRunner().invoke(app, ["certify", *names, "--out", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith(line)
    assert not any(tmp_path.iterdir())


def test_the_page_has_a_section_and_a_picture_for_each(tmp_path):
    certificates = [certify(subject) for subject in subjects("heun")]
    certificates += [replace(certificates[0], name="euler", family="Euler, DDIM, DDPM", claimed=1)]
    write_page(certificates, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    for part in ("### heun", "### euler", "x⁺  = x + (σ⁺ − σ)(d + d⁺)/2", "arxiv.org/abs/2206.00364", "claims order 2"):
        assert part in text
    for picture in ("errors.png", "runge-kutta.png", "euler-ddim-ddpm.png"):
        assert f"](samplers/{picture})" in text
        assert (tmp_path / "samplers" / picture).stat().st_size < 300_000


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_a_sampler_has_its_equation_and_source_in_its_docstring(name):
    doc = inspect.getdoc(samplers.SAMPLERS[name])
    assert re.search(r"^    \S.*(=|->) ", doc, re.MULTILINE)
    source = r"\([A-Z][^()]* \d{4}, (arXiv:\d{4}\.\d{5}|k-diffusion|sd-webui-samplers-scheduler)\b[^()]*\)"
    assert re.search(source, " ".join(doc.split()))
    if dataclasses.fields(samplers.SAMPLERS[name]):
        assert "Raises:\n    ValueError: " in doc or name == "pndm"  # which takes any levels


def test_the_page_in_the_docs_is_of_these_samplers():
    text = (ROOT / "docs" / "samplers.md").read_text(encoding="utf-8")
    for name, kind in samplers.SAMPLERS.items():
        assert f"### {name}\n" in text
        assert " ".join(samplers.describe(kind).split()) in text
    assert "**no**" not in text
    pictures = (ROOT / "docs" / "samplers").glob("*.png")
    assert 0 < sum(picture.stat().st_size for picture in pictures) < 1.5e6
