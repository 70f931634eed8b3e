"""The mini prior's denoiser: a stock UNet and text encoder, trained jointly on the latents of `latents.py`.

Idea: with two cores the number of pictures seen is everything, so the UNet is a small one with three levels and text
attention at 16x16 and 8x8, and training goes in slices that resume: the same command goes on. After each slice the
moving average of the weights is exported as one diffusers folder, and a sheet of pictures is drawn from it.

    python recipes/mini/denoiser.py bench --scratch scratch/mini --minutes 0.5
    python recipes/mini/denoiser.py train --scratch scratch/mini --minutes 10 --total-minutes 70
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path

import export
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from latents import Latents, read_autoencoder
from transformers import CLIPModel, CLIPTextModel

ASSETS = Path(__file__).resolve().parents[2] / "src" / "limner" / "assets"
EMA_DECAY = 0.9995
RATE_SHARES = {"unet": 1.0, "text_encoder": 0.4}  # of the learning rate
SHAPES = {  # widths of the three levels, residual blocks a level
    "small": ((64, 128, 192), 1),
    "middle": ((96, 128, 192), 1),
    "wide": ((96, 160, 192), 1),
}


def make_scheduler() -> DDIMScheduler:
    """Cosine noise (a 16x16 grid drowns early in the Stable Diffusion schedule), ending in pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused with trailing steps, but the stock pipeline warns about 0
    )


def make_models(shape: str, latent_channels: int, eye: Path) -> torch.nn.ModuleDict:
    """The text encoder starts as the eye's: concepts that look alike already lie close together."""
    widths, blocks = SHAPES[shape]
    text = CLIPModel.from_pretrained(eye, dtype=torch.float32)
    text_encoder = CLIPTextModel(text.config.text_config)
    wanted, given = text_encoder.state_dict(), text.state_dict()
    text_encoder.load_state_dict({k: given[k if k.startswith("text_model.") else f"text_model.{k}"] for k in wanted})
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=widths,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=blocks,
        cross_attention_dim=text_encoder.config.hidden_size,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
    )
    unet.set_attn_processor(Attention32())
    return torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


class Attention32:
    """The UNet's attention in 32 bit: on a CPU the backward pass of 16-bit attention is four times as slow."""

    def __call__(self, attn, x_BLD: torch.Tensor, encoder_hidden_states=None, attention_mask=None) -> torch.Tensor:
        context_BLD = x_BLD if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(x_BLD), attn.to_k(context_BLD), attn.to_v(context_BLD)
        with torch.autocast("cpu", enabled=False):
            q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for part in projected)
            out_BLD = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            out_BLD = layer(out_BLD)
        return out_BLD


def loss_of(models, scheduler, z_BCHW: torch.Tensor, ids_BT: torch.Tensor, bf16: bool = False) -> torch.Tensor:
    """MSE on v. Steps are spread over the batch, which lowers the noise of the gradient, and lean towards much noise:
    there shapes are decided, and on so few pictures shapes are what is missing."""
    B = len(z_BCHW)
    t_B = (((torch.arange(B) + torch.rand(B)) / B) ** 0.65 * 1000).long().clamp(max=999)
    noise_BCHW = torch.randn_like(z_BCHW)
    noisy_BCHW = scheduler.add_noise(z_BCHW, noise_BCHW, t_B)
    target_BCHW = scheduler.get_velocity(z_BCHW, noise_BCHW, t_B)
    context_BTD = models["text_encoder"](ids_BT).last_hidden_state
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        guess_BCHW = models["unet"](noisy_BCHW, t_B, context_BTD).sample
    return torch.nn.functional.mse_loss(guess_BCHW.float(), target_BCHW)


def learning_rate(peak: float, steps: int, done: float) -> float:
    """Warm-up, level, and from 60 % of the total time on a cosine to a twentieth."""
    fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, max(0, done - 0.6) / 0.4)))
    return peak * min(1, (steps + 1) / 200) * fall


def train_step(models, optimiser, scheduler, batch, bf16: bool = False) -> float:
    optimiser.zero_grad()
    loss = loss_of(models, scheduler, *batch, bf16)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
    optimiser.step()
    return loss.item()


@torch.no_grad()
def average_weights(ema, models, steps: int) -> None:
    decay = min(EMA_DECAY, (1 + steps) / (10 + steps))
    torch._foreach_lerp_(list(ema.parameters()), list(models.parameters()), 1 - decay)


def restore(path: Path, models, ema, optimiser) -> dict:
    """Puts back the state of the slice before, if there is one; returns the progress."""
    if not path.exists():
        return {"steps": 0, "pictures": 0, "seconds": 0.0}
    state = torch.load(path, weights_only=True)
    for name, part in (("models", models), ("ema", ema), ("optimiser", optimiser)):
        part.load_state_dict(state[name])
    return state["progress"]


