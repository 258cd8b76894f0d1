"""Files in the forms that other tools write and read: shards, variants, wrapped names, extra tensors, matrices."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from sdlab.commands.app import app
from sdlab.model.clip import ClipText
from sdlab.model.config import SD15, ClipTextConfig, ModelConfig, UnetConfig, VaeConfig
from sdlab.model.diffusion import Unet
from sdlab.model.tokenizer import train_vocabulary
from sdlab.model.vae import Vae
from sdlab.system.errors import RunError, SdlabError, UsageError
from sdlab.weights import layout_diffusers
from sdlab.weights.export import export
from sdlab.weights.layouts import CONFIG_KEY
from sdlab.weights.locate import ModelSource, locate
from sdlab.weights.model_folder import save_config, save_part
from sdlab.weights.model_loader import load, open_model
from sdlab.weights.vocabulary import write_vocabulary

VOCAB, MERGES = train_vocabulary(["a red circle above a blue square", "two green triangles"] * 3, 600)
CONFIG = ModelConfig(
    name="tiny",
    image_size=32,
    text=ClipTextConfig(vocab_size=len(VOCAB), context_length=16, width=16, layers=2, heads=2),
    vision=None,
    vae=VaeConfig(width=8, multipliers=(1, 2), residual_blocks=1, groups=4),
    unet=UnetConfig(
        width=8, multipliers=(1, 2), residual_blocks=1, attention_rates=(2,), heads=2, context_width=16, groups=4
    ),
    levels=SD15.levels,
    prediction="eps",
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model in every layout, written once; tests change copies."""
    written = tmp_path_factory.mktemp("written")
    folder = written / "own"
    save_config(folder, CONFIG)
    write_vocabulary(folder, VOCAB, MERGES)
    torch.manual_seed(0)
    for part, module in (("clip", ClipText(CONFIG.text)), ("vae", Vae(CONFIG.vae)), ("unet", Unet(CONFIG.unet))):
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        save_part(folder / f"{part}.safetensors", module, torch.float32)
    export(folder, "diffusers", written / "folder")
    export(folder, "original", written / "single.safetensors")
    return written


@pytest.fixture
def own(written, tmp_path):
    """A model folder of sdlab in which no weight is zero."""
    return shutil.copytree(written / "own", tmp_path / "own")


@pytest.fixture
def folder(written, tmp_path):
    """The same in diffusers layout."""
    return shutil.copytree(written / "folder", tmp_path / "folder")


@pytest.fixture
def single(written, own):
    """The same as one file, beside its vocabulary."""
    return shutil.copy(written / "single.safetensors", own / "single.safetensors")


UNET, VAE = "unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"
CLIP = "text_encoder/model.safetensors"


def assert_same(found, wanted):
    found, wanted = load(found), load(wanted)
    for part in ("text", "vae", "unet"):
        left, right = (getattr(model, part).state_dict() for model in (found, wanted))
        assert all(torch.equal(left[name], tensor) for name, tensor in right.items())


