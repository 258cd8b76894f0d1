"""Features of real pictures that are kept on the disk: used if nothing changed, and never trusted."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sdlab.metrics import features, kept
from sdlab.metrics.base import Tools
from sdlab.metrics.files import MetricFiles

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(kept.FOLDER, str(tmp_path / "kept"))
    return tmp_path / "kept"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    path = tmp_path / "network"
    path.write_bytes(b"weights")
    return path


class Counted:
    """Some features, and how often they were computed."""

    def __init__(self, seed: int = 0) -> None:
        self.calls, self.found = 0, torch.randn(20, 6, generator=torch.Generator().manual_seed(seed))

    def __call__(self) -> Tensor:
        self.calls += 1
        return self.found


def test_they_are_computed_once_for_the_same_pictures_and_files(place: Path, network: Path):
    compute = Counted()
    for _ in range(3):
        assert torch.equal(kept.kept("renders", [network], CPU, compute), compute.found)
    assert compute.calls == 1
    assert len(list(place.iterdir())) == 1
    kept.kept("other renders", [network], CPU, compute)
    network.write_bytes(b"other weights")
    kept.kept("renders", [network], CPU, compute)
    assert compute.calls == 3


def test_other_code_or_another_number_of_threads_is_another_key(place: Path, monkeypatch: pytest.MonkeyPatch):
    compute = Counted()
    kept.kept("renders", [], CPU, compute)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    kept.kept("renders", [], CPU, compute)
    monkeypatch.setattr(kept, "_code", lambda: ["other"])
    kept.kept("renders", [], CPU, compute)
    assert compute.calls == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "of another key", "a folder"])
def test_a_damaged_or_foreign_file_is_not_used_and_is_replaced(place: Path, damage: str):
    compute, other = Counted(), Counted(1)
    kept.kept("renders", [], CPU, compute)
    (path,) = place.iterdir()
    whole = path.read_bytes()
    if damage == "of another key":
        kept.kept("others", [], CPU, other)
        (second,) = set(place.iterdir()) - {path}
        path.write_bytes(second.read_bytes())
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        changed = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes({"cut": whole[:-9], "changed": changed, "empty": b""}[damage])
    assert torch.equal(kept.kept("renders", [], CPU, compute), compute.found)
    assert compute.calls == 2
    if damage != "a folder":
        assert path.read_bytes() == whole


def test_without_a_folder_they_are_computed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compute, file = Counted(), tmp_path / "file"
    file.touch()
    for given in ("", str(file / "inside")):  # none, and one that cannot be made
        monkeypatch.setenv(kept.FOLDER, given)
        assert torch.equal(kept.kept("renders", [], CPU, compute), compute.found)
    assert compute.calls == 2


def test_the_folder_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(kept.FOLDER, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.folder() == tmp_path / "sdlab"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept.folder() == tmp_path / ".cache" / "sdlab"


def test_runs_beside_each_other_share_the_folder(place: Path):
    found = list[Tensor]()
    compute = Counted()
    threads = [threading.Thread(target=lambda: found.append(kept.kept("renders", [], CPU, compute))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(torch.equal(one, compute.found) for one in found)
    assert [path.suffix for path in place.iterdir()] == [".safetensors"]


def test_the_files_that_were_not_used_for_longest_are_deleted(place: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kept, "_MOST", 2)
    computed = [Counted(i) for i in range(3)]
    for i, compute in enumerate(computed):
        kept.kept(str(i), [], CPU, compute)
    assert len(list(place.iterdir())) == 2
    kept.kept("2", [], CPU, computed[2])
    assert computed[2].calls == 1


def test_features_of_the_lab_are_the_same_to_the_bit_from_the_disk(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(features, "REFERENCE", 128)
    rendered = list[int]()
    renders = features.renders
    monkeypatch.setattr(features, "renders", lambda world: (rendered.append(1), renders(world))[1])
    first, second = (features.LabFeatures(Tools((64, 64))) for _ in range(2))
    assert isinstance(first.reference, Tensor)
    assert isinstance(second.reference, Tensor)
    assert torch.equal(first.reference, second.reference)
    assert len(rendered) == 1
    features.LabFeatures(Tools((64, 64), files=MetricFiles(world="portraits")))
    assert len(rendered) == 2
