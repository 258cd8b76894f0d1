"""Export: a folder computes the same in diffusers and transformers, and can be read back."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_model import write_tiny
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from typer.testing import CliRunner
from user_files import KEYS, NARROW, clip_vocabulary, random_weights, write_with_config

import samplers
from sdlab import guidance
from sdlab.commands.app import app
from sdlab.model.config import SCENES, SD15, UnetConfig, VaeConfig
from sdlab.model.stable_diffusion import networks
from sdlab.pipeline import Pipeline
from sdlab.sweep.prompts import prompt_set
from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.weights import layout_diffusers as diffusers_layout
from sdlab.weights import layout_original as original
from sdlab.weights import safetensors_file
from sdlab.weights.export import export
from sdlab.weights.locate import ModelSource, locate
from sdlab.weights.model_folder import read_config
from sdlab.weights.model_loader import load

EXACT = 1e-12  # of float64; rounding alone leaves about 1e-15
PROMPTS = [*prompt_set("scenes", 4), "", "a photo of 3 cats!"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """A copy of the lab model that no training can change."""
    folder = tmp_path_factory.mktemp("models") / "scenes"
    folder.mkdir()
    for path in locate("scenes").files:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def lab(scenes):
    """The lab model in diffusers layout."""
    export(scenes, "diffusers", scenes.with_name("lab"))
    return scenes.with_name("lab")


@pytest.fixture
def narrow(tmp_path):
    """A model of v1.5's structure in one file in the original layout, and its vocabulary beside it."""
    path = tmp_path / "narrow" / "narrow.safetensors"
    clip_vocabulary(path.parent)
    write_with_config(path, NARROW, random_weights(NARROW))
    return path


def weights(model):
    """By part, without a vision tower."""
    return {part: getattr(model, part).state_dict() for part in ("text", "vae", "unet")}


def assert_same_weights(found, wanted):
    for part, tensors in weights(wanted).items():
        theirs = weights(found)[part]
        assert theirs.keys() == tensors.keys()
        assert all(torch.equal(theirs[key], tensor) for key, tensor in tensors.items())


def relative_error(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Names


def test_names_of_the_networks_are_those_of_the_libraries_own_classes():
    with torch.device("meta"):
        text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))
        unet = UNet2DConditionModel(cross_attention_dim=768)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    ours = networks(SD15)
    for part, module, prefix in (("clip", text, "text_model."), ("vae", vae, ""), ("unet", unet, "")):
        theirs = {prefix + key.removeprefix(prefix): t.shape for key, t in module.state_dict().items()}
        named = diffusers_layout.names(SD15)[part]
        assert named.keys() == theirs.keys()
        state = ours[part].state_dict()
        assert sorted(named.values()) == sorted(state)
        squeezed = [key for key, name in named.items() if theirs[key] != state[name].shape]
        assert all(state[named[key]].shape == (*theirs[key], 1, 1) for key in squeezed)
        assert len(squeezed) == (8 if part == "vae" else 0)  # q, k, v and out, in encoder and decoder


@pytest.mark.parametrize("config", [SD15, SCENES, NARROW], ids=lambda config: config.name)
def test_original_names_are_unique_and_lead_back(config):
    names = original.names(config)
    assert len(set(names.values())) == len(names)
    assert all(original.rename(theirs, config) == target for theirs, target in names.items())
    assert config != SD15 or names.keys() == {key for key in KEYS if original.rename(key)}


# What the exported lab model computes in diffusers and transformers


@torch.no_grad()
def test_unet(lab, scenes):
    theirs = UNet2DConditionModel.from_pretrained(lab / "unet", dtype=torch.float64)
    ours = load(scenes, dtype=torch.float64)
    x, t, context = normal(2, *ours.config.latent_shape), torch.tensor([3.0, 750.0]), normal(2, 24, 128)
    assert relative_error(ours.unet(x, t, context), theirs(x, t, context).sample) < EXACT


@torch.no_grad()
def test_vae_and_the_shift_of_its_latents(lab, scenes):
    theirs = AutoencoderKL.from_pretrained(lab / "vae", dtype=torch.float64)
    ours = load(scenes, dtype=torch.float64).vae
    images, latents = normal(2, 3, 64, 64).clamp(-1, 1), normal(2, *SCENES.latent_shape)
    posterior, wanted = ours.encode(images), theirs.encode(images).latent_dist
    assert relative_error(posterior.mean, wanted.mean) < EXACT
    assert relative_error(posterior.logvar, wanted.logvar) < EXACT
    shift, scale = theirs.config.shift_factor, theirs.config.scaling_factor
    assert shift != 0
    assert relative_error(ours.to_latents(posterior.mean), (wanted.mean - shift) * scale) < EXACT
    assert (
        relative_error(ours.decode(ours.from_latents(latents)), theirs.decode(latents / scale + shift).sample) < EXACT
    )


