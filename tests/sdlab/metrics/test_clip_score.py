"""The CLIP score: cosines, the witness torchmetrics, and OpenAI's CLIP as transformers runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import tiny_clip
from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import CLIPImageProcessorPil

from sdlab.metrics import openai_clip
from sdlab.metrics.clip_score import score
from sdlab.metrics.clip_space import ClipSpace
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.picture import to_bytes
from sdlab.system.errors import RunError, UsageError
from sdlab.worlds import scenes


def renders(n: int, seed: int = 0) -> Tensor:
    return scenes.render(scenes.sample(n, torch.Generator().manual_seed(seed)))


def small_clip() -> tuple[Clip, Tokenizer]:
    vocab, merges = train_vocabulary(["a red circle", "a blue star"] * 5, 560)
    torch.manual_seed(0)
    return Clip(SCENES.text, SCENES.vision).eval(), Tokenizer(vocab, merges, 24)


def scores(space: ClipSpace, images: Tensor, prompts: list[str]) -> Tensor:
    return score(space.pictures(images), space.texts(prompts))


def test_clip_score_is_a_hundred_cosines():
    clip, tokenizer = small_clip()
    images, prompts = renders(3), ["a red circle", "a blue star", "a red circle"]
    space = ClipSpace(clip, tokenizer)
    with torch.no_grad():
        cosines = (clip.embed_image(images) * clip.embed_text(tokenizer(prompts))).sum(1)
    expected = (100 * cosines).clamp(min=0)
    assert expected.max() > 0
    torch.testing.assert_close(scores(space, images, prompts), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores(space, images[:1], ["a blue star"]).shape, torch.Size([1]))


def test_each_prompt_is_embedded_once(monkeypatch: pytest.MonkeyPatch):
    clip, tokenizer = small_clip()
    embedded = list[int]()
    embed = clip.embed_text

    def counting(tokens: Tensor) -> Tensor:
        embedded.append(len(tokens))
        return embed(tokens)

    monkeypatch.setattr(clip, "embed_text", counting)
    space = ClipSpace(clip, tokenizer)
    scores(space, renders(3), ["a red circle", "a blue star", "a red circle"])
    scores(space, renders(2), ["a blue star", "a red star"])
    assert embedded == [2, 1]


class Embedded:
    """What torchmetrics asks of a CLIP and its processor. A "picture" is an embedding (D, 1, 1), a prompt a number."""

    config = SimpleNamespace()

    def __init__(self, texts: Tensor) -> None:
        self.texts = texts

    def __call__(self, text: list[str] | None = None, images: list[Tensor] | None = None, **_: object) -> object:
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        rows = torch.tensor([int(prompt) for prompt in text or []])
        return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    def to(self, device: object) -> Embedded:
        return self

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return pixels.flatten(1)

    def get_text_features(self, rows: Tensor, mask: Tensor) -> Tensor:
        return self.texts[rows]


def test_clip_score_is_that_of_torchmetrics():
    clip, tokenizer = small_clip()
    images, prompts = (
        renders(6),
        [f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("star", "ring", "x")],
    )
    with torch.no_grad():
        pictures, texts = clip.embed_image(images), clip.embed_text(tokenizer(prompts))
    embedded = Embedded(texts)
    witness = CLIPScore(cast(Any, lambda: (embedded, embedded)))
    expected = []
    for k, picture in enumerate(pictures):
        witness.reset()
        witness.update(picture.view(1, -1, 1, 1), [str(k)])
        expected.append(witness.compute())
    torch.testing.assert_close(
        scores(ClipSpace(clip, tokenizer), images, prompts), torch.stack(expected), rtol=1e-5, atol=1e-6
    )


PROMPTS = ["a red circle", "A blue star, on white!", "something else entirely 7"]


def test_openais_clip_scores_as_transformers_does(tmp_path: Path):
    model, processor = tiny_clip(tmp_path / "clip")
    space = ClipSpace(*openai_clip.load(tmp_path / "clip"))
    images = renders(3)[..., :50]  # 64 × 50, so that the preparation must cut
    with torch.inference_mode():
        found = scores(space, images, PROMPTS)
    pictures = [Image.fromarray(image.numpy()) for image in to_bytes(images)]
    inputs = processor(text=PROMPTS, images=pictures, return_tensors="pt", padding=True)
    with torch.inference_mode():
        logits = model(**inputs).logits_per_image / model.logit_scale.exp()
    expected = (100 * logits.diagonal()).clamp(min=0)
    assert expected.max() > 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (64, 64), (100, 33), (31, 77)])
def test_pictures_are_prepared_as_by_transformers(height: int, width: int):
    images = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1
    processor = CLIPImageProcessorPil(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})
    expected = processor([Image.fromarray(a.numpy()) for a in to_bytes(images)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(openai_clip.prepare(images, 48), expected, rtol=1e-4, atol=1e-4)


def test_weights_of_clip_may_be_a_pickle_of_tensors(tmp_path: Path):
    model, _ = tiny_clip(tmp_path / "clip")
    (tmp_path / "clip" / "model.safetensors").unlink()
    torch.save({**model.state_dict(), "text_model.embeddings.position_ids": torch.arange(77)[None]},
               tmp_path / "clip" / "pytorch_model.bin")  # fmt: skip
    clip, _, _ = openai_clip.load(tmp_path / "clip")
    torch.testing.assert_close(clip.log_scale, model.logit_scale.detach())


def test_another_clip_than_openais_is_refused(tmp_path: Path):
    tiny_clip(tmp_path / "clip", act="gelu")
    with pytest.raises(UsageError, match=r"config\.json: is not OpenAI's CLIP; the width or activation"):
        openai_clip.load(tmp_path / "clip")
    (tmp_path / "clip" / "config.json").write_text("{}")
    with pytest.raises(UsageError, match=r"config\.json: is not the configuration of a CLIP"):
        openai_clip.load(tmp_path / "clip")


TABLE = "text_model.embeddings.token_embedding.weight"


def test_a_padded_table_and_harmless_tensors_change_no_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tiny_clip(tmp_path / "clip")
    weights = tmp_path / "clip" / "model.safetensors"
    capsys.readouterr()
    with torch.inference_mode():
        expected = scores(ClipSpace(*openai_clip.load(tmp_path / "clip")), renders(3), PROMPTS)
    assert capsys.readouterr().err == ""
    stored = load_file(weights)
    tokens, width = stored[TABLE].shape
    padding = torch.full((64 - tokens % 64, width), torch.nan)
    stored[TABLE] = torch.cat([stored[TABLE], padding])
    stored["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(stored, weights)
    edit(tmp_path / "clip", lambda content: content["text_config"].update(vocab_size=len(stored[TABLE])))
    with torch.inference_mode():
        found = scores(ClipSpace(*openai_clip.load(tmp_path / "clip")), renders(3), PROMPTS)
    assert torch.equal(found, expected)
    assert capsys.readouterr().err.splitlines() == [
        f"note: model.safetensors: ignored the last {len(padding)} of {len(stored[TABLE])} token embeddings; "
        f"the vocabulary has {tokens} tokens",
        "note: model.safetensors: ignored 1 tensor that no network uses: 'text_model.embeddings.position_ids'",
    ]


def test_the_vocabulary_of_clip_may_be_a_tokenizer_json(tmp_path: Path):
    _, processor = tiny_clip(tmp_path / "clip")
    with torch.inference_mode():
        expected = scores(ClipSpace(*openai_clip.load(tmp_path / "clip")), renders(3), PROMPTS)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "clip" / name).unlink()
    assert openai_clip.missing_files(tmp_path / "clip") == [
        f"{tmp_path / 'clip' / name} of OpenAI's CLIP is missing".replace("clip/", "clip: ")
        for name in ("vocab.json", "merges.txt")
    ]
    processor.tokenizer.save_pretrained(tmp_path / "clip")
    assert openai_clip.missing_files(tmp_path / "clip") == []
    names = [path.name for path in openai_clip.content(tmp_path / "clip")]
    assert names == ["config.json", "tokenizer.json", "model.safetensors"]
    with torch.inference_mode():
        assert torch.equal(scores(ClipSpace(*openai_clip.load(tmp_path / "clip")), renders(3), PROMPTS), expected)


@pytest.mark.parametrize(
    ("table", "key", "value", "message"),
    [
        ("text_config", "vocab_size", 600.5, "TypeError: vocab_size must be a whole number, got 600.5"),
        ("text_config", "num_hidden_layers", "2", "TypeError: num_hidden_layers must be a whole number, got '2'"),
        ("text_config", "num_hidden_layers", 10**30, "ValueError: ClipTextConfig.layers must be at most 256, got 1000"),
        ("vision_config", "image_size", 50, "ValueError: ClipVisionConfig.patch must divide the width 50, got 16"),
        (None, "projection_dim", None, "TypeError: projection_dim must be a whole number, got None"),
        (None, "text_config", [], "is not the configuration of a CLIP (TypeError"),
    ],
)
def test_odd_values_in_the_configuration_of_clip(
    tmp_path: Path, table: str | None, key: str, value: object, message: str
):
    tiny_clip(tmp_path / "clip")
    edit(tmp_path / "clip", lambda content: (content if table is None else content[table]).update({key: value}))
    with pytest.raises(UsageError, match=r"config\.json: is not the configuration of a CLIP") as error:
        openai_clip.load(tmp_path / "clip")
    assert message in str(error.value)


@pytest.mark.parametrize("rows", [400, 1000])
def test_a_vocabulary_of_another_clip_is_refused(tmp_path: Path, rows: int):
    tiny_clip(tmp_path / "clip")
    stored = load_file(tmp_path / "clip" / "model.safetensors")
    stored[TABLE] = torch.zeros(rows, stored[TABLE].shape[1])
    save_file(stored, tmp_path / "clip" / "model.safetensors")
    edit(tmp_path / "clip", lambda content: content["text_config"].update(vocab_size=rows))
    with pytest.raises(UsageError, match=rf"vocab\.json: has \d+ tokens, but text\.vocab_size of .*clip is {rows}"):
        openai_clip.load(tmp_path / "clip")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("text_model.encoder.layers.0.odd", torch.zeros(2), "unknown tensor 'text_model.encoder.layers.0.odd'"),
        ("logit_scale", torch.zeros(1), "tensor 'logit_scale' has shape (1,), but the configuration needs ()"),
        ("logit_scale", None, "tensor 'logit_scale' is missing"),
    ],
)
def test_odd_tensors_of_clip_are_named(tmp_path: Path, name: str, tensor: Tensor | None, message: str):
    tiny_clip(tmp_path / "clip")
    stored: dict[str, Tensor | None] = dict(load_file(tmp_path / "clip" / "model.safetensors"))
    stored[name] = tensor
    save_file({key: t for key, t in stored.items() if t is not None}, tmp_path / "clip" / "model.safetensors")
    with pytest.raises(RunError) as error:
        openai_clip.load(tmp_path / "clip")
    assert message in str(error.value)


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the config.json of a folder."""
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
