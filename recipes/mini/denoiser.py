"""The mini prior's denoiser: a stock UNet and text encoder, trained jointly on scenes composed as they are needed.

Idea: the number of pictures seen is everything, so the UNet is a small one with three levels; the text reaches it
twice, word by word through attention and as a whole through the vector that also carries the time. The frozen
autoencoder costs a tenth of a step, so scenes are composed, encoded and forgotten: no picture is seen twice. Training
goes in slices that resume: the same command goes on. After each slice the moving average of the weights is exported as
one diffusers folder, and a sheet of pictures is drawn from it.

    python recipes/mini/denoiser.py bench --scratch scratch/mini --minutes 0.5
    python recipes/mini/denoiser.py train --scratch scratch/mini --minutes 10 --slices 9 --bf16 --compile
    python recipes/mini/denoiser.py train --scratch scratch/mini --size base --device cuda --batch 1024 --rate 1.5e-3 \
        --workers 14 --minutes 9 --total-minutes 27 --bf16 --compile
"""

import argparse
import copy
import json
import math
import random
import time
from pathlib import Path

import autoencoder
import captions
import composer
import export
import scenes
import torch
import training
from composer import Painter, Plan, Stock
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from sizes import SIZES, Size, add_options
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from training import Average
from transformers import CLIPTextModel, CLIPTokenizer

MINI = Path(__file__).resolve().parents[2] / "src" / "limner" / "assets" / "mini"
EMA_DECAY = 0.9995
RATE_SHARES = {"unet": 1.0, "text_encoder": 0.2}  # of the learning rate
EMPTY_SHARE = 0.1  # of the captions, for guidance


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


def make_unet(size: Size, text_width: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=size.picture_px // size.reduction,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        block_out_channels=size.unet_widths,
        # Attention among 256 places costs a fifth of a step; at the 64 of the middle level it finds what goes where.
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=size.unet_blocks,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=size.time_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )


def make_models(size: str, text: Path) -> torch.nn.ModuleDict:
    """The text encoder starts as that of `text.py`: what looks alike or means the same already lies close together."""
    text_encoder = CLIPTextModel.from_pretrained(text, dtype=torch.float32)
    unet = make_unet(SIZES[size], text_encoder.config.hidden_size)
    return torch.nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})


class Attention32:
    """The UNet's attention in 32 bit: on a CPU the backward pass of 16-bit attention is four times as slow."""

    def __call__(self, attn, x_BLD: Tensor, encoder_hidden_states=None, attention_mask=None) -> Tensor:
        context_BLD = x_BLD if encoder_hidden_states is None else encoder_hidden_states
        projected = attn.to_q(x_BLD), attn.to_k(context_BLD), attn.to_v(context_BLD)
        with torch.autocast("cpu", enabled=False):
            q, k, v = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for part in projected)
            out_BLD = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        for layer in attn.to_out:
            out_BLD = layer(out_BLD)
        return out_BLD


class Batches(IterableDataset):
    """Endless batches of scenes, laid out but not painted: a plan and token ids (B, T). Each worker has its own lot."""

    def __init__(self, stock: Stock, tokenizer: CLIPTokenizer, batch: int, seed: int) -> None:
        self.stock, self.tokenizer, self.batch, self.seed = stock, tokenizer, batch, seed

    def __iter__(self):
        worker = get_worker_info()
        rng = random.Random(self.seed * 1000 + (worker.id if worker else 0))
        while True:
            some = [scenes.draw_scene(self.stock, rng) for _ in range(self.batch)]
            words = ["" if rng.random() < EMPTY_SHARE else scenes.caption(self.stock, s, rng) for s in some]
            ids_BT = captions.tokens(self.tokenizer, words)
            plan = composer.plan(self.stock, some, rng)
            yield plan.layer_L8, plan.ground_B8, ids_BT