def change(path, edit, save_as=None):
    """Replace the tensors of a file by `edit` of them, and keep its metadata."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file({name: t.contiguous() for name, t in edit(load_file(path)).items()}, save_as or path, metadata=metadata)


def split(path, index_name, stem, count=2, suffix="safetensors"):
    """Split a weight file into shards with an index, as diffusers and transformers do. Returns the index."""
    weights = load_file(path)
    names = sorted(weights)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for i in range(count):
        part, file = names[i::count], f"{stem}-{i + 1:05}-of-{count:05}.{suffix}"
        tensors = {name: weights[name] for name in part}
        if suffix == "bin":
            torch.save(tensors, path.parent / file)
        else:
            save_file(tensors, path.parent / file)
        index["weight_map"] |= dict.fromkeys(part, file)
    path.unlink()
    (path.parent / index_name).write_text(json.dumps(index))
    return path.parent / index_name


# Shards


@pytest.mark.parametrize(
    ("file", "index", "stem", "suffix"),
    [
        (UNET, "diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model", "safetensors"),
        (UNET, "diffusion_pytorch_model.safetensors.index.fp16.json", "diffusion_pytorch_model.fp16", "safetensors"),
        (UNET, "diffusion_pytorch_model.fp16.safetensors.index.json", "diffusion_pytorch_model", "safetensors"),
        (VAE, "diffusion_pytorch_model.bin.index.json", "diffusion_pytorch_model", "bin"),
        (CLIP, "model.safetensors.index.json", "model", "safetensors"),
        (CLIP, "pytorch_model.bin.index.json", "pytorch_model", "bin"),
    ],
)
def test_shards_are_read_and_are_files_of_the_model(own, folder, file, index, stem, suffix):
    path = split(folder / file, index, stem, 3, suffix)
    assert_same(folder, own)
    shards = {p for p in path.parent.iterdir() if "-of-" in p.name}
    assert shards | {path} <= set(locate(folder).files)
    assert len(shards) == 3


def test_a_single_file_may_be_in_shards(own, single):
    metadata = {CONFIG_KEY: CONFIG.to_json()}
    path = split(single, "single.safetensors.index.json", "single")
    first = next(own.glob("single-00001*"))
    save_file(load_file(first), first, metadata=metadata)
    assert_same(path, own)


INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda m: m | {"conv_in.bias": "../vae/diffusion_pytorch_model.safetensors"},
            "is not the name of a weight file",
        ),
        (lambda m: m | {"conv_in.bias": "/etc/passwd"}, "'/etc/passwd' is not the name of a weight file in the same"),
        (lambda m: m | {"conv_in.bias": ".."}, "'..' is not the name"),
        (lambda m: m | {"conv_in.bias": INDEX}, "is not the name of a weight file"),
        (lambda m: m | {"conv_in.bias": "gone-00003.safetensors"}, r"the shard 'gone-00003.safetensors' not found in"),
        (lambda m: m | {"conv_in.bias": "a\0b"}, r"the shard 'a\\x00b' not found in"),
        (lambda m: m | {"conv_in.bias": "x" * 300, "conv_in.weight": "y"}, r"the shard 'x+' and 1 more not found in"),
        (lambda m: m | {"conv_in.bias": 3}, "its `weight_map` must map tensor names to file names"),
        (lambda m: {}, "its `weight_map` must map tensor names to file names"),
        (lambda m: [], "its `weight_map` must map tensor names to file names"),
        (
            lambda m: m | {"more.weight": m["conv_in.bias"]},
            r"tensor 'more\.weight' is missing, but diffusion_py.* says",
        ),
        (lambda m: {k: v for k, v in m.items() if v == m["conv_in.bias"]}, r"tensor '.*' is missing"),
    ],
)
def test_an_index_that_does_not_fit_is_one_line(folder, edit, message):
    path = split(folder / UNET, INDEX, "diffusion_pytorch_model")
    index = json.loads(path.read_text())
    path.write_text(json.dumps({"weight_map": edit(index["weight_map"])}))
    with pytest.raises(SdlabError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[", "[" * 100_000, "3", '{"weight_map": ' + "9" * 5000 + "}", "\xff\xfe\xfa"])
def test_an_index_that_is_not_json_is_one_line(folder, text):
    split(folder / UNET, INDEX, "diffusion_pytorch_model").write_text(text, encoding="latin-1")
    with pytest.raises(UsageError, match=r"index\.json: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


# Variants


@pytest.mark.parametrize("variant", ["fp16", "bf16", "fp32", "non_ema"])
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_folder_that_has_only_a_variant_is_read(own, folder, variant, suffix):
    for file in (UNET, VAE, CLIP):
        path, weights = folder / file, load_file(folder / file)
        path.unlink()
        if suffix == "bin":
            stem = path.stem.replace("model", "pytorch_model") if file == CLIP else path.stem
            torch.save(weights, path.with_name(f"{stem}.{variant}.bin"))
        else:
            save_file(weights, path.with_name(f"{path.stem}.{variant}.safetensors"))
    assert_same(folder, own)
    assert any("before averaging" in note for note in open_model(folder).notes) == (variant == "non_ema")


def test_the_best_file_is_preferred(folder):
    path = folder / UNET
    for variant in ("bf16", "non_ema", "fp16"):
        for name in (f"{path.stem}.{variant}.safetensors", f"{path.stem}.{variant}.bin"):
            path.with_name(name).touch()
    path.with_suffix(".bin").touch()
    order = []
    while found := [file for name in layout_diffusers.WEIGHTS["unet"] if (file := path.with_name(name)).exists()]:
        assert locate(folder).weights[2] == found[0]
        order.append(found[0].name.removeprefix("diffusion_pytorch_model."))
        found[0].unlink()
    halves = [f"{variant}.{suffix}" for variant in ("fp16", "bf16", "non_ema") for suffix in ("safetensors", "bin")]
    assert order == ["safetensors", "bin", *halves]


# Names of wrapped networks


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "_orig_mod.module.{}", "module._orig_mod.module.{}"])
def test_names_of_wrapped_networks(own, folder, single, wrap, tmp_path):
    plain = own / "plain.safetensors"
    change(single, dict, plain)
    for path in (folder / UNET, folder / VAE, folder / CLIP, single):
        change(path, lambda tensors: {wrap.format(name): tensor for name, tensor in tensors.items()})
    assert_same(folder, own)
    assert_same(single, plain)


def test_a_wrapper_inside_a_name(own, single):
    plain = own / "plain.safetensors"
    change(single, dict, plain)
    inside = "model.diffusion_model."
    change(single, lambda tensors: {k.replace(inside, inside + "_orig_mod."): t for k, t in tensors.items()})
    assert_same(single, plain)


def test_a_tensor_with_and_without_a_wrapper_is_refused(folder):
    change(folder / UNET, lambda tensors: tensors | {"module.conv_in.bias": torch.ones(8)})
    with pytest.raises(RunError, match=r"'conv_in.bias' and 'module.conv_in.bias' are the same tensor"):
        load(folder)


# Tensors that no network uses


EXTRAS = {
    "single": [
        "cond_stage_model.transformer.text_projection.weight", "cond_stage_model.logit_scale", "lvlb_weights",
        "first_stage_model.model_ema.decay", "first_stage_model.loss.logvar", "scale_factor", "global_step",
        "cond_stage_model.transformer.text_model.embeddings.position_ids", "model_ema.num_updates",
        "cond_stage_model.transformer.vision_model.embeddings.class_embedding", "sqrt_recip_alphas_cumprod",
    ],
    CLIP: ["text_projection.weight", "text_model.embeddings.position_ids", "logit_scale", "vision_model.x.bias"],
    VAE: ["loss.discriminator.main.0.weight", "model_ema.decay", "scale_factor"],
    UNET: ["n_averaged", "num_updates"],
}  # fmt: skip


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in EXTRAS.items() for name in names])
def test_tensors_that_no_network_uses_are_ignored_and_named(own, folder, single, file, name):
    plain = own / "plain.safetensors"
    change(single, dict, plain)
    model, path = (single, single) if file == "single" else (folder, folder / file)
    change(path, lambda tensors: tensors | {name: torch.ones(3)})
    assert_same(model, plain)
    assert open_model(model).notes == (f"{path.name}: ignored 1 tensor that no network uses: {name!r}",)


def test_extra_tensors_of_sdlab_folders(own):
    change(own / "clip.safetensors", lambda tensors: tensors | {"text_projection.weight": torch.ones(3)})
    change(own / "unet.safetensors", lambda tensors: tensors | {f"model_ema.{i}": torch.ones(1) for i in range(9)})
    text, unet = open_model(own).notes
    assert text == "clip.safetensors: ignored 1 tensor that no network uses: 'text_projection.weight'"
    assert unet.startswith("unet.safetensors: ignored 9 tensors that no network uses: 'model_ema.0', 'model_ema.1', ")
    assert unet.endswith("'model_ema.5' and 3 more")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("single", "model.diffusion_model.label_emb.0.0.weight"),
        ("single", "first_stage_model.quantize.embedding.weight"),
        ("single", "cond_stage_model.transformer.text_model.encoder.layers.2.layer_norm1.bias"),
        (UNET, "add_embedding.linear_1.weight"),
        (UNET, "down_blocks.0.motion_modules.0.proj_in.weight"),
        (VAE, "decoder.mid_block.motion.weight"),
        (CLIP, "text_model.encoder.layers.2.layer_norm1.bias"),
    ],
)
def test_a_layer_that_sdlab_does_not_compute_is_refused(folder, single, file, name):
    model, path = (single, single) if file == "single" else (folder, folder / file)
    change(path, lambda tensors: tensors | {name: torch.ones(3)})
    with pytest.raises(RunError, match=f"unknown tensor '{name}'"):
        load(model)


def test_a_foreign_file_is_recognised_beside_a_configuration_too(single):
    change(single, lambda tensors: tensors | {"control_model.input_blocks.0.0.weight": torch.ones(3)})
    with pytest.raises(UsageError, match="this is a ControlNet"):
        load(single)


@pytest.mark.parametrize(("markers", "zero_snr"), [(["v_pred"], False), (["v_pred", "ztsnr"], True)])
def test_markers_of_the_prediction_type_are_followed(single, markers, zero_snr):
    change(single, lambda tensors: tensors | {name: torch.zeros(0) for name in markers})
    model = open_model(single)
    assert (model.config.prediction, model.config.levels.zero_snr) == ("v", zero_snr)
    assert len(model.notes) == 1
    assert "predicts v" in model.notes[0]


# Matrices in place of 1 × 1 convolutions


@pytest.mark.parametrize("axes", [2, 3])
def test_one_by_one_convolutions_may_be_matrices(own, folder, single, axes):
    plain = own / "plain.safetensors"
    change(single, dict, plain)
    counts = []

    def flat(tensors):
        names = [n for n in tensors if (".mid.attn_1." in n or ".proj_" in n) and tensors[n].shape[2:] == (1, 1)]
        counts.append(len(names))
        return tensors | {name: tensors[name].flatten(axes - 1) for name in names}

    change(single, flat)
    assert counts[0] > 8
    assert_same(single, plain)
    weights = load_file(single)
    torch.save(weights, single.with_suffix(".ckpt"))
    found = {n for n, t in weights.items() if t.dim() == axes and "mid.attn_1" in n}
    assert len(found) == 8
    for file in (folder / UNET, folder / VAE):
        change(
            file,
            lambda tensors: {
                n: t.flatten(axes - 1) if t.shape[2:] == (1, 1) and ".proj_" in n else t for n, t in tensors.items()
            },
        )
    assert_same(folder, own)


@pytest.mark.parametrize(
    "names",
    [
        {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0", "norm": "group_norm"},
        {"q": "query", "k": "key", "v": "value", "proj_out": "proj_attn", "norm": "group_norm"},
    ],
)
def test_attention_converted_back_from_diffusers_may_keep_its_names(own, single, names):
    plain = own / "plain.safetensors"
    change(single, dict, plain)

    def renamed(name):
        front, attention, rest = name.partition(".mid.attn_1.")
        layer, dot, last = rest.rpartition(".")
        return f"{front}{attention}{names[layer]}{dot}{last}" if attention else name

    change(single, lambda tensors: {renamed(name): tensor for name, tensor in tensors.items()})
    assert sum(".attn_1.group_norm." in name for name in load_file(single)) == 4
    assert_same(single, plain)


def test_kernels_in_diffusers_layout_are_exported_as_matrices_from_any_strides(own, folder):
    """The VAE of a checkpoint may have its kernels in channels-last format."""
    weights = load_file(folder / VAE)
    names = [name for name in weights if ".attentions.0.to_" in name and name.endswith("weight")]
    assert len(names) == 8
    kernels = {n: weights[n].T.contiguous().T[:, :, None, None] if n in names else t for n, t in weights.items()}
    (folder / VAE).unlink()
    torch.save(kernels, (folder / VAE).with_suffix(".bin"))
    assert_same(folder, own)
    export(folder, "diffusers", own / "again")
    again = load_file(own / "again" / VAE)
    assert all(torch.equal(again[name], tensor) for name, tensor in weights.items())


# Configurations


def settings(folder, component, **values):
    path = folder / layout_diffusers.CONFIGS[component]
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_setting_may_be_given_for_each_level(own, folder):
    settings(folder, "unet", attention_head_dim=[2, 2], layers_per_block=[1, 1], cross_attention_dim=[16, 16],
             transformer_layers_per_block=[1, 1], only_cross_attention=[False, False])  # fmt: skip
    assert_same(folder, own)


def test_zero_terminal_snr_is_kept_by_every_layout(own, folder, tmp_path):
    settings(folder, "scheduler", rescale_betas_zero_snr=True, prediction_type="v_prediction")
    wanted = replace(CONFIG, name="folder", prediction="v", levels=replace(CONFIG.levels, zero_snr=True))
    assert open_model(folder).config == wanted
    assert open_model(folder).config.noise_schedule().sigma_max == 4096
    export(folder, "sdlab", tmp_path / "a")
    export(tmp_path / "a", "diffusers", tmp_path / "b")
    assert open_model(tmp_path / "a").config == wanted
    assert open_model(tmp_path / "b").config == replace(wanted, name="b")
    files = {"vocab": own / "vocab.json", "merges": own / "merges.txt"}
    export(tmp_path / "b", "original", tmp_path / "c.safetensors")
    assert open_model(ModelSource(str(tmp_path / "c.safetensors"), **files)).config == replace(wanted, name="b")


# File systems that cannot map files into memory


def test_weights_are_read_where_files_cannot_be_mapped(own, monkeypatch):
    wanted = load(own).unet.state_dict()

    def refuse(*_, **__):
        raise OSError(19, "No such device")

    monkeypatch.setattr("sdlab.weights.stored_tensor.mmap.mmap", refuse)
    found = load(own).unet.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


# Notes reach the user


def test_commands_report_ignored_tensors(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change(own / "unet.safetensors", lambda tensors: tensors | {"model_ema.decay": torch.ones(1)})
    (tmp_path / "sweep.toml").write_text(
        f'model = "{own}"\nimages = 1\nmetrics = []\n[prompts]\nlist = ["a"]\n[cells]\nsampler = "ddim"\nsteps = 1\n'
    )
    for command in (
        ["generate", "a circle", "--model", str(own), "--steps", "1"],
        ["sweep", "sweep.toml", "--dry-run"],
        ["export", str(own), "--to", "diffusers", "out/exported"],
    ):
        done = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
        assert done.exit_code == 0, done.output
        note = "unet.safetensors: ignored 1 tensor that no network uses: 'model_ema.decay'"
        assert note in " ".join(done.output.split())
