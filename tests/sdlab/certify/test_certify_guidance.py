"""Certificates of guidance strategies: all claims of the registry hold, and false ones fail."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from rich.console import Console
from scipy.special import hyp2f1
from typer.testing import CliRunner

from samplers.exact.guided import GuidedGaussian
from samplers.exact.problems import Gaussian
from sdlab import guidance, plugins
from sdlab.certify.strategies.certificate import certify
from sdlab.certify.strategies.checks import checks
from sdlab.certify.strategies.feedback import feedback
from sdlab.certify.strategies.gaussians import affine_flow, deterministic
from sdlab.certify.strategies.run import run
from sdlab.commands.app import app
from sdlab.guidance import Affine, ClassifierFree, Contrast, Query
from sdlab.guidance.pag import IdentityAttention
from sdlab.system.errors import UsageError

pytestmark = pytest.mark.slow

FEW = ("dpmpp_2m",)
NO_FLOW = {  # noise on contexts, another label, a projection, another input, a gradient
    "cads", "icg", "sg", "perp_neg", "sag", "universal",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", guidance.GUIDANCE)
def test_every_strategy_of_the_registry_keeps_its_claims(name):
    found = certify(name, FEW)
    assert not found.faults
    strategy = guidance.make(name)
    claims = {check.name: check.ok for check in found.checks}
    assert claims["gaussian"] is (True if strategy.space == "any" and name not in NO_FLOW else None)
    assert claims["feedback"] is (True if name == "fbg" else None)
    assert {claims[key] for key in ("neutral", "differs", "images", "state", "passes", "space")} == {True}


def test_the_certificate_of_composed_prompts_has_prompts():
    (differs,) = [check for check in certify("composed", FEW).checks if check.name == "differs"]
    for prompt in ("one", "another"):
        assert f"the prediction of the prompt {prompt!r} at 5 of 5 levels" in differs.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", deterministic())
def test_every_deterministic_sampler_converges_to_the_guided_law(name):
    assert "its closed form, with 1 sampler;" in affine_flow(guidance.make("cfg", scale=3.0), [name])


def test_samplers_of_cfg_pp_and_those_with_noise_are_left_out():
    assert {"heun", "dpm_adaptive", "unipc"} <= set(deterministic())
    assert not {"ddim_cfg_pp", "dpmpp_2m_cfg_pp", "rectified_cfg_pp", "ddpm"} & set(deterministic())


def test_adaptive_samplers_are_measured_where_their_order_shows():
    """At loose tolerances the steps of dpm_adaptive are too few to fit the order of these flows."""
    for strategy in (guidance.make("autoguidance", scale=0.5), guidance.make("nag")):
        assert "its closed form, with 1 sampler;" in affine_flow(strategy, ["dpm_adaptive"])


# The closed form.


def row(value):
    return torch.tensor([value], dtype=torch.float64)


@pytest.mark.parametrize("w", [0.0, 0.4, 1.0, 3.0])
@pytest.mark.parametrize("low", [0.0, 0.3])
def test_mean_and_variance_of_a_guided_pair(w, low):
    """With r = (S² + σ²)/(s² + σ²) the integral of the mean is one of r^{(w−1)/2} (r − 1)^{−1/2}, a beta function."""
    (m, s), (mean, std), top = (0.8, 0.5), (-0.2, 1.4), 10.0
    pair = GuidedGaussian((Gaussian(s, row(m)), Gaussian(std, row(mean))), (w, 1 - w))
    start = torch.tensor([[0.7], [1.7]], dtype=torch.float64)
    end = pair.flow(start, top, low)

    def growth(sigma):
        return (s**2 + sigma**2) ** (w / 2) * (std**2 + sigma**2) ** ((1 - w) / 2)

    def primitive(sigma):  # of r^{(w−1)/2} (r − 1)^{−1/2}, with u = (r − 1)/r: B(u; ½, −w/2)
        r = (std**2 + sigma**2) / (s**2 + sigma**2)
        u = (r - 1) / r
        return 2 * u**0.5 * hyp2f1(0.5, 1 + w / 2, 1.5, u)

    grown = growth(low) / growth(top)
    pulled = w * (m - mean) / 2 * (std**2 - s**2) ** -0.5 * (primitive(low) - primitive(top)) * growth(low)
    assert float(end[1] - end[0]) == pytest.approx(grown, rel=1e-12)
    assert float(end[0]) == pytest.approx(mean + (0.7 - mean) * grown + pulled, abs=1e-11)


def test_one_gaussian_is_its_own_flow():
    law = Gaussian(torch.tensor([0.5, 1.2]).double(), torch.tensor([1.0, -2.0]).double())
    x = torch.randn(3, 2, dtype=torch.float64)
    torch.testing.assert_close(GuidedGaussian((law,), (1.0,)).flow(x, 5.0, 0.1), law.flow(x, 5.0, 0.1))


@pytest.mark.parametrize(
    ("laws", "weights", "message"),
    [
        ((Gaussian(1.0),), (1.0, 0.0), "one weight per Gaussian, got 2 for 1"),
        ((Gaussian(1.0), Gaussian(2.0)), (1.0, 1.0), "must sum to 1, got 2.0"),
        ((Gaussian(0.0),), (1.0,), "each std must be above 0"),
    ],
)
def test_invalid_sums(laws, weights, message):
    with pytest.raises(ValueError, match=message):
        GuidedGaussian(tuple(Gaussian(law.std, torch.tensor([0.0])) for law in laws), weights)


# Claims that do not hold.


@dataclass(frozen=True)
class FalselyNeutral(ClassifierFree):
    neutral: ClassVar = {"scale": 2.0}


@dataclass(frozen=True)
class ChangesNothing(IdentityAttention):
    def change(self, state, other, place):
        return state


@dataclass(frozen=True)
class WastesAPass(Contrast):
    """As a guider whose hook is never attached."""

    def worse(self, sigma):
        return Query("cond", ChangesNothing())


@dataclass(frozen=True)
class Mixes(ClassifierFree):
    def combine(self, predictions, x, sigma, state):
        x0, state = super().combine(predictions, x, sigma, state)
        return x0 + 1e-3 * (x0.mean(0) - x0), state


class Remembers(ClassifierFree):
    seen: ClassVar = []

    def combine(self, predictions, x, sigma, state):
        self.seen.append(1)
        x0, state = super().combine(predictions, x, sigma, state)
        return x0 * (1 + 1e-3 * len(self.seen)), state


@dataclass(frozen=True)
class NotAffine(ClassifierFree):
    def combine(self, predictions, x, sigma, state):
        uncond, cond = predictions if len(predictions) == 2 else predictions * 2
        return cond + (self.scale - 1) * (cond - uncond).clamp(min=0), state


@dataclass(frozen=True)
class AffineAfterAll(ClassifierFree):
    space: str = "eps"


@dataclass(frozen=True)
class DependsOnX(ClassifierFree):
    """Affine in every call on equal x, but of other weights where x is not 0."""

    def combine(self, predictions, x, sigma, state):
        x0, state = super().combine(predictions, x, sigma, state)
        return x0 + 0.1 * x, state


@pytest.mark.parametrize(
    ("strategy", "check", "detail"),
    [
        (FalselyNeutral(), "neutral", "with scale = 2.0 its pictures differ by"),
        (WastesAPass(), "differs", "the perturbed prediction is the plain one at every level"),
        (Mixes(), "images", "image 0 of 8 differs by"),
        (Remembers(), "state", "the second run differs by"),
        (NotAffine(), "space", "space is 'any', but in eps its pictures differ by"),
        (AffineAfterAll(), "space", "its pictures are the same in all spaces; it should be 'any'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Affine | Contrast) else "",
)
def test_a_false_claim_fails(strategy, check, detail):
    (fault,) = [one for one in checks(strategy) if one.name == check and one.ok is False]
    assert detail in fault.detail
    assert "\n" not in fault.detail


def test_a_flow_that_is_not_the_closed_form_fails():
    with pytest.raises(Exception, match="heun claims order 2 and converges to its closed form at"):
        affine_flow(DependsOnX(), ["heun"])


def test_a_feedback_that_overestimates_fails():
    @dataclass(frozen=True)
    class Doubled(guidance.Feedback):
        def combine(self, predictions, x, sigma, state):
            x0, state = super().combine(predictions, x, sigma, state)
            return 2 * x0 - predictions[-1], state

    with pytest.raises(Exception, match="its prediction is off by"):
        feedback(Doubled())


# The command.


def test_the_command_writes_a_table_and_a_file(tmp_path):
    console = Console(record=True, width=140, file=io.StringIO())
    assert run(["none"], tmp_path, console) == 0
    assert "1 guidance strategy: every claim holds" in console.export_text()
    (found,) = json.loads((tmp_path / "guidance.json").read_text(encoding="utf-8"))["certificates"]
    assert (found["name"], found["ok"]) == ("none", True)
    assert found["checks"][0] == {"name": "neutral", "ok": True, "detail": "no option is the plain model at its cost"}


@pytest.mark.slow
def test_a_claim_that_fails_is_the_exit_status(tmp_path, monkeypatch):
    monkeypatch.setitem(plugins.REGISTRIES["guidance"], "wasteful", WastesAPass)
    console = Console(record=True, width=200, file=io.StringIO())
    assert run(["wasteful"], tmp_path, console) == 1
    assert "wasteful: differs: the perturbed prediction is the plain one at every level" in console.export_text()


def test_a_strategy_that_ends_the_process_fails_its_claims(tmp_path, monkeypatch):
    class Exits(WastesAPass):
        def combine(self, *_):
            raise SystemExit(0)

    monkeypatch.setitem(plugins.REGISTRIES["guidance"], "exits", Exits)
    console = Console(record=True, width=200, file=io.StringIO())
    assert run(["exits"], tmp_path, console) == 1
    assert "exits: images: SystemExit: 0" in console.export_text()


@pytest.mark.parametrize("example", [{"scalf": 1.0}, [1.0]])
def test_an_example_that_is_not_a_set_of_options_is_one_line(example, tmp_path, monkeypatch):
    class Odd(WastesAPass):
        pass

    Odd.example = example
    monkeypatch.chdir(tmp_path)  # where the log is written
    monkeypatch.setitem(plugins.REGISTRIES["guidance"], "odd", Odd)
    with pytest.raises(UsageError, match=r"^odd: its `example` is not a set of its options: "):
        certify("odd")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["guidance", "cgf"], "unknown guidance 'cgf' (did you mean 'cfg'?); known: "),
        (["guidance", "--page", "x.md"], "--page is the page on samplers; leave it out for guidance"),
    ],
)
def test_mistakes_on_the_command_line(arguments, line, tmp_path):
    done = CliRunner().invoke(app, ["certify", *arguments, "--out", str(tmp_path)])
    assert isinstance(done.exception, UsageError)
    assert str(done.exception).startswith(line)