class Trainer:
    """Models, their average, the optimiser and the data, on one device; `progress` counts over all slices."""

    def __init__(self, options) -> None:
        self.options, self.device, self.scheduler = options, torch.device(options.device), make_scheduler()
        self.tokenizer = CLIPTokenizer.from_pretrained(options.scratch / "tokenizer")
        self.stock = Stock(options.scratch, side_px=options.picture_px)
        self.painter = Painter(self.stock, self.device)
        self.vae = AutoencoderTiny.from_pretrained(options.scratch / "vae").eval().requires_grad_(False).to(self.device)
        self.vae.to(memory_format=torch.channels_last)
        self.models = make_models(options.size, options.scratch / "text").to(self.device)
        self.models.to(memory_format=torch.channels_last)
        if self.device.type == "cpu":
            self.models["unet"].set_attn_processor(Attention32())
        self.average = Average(self.models, EMA_DECAY)
        groups = [{"params": self.models[name].parameters(), "share": share} for name, share in RATE_SHARES.items()]
        self.optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        self.progress = {"steps": 0, "pictures": 0, "seconds": 0.0}
        # The same weights, the UNet fused: an eighth less time on a CPU; minutes to compile the first time.
        self.unet = torch.compile(self.models["unet"]) if options.compile else self.models["unet"]

    def loader(self):
        data = Batches(self.stock, self.tokenizer, self.options.batch, seed=self.progress["steps"])
        more = {"num_workers": self.options.workers, "pin_memory": self.device.type == "cuda"}
        return iter(DataLoader(data, batch_size=None, **more))

    def loss(self, plan: Plan, ids_BT: Tensor) -> Tensor:
        """MSE on v. Times are spread over the batch, which lowers the noise of the gradient, and lean towards much
        noise: there shapes are decided, and on few pictures shapes are what is missing."""
        with torch.no_grad(), self.autocast():
            z_BCHW = autoencoder.encode_scaled(self.vae, self.painter.paint(plan)).float()
        B = len(z_BCHW)
        t_B = (((torch.arange(B) + torch.rand(B)) / B) ** 0.65 * 1000).long().clamp(max=999).to(self.device)
        noise_BCHW = torch.randn_like(z_BCHW)
        noisy_BCHW = self.scheduler.add_noise(z_BCHW, noise_BCHW, t_B)
        target_BCHW = self.scheduler.get_velocity(z_BCHW, noise_BCHW, t_B)
        context_BTD = self.models["text_encoder"](ids_BT.to(self.device)).last_hidden_state
        with self.autocast():
            guess_BCHW = self.unet(noisy_BCHW, t_B, context_BTD).sample
        return torch.nn.functional.mse_loss(guess_BCHW.float(), target_BCHW)

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bf16)

    def step(self, batch) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        layer_L8, ground_B8, ids_BT = batch
        loss = self.loss(Plan(layer_L8, ground_B8), ids_BT)
        training.step(self.optimiser, loss)
        self.average.update(self.models)
        self.progress["steps"] += 1
        self.progress["pictures"] += len(ids_BT)
        return loss.detach()

    def slice(self) -> None:
        """Trains by the clock."""
        options, batches = self.options, self.loader()
        before_s, start, losses, lap = self.progress["seconds"], time.time(), [], time.time()
        while time.time() - start < 60 * options.minutes:
            done = self.progress["seconds"] / (60 * options.total_minutes)
            for group in self.optimiser.param_groups:
                group["lr"] = group["share"] * learning_rate(options.rate, self.progress["steps"], done)
            losses.append(self.step(next(batches)))
            self.progress["seconds"] = before_s + time.time() - start
            if len(losses) == 100:
                mean, rate = torch.stack(losses).mean().item(), 100 * options.batch / (time.time() - lap)
                at = f"step {self.progress['steps']}, {done:.3f} done"
                print(f"{at}, loss {mean:.4f}, {rate:.0f} pictures/s", flush=True)
                losses, lap = [], time.time()

    def parts(self) -> dict:
        return {"models": self.models, "ema": self.average.model, "optimiser": self.optimiser}

    def restore(self, path: Path) -> None:
        """Puts back the state of the slice before, if there is one."""
        if path.exists():
            state = torch.load(path, weights_only=True, map_location=self.device)
            for name, part in self.parts().items():
                part.load_state_dict(state[name])
            self.progress = state["progress"]
            self.average.updates = self.progress["steps"]

    def store(self, path: Path) -> None:
        state = {name: part.state_dict() for name, part in self.parts().items()}
        torch.save(state | {"progress": self.progress}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def warm(self, path: Path) -> None:
        """The weights of another run's average, where names and shapes agree."""
        old, new = torch.load(path, weights_only=True, map_location=self.device)["ema"], self.models.state_dict()
        fits = {k: v for k, v in old.items() if k.startswith("unet.") and k in new and v.shape == new[k].shape}
        self.models.load_state_dict(new | fits)
        self.average = Average(self.models, EMA_DECAY)
        print(f"warm start: {len(fits)} of {len(new)} tensors", flush=True)


def learning_rate(peak: float, steps: int, done: float) -> float:
    """Warm-up, level, and from half of the total time on a cosine to a twentieth."""
    fall = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1, max(0, done - 0.5) / 0.5)))
    return peak * min(1, (steps + 1) / 200) * fall


