"""What a paper should say about a run: its protocol and its sources."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_bench import TOML
from test_view import HOSTILE, check_latex_text

import samplers
import sdlab
from samplers.grids.registry import GRIDS
from sdlab.commands.cite import Part, command
from sdlab.guidance import GUIDANCE, WRAPPERS
from sdlab.metrics import METRICS, MetricFiles
from sdlab.report.citations import Citation, citations
from sdlab.report.papers import PROGRAMS, TITLES
from sdlab.report.protocol import protocol, sources
from sdlab.report.stored_run import opened_run
from sdlab.sweep.run import PLAN
from sdlab.sweep.store import Store
from sdlab.system.text import shown

ENTRIES: dict[str, Callable[..., object]] = {
    **{f"sampler {name}": entry for name, entry in samplers.SAMPLERS.items()},
    **{f"grid {name}": entry for name, entry in GRIDS.items()},
    **{f"guidance {name}": entry for name, entry in {**GUIDANCE, **WRAPPERS}.items()},
    **{f"metric {name}": type(metric) for name, metric in METRICS.items()},
}
# These are elementary, sdlab's own, or of programs without a paper.
WITHOUT = {
    "grid blend", "grid explicit", "grid sgm_uniform", "grid simple", "guidance cfg_norm", "guidance none",
    "guidance schedule", "metric prompt_accuracy", "metric changes_made", "metric psnr", "metric reference_error",
    "metric reader_disagreement", "metric w2", "metric diversity", "metric class_probability",
    "metric saturation", "metric contrast", "metric round_trip_error", "metric noise_round_trip_error",
}  # fmt: skip


@pytest.mark.parametrize("name", ENTRIES)
def test_every_registered_entry_cites_its_source(name: str):
    found = citations(ENTRIES[name])
    assert bool(found) is (name not in WITHOUT)
    assert all(one.source in TITLES for one in found)


def test_every_title_is_cited_and_every_key_is_of_one_source():
    found = {one for entry in ENTRIES.values() for one in citations(entry)}
    assert {one.source for one in found} == set(TITLES)
    assert len({one.key for one in found}) == len(found)
    assert set(PROGRAMS) == {source for source in TITLES if ":" not in source}


def test_every_source_in_a_docstring_has_its_authors():
    for name, entry in ENTRIES.items():
        numbers = re.findall(r"arXiv:\d{4}\.\d{5}", entry.__doc__ or "")
        assert set(numbers) - {one.source for one in citations(entry)} <= {"arXiv:2305.08891"}, name


def test_citations_are_read_from_the_one_form():
    def entry() -> None:
        """Text of 2020, not cited (Ho, Jain, Abbeel 2020, arXiv:2006.11239, eq. 7; Söderlind 2003, doi:10.1/2.3;
        Ho & Salimans 2022, arXiv:2207.12598; Crowson 2022, k-diffusion; Lu et al.
        2022, arXiv:2206.00927)."""

    assert citations(entry) == [
        Citation("Ho, Jain, Abbeel", "2020", "arXiv:2006.11239"),
        Citation("Söderlind", "2003", "doi:10.1/2.3"),
        Citation("Ho & Salimans", "2022", "arXiv:2207.12598"),
        Citation("Crowson", "2022", "k-diffusion"),
        Citation("Lu et al.", "2022", "arXiv:2206.00927"),
    ]


def test_bibtex_has_all_authors_and_the_place():
    (ddpm,) = citations(samplers.SAMPLERS["ddpm"])
    assert ddpm.bibtex() == (
        "@misc{ho2020-2006.11239,\n  title = {{Denoising Diffusion Probabilistic Models}},\n"
        "  author = {Ho and Jain and Abbeel},\n  year = {2020},\n  eprint = {2006.11239},\n  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/2006.11239},\n}"
    )
    assert "author = {Lu and others}" in citations(samplers.SAMPLERS["dpm_2m"])[0].bibtex()
    for entry in ENTRIES.values():
        for one in citations(entry):
            assert one.key.isascii()
            assert one.bibtex().count("{") == one.bibtex().count("}")


def test_sources_of_custom_code_have_no_title():
    paper, program = Citation("Smith", "2030", "arXiv:2901.00001"), Citation("Smith", "2030", "smith-diffusion")
    assert paper.bibtex() == (
        "@misc{smith2030-2901.00001,\n  author = {Smith},\n  year = {2030},\n  eprint = {2901.00001},\n"
        "  archivePrefix = {arXiv},\n  url = {https://arxiv.org/abs/2901.00001},\n}"
    )
    assert "  note = {smith-diffusion},\n" in program.bibtex()


@pytest.fixture
def directory(finished: Callable[..., Path]) -> Path:
    return finished(TOML.replace("[cells]", 'negative = "blurry"\n[cells]'))


def test_the_card_has_the_whole_protocol(directory: Path):
    with opened_run(directory) as run:
        found = protocol(run)
    assert found["model"] == "scenes (weights and files weights)"
    assert found["samplers"] == "ddim; heun"
    assert found["guidance"] == "none; cfg scale=3"
    assert found["network passes per image"] == "5 to 38"
    assert found["seeds"] == "0 to 15, the same in every cell"
    assert re.fullmatch(r"3, SHA-256 [0-9a-f]{16}", found["prompts"])
    assert found["negative prompt"] == "'blurry'"
    assert re.fullmatch(
        r"pictures at their own size, in floating point; evaluator and reference [0-9a-f]{16}",
        found["metric FID (lab)"],
    )
    assert found["metric CLIP score"].endswith("; no files")
    assert "float32 networks" in found["precision"]
    assert f"sdlab {sdlab.__version__}, PyTorch" in found["versions"]


def test_the_filter_that_resizes_pictures_is_that_of_the_files():
    files = MetricFiles(inception="i.pth", reference="r", clip="c")
    assert "299 × 299" in METRICS["fid"].preparation(files)
    assert METRICS["kid"].preparation(files) == METRICS["fid"].preparation(files)
    assert "bicubic" in METRICS["clip_score"].preparation(files)
    assert METRICS["fid"].preparation(MetricFiles()) == "pictures at their own size, in floating point"
    assert METRICS["w2"].preparation(files) == "samples as they are"


def test_a_run_that_recorded_nothing_says_so(directory: Path):
    with Store(directory / "results.sqlite") as store:
        store._db.execute("UPDATE cells SET provenance = '{}'")
    with opened_run(directory) as run:
        found = protocol(run)
    assert found["metric FID (lab)"].endswith("evaluator and reference not recorded")
    assert "sdlab not recorded" in found["versions"]


def test_sources_are_those_of_what_the_cells_use(directory: Path):
    with opened_run(directory) as run:
        found = [one.source for one in sources(run)]
    assert found == [
        "arXiv:2010.02502", "arXiv:2305.08891", "arXiv:2207.12598", "arXiv:2206.00364", "arXiv:1706.08500",
        "arXiv:2104.08718",
    ]  # fmt: skip


def changed(directory: Path, key: str, value: Any) -> None:
    """Change a part of every cell in the stored plan."""
    with Store(directory / "results.sqlite") as store:
        plan = json.loads(store.note(PLAN) or "")
        for cell in plan["cells"]:
            cell[key] = value
        store.set_note(PLAN, json.dumps(plan))


def test_wrappers_and_strategies_inside_a_strategy_are_cited_too(directory: Path):
    chain = {"name": "rescale", "options": {"of": {"name": "apg", "scale": 3.0}, "interval": [0.3, 5.0]}}
    changed(directory, "guidance", chain)
    with opened_run(directory) as run:
        found = {one.source for one in sources(run)}
    assert {"arXiv:2305.08891", "arXiv:2410.02416", "arXiv:2404.07724"} <= found


def test_custom_code_is_named_in_a_note(directory: Path, capsys: pytest.CaptureFixture[str]):
    changed(directory, "sampler", {"name": "mine.py:M\x1b[2J", "options": {}})
    command(directory, Part.bibtex)
    captured = capsys.readouterr()
    assert captured.err == "note: cite the sources of custom code yourself: mine.py:M\\x1b[2J\n"
    assert captured.out.startswith("@misc{sdlab,")


def test_the_model_index_is_yaml_with_the_best_cells(directory: Path, capsys: pytest.CaptureFixture[str]):
    command(directory, Part.model_index)
    (index,) = yaml.safe_load(capsys.readouterr().out)["model-index"]
    with opened_run(directory) as run:
        best = min(row.metrics["fid"] for row in run.rows)
    metrics = [one for result in index["results"] for one in result["metrics"]]
    assert [one["type"] for one in metrics] == ["fid", "clip_score"]
    assert metrics[0]["value"] == best
    assert metrics[0]["name"].startswith("FID (lab), best of 8 cells: ")
    assert index["results"][0]["task"] == {"type": "text-to-image"}


def test_all_parts_are_printed_and_hostile_names_stay_text(directory: Path, capsys: pytest.CaptureFixture[str]):
    with Store(directory / "results.sqlite") as store:
        plan = json.loads(store.note(PLAN) or "")
        plan["model"] = plan["negative"] = HOSTILE
        store.set_note(PLAN, json.dumps(plan))
    command(directory, None)
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line.startswith("# ")] == [f"# {part}" for part in Part]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out)
    index = yaml.safe_load(out.partition("# model-index\n")[2])
    assert index["model-index"][0]["name"] == shown(HOSTILE)
    check_latex_text(re.search(r"^\\footnote.*$", out, re.MULTILINE)[0])  # type: ignore[index]