@torch.no_grad()
def test_text_encoder_and_tokenizer(lab, scenes):
    encoder = CLIPTextModel.from_pretrained(lab / "text_encoder", dtype=torch.float64)
    tokenizer = CLIPTokenizer.from_pretrained(lab / "tokenizer")
    ours = load(scenes, dtype=torch.float64)
    theirs = tokenizer(PROMPTS, padding="max_length", truncation=True, return_tensors="pt").input_ids
    tokens = ours.tokenizer(PROMPTS)
    assert torch.equal(tokens, theirs)
    assert relative_error(ours.text(tokens), encoder(theirs).last_hidden_state) < EXACT


@torch.no_grad()
def test_a_whole_run_of_the_pipeline(lab, scenes):
    theirs = StableDiffusionPipeline.from_pretrained(lab, dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = Pipeline(load(scenes))
    prompts, seeds = PROMPTS[:2], [0, 1]
    sigmas = samplers.grid("trailing", steps=4, levels=ours.levels)
    rule, strategy = samplers.make("ddim"), guidance.make("cfg", scale=3.0)
    noise = samplers.seeded(seeds)(torch.empty(2, *ours.model.config.latent_shape))
    cond, uncond = ours.encode(prompts), ours.encode(["", ""])
    wanted = ours.sample(cond, uncond, rule, sigmas, strategy, seeds)
    # Ours starts at x = σ ε, which in their scaling is ε σ / √(1 + σ²), so theirs is given that.
    start = noise * sigmas[0] / (1 + sigmas[0] ** 2) ** 0.5
    found = theirs(prompts, num_inference_steps=4, guidance_scale=3.0, latents=start, output_type="latent").images
    assert relative_error(found, wanted) < 1e-5


@torch.no_grad()
def test_a_run_with_zero_terminal_snr(tmp_path, lab):
    """Diffusers' DDIM takes ᾱ = 0 at the last timestep, and sdlab 2⁻²⁴, whose square root is 2.4e-4."""
    shutil.copytree(lab, tmp_path / "zero")
    path, values = settings(tmp_path / "zero", "scheduler")
    path.write_text(json.dumps(values | {"rescale_betas_zero_snr": True}))
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "zero", dtype=torch.float32)
    theirs.set_progress_bar_config(disable=True)
    ours = Pipeline(load(tmp_path / "zero"))
    sigmas = samplers.grid("trailing", steps=4, levels=ours.levels)
    assert sigmas[0] == 4096
    noise = samplers.seeded([0])(torch.empty(1, *ours.model.config.latent_shape))
    cond, uncond = ours.encode(PROMPTS[:1]), ours.encode([""])
    wanted = ours.sample(cond, uncond, samplers.make("ddim"), sigmas, guidance.make("cfg", scale=3.0), [0])
    found = theirs(PROMPTS[0], num_inference_steps=4, guidance_scale=3.0, latents=noise, output_type="latent").images
    assert wanted.isfinite().all()
    assert relative_error(found, wanted) < 1e-3


def test_noise_levels_and_prediction_type(lab):
    theirs = DDIMScheduler.from_pretrained(lab / "scheduler")
    levels = SCENES.noise_schedule()
    assert theirs.config.prediction_type == "v_prediction"
    sigmas = torch.tensor([levels.sigma(t) for t in range(1000)], dtype=torch.float64)
    torch.testing.assert_close(theirs.alphas_cumprod.double(), 1 / (1 + sigmas**2), rtol=1e-5, atol=0)


# Round trips


def test_the_lab_model_comes_back_from_diffusers_layout(lab, scenes):
    ours, back = load(scenes), load(lab)
    assert_same_weights(back, ours)
    assert replace(back.config, name="scenes") == replace(ours.config, vision=None)
    assert torch.equal(back.tokenizer(PROMPTS), ours.tokenizer(PROMPTS))


