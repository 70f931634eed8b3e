"""Adapter files in the layouts that people have: read, merged, gone on from, and refused by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, PeftModel, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny import prior_folder
from tiny_families import family_folder
from torch import nn

from limner.config import AdapterConfig
from limner.errors import PriorError
from limner.export import lora as layouts
from limner.export.adapter import adapter_of
from limner.priors import adapters
from limner.priors.lora_files import num_text, read
from limner.priors.lora_layers import KINDS, plain_layers
from limner.priors.lora_start import Start
from limner.priors.open import open_prior

FAMILIES = {
    "sd": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
    "flux2": "Flux2KleinPipeline",
    "z_image": "ZImagePipeline",
    "qwen_image": "QwenImagePipeline",
}
UNETS = ("sd", "sdxl")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    ground = tmp_path_factory.mktemp("families")
    other = {"flux2": "flux2_klein"}
    made = {name: family_folder(ground / name, other.get(name, name)) for name in FAMILIES if name != "sd"}
    return {"sd": prior_folder(ground / "sd", "eps"), **made}


def network(folders: dict[str, Path], family: str) -> Any:
    return open_prior(str(folders[family])).network


def targets(net: nn.Module, kind: str, family: str) -> list[str]:
    """The linear layers of the blocks and, for UNets and what can take them, convolutions."""
    layers = plain_layers(net)
    some = [name for name in layers if re.search(r"block|layers\.|refiner|norm_out", name)]
    return [name for name in some if isinstance(layers[name], nn.Linear) or (family in UNETS and kind != "oft")]


def teach(net: nn.Module, kind: str, names: list[str], **more: Any) -> nn.Module:
    """The network with an adapter of random weights in these layers, through peft alone."""
    config: Any = {
        "lora": lambda: LoraConfig(r=4, lora_alpha=2, target_modules=names, **more),
        "dora": lambda: LoraConfig(r=4, lora_alpha=2, target_modules=names, use_dora=True, **more),
        "loha": lambda: LoHaConfig(r=4, alpha=2, target_modules=names, **more),
        "lokr": lambda: LoKrConfig(r=4, alpha=2, target_modules=names, **more),
        "oft": lambda: OFTConfig(r=0, oft_block_size=4, target_modules=names, **more),
    }[kind]()
    net = inject_adapter_in_model(config, net)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
    return net


def merged(net: Any) -> dict[str, torch.Tensor]:
    """The weights of a taught network's layers as peft merges them."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in net.modules():
        if isinstance(module, BaseTunerLayer):
            module.merge()  # type: ignore[operator]
    return {name: layer.weight.detach() for name, layer in plain_layers(net).items()}  # type: ignore[misc]


def stock(folder: Path, net: Any, family: str, header: bool = True) -> Path:
    """As diffusers' own training scripts save."""
    pipeline, part = getattr(diffusers, FAMILIES[family]), "unet" if family in UNETS else "transformer"
    about = _collate_lora_metadata({part: net}) if header else {}
    state = get_peft_model_state_dict(net)
    if not header:  # as before there was one: alpha was the rank
        state = {name: tensor * 0.5 if "lora_B" in name else tensor for name, tensor in state.items()}
    pipeline.save_lora_weights(folder, **{f"{part}_lora_layers": state}, **about)
    return folder


def peft(folder: Path, net: Any, family: str) -> Path:
    """As PeftModel.save_pretrained writes."""
    state = get_peft_model_state_dict(net)
    folder.mkdir()
    save_file(
        {f"base_model.model.{name}": tensor for name, tensor in state.items()}, folder / "adapter_model.safetensors"
    )
    net.peft_config["default"].save_pretrained(folder)
    return folder


def exported(target: str) -> Callable[[Path, Any, str], Path]:
    """A layout of limner's export, which the stock loaders prove there."""

    def write(folder: Path, net: Any, family: str) -> Path:
        own = adapter_of(net, "unet" if family in UNETS else "transformer")
        layers = plain_layers(net)
        layout = layouts.kohya_layout if target == "kohya" else layouts.comfyui_layout
        names = sorted(
            {
                name.partition(".lora_")[0].removesuffix(".base_layer")
                for name, module in net.named_modules()
                if module._parameters and ".lora_" not in name and ".hada" not in name and ".lokr" not in name
            }
        )
        folder.mkdir()
        file = folder / "one.safetensors"
        save_file(layout(own, family, lambda name: layers[name].weight.shape[0], names), file)  # type: ignore[union-attr,arg-type,return-value]
        return file

    return write


