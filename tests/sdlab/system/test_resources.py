"""Files shipped with sdlab are found in any folder, and a file of the user takes precedence."""

from pathlib import Path

import pytest

from sdlab.system.resources import ROOT, find


def test_a_file_of_the_user_takes_precedence_over_the_one_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    name = Path("experiments", "cfg_vs_steps.toml")
    assert find(name) == ROOT / name
    name.parent.mkdir()
    name.write_text("")
    assert find(name) == name
    assert find("missing.toml") == Path("missing.toml")