def train(options) -> None:
    """Restores, then slice by slice: trains, stores, exports, draws a sheet."""
    trainer, state_path = Trainer(options), options.scratch / f"denoiser_{options.size}.pt"
    trainer.restore(state_path)
    torch.manual_seed(trainer.progress["steps"])
    if options.warm and not trainer.progress["steps"]:
        trainer.warm(options.warm)
    for _ in range(options.slices):
        trainer.slice()
        trainer.store(state_path)
        models, vae = copy.deepcopy(trainer.average.model).cpu(), copy.deepcopy(trainer.vae).cpu()
        export.write_pipeline(models, vae, trainer.tokenizer, trainer.scheduler, options.out, trainer.progress)
        export.draw_sheet(options.out, options.scratch / f"sheet_{trainer.progress['steps']:06d}.png")
        print(json.dumps(trainer.progress), flush=True)


def bench(options) -> None:
    """Pictures a second of whole training steps, and the number of weights."""
    trainer = Trainer(options)
    batches, start, steps = trainer.loader(), 0.0, -3
    while not start or time.time() - start < 60 * options.minutes:
        loss = trainer.step(next(batches))
        steps += 1
        if steps == 0:
            start = loss.item() * 0 + time.time()  # reading the loss waits for the device
    rate = steps * options.batch / (loss.item() * 0 + time.time() - start)
    count = sum(p.numel() for p in trainer.models["unet"].parameters()) / 1e6
    print(f"{options.size} on {options.device}, UNet {count:.1f} M, batch {options.batch}: {rate:.1f} pictures/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bench", "train"])
    parser.add_argument("--scratch", type=Path, required=True, help="the folder with vae/ and text/")
    parser.add_argument("--out", type=Path, default=MINI, help="the exported diffusers folder")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--rate", type=float, default=8e-4, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=0, help="processes that lay out scenes")
    parser.add_argument("--minutes", type=float, default=10, help="length of a slice")
    parser.add_argument("--slices", type=int, default=1, help="how many slices in this run")
    parser.add_argument("--total-minutes", type=float, default=90, help="length of all slices: the schedule follows it")
    parser.add_argument("--picture-px", type=int, help="train on smaller pictures first: a quarter of the cost at half")
    parser.add_argument("--warm", type=Path, help="first slice: weights of another state file, where they fit")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet (needs a C++ compiler)")
    add_options(parser)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # on a GPU: what bf16 leaves in 32 bit may use TF32
    bench(options) if options.what == "bench" else train(options)


if __name__ == "__main__":
    main()
