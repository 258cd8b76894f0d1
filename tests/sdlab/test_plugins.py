"""Custom samplers, grids and guidance strategies: they join the registries, and errors in them are one line."""

import importlib.metadata
import io
import re
import textwrap
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import samplers
from sdlab import guidance, plugins
from sdlab.certify.page import _HEAD
from sdlab.certify.run import run
from sdlab.commands.app import app
from sdlab.commands.new import new_sampler
from sdlab.registry import named
from sdlab.sweep.axes import GRID, GUIDANCE, SAMPLER, grids
from sdlab.sweep.cell import Cell, Choice, digest
from sdlab.system.errors import UsageError

GRIDS = grids(samplers.discrete_levels())
SAMPLER_FILE = """
    from dataclasses import dataclass
    import torch
    from samplers import Sampler

    @dataclass(frozen=True)
    class MySampler(Sampler):
        order: int = 1

        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            return torch.lerp(denoise(x, sigma), x, sigma_next / sigma), None
"""
ALL_BY_HAND = """
    import torch

    class MySampler:
        order, stochastic = 1, False

        def prepare(self, sigmas):
            return None

        def step(self, denoise, x, sigma, sigma_next, memory, noise):
            return torch.lerp(denoise(x, sigma), x, sigma_next / sigma), None

        def nfe(self, sigmas):
            return len(sigmas) - 1

        def with_levels(self, levels):
            return self
"""
GRID_FILE = """
    def halves(steps, levels, factor: float = 0.5):
        return tuple(levels.sigma_max * factor**i for i in range(steps))
"""
GUIDANCE_FILE = """
    from dataclasses import dataclass

    from sdlab.guidance import Query

    @dataclass(frozen=True)
    class Half:
        weight: float = 0.5

        def queries(self, sigma):
            return (Query("cond"),)

        def combine(self, predictions, x, sigma, state):
            return self.weight * predictions[0], None
"""


@pytest.fixture(autouse=True)
def registries(tmp_path, monkeypatch):
    """An empty working directory. The registries are restored afterwards."""
    monkeypatch.chdir(tmp_path)
    before = {kind: dict(known) for kind, known in plugins.REGISTRIES.items()}
    own = dict(plugins._PLUGINS)
    yield
    for kind, known in plugins.REGISTRIES.items():
        known.clear()
        known.update(before[kind])
    plugins._PLUGINS.clear()
    plugins._PLUGINS.update(own)


def write(name, text):
    Path(name).write_text(textwrap.dedent(text), encoding="utf-8")


def cell(sampler="euler", grid="karras", strategy="none", **options):
    return Cell(
        sampler=Choice(name=sampler, options=options), grid=Choice(name=grid), guidance=Choice(name=strategy), steps=5
    )


# They join the registries.


def test_a_sampler_from_a_file_runs_like_a_built_in_one():
    write("my_sampler.py", SAMPLER_FILE)
    plugins.add("sampler", "my_sampler.py:MySampler")
    rule = samplers.make("my_sampler.py:MySampler", order=2)
    assert rule.order == 2
    x, sigmas = torch.tensor([[3.0, 1.0]]), (2.0, 1.0, 0.0)
    ours = samplers.run(samplers.make("euler"), lambda x, s: x / (1 + s * s), x, sigmas)
    assert torch.equal(samplers.run(rule, lambda x, s: x / (1 + s * s), x, sigmas), ours)


def test_a_sampler_may_have_every_member_without_the_base_class():
    write("my_sampler.py", ALL_BY_HAND)
    plugins.add("sampler", "my_sampler.py:MySampler")
    x, sigmas = torch.tensor([[3.0, 1.0]]), (2.0, 1.0, 0.0)
    euler, mine = (samplers.make(name) for name in ("euler", "my_sampler.py:MySampler"))
    ends = [samplers.run(rule, lambda x, s: x / (1 + s * s), x, sigmas) for rule in (euler, mine)]
    assert torch.equal(*ends)


def test_a_sweep_accepts_it_with_options():
    write("my_sampler.py", SAMPLER_FILE)
    assert SAMPLER.mistakes("my_sampler.py:MySampler", {"order": 2}) == []
    assert SAMPLER.mistakes("my_sampler.py:MySampler", {"ordre": 2}) == [
        ("ordre", "unknown option of my_sampler.py:MySampler (did you mean 'order'?); it takes: order")
    ]
    assert SAMPLER.mistakes("my_sampler.py:MySampler", {"order": "2"}) == [
        ("order", "should be a whole number, got '2'")
    ]
    assert named({"path": "my_sampler.py:MySampler", "order": 2}) == {"name": "my_sampler.py:MySampler", "order": 2}
    assert named({"name": "euler"}) == {"name": "euler"}
    assert named("euler") == "euler"