WRITERS: dict[str, Callable[..., Path]] = {
    "diffusers": stock,
    "diffusers without header": lambda *given: stock(*given, header=False),
    "peft": peft,
    "kohya": exported("kohya"),
    "comfyui": exported("comfyui"),
}
CASES = [
    (layout, kind, family) for layout in ("diffusers", "kohya", "comfyui") for family in FAMILIES for kind in ("lora",)
]
CASES += [("diffusers without header", "lora", "sd"), ("diffusers", "dora", "sd"), ("diffusers", "dora", "flux")]
CASES += [("kohya", kind, family) for family in UNETS for kind in ("dora", "loha", "lokr")]
CASES += [("comfyui", kind, "qwen_image") for kind in ("loha", "lokr")]
CASES += [("peft", kind, family) for family in ("sd", "qwen_image") for kind in KINDS]


@pytest.mark.parametrize(("layout", "kind", "family"), CASES)
def test_a_file_is_merged_as_peft_merges_it(
    folders: dict[str, Path], tmp_path: Path, layout: str, kind: str, family: str
) -> None:
    net = network(folders, family)
    names = targets(net, kind, family)
    taught = teach(net, kind, names)
    file = WRITERS[layout](tmp_path / "out", taught, family)
    wanted = merged(taught)
    fresh = network(folders, family)
    before = {name: layer.weight.clone() for name, layer in plain_layers(fresh).items()}  # type: ignore[operator]
    adapters.merge(fresh, [(read(file, fresh, family), 1.0)])
    after = {name: layer.weight for name, layer in plain_layers(fresh).items()}
    for name, weight in wanted.items():
        torch.testing.assert_close(after[name], weight, atol=1e-5, rtol=1e-5)
    changed = {name for name in before if not torch.equal(before[name], after[name])}  # type: ignore[arg-type]
    assert changed == set(names)


def predict(net: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 12, 64, generator=generator)
    with torch.no_grad():
        return net(x, torch.tensor([3, 700]), encoder_hidden_states=text).sample


@pytest.mark.parametrize("kind", KINDS)
def test_merged_draws_as_peft_does_unmerged(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    net = network(folders, "sd")
    taught = teach(net, kind, targets(net, kind, "sd"))
    file = peft(tmp_path / "out", taught, "sd")
    fresh = network(folders, "sd")
    bare = predict(fresh)
    adapters.merge(fresh, [(read(file, fresh, "sd"), 1.0)])
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)
    assert (predict(fresh) - bare).abs().max() > 0.01


def test_several_are_merged_each_at_its_scale_in_any_order(folders: dict[str, Path], tmp_path: Path) -> None:
    files = {}
    for kind in ("lora", "dora", "oft"):
        net = network(folders, "sd")
        files[kind] = peft(tmp_path / kind, teach(net, kind, targets(net, kind, "sd")), "sd")

    def weights(*given: tuple[str, float]) -> dict[str, torch.Tensor]:
        net = network(folders, "sd")
        adapters.merge(net, [(read(files[kind], net, "sd"), scale) for kind, scale in given])
        return net.state_dict()

    bare = network(folders, "sd").state_dict()
    alone = [(weights((kind, 1.0)), scale) for kind, scale in (("lora", 0.7), ("dora", -0.5), ("oft", 0.3))]
    one, other = (
        weights(("lora", 0.7), ("dora", -0.5), ("oft", 0.3)),
        weights(("oft", 0.3), ("lora", 0.7), ("dora", -0.5)),
    )
    for name, weight in bare.items():
        torch.testing.assert_close(one[name], other[name], atol=1e-6, rtol=0)
        total = weight + sum(scale * (own[name] - weight) for own, scale in alone)
        torch.testing.assert_close(one[name], total, atol=1e-5, rtol=0)
    nothing = weights(("lora", 0.0), ("dora", 0.0), ("oft", 0.0))
    assert all(torch.equal(weight, nothing[name]) for name, weight in bare.items())