def take_what_fits(path: Path, models) -> None:
    """Warm start: the weights of another run, where names and shapes agree."""
    old, new = torch.load(path, weights_only=True)["ema"], models.state_dict()
    fits = {k: v for k, v in old.items() if k in new and v.shape == new[k].shape}
    models.load_state_dict(new | fits)
    print(f"warm start: {len(fits)} of {len(new)} tensors", flush=True)


def store(path: Path, models, ema, optimiser, progress: dict) -> None:
    state = {"models": models.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state | {"progress": progress}, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def train_slice(models, ema, optimiser, scheduler, data: Latents, progress: dict, options) -> None:
    """Trains by the clock and writes into `progress`."""
    # The same weights, the UNet fused: an eighth less arithmetic time on a CPU, minutes to compile the first time.
    run = {"unet": torch.compile(models["unet"]) if options.compile else models["unet"]}
    run["text_encoder"] = models["text_encoder"]
    before_s, start, losses, lap = progress["seconds"], time.time(), [], time.time()
    while time.time() - start < 60 * options.minutes:
        done = progress["seconds"] / (60 * options.total_minutes)
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * learning_rate(options.rate, progress["steps"], done)
        losses.append(train_step(run, optimiser, scheduler, data.draw(options.batch), options.bf16))
        progress["steps"] += 1
        progress["pictures"] += options.batch
        progress["seconds"] = before_s + time.time() - start
        average_weights(ema, models, progress["steps"])
        if len(losses) == 100:
            rate = 100 * options.batch / (time.time() - lap)
            mean = sum(losses) / 100
            print(f"step {progress['steps']}, {done:.3f} done, loss {mean:.4f}, {rate:.0f} pictures/s", flush=True)
            losses, lap = [], time.time()


def train(options) -> None:
    """Restores, then slice by slice: trains, stores, exports, draws a sheet."""
    torch.manual_seed(int(time.time()))
    data, scheduler = Latents(options.scratch), make_scheduler()
    vae, state_path = read_autoencoder(options.scratch / "vae"), options.scratch / "denoiser.pt"
    models = make_models(options.shape, data.latents.shape[1], options.assets / "eye").to(
        memory_format=torch.channels_last
    )
    ema = copy.deepcopy(models).requires_grad_(False)
    groups = [{"params": models[name].parameters(), "share": share} for name, share in RATE_SHARES.items()]
    optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    progress = restore(state_path, models, ema, optimiser)
    if options.warm and not progress["steps"]:
        take_what_fits(options.warm, models)
        ema.load_state_dict(models.state_dict())
    for _ in range(options.slices):
        train_slice(models, ema, optimiser, scheduler, data, progress, options)
        store(state_path, models, ema, optimiser, progress)
        export.write_pipeline(ema, vae, data.tokenizer, scheduler, options.assets / "mini", progress)
        export.draw_sheet(options.assets / "mini", options.scratch / f"sheet_{progress['steps']:06d}.png")
        print(json.dumps(progress), flush=True)


def bench(scratch: Path, batch: int, seconds: float, bf16: bool) -> None:
    data, scheduler = Latents(scratch), make_scheduler()
    for shape in SHAPES:
        for layout in (torch.contiguous_format, torch.channels_last):
            models = make_models(shape, data.latents.shape[1], ASSETS / "eye").to(memory_format=layout)
            optimiser = torch.optim.AdamW(models.parameters(), lr=1e-4)
            train_step(models, optimiser, scheduler, data.draw(batch), bf16)
            start, steps = time.time(), 0
            while time.time() - start < seconds:
                train_step(models, optimiser, scheduler, data.draw(batch), bf16)
                steps += 1
            rate = steps * batch / (time.time() - start)
            count = sum(p.numel() for p in models["unet"].parameters()) / 1e6
            print(f"{shape}, UNet {count:.1f} M, {layout}: {rate:.1f} pictures/s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bench", "train"])
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with latents.pt, tokenizer/ and vae/")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="the exported folder is mini/ in here")
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--minutes", type=float, default=10, help="length of this slice (bench: of each shape)")
    parser.add_argument("--slices", type=int, default=1, help="how many slices in this run")
    parser.add_argument("--total-minutes", type=float, default=70, help="length of all slices: the schedule follows it")
    parser.add_argument("--warm", type=Path, help="first slice: weights of another state file, where they fit")
    parser.add_argument("--bf16", action="store_true", help="the UNet's passes in 16 bit (needs AVX512-BF16 or AMX)")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet (needs a C++ compiler)")
    options = parser.parse_args()
    if options.what == "bench":
        bench(options.scratch, options.batch, 60 * options.minutes, options.bf16)
    else:
        train(options)


if __name__ == "__main__":
    main()
