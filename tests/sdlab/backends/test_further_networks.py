"""A second U-Net in the model folder, and models that lack what a guidance strategy needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny_model import CONFIG, write_tiny
from torch import Tensor

import samplers
from sdlab import guidance
from sdlab.backends.registry import open_model
from sdlab.commands.drawing import generate
from sdlab.commands.request import Request
from sdlab.guidance import Guided
from sdlab.guidance.needs import called, missed, needed
from sdlab.model.diffusion import Unet
from sdlab.pipeline import Pipeline
from sdlab.sweep.bench import ModelBench
from sdlab.sweep.identity import identify
from sdlab.sweep.needs import needs
from sdlab.sweep.pass_clock import PassClock
from sdlab.sweep.passes import network_passes
from sdlab.sweep.plan import Plan, load_plan
from sdlab.sweep.preflight import check
from sdlab.system.errors import SdlabError
from sdlab.weights.model_folder import load_part, save_part
from sdlab.weights.model_loader import load
from sdlab.weights.model_loader import open_model as read

pytestmark = pytest.mark.slow

TOML = """
model = "MODEL"
images = 2
device = "cpu"
metrics = []
[prompts]
list = ["a red circle", "two green triangles"]
[cells]
sampler = "euler"
grid = "trailing"
steps = 3
guidance = [GUIDANCE]
"""
MINE = """
import samplers

def mine():
    return (lambda x, sigma: x / (1 + sigma**2)), samplers.continuous_levels(0.05, 10.0), (3,)
"""


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """The plan of a sweep of one model, by default the tiny one with an early U-Net, and these strategies."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "tiny", early=True)
    write_tiny(tmp_path / "alone")
    Path("mine.py").write_text(MINE, encoding="utf-8")

    def plan(strategies: str, model: str = "./tiny") -> Plan:
        toml = TOML.replace("MODEL", model).replace("GUIDANCE", strategies)
        if model in ("class_mixture", "gaussian", "mine.py:mine"):
            toml = toml.replace('[prompts]\nlist = ["a red circle", "two green triangles"]\n', "")
            toml = toml.replace("metrics = []", 'metrics = ["reference_error"]').replace('"trailing"', '"karras"')
        Path("sweep.toml").write_text(toml, encoding="utf-8")
        return load_plan(Path("sweep.toml"))

    return plan


AUTO = '{ name = "autoguidance", scale = 2.5 }'


def test_autoguidance_moves_away_from_the_early_network_with_the_same_prompt(planned: Callable[..., Plan]):
    model = load("./tiny", others=["early"])
    pipeline, clock = Pipeline(model), PassClock()
    cond, uncond = pipeline.encode(["a red circle", "two green triangles"]), pipeline.encode([""])
    early = pipeline.denoiser.of(model.others["early"], CONFIG)
    x = 3 * torch.randn(2, *CONFIG.latent_shape)
    guided = Guided(guidance.make("autoguidance", scale=2.5), clock.watch(pipeline.denoiser), {"cond": cond})
    with torch.inference_mode():
        good, bad = pipeline.denoiser(x, 2.0, cond), early(x, 2.0, cond)
        torch.testing.assert_close(guided(x, 2.0), bad + 2.5 * (good - bad))
        assert (good - bad).norm() > 0.01 * good.norm()
    assert clock.passes == 4  # two per image
    assert guided.passes == 2
    sigmas = samplers.grid("karras", steps=4, levels=pipeline.levels)
    ends = [
        pipeline.sample(cond, uncond, samplers.make("heun"), sigmas, guidance.make(name, **options), [0, 1])
        for name, options in (("autoguidance", {"scale": 1.0}), ("none", {}), ("autoguidance", {}))
    ]
    assert torch.equal(ends[0], ends[1])
    assert (ends[2] - ends[1]).norm() > 0.01 * ends[1].norm()


def test_it_is_loaded_only_if_a_strategy_of_the_plan_runs_it(
    planned: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
):
    opened = []
    monkeypatch.setattr(
        "sdlab.weights.model_loader.load_part", lambda path, *rest: opened.append(path.name) or load_part(path, *rest)
    )
    unused = ['"cfg", "pag"', '{ name = "autoguidance", scale = 1.0 }', '{ name = "cfg", interval = [0.5, 2.0] }']
    for strategies in unused:
        plan = planned(strategies)
        assert needs(plan).networks == ()
        ModelBench(plan)
    assert opened == []
    plan = planned(f'"cfg", {AUTO}')
    assert needs(plan).networks == ("early",)
    bench = ModelBench(plan)
    assert opened == ["unet_early.safetensors"]
    result = bench.run(plan.cells[1], lambda _: None, range(plan.images))
    assert result.network_passes == network_passes(plan.cells[1], plan.opened.levels) == 6  # two per step


