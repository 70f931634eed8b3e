"""The mini prior's denoiser: a stock UNet and text encoder, trained jointly on scenes composed as they are needed.

Idea: the number of pictures seen is everything. So the grid is small and the UNet wide where that is cheap; the text
reaches it twice, word by word through attention and as a whole through the vector that also carries the time. Its inner
layer learns to say what a frozen image network sees in the clean picture (REPA, Yu et al. 2024, arXiv 2410.06940): on
equal time the one change that multiplied what was learned (`TRIAL.md`).

Training has no end unless `--minutes` gives one: the rate is level, and a moving average of the weights is what is
drawn from. Every noise, time and scene follows from the seed and the step, so that a run that was stopped or killed
goes on from its last stored state exactly as if it had not been.

    python recipes/mini/denoiser.py --scratch scratch/mini
    python recipes/mini/denoiser.py --scratch scratch/mini --size base --device cuda --batch 1024 --minutes 22

Every half hour it writes the average as a diffusers folder, SCRATCH/mini, and draws a sheet from it; every million
pictures `evaluate.py` measures it.
"""

import argparse
import copy
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import captions
import chunks
import export
import eye
import near
import scenes
import torch
import training
from chunks import Chunk, Encoder, Layouts
from composer import Painter, Stock
from diffusers import AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from sizes import SIZES, Size, add_options, existing
from torch import Tensor, nn
from training import Average, State
from transformers import CLIPTokenizer

SEED = 0
EMA_DECAY = 0.999
MEASURED_EVERY = 1_000_000  # pictures
LINE_MINUTES, SHEET_MINUTES = 5, 30
EMPTY_SHARE = 0.1  # of the captions, for guidance
MIX = scenes.Mix(plain=0.8, in_3d=0.7)  # a thousand concepts take longer to learn than a dozen places
ALIGN_WEIGHT = 0.5