def test_a_list_is_accepted_where_an_option_is_a_tuple():
    assert GUIDANCE.mistakes("pag", {"layers": ["middle"]}) == []
    assert [key for key, _ in GUIDANCE.mistakes("pag", {"layers": ["middle", 3]})] == ["layers"]


def test_grids_of_custom_values_are_a_choice_too():
    """A list written out by hand, and a blend of a table and its options."""
    assert GRIDS.mistakes("explicit", {"sigmas": [14.6, 5.0, 1.0]}) == []
    assert GRIDS.mistakes("explicit", {"timesteps": [999, 500], "ending": "stop_at_sigma_min"}) == []
    assert GRIDS.mistakes("explicit", {"sigmas": [1.0, 5.0]})[0][1].startswith("grid 'explicit' rises from 1 to 5")
    assert GRIDS.mistakes("blend", {"first": {"name": "karras", "rho": 5.0}, "share": 0.25}) == []
    assert GRIDS.mistakes("beta", {"dialect": "comfyui"}) == []


def test_the_ending_of_a_grid_is_settled_in_the_key_of_a_result():
    """A default and the same ending written out are one cell; a dialect's own ending is not "to_zero"."""

    def key(**options):
        return Choice(name="kl_optimal", options=options).complete(GRID)

    assert key() == key(ending="to_zero")
    assert key(dialect="a1111") == key(dialect="a1111", ending="stop_at_sigma_min")
    assert key(dialect="a1111") != key(dialect="a1111", ending="to_zero")


def test_a_custom_grid_and_strategy_are_registered_too():
    write("mine.py", textwrap.dedent(GRID_FILE) + textwrap.dedent(GUIDANCE_FILE))
    assert GRIDS.mistakes("mine.py:halves", {"factor": 0.25, "ending": "to_zero"}) == []
    levels = samplers.continuous_levels(0.01, 8.0)
    assert samplers.grid("mine.py:halves", steps=3, levels=levels) == (8.0, 4.0, 2.0, 0.0)
    assert GUIDANCE.mistakes("mine.py:Half", {"weight": 0.25}) == []
    strategy = guidance.make("mine.py:Half", weight=0.25)
    denoise = guidance.Guided(strategy, lambda x, sigma, context: x, {"cond": torch.zeros(1, 1)})
    assert denoise(torch.ones(1, 2), 1.0).tolist() == [[0.25, 0.25]]


def test_a_file_beside_the_sweep_is_found_first(tmp_path):
    write("my_sampler.py", SAMPLER_FILE)
    (tmp_path / "there").mkdir()
    write("there/my_sampler.py", SAMPLER_FILE.replace("order: int = 1", "order: int = 7"))
    with plugins.beside(tmp_path / "there"):
        plugins.add("sampler", "my_sampler.py:MySampler")
    assert samplers.make("my_sampler.py:MySampler").order == 7


def test_the_key_of_a_result_includes_the_code():
    write("my_sampler.py", SAMPLER_FILE)
    plugins.add("sampler", "my_sampler.py:MySampler")
    before = digest(cell("my_sampler.py:MySampler").complete())
    assert digest(cell("my_sampler.py:MySampler").complete()) == before
    write("my_sampler.py", SAMPLER_FILE + "\n    # another thought\n")
    plugins.add("sampler", "my_sampler.py:MySampler")
    assert digest(cell("my_sampler.py:MySampler").complete()) != before
    assert "code" not in cell().complete()["sampler"]


def test_nothing_is_written_beside_the_users_file():
    write("my_sampler.py", SAMPLER_FILE)
    plugins.add("sampler", "my_sampler.py:MySampler")
    assert [path.name for path in Path().iterdir()] == ["my_sampler.py"]


class Point:
    """An entry point, as importlib.metadata gives them."""

    def __init__(self, name, value, entry):
        self.name, self.value, self.entry, self.dist = name, value, entry, None

    def load(self):
        if isinstance(self.entry, Exception):
            raise self.entry
        return self.entry


def test_installed_packages_register_entries(monkeypatch, capsys):
    def halves(steps, levels):
        return tuple(levels.sigma_max * 0.5**i for i in range(steps))

    offered = {
        "sdlab.samplers": [
            Point("theirs", "pack:Theirs", samplers.SAMPLERS["euler"]),
            Point("euler", "pack:Euler", samplers.SAMPLERS["heun"]),
            Point("broken", "pack:Broken", ImportError("no module named 'gone'")),
        ],
        "sdlab.grids": [Point("halves", "pack:halves", halves)],
    }
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: offered.get(group, []))
    monkeypatch.setattr(plugins, "_discovered", False)
    plugins.discover()
    assert samplers.make("theirs") == samplers.make("euler")
    assert samplers.grid("halves", steps=2, levels=samplers.continuous_levels(0.1, 4.0)) == (4.0, 2.0, 0.0)
    assert plugins.digest("sampler", "theirs")
    reported = capsys.readouterr().err.splitlines()
    assert reported[0] == "warning: pack:Euler: the name 'euler' is already taken by another sampler"
    assert reported[1].startswith("warning: pack:Broken: cannot be imported: ImportError: no module named 'gone'")
    assert "broken" not in samplers.SAMPLERS