def test_the_sdlab_layout_keeps_every_bit(tmp_path, scenes):
    assert export(scenes, "sdlab", tmp_path / "copy") == []
    for path in locate(scenes).files:
        copy = tmp_path / "copy" / path.name
        if path.suffix == ".safetensors":
            wanted, found = load_file(path), load_file(copy)
            assert found.keys() == wanted.keys()
            assert all(torch.equal(found[key], t) and found[key].dtype == t.dtype for key, t in wanted.items())
        elif path.name == "config.json":
            assert read_config(copy.parent) == read_config(path.parent)
        else:
            assert copy.read_bytes() == path.read_bytes()


def test_the_original_layout_stores_the_configuration_of_other_models(tmp_path, scenes):
    remarks = export(scenes, "original", tmp_path / "lab.safetensors")
    assert any("vision tower" in remark for remark in remarks)
    files = {"vocab": scenes / "vocab.json", "merges": scenes / "merges.txt"}
    ours, back = load(scenes), load(ModelSource(str(tmp_path / "lab.safetensors"), **files))
    assert_same_weights(back, ours)
    assert back.config == replace(ours.config, vision=None)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_round_trip_of_a_model_of_version_1(tmp_path, narrow, dtype):
    export(narrow, "diffusers", tmp_path / "a", dtype)
    export(tmp_path / "a", "sdlab", tmp_path / "b")
    export(tmp_path / "b", "original", tmp_path / "b" / "c.safetensors")
    back, wanted = load_file(tmp_path / "b" / "c.safetensors"), load_file(narrow)
    assert back.keys() == wanted.keys()
    assert all(torch.equal(back[key], tensor.to(dtype or tensor.dtype)) for key, tensor in wanted.items())
    assert_same_weights(load(tmp_path / "b" / "c.safetensors"), load(tmp_path / "a"))


def test_a_folder_that_diffusers_has_written(tmp_path, lab, scenes):
    """Its configurations hold every setting there is, and transformers 5 writes the vocabulary as one file."""
    theirs = StableDiffusionPipeline.from_pretrained(lab, dtype=torch.float32)
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "unet" / "config.json").stat().st_size > (lab / "unet" / "config.json").stat().st_size
    back, lab_model = load(tmp_path / "theirs"), load(scenes)
    assert_same_weights(back, lab_model)
    assert torch.equal(back.tokenizer(PROMPTS), lab_model.tokenizer(PROMPTS))
    export(tmp_path / "theirs", "diffusers", tmp_path / "again")
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "again" / "tokenizer" / name).read_text() == (lab / "tokenizer" / name).read_text()


def test_a_vocabulary_in_one_file(tmp_path, lab):
    shutil.copytree(lab, tmp_path / "one")
    folder = tmp_path / "one" / "tokenizer"
    vocab = json.loads((folder / "vocab.json").read_text())
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    for content in ({"vocab": vocab, "merges": merges}, {"vocab": vocab, "merges": [m.split() for m in merges]}):
        (folder / "tokenizer.json").write_text(json.dumps({"model": content}))
        assert torch.equal(load(tmp_path / "one").tokenizer(PROMPTS), load(lab).tokenizer(PROMPTS))
    assert folder / "tokenizer.json" in locate(tmp_path / "one").files
    for broken in (
        "{",
        "{}",
        '{"model": {"vocab": {}, "merges": []}}',
        '{"model": {"vocab": {"a": 0}, "merges": [1]}}',
    ):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(UsageError, match=r"tokenizer\.json: (is not a CLIP vocabulary|not JSON)"):
            load(tmp_path / "one")


# Variants of folders in diffusers layout


def edit(path, change):
    tensors = change(load_file(path))
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)


def old_names(tensors):
    """The names of the VAE's attention in the published files of v1.5."""
    spell = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    for new, old in spell.items():
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    return tensors


