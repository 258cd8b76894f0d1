"""FID and others on features of DINOv2: a small random one, in the layout of transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

from sdlab.metrics import MetricFiles
from sdlab.metrics.dinov2 import MEAN, STD, Dinov2
from sdlab.metrics.folder import measure_folder
from sdlab.system.errors import UsageError


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=56, mlp_ratio=2)
    folder = tmp_path_factory.mktemp("dinov2")
    Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight pictures of 40 × 30 pixels."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(8):
        noise = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
        noise.resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_the_features_are_those_of_transformers_with_its_preprocessing(network: Path, photos: Path):
    pictures = [Image.open(path) for path in sorted(photos.iterdir())]
    processor = BitImageProcessor(size={"shortest_edge": 224}, image_mean=list(MEAN), image_std=list(STD))
    with torch.no_grad():
        prepared = processor(pictures, return_tensors="pt")
        expected = Dinov2Model.from_pretrained(network).eval()(**prepared).pooler_output
    pixels = torch.from_numpy(np.stack([np.asarray(one) for one in pictures])).permute(0, 3, 1, 2)
    found = Dinov2(network)(pixels / 127.5 - 1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_fid_of_the_real_pictures_themselves_is_zero_and_names_its_features(network: Path, photos: Path):
    files = MetricFiles(dinov2=str(network), reference=str(photos))
    assert measure_folder(photos, ["fid"], files=files)["fid"].value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors of DINOv2 is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"0"), "is not a DINOv2 in the layout of"),
        (lambda folder: [file.unlink() for file in folder.iterdir()] and folder.rmdir(), "is not a folder; it should"),
    ],
)
def test_a_folder_without_the_network_is_one_line(damage, text, network: Path, photos: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in network.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    damage(copy)
    files = MetricFiles(dinov2=str(copy), reference=str(photos))
    with pytest.raises(UsageError, match=text) as caught:
        measure_folder(photos, ["fid"], files=files)
    assert len(str(caught.value).splitlines()) == 1


def test_two_networks_are_refused(network: Path, photos: Path):
    files = MetricFiles(dinov2=str(network), inception=str(network / "model.safetensors"), reference=str(photos))
    with pytest.raises(UsageError, match=r"metric_files.dinov2: cannot be given beside inception"):
        measure_folder(photos, ["fid"], files=files)