# What is wrong with them.

IMPORT, NO = "cannot be imported: ", "is not a sampler: "
SUBCLASS = "; make it a subclass of samplers.Sampler, which has defaults"
WRONG = [
    (
        "sampler",
        "import nothing_like_it",
        "X",
        IMPORT + "ModuleNotFoundError: No module named 'nothing_like_it' (line 1 of",
    ),
    ("sampler", "def broken(:", "X", IMPORT + "SyntaxError: invalid syntax"),
    ("sampler", "1 / 0", "X", IMPORT + "ZeroDivisionError: division by zero (line 1 of mine.py)"),
    ("sampler", "raise SystemExit(3)", "X", IMPORT + "SystemExit: 3"),
    (
        "sampler",
        SAMPLER_FILE,
        "MySample",
        "does not define 'MySample' (did you mean 'MySampler'?); it defines MySampler",
    ),
    ("sampler", SAMPLER_FILE, "", "name what it defines, like mine.py:MySampler"),
    ("sampler", "X = 3", "X", NO + "it is a value of type int"),
    (
        "sampler",
        SAMPLER_FILE.replace("(frozen=True)", ""),
        "MySampler",
        NO + "it cannot be hashed; make it a frozen dataclass",
    ),
    (
        "sampler",
        SAMPLER_FILE.replace("def step", "def stop"),
        "MySampler",
        NO + "TypeError: Can't instantiate abstract",
    ),
    ("sampler", ALL_BY_HAND.replace("def nfe", "def mfe"), "MySampler", NO + "it has no 'nfe'" + SUBCLASS),
    ("sampler", ALL_BY_HAND.replace("order,", "ordre,"), "MySampler", NO + "it has no 'order'" + SUBCLASS),
    (
        "sampler",
        SAMPLER_FILE.replace("sigma_next / sigma), None", "sigma_next / sigma)[:, :1], None"),
        "MySampler",
        NO + "step 1 turns x of shape (2, 2) into (2, 1)",
    ),
    (
        "sampler",
        SAMPLER_FILE.replace("memory, noise):", "noise):"),
        "MySampler",
        NO + "TypeError: MySampler.step() takes 6 positional arguments but 7 were given",
    ),
    (
        "sampler",
        SAMPLER_FILE.replace("order: int = 1", "gain: float"),
        "MySampler",
        NO + "TypeError: MySampler.__init__() missing 1 required positional argument: 'gain'",
    ),
    (
        "grid",
        GRID_FILE.replace("range(steps)", "range(3)"),
        "halves",
        "is not a grid: it must return 4 levels for 4 steps, got 3",
    ),
    (
        "grid",
        GRID_FILE.replace("0.5", "2.0"),
        "halves",
        "is not a grid: its levels must be above 0 and in descending order",
    ),
    (
        "grid",
        GRID_FILE.replace("tuple(", "sum("),
        "halves",
        "is not a grid: it must return 4 levels for 4 steps, got a float",
    ),
    (
        "guidance",
        GUIDANCE_FILE.replace("def combine", "def blend"),
        "Half",
        "is not a guidance strategy: it has no 'combine'",
    ),
    (
        "guidance",
        GUIDANCE_FILE.replace('Query("cond")', '"cond"'),
        "Half",
        "is not a guidance strategy: queries(sigma) must return a tuple of sdlab.guidance.Query, got ('cond',)",
    ),
    (
        "guidance",
        GUIDANCE_FILE.replace("predictions[0], None", "predictions[0].sum(), None"),
        "Half",
        "is not a guidance strategy: combine turns predictions of shape (2, 3, 8, 8) into ()",
    ),
    (
        "guidance",
        GUIDANCE_FILE.replace("predictions[0], None", "predictions[0], (x.new_zeros(1),)"),
        "Half",
        "is not a guidance strategy: the state of a guidance strategy must have one row per image, 2 here; got (1,)",
    ),
    (
        "guidance",
        GUIDANCE_FILE.replace('Query("cond")', 'Query("con")'),
        "Half",
        "is not a guidance strategy: unknown context 'con' (did you mean 'cond'?); known: cond, image, uncond",
    ),
]