@pytest.mark.parametrize(
    ("layout", "kind", "family"),
    [("peft", kind, "sd") for kind in KINDS]
    + [("kohya", "lora", "sd"), ("kohya", "lokr", "sd"), ("kohya", "dora", "sd")],
)
def test_going_on_from_a_file(folders: dict[str, Path], tmp_path: Path, layout: str, kind: str, family: str) -> None:
    net = network(folders, family)
    taught = teach(net, kind, targets(net, kind, family))
    file = WRITERS[layout](tmp_path / "out", taught, family)
    fresh = network(folders, family)
    start = Start.of(read(file, fresh, family))
    alpha = 4.0 if layout == "kohya" and kind != "lora" else 2.0  # the export puts the scale into the weights
    assert (start.kind, start.rank, start.alpha) == (kind, 4, None if kind == "oft" else alpha)
    config = AdapterConfig(adapter=kind, rank=4, alpha=start.alpha, start_from=file)
    torch.manual_seed(9)
    adapters.adapt(fresh, config, ("to_q",), family)
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)
    own, theirs = get_peft_model_state_dict(fresh), get_peft_model_state_dict(taught)
    assert own.keys() == theirs.keys()
    if alpha == 2.0:
        for name, tensor in theirs.items():
            torch.testing.assert_close(own[name], tensor, atol=1e-6, rtol=1e-6)