def test_old_and_new_names_and_buffers_that_are_not_weights(tmp_path, lab):
    shutil.copytree(lab, tmp_path / "old")
    edit(tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors", old_names)
    positions = {"text_model.embeddings.position_ids": torch.arange(24)[None]}
    edit(tmp_path / "old" / "text_encoder" / "model.safetensors", lambda tensors: tensors | positions)
    assert_same_weights(load(tmp_path / "old"), load(lab))
    # transformers 5 names the same tensors without a prefix.
    edit(
        tmp_path / "old" / "text_encoder" / "model.safetensors",
        lambda tensors: {key.removeprefix("text_model."): tensor for key, tensor in tensors.items()},
    )
    assert_same_weights(load(tmp_path / "old"), load(lab))


def test_half_precision_and_pickles_are_read_if_there_is_nothing_better(tmp_path, lab):
    shutil.copytree(lab, tmp_path / "variant")
    unet = tmp_path / "variant" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(unet)
    save_file({key: t.half() for key, t in tensors.items()}, unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    vae = tmp_path / "variant" / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(vae), vae.with_suffix(".bin"))
    vae.unlink()
    assert_same_weights(load(tmp_path / "variant"), load(lab))
    unet.unlink()
    half = load(tmp_path / "variant").unet.state_dict()
    assert all(torch.equal(half[key], t.half().float()) for key, t in load(lab).unet.state_dict().items())


def settings(folder, component):
    path = folder / diffusers_layout.CONFIGS[component]
    return path, json.loads(path.read_text())


@pytest.mark.parametrize(
    ("component", "setting", "message"),
    [
        (
            "unet",
            {"use_linear_projection": True},
            r"use_linear_projection is True, but sdlab supports only False",
        ),
        ("unet", {"only_cross_attention": True}, "only_cross_attention is True"),
        ("vae", {"out_channels": 4}, "out_channels is 4, but sdlab supports only 3"),
        ("unet", {"in_channels": 9}, "this is an inpainting model"),
        ("unet", {"cross_attention_dim": 1024}, "this is Stable Diffusion 2.x"),
        ("unet", {"num_attention_heads": 5}, "num_attention_heads is 5"),
        ("unet", {"up_block_types": ["UpBlock2D"] * 2}, "up_block_types is"),
        ("text_encoder", {"hidden_act": "gelu"}, "hidden_act is 'gelu', but sdlab supports only 'quick_gelu'"),
        ("text_encoder", {"intermediate_size": 100}, "intermediate_size is 100, but sdlab supports only 512"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean is"),
        ("vae", {"use_quant_conv": False}, "use_quant_conv is False"),
        ("unet", {"attention_head_dim": [4, 8]}, r"attention_head_dim is \[4, 8\], but sdlab supports only the same"),
        ("unet", {"block_out_channels": [0, 8]}, "block_out_channels must be from 1 to 2,147,483,647, got 0"),
        ("unet", {"sample_size": 10**20}, "sample_size must be from 0 to"),
        ("unet", {"block_out_channels": [8] * 9}, "block_out_channels has 9 levels, but sdlab supports at most 8"),
        ("unet", {"block_out_channels": [2**30, 2**30]}, "UnetConfig.width must be at most 16,384"),
        ("vae", {"scaling_factor": float("nan")}, "VaeConfig.scale must be positive, got nan"),
        ("text_encoder", {"num_hidden_layers": 10**9}, "ClipTextConfig.layers must be at most 256"),
        ("unet", {"layers_per_block": "two"}, "layers_per_block must be of the same type as 2, got 'two'"),
        (
            "unet",
            {"block_out_channels": "wide"},
            r"block_out_channels must be of the same type as \[320, .*, got 'wide'",
        ),
        ("unet", {"block_out_channels": [32, "96", 128]}, "block_out_channels must be of the same type as"),
        ("unet", {"sample_size": None}, "sample_size must be of the same type as 64, got None"),
    ],
)
def test_settings_that_our_networks_do_not_compute_are_reported(tmp_path, lab, component, setting, message):
    shutil.copytree(lab, tmp_path / "other")
    path, values = settings(tmp_path / "other", component)
    path.write_text(json.dumps(values | setting))
    with pytest.raises(UsageError, match=message) as error:
        load(tmp_path / "other")
    assert str(tmp_path / "other") in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_are_left_out_are_those_of_version_1(tmp_path, narrow):
    export(narrow, "diffusers", tmp_path / "a")
    for component, fixed in diffusers_layout.FIXED.items():
        path, values = settings(tmp_path / "a", component)
        path.write_text(json.dumps({key: value for key, value in values.items() if key not in fixed}))
    path, values = settings(tmp_path / "a", "vae")  # files of v1.4 and v1.5 know no scale
    path.write_text(json.dumps({k: v for k, v in values.items() if k not in ("scaling_factor", "shift_factor")}))
    assert replace(load(tmp_path / "a").config, name="narrow") == NARROW


def test_the_configuration_of_version_1_5_is_known_by_its_settings(tmp_path):
    diffusers_layout.write_config(tmp_path, SD15)
    assert diffusers_layout.read_config(tmp_path) == SD15


def test_settings_survive_for_other_sizes(tmp_path):
    config = replace(
        SD15,
        name=tmp_path.name,
        image_size=48,
        vae=VaeConfig(width=8, multipliers=(1, 3), residual_blocks=3, groups=4, scale=0.5, shift=-0.25),
        unet=UnetConfig(width=8, multipliers=(1, 2, 5), residual_blocks=1, attention_rates=(4,), heads=4, groups=4),
        levels=replace(SD15.levels, betas="linear", end=0.02, n=500),
        prediction="v",
    )
    diffusers_layout.write_config(tmp_path, config)
    assert diffusers_layout.read_config(tmp_path) == config
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(tmp_path / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(tmp_path / "vae"))
    assert unet.state_dict().keys() == diffusers_layout.names(config)["unet"].keys()
    assert vae.state_dict().keys() == diffusers_layout.names(config)["vae"].keys()


# Existing files are kept


@pytest.mark.parametrize("layout", ["diffusers", "sdlab"])
def test_a_folder_with_content_is_not_overwritten(tmp_path, layout, scenes):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(UsageError, match="mine: already exists"):
        export(scenes, layout, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_existing_file_is_not_overwritten(tmp_path, scenes):
    for name, layout in (("a.safetensors", "original"), ("folder", "diffusers")):
        (tmp_path / name).write_text("keep")
        with pytest.raises(UsageError, match=f"{name}: already exists"):
            export(scenes, layout, tmp_path / name)
        assert (tmp_path / name).read_text() == "keep"


def test_an_empty_folder_is_filled_and_missing_ones_are_made(tmp_path, scenes):
    (tmp_path / "empty").mkdir()
    export(scenes, "sdlab", tmp_path / "empty")
    export(scenes, "original", tmp_path / "new" / "deep" / "lab.safetensors")
    assert_same_weights(load(tmp_path / "empty"), load(scenes))
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["lab.safetensors"]


def test_the_original_layout_is_one_safetensors_file(tmp_path, scenes):
    with pytest.raises(UsageError, match=r"must end in \.safetensors"):
        export(scenes, "original", tmp_path / "lab.ckpt")


@pytest.mark.parametrize("layout", ["diffusers", "sdlab", "original"])
def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch, layout, scenes):
    real, calls = safetensors_file.fetch, iter(range(10_000))

    def full(tensor):
        if next(calls) > 100:
            raise OSError(28, "No space left on device")
        return real(tensor)

    monkeypatch.setattr(safetensors_file, "fetch", full)
    with pytest.raises(RunError, match="no space left on device"):
        export(scenes, layout, tmp_path / "lab.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_missing_or_damaged_leaves_nothing(tmp_path, narrow):
    with pytest.raises(UsageError, match="unknown model 'scnes'"):
        export("scnes", "sdlab", tmp_path / "out")
    narrow.write_bytes(narrow.read_bytes()[:-1])
    with pytest.raises(SdlabError, match="not a complete safetensors file"):
        export(narrow, "sdlab", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# The command


def test_the_command_writes_in_the_requested_dtype_and_prints_notes(tmp_path):
    out = tmp_path / "lab"
    done = CliRunner().invoke(app, ["export", "scenes", "--to", "diffusers", str(out), "--dtype", "float16"])
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(out)]
    assert "shift_factor" in done.stderr
    assert "vision tower" in done.stderr
    tensors = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_further_u_nets_are_exported_or_reported(tmp_path):
    folder = write_tiny(tmp_path / "tiny", early=True)
    assert export(folder, "sdlab", tmp_path / "copy", torch.bfloat16) == []
    found, wanted = (load_file(path / "unet_early.safetensors") for path in (tmp_path / "copy", folder))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor.bfloat16()) for name, tensor in wanted.items())
    for layout, out in (("diffusers", "theirs"), ("original", "file.safetensors")):
        notes = export(folder, layout, tmp_path / out)
        assert "unet_early.safetensors was not exported, because this layout holds one U-Net" in notes


def test_a_damaged_further_u_net_is_reported_before_anything_is_written(tmp_path):
    folder = write_tiny(tmp_path / "tiny", early=True)
    shutil.copy(folder / "vae.safetensors", folder / "unet_early.safetensors")
    with pytest.raises(RunError, match=r"unet_early.safetensors: unknown tensor"):
        export(folder, "sdlab", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