def test_the_identity_of_a_plan_has_it_only_if_it_is_used(planned: Callable[..., Plan]):
    before = [identify(planned(strategies)) for strategies in ('"cfg"', AUTO)]
    assert before[0] != before[1]
    save_part(Path("tiny/unet_early.safetensors"), Unet(CONFIG.unet), torch.float32)
    after = [identify(planned(strategies)) for strategies in ('"cfg"', AUTO)]
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_any_file_of_that_form_is_a_network(planned: Callable[..., Plan]):
    Path("tiny/unet_early.safetensors").rename("tiny/unet_10k.safetensors")
    plan = planned('{ name = "autoguidance", network = "10k" }')
    check(plan)
    assert needs(plan).networks == ("10k",)


LACKING = [
    (
        "./alone",
        f'"cfg", {AUTO}',
        "guidance: autoguidance scale=2.5: model ./alone has no network 'early'; "
        "its file would be unet_early.safetensors in the model's folder",
    ),
    (
        "./tiny",
        '{ name = "autoguidance", network = "late" }',
        "guidance: autoguidance network=late: model ./tiny has no network 'late' (it has 'early'); "
        "its file would be unet_late.safetensors in the model's folder",
    ),
    (
        "./tiny",
        '"pag", { name = "seg", layers = ["d7"] }',
        "guidance: seg layers=d7: model ./tiny: unknown layer 'd7'; "
        "known: all, auto, d0, d1, down, m0, middle, u0, u1, u2, u3, up",
    ),
    (
        "class_mixture",
        '"pag", "tpg"',
        "guidance: pag, tpg: model class_mixture has no network that can be perturbed; use another strategy",
    ),
    (
        "class_mixture",
        '"autoguidance"',
        "guidance: autoguidance: model class_mixture has no network 'early'; "
        "its file would be unet_early.safetensors in the model's folder",
    ),
    (
        "mine.py:mine",
        '"nag"',
        "guidance: nag: model mine.py:mine has no network that can be perturbed; use another strategy",
    ),
    (
        "mine.py:mine",
        '{ name = "cfg", interval = [0.3, 5.0] }, "none"',
        'guidance: cfg interval=0.3,5: model mine.py:mine has no conditions; use "none"',
    ),
    (
        "class_mixture",
        '"cads", "icg", "cfg"',
        "guidance: cads, icg: model class_mixture has class labels as conditions, to which no noise can be added; "
        "use another strategy",
    ),
    (
        "class_mixture",
        '"perp_neg"',
        "guidance: perp_neg: model class_mixture has no text encoder for the prompt ''; use another strategy",
    ),
    (
        "class_mixture",
        '"composed", { name = "composed", prompts = ["blue"] }',
        "guidance: composed prompts=blue: model class_mixture has no text encoder for the prompt 'blue'; "
        "use another strategy",
    ),
    (
        "./tiny",
        '"perp_neg", { name = "perp_neg", negative = 0.0 }',
        "guidance: perp_neg: it has the prompt '', which is the negative prompt too; give another negative prompt",
    ),
    (
        "./tiny",
        '"dual", { name = "dual", scale = 2.0, image = 2.0 }',
        "guidance: dual: model ./tiny has no picture as a condition; use a custom model with `without_text`",
    ),
    ("mine.py:mine", '"icg"', 'guidance: icg: model mine.py:mine has no conditions; use "none"'),
    (
        "class_mixture",
        '{ name = "cfg", interval = [20.0, 80.0] }, { name = "cfg_interval", sigma_low = 14.62, sigma_high = inf }',
        "guidance: cfg interval=20,80: the interval [20, 80] has no noise level of the run, which goes from 14.61 to "
        '0.02917; use another interval, or "none"\n'
        "guidance: cfg_interval sigma_low=14.62 sigma_high=inf: the interval [14.62, inf] has no noise level of the "
        'run, which goes from 14.61 to 0.02917; use another interval, or "none"',
    ),
    (
        "class_mixture",
        '{ name = "cfg", interval = [0, 0.02, "step"] }',
        "guidance: cfg interval=0,0.02,step: the interval [0, 0.02] has no noise level of the run, which goes from "
        '14.61 to 0.02917; use another interval, or "none"',
    ),
]


def test_intervals_that_touch_the_levels_of_the_run_are_accepted(planned: Callable[..., Plan]):
    check(planned('{ name = "cfg", interval = [14.6, 80] }, { name = "cfg", interval = [0, 0.03] }', "class_mixture"))


def test_an_interval_between_two_levels_is_a_note_before_the_run(
    planned: Callable[..., Plan], capsys: pytest.CaptureFixture[str]
):
    """Three steps of the Karras grid begin at 14.6, 1.3 and 0.029."""
    check(planned('{ name = "cfg", interval = [0.5, 0.6] }, { name = "cfg", interval = [0.5, 3.0] }', "class_mixture"))
    assert capsys.readouterr().err == (
        "note: euler · karras · cfg interval=0.5,0.6 · 3 steps: the interval [0.5, 0.6] is between two noise levels, "
        "so nothing is guided in 3 steps\n"
    )