def make_scheduler() -> DDIMScheduler:
    """Cosine noise (a small grid drowns early in the Stable Diffusion schedule), ending in pure noise."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,  # unused with trailing steps, but the stock pipeline warns about 0
    )


def make_unet(size: Size, text_width: int) -> UNet2DConditionModel:
    attends = ["CrossAttn" if attends else "" for attends in size.unet_attention]
    return UNet2DConditionModel(
        sample_size=size.picture_px // size.reduction,
        in_channels=size.latent_channels,
        out_channels=size.latent_channels,
        block_out_channels=size.unet_widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in attends),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(attends)),
        layers_per_block=size.unet_blocks,
        cross_attention_dim=text_width,
        attention_head_dim=4,  # diffusers means the number of heads
        norm_num_groups=16,
        resnet_time_scale_shift="scale_shift",
        time_embedding_dim=size.time_width,
        addition_embed_type="text",
        addition_embed_type_num_heads=8,
    )


class Seer:
    """What the picture side of the eye, a frozen image network, sees in each part of a picture: (B, 112, 4, 4)."""

    SIDE_PX, WIDTH, BLOCK = 64, 112, 10

    def __init__(self, device: torch.device) -> None:
        self.model = eye.shipped().vision_model.to(device, memory_format=torch.channels_last)
        self.model.encoder.blocks[self.BLOCK].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, given: tuple, out_BDHW: Tensor) -> None:
        self.seen_BDHW = out_BDHW

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        self.model(pixel_values=nn.functional.interpolate(x_BCHW, (self.SIDE_PX, self.SIDE_PX), mode="bilinear"))
        return self.seen_BDHW


def make_models(size: Size) -> nn.ModuleDict:
    """The text encoder starts as the eye's: what looks alike or means the same already lies close together.

    `aligner` says of the inner layer what the frozen network would see; it is thrown away.
    """
    text_encoder = eye.shipped().text_model.requires_grad_(True)
    unet, width = make_unet(size, text_encoder.config.hidden_size), size.unet_widths[-1]
    aligner = nn.Sequential(nn.Conv2d(width, 256, 1), nn.SiLU(), nn.Conv2d(256, Seer.WIDTH, 1))
    return nn.ModuleDict({"unet": unet, "text_encoder": text_encoder, "aligner": aligner})


class Trainer:
    """Models, their average, the optimiser and the data, on one device; `progress` counts over all runs."""

    def __init__(self, options) -> None:
        self.options, self.device, self.scheduler = options, torch.device(options.device), make_scheduler()
        self.tokenizer = CLIPTokenizer.from_pretrained(eye.FOLDER)
        torch.manual_seed(SEED)
        self.models = make_models(SIZES[options.size]).train().to(self.device)
        self.models.to(memory_format=torch.channels_last)
        self.unet = self.models["unet"]
        self.average = Average(self.models, EMA_DECAY)
        self.unet.up_blocks[0].register_forward_hook(self._keep)
        self.inner, self.num_shares = threading.local(), 2 if options.device == "cpu" else 1
        self.map = side_by_side(self.num_shares)
        how = {"betas": (0.9, 0.99), "weight_decay": 0.01, "fused": True}
        self.optimiser = torch.optim.AdamW(self.models.parameters(), lr=options.rate, **how)
        parts = {"models": self.models, "ema": self.average.model, "optimiser": self.optimiser}
        self.state = State(options.scratch / f"denoiser_{options.size}.pt", **parts)
        self.state.restore()
        self.empty_T = captions.tokens(self.tokenizer, [""])[0].to(self.device)

    def _keep(self, module: nn.Module, given: tuple, out_BCHW: Tensor) -> None:
        self.inner.out_BCHW = out_BCHW

    def batches(self) -> Iterator[Chunk]:
        """From the step that was reached on."""
        options = self.options
        stock = Stock(options.scratch, side_px=SIZES[options.size].picture_px)
        self.vae = AutoencoderTiny.from_pretrained(options.scratch / "vae").eval().requires_grad_(False)
        self.vae.to(self.device, memory_format=torch.channels_last)
        encode = Encoder(self.vae, Painter(stock, self.device), Seer(self.device))
        words, num = near.load(options.scratch), chunks.BATCHES * options.batch
        layouts = Layouts(stock, words, self.tokenizer, num, SEED, MIX)
        return chunks.batches(layouts, encode, options.batch, self.progress["steps"], options.workers)

    def draw(self, batch: Chunk, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Noisy latents, the velocity to predict, times, token ids, features of the frozen network.

        Times are spread over the batch, which lowers the noise of the gradient.
        """
        z_BCHW, B = batch.z_NCHW, len(batch.z_NCHW)
        draw = {"generator": generator, "device": self.device}
        t_B = (torch.arange(B, device=self.device) + torch.rand(B, **draw)) / B
        t_B = (t_B * 1000).long().clamp(max=999)
        noise_BCHW = torch.randn(z_BCHW.shape, **draw)
        empty_B = torch.rand(B, **draw) < EMPTY_SHARE
        ids_BT = torch.where(empty_B[:, None], self.empty_T, batch.ids_NT)
        noisy_BCHW = self.scheduler.add_noise(z_BCHW, noise_BCHW, t_B)
        target_BCHW = self.scheduler.get_velocity(z_BCHW, noise_BCHW, t_B)
        return noisy_BCHW, target_BCHW, t_B, ids_BT, batch.feature_NDHW

    def losses(self, noisy_BCHW, target_BCHW, t_B, ids_BT, feature_BDHW) -> tuple[Tensor, Tensor]:
        """MSE on v, and how far the inner layer is from the frozen network (1 - cosine, the mean over places)."""
        with training.autocast(self.device):
            context_BTD = self.models["text_encoder"](ids_BT).last_hidden_state
            guess_BCHW = self.unet(noisy_BCHW, t_B, context_BTD).sample
            said_BDHW = self.models["aligner"](self.inner.out_BCHW)
        said_BDHW = nn.functional.adaptive_avg_pool2d(said_BDHW.float(), feature_BDHW.shape[2:])
        misaligned = 1 - nn.functional.cosine_similarity(said_BDHW, feature_BDHW).mean()
        return nn.functional.mse_loss(guess_BCHW.float(), target_BCHW), misaligned

    def step(self, batch: Chunk) -> Tensor:
        """One optimiser step; returns the loss, still on the device."""
        steps, B = self.progress["steps"], len(batch.z_NCHW)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.options.rate, steps, self.done)
        generator = torch.Generator(self.device).manual_seed(SEED * 1_000_003 + steps)

        def descend(share: tuple[Tensor, ...]) -> Tensor:
            loss, misaligned = self.losses(*share)
            weight = len(share[0]) / B
            (weight * (loss + ALIGN_WEIGHT * misaligned)).backward()
            return weight * loss.detach()

        shares = zip(*(part.chunk(self.num_shares) for part in self.draw(batch, generator)), strict=True)
        loss = sum(self.map(descend, shares))
        training.update(self.optimiser)
        self.progress["steps"] += 1
        self.average.update(self.models, self.progress["steps"])
        self.progress["pictures"] += B
        return loss

    @property
    def progress(self) -> dict:
        return self.state.progress

    @property
    def done(self) -> float:
        """The share of the time that is over; an endless run is always at its beginning."""
        return self.progress["seconds"] / (60 * self.options.minutes) if self.options.minutes else 0.0

    def write(self, folder: Path) -> None:
        """The average as a diffusers folder."""
        models, vae = copy.deepcopy(self.average.model).cpu(), copy.deepcopy(self.vae).cpu()
        export.write_pipeline(models, vae, self.tokenizer, self.scheduler, folder, self.progress)