def test_going_on_from_a_file_of_fused_projections(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "flux")
    taught = teach(net, "lora", targets(net, "lora", "flux"))
    file = exported("kohya")(tmp_path / "out", taught, "flux")
    assert max(len(tensor) for name, tensor in load_file(file).items() if "lora_down" in name) == 16  # of four layers
    fresh = network(folders, "flux")
    adapters.adapt(fresh, AdapterConfig(adapter="lora", rank=4, alpha=2, start_from=file), ("to_q",), "flux")
    wanted = merged(taught)
    for name, weight in merged(fresh).items():
        torch.testing.assert_close(weight, wanted[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_layers_of_other_ranks_and_alphas_become_one_rank(folders: dict[str, Path], tmp_path: Path, kind: str) -> None:
    net = network(folders, "sd")
    patterns = {"rank_pattern": {"attn1.to_q": 2, "to_v": 3}, "alpha_pattern": {"to_k": 8}}
    taught = teach(net, kind, ["to_q", "to_k", "to_v", "conv1"], **patterns)
    file = peft(tmp_path / "out", taught, "sd")
    fresh = network(folders, "sd")
    start = Start.of(read(file, fresh, "sd"))
    assert (start.rank, start.alpha) == (4, 4)
    adapters.adapt(fresh, AdapterConfig(adapter=kind, rank=4, start_from=file), (), "sd")
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)
    net = network(folders, "sd")
    adapters.merge(net, [(read(file, net, "sd"), 1.0)])
    torch.testing.assert_close(predict(net), predict(taught), atol=1e-5, rtol=1e-5)


def test_rank_stabilised_scale(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")
    taught = teach(net, "lora", ["to_q"], use_rslora=True)
    fresh = network(folders, "sd")
    adapters.merge(fresh, [(read(peft(tmp_path / "out", taught, "sd"), fresh, "sd"), 1.0)])
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", [{"decompose_factor": 2}, {"decompose_factor": 4, "decompose_both": True}])
def test_lokr_of_other_factors(folders: dict[str, Path], tmp_path: Path, scheme: dict[str, Any]) -> None:
    net = network(folders, "sd")
    taught = teach(net, "lokr", ["to_q", "to_v", "conv1"], **scheme)
    file = peft(tmp_path / "out", taught, "sd")
    fresh = network(folders, "sd")
    start = Start.of(read(file, fresh, "sd"))
    adapters.adapt(fresh, AdapterConfig(adapter="lokr", rank=4, alpha=2, start_from=file), (), "sd")
    assert start.rank == 4
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)


def test_what_a_lycoris_lokr_has_not_factored_is_scaled_by_one(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    w1, w2 = torch.randn(4, 4), torch.randn(8, 8)
    key = "lora_unet_" + name.replace(".", "_")
    save_file(
        {f"{key}.lokr_w1": w1, f"{key}.lokr_w2": w2, f"{key}.alpha": torch.tensor(1e4)}, tmp_path / "a.safetensors"
    )
    before = net.get_submodule(name).weight.clone()
    adapters.merge(net, [(read(tmp_path / "a.safetensors", net, "sd"), 0.5)])
    torch.testing.assert_close(net.get_submodule(name).weight - before, 0.5 * torch.kron(w1, w2), atol=1e-5, rtol=1e-5)


def test_names_of_old_diffusers(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")
    taught = teach(net, "lora", ["attn1.to_q", "attn2.to_out.0"])
    old = {}
    for name, tensor in get_peft_model_state_dict(taught).items():
        name = name.replace("to_out.0", "to_out").replace(".to_", ".processor.to_")
        name = name.replace(".lora_A", "_lora.down").replace(".lora_B", "_lora.up")
        old[f"unet.{name}"] = tensor * 0.5 if "up" in name.split(".")[-2] else tensor
    save_file(old, tmp_path / "old.safetensors")
    fresh = network(folders, "sd")
    adapters.merge(fresh, [(read(tmp_path / "old.safetensors", fresh, "sd"), 1.0)])
    torch.testing.assert_close(predict(fresh), predict(taught), atol=1e-5, rtol=1e-5)


def test_xlabs_layout(folders: dict[str, Path], tmp_path: Path) -> None:
    torch.manual_seed(0)
    file, sizes = {}, {"qkv": 96, "proj": 32}
    for part, rows in sizes.items():
        for stream in (1, 2):
            key = f"double_blocks.0.processor.{part}_lora{stream}"
            file |= {f"{key}.down.weight": torch.randn(4, 32), f"{key}.up.weight": torch.randn(rows, 4)}
    save_file(file, tmp_path / "x.safetensors")
    fresh = network(folders, "flux")
    before = {name: layer.weight.clone() for name, layer in plain_layers(fresh).items()}  # type: ignore[operator]
    adapters.merge(fresh, [(read(tmp_path / "x.safetensors", fresh, "flux"), 1.0)])
    block = fresh.transformer_blocks[0].attn
    delta = (
        file["double_blocks.0.processor.qkv_lora2.up.weight"] @ file["double_blocks.0.processor.qkv_lora2.down.weight"]
    )
    added = block.add_k_proj.weight - before["transformer_blocks.0.attn.add_k_proj"]
    torch.testing.assert_close(added, delta[32:64], atol=1e-5, rtol=1e-5)
    changed = [name for name, layer in plain_layers(fresh).items() if not torch.equal(layer.weight, before[name])]  # type: ignore[arg-type]
    assert len(changed) == 8


def test_the_text_encoders_part_is_counted_and_left_out(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")
    file = exported("kohya")(tmp_path / "out", teach(net, "lora", ["to_q"]), "sd")
    tensors = load_file(file)
    text = {
        f"lora_te_text_model_encoder_layers_0_mlp_fc1.{part}": torch.ones(1) for part in ("alpha", "lora_up.weight")
    }
    save_file(
        {**tensors, **text, "text_encoder.layers.0.q.lora_A.weight": torch.ones(1)}, tmp_path / "both.safetensors"
    )
    fresh = network(folders, "sd")
    assert read(tmp_path / "both.safetensors", fresh, "sd").layers.keys() == read(file, fresh, "sd").layers.keys()
    assert (num_text(tmp_path / "both.safetensors"), num_text(file)) == (3, 0)
    save_file(text, tmp_path / "text.safetensors")
    with pytest.raises(PriorError, match="only a text encoder's adapter"):
        read(tmp_path / "text.safetensors", fresh, "sd")


def test_what_is_no_adapter_of_this_prior_is_refused_by_name(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")

    def refused(file: Path, said: str, family: str = "sd") -> str:
        with pytest.raises(PriorError, match=said) as caught:
            read(file, network(folders, family), family)
        assert str(file.name) in str(caught.value)
        return caught.value.hint

    own = exported("kohya")(tmp_path / "own", teach(net, "lora", ["to_q"]), "sd")
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(own.read_bytes()[:-100])
    assert "cut short" in refused(cut, "cannot be read")
    cut.write_bytes(b"")
    refused(cut, "cannot be read")
    cut.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    refused(cut, "cannot be read")
    refused(_two(tmp_path / "two", own), r"holds several \.safetensors files")
    pickle = tmp_path / "old.pt"
    pickle.write_bytes(own.read_bytes())
    assert "may run code" in refused(pickle, r"no \.safetensors file")
    refused(tmp_path / "nowhere.safetensors", "does not exist")
    assert "--prior" in refused(folders["sd"] / "unet" / "diffusion_pytorch_model.safetensors", "holds no adapter")

    tensors = load_file(own)
    other = tmp_path / "other.safetensors"
    save_file({**tensors, "lora_unet_conv_in.diff": torch.ones(1)}, other)
    refused(other, r"'lora_unet_conv_in\.diff' is no part of a LoRA")
    name = next(name for name in tensors if name.endswith("lora_up.weight"))
    save_file({**tensors, name: torch.ones(7, 4)}, other)
    refused(other, "does not fit a weight of")
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, other)
    refused(other, "does not fit a weight of")
    first = name.removesuffix(".lora_up.weight")
    again = {
        f"unet.{_dotted(net, first)}{key.removeprefix(first)}": tensors[key].clone() for key in tensors if first in key
    }
    save_file({**tensors, **again}, other)
    refused(other, "twice, under two names")
    save_file({**tensors, name: tensors[name] * float("nan")}, other)
    with pytest.raises(PriorError, match=r"other\.safetensors: what it adds to .* is not finite"):
        adapters.merge(net, [(read(other, net, "sd"), 1.0)])


def _dotted(net: nn.Module, name: str) -> str:
    return next(own for own in plain_layers(net) if own.replace(".", "_") == name.removeprefix("lora_unet_"))


def _two(folder: Path, file: Path) -> Path:
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.safetensors").write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_file_of_another_family_is_told_apart(
    folders: dict[str, Path], tmp_path: Path, family: str, layout: str
) -> None:
    net = network(folders, family)
    file = WRITERS[layout](tmp_path / "out", teach(net, "lora", targets(net, "lora", family)), family)
    mine = "sd3" if family != "sd3" else "flux"
    with pytest.raises(PriorError, match=r"fits no layer of the network, nor do \d+ others of its \d+") as caught:
        read(file, network(folders, mine), mine)
    # The toy SDXL has no deep blocks, which are what tells its names from those of Stable Diffusion 1.
    assert f"of the family {'sd' if family == 'sdxl' else family}" in caught.value.hint.replace("flux or flux2", family)


def test_an_adapter_of_another_kind_of_peft(folders: dict[str, Path], tmp_path: Path) -> None:
    net = network(folders, "sd")
    folder = peft(tmp_path / "out", teach(net, "lora", ["to_q"]), "sd")
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**about, "peft_type": "BOFT"}))
    with pytest.raises(PriorError, match="is a BOFT adapter"):
        read(folder, net, "sd")
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(PriorError, match=r"adapter_config\.json is not JSON"):
        read(folder, net, "sd")


def test_what_peft_reads_is_what_we_read(folders: dict[str, Path], tmp_path: Path) -> None:
    """A folder that peft itself has written, from its own model class."""
    net = network(folders, "sd")
    model = get_peft_model(net, LoraConfig(r=4, lora_alpha=2, target_modules=["to_q"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "out")
    again = PeftModel.from_pretrained(network(folders, "sd"), tmp_path / "out")
    fresh = network(folders, "sd")
    adapters.merge(fresh, [(read(tmp_path / "out", fresh, "sd"), 1.0)])
    torch.testing.assert_close(predict(fresh), predict(again), atol=1e-5, rtol=1e-5)