@pytest.mark.parametrize(
    ("sampler", "per", "acts"),
    [("euler", "call", False), ("dpm2", "call", True), ("dpm2", "step", False), ("dpm_adaptive", "call", True)],
)
def test_an_interval_between_two_levels_can_have_calls(sampler: str, per: str, acts: bool):
    strategy = guidance.make("cfg", interval=[2.0, 5.0, per])
    assert (missed(strategy, (8.0, 1.0, 0.0), samplers.make(sampler)) is None) == acts


def test_what_only_calls_between_the_levels_need_is_known_before_the_run():
    """The second call of this step is at σ = 4, which is neither a level nor the middle of two."""
    strategy, sampler = guidance.make("autoguidance", interval=[3.0, 5.0]), samplers.make("dpm_2s", r1=1 / 3)
    grid = (8.0, 1.0, 0.0)
    assert [float(level) for level in called(sampler, grid)] == pytest.approx([8.0, 4.0, 1.0])
    assert {query.network for query in needed(strategy, grid)} == {None}
    assert {query.network for query in needed(strategy, grid, sampler)} == {None, "early"}


@pytest.mark.parametrize(("model", "strategies", "message"), LACKING, ids=[row[1] for row in LACKING])
def test_what_a_model_lacks_is_one_line_before_the_run(
    planned: Callable[..., Plan], model: str, strategies: str, message: str
):
    with pytest.raises(SdlabError) as error:
        check(planned(strategies, model))
    assert "\n".join(error.value.lines) == message


def test_a_file_that_does_not_fit_is_found_before_the_run(planned: Callable[..., Plan]):
    Path("tiny/unet_early.safetensors").write_bytes(Path("tiny/vae.safetensors").read_bytes())
    check(planned('"cfg"'))
    with pytest.raises(SdlabError, match=r"^tiny/unet_early.safetensors: unknown tensor 'decoder"):
        check(planned(AUTO))


def test_generate_uses_it_and_says_beforehand_if_it_is_missing(planned: Callable[..., Plan]):
    console, size = Console(quiet=True), (16, 16)
    request = Request(prompt="a red circle", model="./tiny", steps=2, guidance="autoguidance scale=3", size=size)
    assert len(generate(request, Path("out"), console)) == 1
    for guided, message in (
        ("autoguidance network=late", "--guidance: model tiny has no network 'late'"),
        ('pag:layers=["d7"]', "--guidance: model tiny: unknown layer 'd7'"),
        ("perp_neg", "--guidance: it has the prompt '', which is the negative prompt too; give another"),
        ("cfg:interval=[900,1000]", r"--guidance: the interval \[900, 1000\] has no noise level of the run"),
    ):
        with pytest.raises(SdlabError, match=message):
            generate(Request(prompt="a", model="./tiny", steps=2, guidance=guided), Path("none"), console)
    assert not Path("none").exists()


def test_perp_neg_draws_with_the_empty_prompt_and_the_negative_one(planned: Callable[..., Plan]):
    pipeline = Pipeline(load("./tiny"))
    cond, negative, empty = (pipeline.encode([text]) for text in ("a red circle", "blue", ""))
    sigmas, euler = samplers.grid("karras", steps=3, levels=pipeline.levels), samplers.make("euler")
    strategy = guidance.make("perp_neg", scale=2.0, negative=0.5)
    found = pipeline.sample(cond, negative, euler, sigmas, strategy, [0])
    model = pipeline.denoiser
    with torch.inference_mode():

        def guided(x: Tensor, sigma: float) -> Tensor:
            c, n, u = (model(x, sigma, context).flatten() for context in (cond, negative, empty))
            p, q = c - u, n - u
            return (u + 2 * (p - 0.5 * (q - p * (p @ q) / (p @ p)))).view_as(x)

        x = samplers.seeded([0])(torch.empty(1, *CONFIG.latent_shape)) * sigmas[0]
        torch.testing.assert_close(found, samplers.run(euler, guided, x, sigmas), atol=1e-4, rtol=1e-4)
    request = Request(
        prompt="a red circle", negative="blue", model="./tiny", steps=2, guidance="perp_neg", size=(16, 16)
    )
    assert len(generate(request, Path("out"), Console(quiet=True))) == 1


def test_models_of_other_layouts_have_none(planned: Callable[..., Plan]):
    assert set(read("./tiny").located.others) == {"early"}
    assert read("./alone").located.others == {}
    assert open_model("scenes", {}, Path()).others.keys() <= {"early"}


def test_a_model_without_gradients_is_reported_before_the_run(planned: Callable[..., Plan]):
    check(planned('"universal"', "mine.py:mine"))
    Path("mine.py").write_text(MINE.replace("x / (1 + sigma**2)", "(x / (1 + sigma**2)).detach()"), encoding="utf-8")
    check(planned('"none"', "mine.py:mine"))
    with pytest.raises(SdlabError, match="its denoiser has no gradients, which the guidance strategy needs"):
        check(planned('"universal"', "mine.py:mine"))