@pytest.mark.parametrize(("kind", "text", "attribute", "line"), WRONG, ids=[line[:50] for *_, line in WRONG])
def test_an_error_is_one_line_and_its_traceback_in_the_log(kind, text, attribute, line):
    write("mine.py", text)
    name = f"mine.py:{attribute}"
    before = dict(plugins.REGISTRIES[kind])
    with pytest.raises(UsageError) as caught:
        plugins.add(kind, name)
    said = str(caught.value)
    assert said.startswith("mine.py")
    assert line in said
    assert "\n" not in said
    assert plugins.REGISTRIES[kind] == before
    if "Error: " in line or "SystemExit" in line:
        assert said.endswith("; traceback in out/plugins.log")
        log = Path("out/plugins.log").read_text(encoding="utf-8")
        assert "Traceback (most recent call last)" in log
        assert "mine.py" in log


def test_a_missing_file_is_an_error():
    with pytest.raises(UsageError, match=r"^gone\.py: no such file or directory$"):
        plugins.add("sampler", "gone.py:X")
    assert SAMPLER.mistakes("gone.py:X", {}) == [("name", "gone.py: no such file or directory")]


# To start from.


def test_the_skeleton_runs_and_has_the_order_it_claims(tmp_path):
    path = new_sampler("wild-idea", tmp_path)
    assert path == tmp_path / "wild_idea.py"
    console = Console(record=True, width=160, file=io.StringIO())
    assert run(["wild_idea.py:WildIdea"], tmp_path / "out", console) == 0
    assert "2.00 / 2.00" in console.export_text()


def test_the_skeleton_is_dpmpp_2m(tmp_path):
    """Its sampler is a known one, so that what it computes can be looked up."""
    new_sampler("mine", tmp_path)
    plugins.add("sampler", "mine.py:Mine")
    x, sigmas = torch.tensor([[3.0, 1.0]]), samplers.grid("karras", steps=6, levels=samplers.discrete_levels())
    ends = [
        samplers.run(samplers.make(name), lambda x, s: x / (1 + s * s), x, sigmas)
        for name in ("mine.py:Mine", "dpmpp_2m")
    ]
    torch.testing.assert_close(*ends)


def test_the_command_writes_it_and_prints_the_path(tmp_path):
    done = CliRunner().invoke(app, ["new", "sampler", "mine", "--out", str(tmp_path)])
    assert done.exit_code == 0
    assert Path(done.stdout.strip()) == tmp_path / "mine.py"
    assert "class Mine(Sampler):" in (tmp_path / "mine.py").read_text(encoding="utf-8")


def test_added_entries_are_listed():
    write(
        "my_sampler.py",
        SAMPLER_FILE.replace(
            "    class MySampler(Sampler):", '    class MySampler(Sampler):\n        """My idea."""\n'
        ),
    )
    plugins.add("sampler", "my_sampler.py:MySampler")
    done = CliRunner().invoke(app, ["list", "samplers"])
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("my_sampler.py:MySampler")]
    assert line.endswith("My idea.")


def test_a_file_is_never_overwritten(tmp_path):
    path = new_sampler("mine", tmp_path)
    path.write_text("my work", encoding="utf-8")
    with pytest.raises(UsageError, match="already exists and was not changed"):
        new_sampler("mine", tmp_path)
    assert path.read_text(encoding="utf-8") == "my work"


@pytest.mark.parametrize("name", ["2fast", "class", "a/b", "", "naïve"])
def test_a_name_that_is_not_an_identifier_is_an_error(name, tmp_path):
    with pytest.raises(UsageError, match="must consist of letters, digits and _"):
        new_sampler(name, tmp_path)


# The five lines of the docs.


def examples():
    return re.findall(r"```python\n(.*?)```", _HEAD.read_text(encoding="utf-8"), re.DOTALL)


def test_five_lines_are_enough_for_a_custom_network():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )
    scope = {"network": lambda x, sigma: network(x)}
    exec(examples()[0], scope)
    assert scope["x0"].shape == (4, 3, 64, 64)
    assert scope["x0"].isfinite().all()


def test_a_unet_of_diffusers_is_a_denoiser():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=6,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=4,
    ).eval()  # fmt: skip
    scope = {"samplers": samplers, "torch": torch, "unet": unet, "context": torch.ones(2, 5, 6)}
    exec(examples()[1], scope)
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False,
        timestep_spacing="trailing",
    )  # fmt: skip
    scheduler.set_timesteps(4)
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    sigmas = samplers.grid("trailing", steps=4, levels=scope["levels"])
    ours = samplers.run(samplers.make("ddim"), scope["denoise"], start * (1 + sigmas[0] ** 2) ** 0.5, sigmas)
    theirs = start
    with torch.no_grad():
        for t in scheduler.timesteps:
            predicted = unet(theirs, t, encoder_hidden_states=scope["context"]).sample
            theirs = scheduler.step(predicted, t, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