def side_by_side(num: int):
    """A map that works on so many shares of a batch at once, each on its part of the processor.

    Two halves on a core each take three quarters of the time of the whole on two cores, which wait for each other in
    every operation. The sum of *two* gradients does not depend on which came first.
    """
    threads = max(1, torch.get_num_threads() // num)
    return ThreadPoolExecutor(num, initializer=torch.set_num_threads, initargs=(threads,)).map


def learning_rate(peak: float, steps: int, done: float) -> float:
    """Warm-up, level, and in the last fifth of the time a straight line to zero."""
    return peak * min(1, (steps + 1) / 200) * min(1, max(0, 1 - done) / 0.2)


def train(options) -> None:
    """Goes on until the time is up or somebody asks it to stop."""
    trainer = Trainer(options)
    state, progress, losses = trainer.state, trainer.progress, []
    state.heed_signals()
    (sheets := options.scratch / "sheets").mkdir(exist_ok=True)
    start, drawn, lap = time.time() - progress["seconds"], time.time(), dict(progress)
    for batch in trainer.batches():
        losses.append(trainer.step(batch))
        progress["seconds"] = time.time() - start
        ends, pictures = trainer.done >= 1, progress["pictures"]
        if ends or state.due(minutes=LINE_MINUTES):
            rate = (pictures - lap["pictures"]) / (progress["seconds"] - lap["seconds"])
            told = f"loss {torch.stack(losses).mean():.4f}, {rate:.0f} pictures/s"
            print(f"{time.strftime('%H:%M')} {pictures} pictures, {told}", flush=True)
            lap, losses = dict(progress), []
        if ends:
            state.store()
        else:
            state.keep()
        measured = pictures // MEASURED_EVERY > (pictures - options.batch) // MEASURED_EVERY
        if ends or measured or time.time() - drawn > 60 * SHEET_MINUTES:
            paused = time.time()
            trainer.write(options.out)
            export.draw_sheet(options.out, sheets / f"{pictures:09d}.png")
            if measured and not ends:
                state.store()
                measure(options, state)
            drawn = time.time()
            start += drawn - paused
        if ends:
            return


def measure(options, state: State) -> None:
    """All the figures of what was written, by a program of its own, which is dropped if somebody asks to stop."""
    stem = options.scratch / "figures" / f"{state.progress['pictures']:09d}"
    stem.parent.mkdir(exist_ok=True)
    flags = {"prior": options.out, "scratch": options.scratch, "device": options.device}
    flags |= {"json": f"{stem}.json", "sheet": f"{stem}.png"}
    program = [sys.executable, str(Path(__file__).with_name("evaluate.py"))]
    child = subprocess.Popen([*program, *(f"--{name}={value}" for name, value in flags.items())])
    while child.poll() is None:
        time.sleep(1)
        if state.asked_to_stop:
            child.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=existing, required=True, help="the folder with vae/")
    parser.add_argument("--out", type=Path, required=True, help="the exported diffusers folder")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--workers", type=int, default=0, help="processes that lay out scenes")
    parser.add_argument("--minutes", type=float, help="of training in all; without it there is no end")
    add_options(parser)
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")  # on a GPU: what bf16 leaves in 32 bit may use TF32
    train(options)


if __name__ == "__main__":
    main()
