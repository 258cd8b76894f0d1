"""The CLIP score: cosines, the witness torchmetrics, and OpenAI's CLIP as transformers runs it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tiny_clip import tiny_clip
from torch import Tensor
from torchmetrics.multimodal.clip_score import CLIPScore
from transformers import CLIPImageProcessorPil

from sdlab.metrics import openai_clip
from sdlab.metrics.clip_score import Scorer
from sdlab.model.clip import Clip
from sdlab.model.config import SCENES
from sdlab.model.tokenizer import Tokenizer, train_vocabulary
from sdlab.picture import to_bytes
from sdlab.system.errors import UsageError
from sdlab.worlds import scenes


def renders(n: int, seed: int = 0) -> Tensor:
    return scenes.render(scenes.sample(n, torch.Generator().manual_seed(seed)))


def small_clip() -> tuple[Clip, Tokenizer]:
    vocab, merges = train_vocabulary(["a red circle", "a blue star"] * 5, 560)
    torch.manual_seed(0)
    return Clip(SCENES.text, SCENES.vision).eval(), Tokenizer(vocab, merges, 24)


def test_clip_score_is_a_hundred_cosines():
    clip, tokenizer = small_clip()
    images, prompts = renders(3), ["a red circle", "a blue star", "a red circle"]
    scorer = Scorer(clip, tokenizer)
    with torch.no_grad():
        cosines = (clip.embed_image(images) * clip.embed_text(tokenizer(prompts))).sum(1)
    expected = (100 * cosines).clamp(min=0)
    assert expected.max() > 0
    torch.testing.assert_close(scorer(images, prompts), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scorer(images[:1], ["a blue star"]).shape, torch.Size([1]))


def test_each_prompt_is_embedded_once(monkeypatch: pytest.MonkeyPatch):
    clip, tokenizer = small_clip()
    embedded = list[int]()
    embed = clip.embed_text

    def counting(tokens: Tensor) -> Tensor:
        embedded.append(len(tokens))
        return embed(tokens)

    monkeypatch.setattr(clip, "embed_text", counting)
    scorer = Scorer(clip, tokenizer)
    scorer(renders(3), ["a red circle", "a blue star", "a red circle"])
    scorer(renders(2), ["a blue star", "a red star"])
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
    torch.testing.assert_close(Scorer(clip, tokenizer)(images, prompts), torch.stack(expected), rtol=1e-5, atol=1e-6)


PROMPTS = ["a red circle", "A blue star, on white!", "something else entirely 7"]


def test_openais_clip_scores_as_transformers_does(tmp_path: Path):
    model, processor = tiny_clip(tmp_path / "clip")
    scorer = Scorer(*openai_clip.load(tmp_path / "clip"))
    images = renders(3)[..., :50]  # 64 × 50, so that the preparation must cut
    with torch.inference_mode():
        found = scorer(images, PROMPTS)
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
