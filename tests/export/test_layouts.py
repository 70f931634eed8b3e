"""Adapter files in every layout, read back by the stock loaders: no key left over, and the same network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline
from families import ATTENTION, FEED_FORWARD, adapt, adapter, deltas, effective, facts, latents, network, pipeline
from peft import PeftModel
from safetensors.torch import save_file

from limner.errors import ExportError
from limner.export import lora
from limner.export.adapter import Adapter

# What the stock pipelines say of the toy folders, and of numpy.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The configuration file of this scheduler"),
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

FAMILIES = ("sd", "sdxl", "sd3", "flux", "flux2", "z_image", "qwen_image")


def write(folder: Path, target: str, net: torch.nn.Module, family: str) -> None:
    """The file, with no more of a header than its reader needs."""
    own = adapter(net, family)
    folder.mkdir()
    metadata = {"format": "pt"}
    if target == "diffusers":
        tensors, about = lora.diffusers_layout(own)
        metadata["lora_adapter_metadata"] = json.dumps(about)
    else:
        layout = {"kohya": lora.kohya_layout, "comfyui": lora.comfyui_layout}[target]
        tensors = layout(own, family, *facts(net))
    save_file(tensors, folder / "pytorch_lora_weights.safetensors", metadata)


def check(folder: Path, base: Path, family: str, target: str, kind: str, targets: list[str]) -> None:
    taught = pipeline(base)
    adapt(network(taught, family), kind, targets)
    write(folder, target, network(taught, family), family)
    stock = pipeline(base)
    stock.load_lora_weights(folder)
    ours, theirs = deltas(network(taught, family)), deltas(network(stock, family))
    assert ours.keys() == theirs.keys()
    assert len(ours) > 4
    for name, delta in ours.items():
        torch.testing.assert_close(theirs[name], delta, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(latents(stock), latents(taught), atol=1e-4, rtol=1e-4)
    assert (latents(stock) - latents(pipeline(base))).abs().max() > 1e-3  # an adapter that does nothing proves nothing


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_diffusers(folders: dict[str, Path], tmp_path: Path, family: str, kind: str) -> None:
    check(tmp_path / "out", folders[family], family, "diffusers", kind, ATTENTION + FEED_FORWARD)


@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    check(tmp_path / "out", folders[family], family, "comfyui", "lora", ATTENTION + FEED_FORWARD)


@pytest.mark.parametrize("family", ["sd", "sdxl", "flux2", "z_image", "qwen_image"])
def test_kohya(folders: dict[str, Path], tmp_path: Path, family: str) -> None:
    check(tmp_path / "out", folders[family], family, "kohya", "lora", ATTENTION + FEED_FORWARD)


@pytest.mark.parametrize("family", ["flux2", "z_image"])
@pytest.mark.parametrize("target", ["diffusers", "comfyui"])
def test_lokr(folders: dict[str, Path], tmp_path: Path, family: str, target: str) -> None:
    check(tmp_path / "out", folders[family], family, target, "lokr", ATTENTION)


@pytest.mark.parametrize("kind", ["lora", "dora", "lokr", "loha", "oft"])
@pytest.mark.parametrize("family", ["sd", "flux"])
def test_peft_reads_every_kind(folders: dict[str, Path], tmp_path: Path, family: str, kind: str) -> None:
    net = network(pipeline(folders[family]), family)
    adapt(net, kind, ATTENTION)
    tensors, config = lora.peft_layout(adapter(net, family))
    save_file(tensors, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    read = PeftModel.from_pretrained(network(pipeline(folders[family]), family), tmp_path)
    ours, theirs = effective(net), effective(read.base_model.model)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(theirs[name], weight, atol=1e-6, rtol=1e-5)


def test_kohya_flux_at_its_true_widths() -> None:
    """diffusers' converter knows FLUX.1 by its widths alone, so the toy network does not do."""
    wide, narrow, rank = 12288, 3072, 2
    double = [f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj")]
    single = [f"single_transformer_blocks.3.attn.{name}" for name in ("to_q", "to_v")]
    rows = dict.fromkeys([*double, *single, "single_transformer_blocks.3.attn.to_k"], narrow)
    rows |= {f"transformer_blocks.0.attn.add_{name}_proj": narrow for name in "qv"}
    rows["single_transformer_blocks.3.proj_mlp"] = wide
    made = {
        module: {"lora_A.weight": torch.randn(rank, narrow), "lora_B.weight": torch.randn(rows[module], rank)}
        for module in [*double, *single, "single_transformer_blocks.3.proj_mlp"]
    }
    own = Adapter("lora", "transformer", rank, 0.5, made)
    tensors = lora.kohya_layout(own, "flux", rows.__getitem__, list(rows))
    assert tensors["lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight"].shape == (3 * rank, narrow)
    assert tensors["lora_unet_single_blocks_3_linear1.lora_up.weight"].shape == (3 * narrow + wide, 3 * rank)
    read = FluxPipeline.lora_state_dict(tensors)
    for module in rows:
        up, down = (read[f"transformer.{module}.lora_{side}.weight"] for side in "BA")
        if module in made:
            expected = made[module]["lora_B.weight"] @ made[module]["lora_A.weight"] * 0.5
            torch.testing.assert_close(up @ down, expected, atol=1e-5, rtol=1e-5)
        else:  # fused with those that learned
            assert not (up @ down).any()


def test_kohya_sd3_is_fused_as_sd_scripts_fuses_it(folders: dict[str, Path]) -> None:
    net = network(pipeline(folders["sd3"]), "sd3")
    adapt(net, "lora", ["to_q", "to_v", "to_add_out", "ff.net.2"])
    tensors = lora.kohya_layout(adapter(net, "sd3"), "sd3", *facts(net))
    name = "lora_unet_joint_blocks_1_x_block_attn_qkv"
    fused = tensors[f"{name}.lora_up.weight"] @ tensors[f"{name}.lora_down.weight"]
    fused *= tensors[f"{name}.alpha"] / len(tensors[f"{name}.lora_down.weight"])
    parts = deltas(net)
    query, key, value = fused.chunk(3)
    torch.testing.assert_close(query, parts["transformer_blocks.1.attn.to_q"])
    assert not key.any()
    torch.testing.assert_close(value, parts["transformer_blocks.1.attn.to_v"])
    stems = {key.partition(".")[0].removeprefix("lora_unet_joint_blocks_0_") for key in tensors if "blocks_0" in key}
    assert stems == {"x_block_attn_qkv", "x_block_attn2_qkv", "context_block_attn_proj", "x_block_mlp_fc2"}


@pytest.mark.parametrize("kind", ["dora", "lokr", "loha"])
def test_lycoris_names_and_formulas(folders: dict[str, Path], kind: str) -> None:
    """The weight that LyCORIS' formulas make of the file, without peft: Yeh et al. 2023, arXiv 2309.14859."""
    net = network(pipeline(folders["sd"]), "sd")
    adapt(net, kind, ["to_q", "to_out.0", "proj_in"], rank=2)
    tensors = lora.kohya_layout(adapter(net, "sd"), "sd", *facts(net))
    for module, weight in effective(net).items():
        base = net.get_submodule(module).base_layer.weight
        part = {
            key.partition(".")[2]: tensor
            for key, tensor in tensors.items()
            if key.partition(".")[0] == "lora_unet_" + module.replace(".", "_")
        }
        if kind == "dora":
            rank = len(part["lora_down.weight"])
            added = part["lora_up.weight"].flatten(1) @ part["lora_down.weight"].flatten(1) * part["alpha"] / rank
            whole = base.flatten(1) + added
            assert part["dora_scale"].shape == (len(base), *[1] * (base.ndim - 1))
            whole = whole * part["dora_scale"].flatten(1) / whole.norm(dim=1, keepdim=True)
        elif kind == "loha":
            added = (part["hada_w1_a"] @ part["hada_w1_b"]) * (part["hada_w2_a"] @ part["hada_w2_b"])
            whole = base.flatten(1) + added * part["alpha"] / len(part["hada_w1_b"])
        else:
            left = part["lokr_w1"]
            right = part["lokr_w2"] if "lokr_w2" in part else part["lokr_w2_a"] @ part["lokr_w2_b"]
            # Where both are whole LyCORIS leaves alpha out, so the scale must not be in it.
            scale = 1 if "lokr_w2" in part else part["alpha"] / len(part["lokr_w2_b"])
            whole = base.flatten(1) + torch.kron(left, right.flatten(1)) * scale
        torch.testing.assert_close(whole.reshape(base.shape), weight, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("target", "kind", "family"),
    [
        ("kohya", "lora", "sd3"),
        ("kohya", "dora", "sdxl"),
        ("comfyui", "loha", "flux"),
        ("kohya", "oft", "sd"),
        ("diffusers", "loha", "sd"),
        ("diffusers", "lokr", "sdxl"),
        ("comfyui", "dora", "sdxl"),
    ],
)
def test_what_cannot_be_proven_is_refused(target: str, kind: str, family: str) -> None:
    with pytest.raises(ExportError, match=r"diffusers does not read|cannot be written") as refused:
        lora.refuse(target, kind, family, verify=True)
    assert "--merge" in refused.value.hint
    if "does not read" in str(refused.value):
        lora.refuse(target, kind, family, verify=False)
    else:
        with pytest.raises(ExportError):
            lora.refuse(target, kind, family, verify=False)
