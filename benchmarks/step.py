"""A training step of limner against the example scripts of diffusers, and where limner's step spends its time.

    python benchmarks/step.py --scripts diffusers/examples                    about ten minutes on two quiet cores
    python benchmarks/step.py --scripts diffusers/examples --device cuda --precision bf16 --batch-size 16 --size 512 \\
        --priors sd_small,sd_full --steps 40 --warmup 10

``--scripts`` is the ``examples`` folder of a checkout of diffusers; without it only limner's own part is measured. The
scripts are run as they are. Both programs get the same prior folder, pictures, batch size, resolution, precision, rank
and targets of the adapter, AdamW, constant learning rate; no averaged weights, validation, checkpoints or worker
processes. They run in turn (limner, peer, limner, peer, ...), each time in a process of its own, in which
``peers/timed.py`` stamps the end of every optimiser step. Reported are

    s/step     wall time from one optimiser step to the next, so with data, logging and all: the median after warm-up,
               and of the rounds the median
    fastest    the shortest step of all rounds, and CPU s/step the processor time of all threads for a step: other work
               on the machine disturbs these less
    ratio      peer over limner
    start-up   from starting the process to the end of the first optimiser step; cold is the first round, in which
               limner fills its cache and the script its table of pictures, warm the median of the later ones
    ahead at   the step from which limner, started cold, is ahead of the script, counted from starting the process
    peak       most memory held up to the last step: of the device on CUDA, else of the process

Where the scripts cannot do a job, or limner has no such method, the table says so. Then, for limner's step in this
process: its parts, the operations of its matrix products and convolutions (torch's FlopCounterMode, forward and
backward), and the floor that the rate of one large matrix product, measured right after, sets for them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.update(HF_DATASETS_DISABLE_PROGRESS_BARS="1", HF_HUB_OFFLINE="1", DIFFUSERS_VERBOSITY="error")

import torch
from peers.priors import MAKERS
from PIL import Image, ImageFilter
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from limner import find, run
from limner.data.builtin.subjects import subjects
from limner.data.load import Schedule, batches
from limner.data.prepare import load_uint8
from limner.priors.base import Prior
from limner.train.optim import Learner

HERE = Path(__file__).parent
RANK, LEARNING_RATE, WEIGHT_DECAY = 4, 1e-4, 0.01
PROMPT = "a photo of sks tiger"


@dataclasses.dataclass(frozen=True)
class Job:
    """One job, and how each program is told to do it."""

    script: str  # below the folder of scripts
    script_flags: list[str]
    method: str
    limner_flags: dict[str, Any]
    only_8x: bool = False  # whether the script's network is made for autoencoders of 8 pixels a cell only


TABLE = ["--train_data_dir", "{table}", "--image_column", "image", "--caption_column", "text"]
LORA = {"adapter": "lora", "rank": RANK}
JOBS = {
    "text_to_image_lora": Job(
        "text_to_image/train_text_to_image_lora.py",
        [*TABLE, "--center_crop", "--random_flip", "--rank", str(RANK)],
        "finetune",
        LORA,
    ),
    "dreambooth_lora": Job(
        "dreambooth/train_dreambooth_lora.py",
        ["--instance_data_dir", "{folder}", "--instance_prompt", PROMPT, "--center_crop", "--rank", str(RANK)],
        "finetune",
        {
            "flip": False,
            "caption_from": "template",
            "caption_template": "a photo of {trigger} {class_word}",
            "trigger": "sks",
            "class_word": "tiger",
            **LORA,
        },
    ),
    "controlnet": Job(
        "controlnet/train_controlnet.py",
        [*TABLE, "--conditioning_image_column", "conditioning_image"],
        "controlnet",
        {"flip": False},
        only_8x=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is equal for both programs."""

    prior: Path
    size_px: int
    table: Path
    folder: Path
    batch_size: int
    precision: str
    steps: int  # in all
    scratch: Path


def write_pictures(table: Path, folder: Path, num: int, side_px: int) -> None:
    """The same pictures of the built-in subjects, as a table with captions and outlines, and as a bare folder."""
    (table / "outlines").mkdir(parents=True)
    folder.mkdir()
    rows = []
    for i, sample in zip(range(num), itertools.cycle(subjects()), strict=False):
        picture = Image.fromarray(load_uint8(sample.image, side_px).permute(1, 2, 0).numpy())
        name = f"{i:03d}.jpg"
        picture.save(table / name, quality=90)
        picture.save(folder / name, quality=90)
        picture.filter(ImageFilter.FIND_EDGES).save(table / "outlines" / name, quality=90)
        row = {"file_name": name, "text": sample.caption, "conditioning_image_file_name": f"outlines/{name}"}
        # limner draws and scores its held-out pictures, so it gets but one; the scripts learn from it too.
        rows.append(json.dumps(row | {"split": "train" if i else "validation"}) + "\n")
    (table / "metadata.jsonl").write_text("".join(rows))


def limner_command(job: Job, at: Setting, out: Path) -> list[str]:
    """limner's own command; what it draws and scores beside the training is kept as small as it can be."""
    words = ["-m", "limner", "train", job.method]
    for name, value in limner_fields(job, at, out).items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def limner_fields(job: Job, at: Setting, out: Path) -> dict[str, Any]:
    """The configuration of limner's run."""
    never = 10**6
    fields = {"prior": str(at.prior), "data": str(at.table), "out": str(out)}
    fields |= {"batch_size": at.batch_size, "precision": at.precision}
    fields |= {"steps": at.steps, "learning_rate": LEARNING_RATE, "weight_decay": WEIGHT_DECAY, "decay": "constant"}
    fields |= {"warmup_steps": 0, "ema": 0.0, "caption_dropout": 0.0, "sample_steps": 1, "guidance_scale": 1.0}
    fields |= {"save_every": never, "sample_every": never, "evaluate_every": never, **job.limner_flags}
    return fields


def script_command(job: Job, at: Setting, out: Path, scripts: Path) -> list[str]:
    """The script's command."""
    mixed = "no" if at.precision == "fp32" else at.precision
    flags = {
        "pretrained_model_name_or_path": at.prior,
        "output_dir": out,
        "resolution": at.size_px,
        "train_batch_size": at.batch_size,
        "max_train_steps": at.steps,
        "checkpointing_steps": 10**6,
        "learning_rate": LEARNING_RATE,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "adam_weight_decay": WEIGHT_DECAY,
        "mixed_precision": mixed,
        "report_to": "tensorboard",
        "seed": 0,
    }
    words = [str(scripts / job.script)]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    return words + [word.format(table=at.table, folder=at.folder) for word in job.script_flags]


def timed(words: list[str], at: Setting, cache: Path) -> dict[str, Any]:
    """Run one program to its last step; {stamps_s, peak_mb}.

    Raises:
        SystemExit: it failed; shows the end of what it said.
    """
    out = at.scratch / "figures.json"
    out.unlink(missing_ok=True)
    environment = os.environ | {"LIMNER_CACHE": str(cache / "limner"), "HF_DATASETS_CACHE": str(cache / "datasets")}
    command = [sys.executable, str(HERE / "peers" / "timed.py"), str(out), str(at.steps)]
    done = subprocess.run(
        [*command, str(time.monotonic()), *words], env=environment, capture_output=True, text=True, cwd=at.scratch
    )
    if not out.is_file():
        raise SystemExit(f"{' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}\nfailed")
    return json.loads(out.read_text())


def compare(job: Job, at: Setting, scripts: Path | None, rounds: int, warmup: int) -> dict[str, Any]:
    """Both programs in turn; {arm: figures} with medians over the rounds, and their ratio."""
    arms = {"limner": lambda out: limner_command(job, at, out)}
    if scripts is not None:
        arms["peer"] = lambda out: script_command(job, at, out, scripts)
    seen: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory(dir=at.scratch) as own:
        for number in range(rounds):
            for arm, command in arms.items():
                seen[arm].append(timed(command(Path(own, f"{arm}-{number}")), at, Path(own, "cache")))
    figures: dict[str, Any] = {arm: summary(some, warmup) for arm, some in seen.items()}
    if scripts is not None:
        ours, theirs = figures["limner"], figures["peer"]
        for name, of in (("ratio", "step_s"), ("fastest_ratio", "fastest_s"), ("cpu_ratio", "step_cpu_s")):
            figures[name] = theirs[of] / ours[of]
        figures["ratio_by_round"] = [
            b / a for a, b in zip(ours["step_s_by_round"], theirs["step_s_by_round"], strict=True)
        ]
        saved_s, late_s = theirs["step_s"] - ours["step_s"], ours["cold_start_s"] - theirs["cold_start_s"]
        figures["ahead_at_step"] = math.inf if saved_s <= 0 else 1 + max(0, math.ceil(late_s / saved_s))
    return figures


def summary(rounds: list[dict[str, Any]], warmup: int) -> dict[str, Any]:
    """Medians of what ``timed`` saw in each round."""
    between = {name: [differences(one[name][warmup:]) for one in rounds] for name in ("stamps_s", "cpu_s")}
    steps_s, cpu_s = ([statistics.median(some) for some in each] for each in between.values())
    starts_s = [one["stamps_s"][0] for one in rounds]
    return {
        "step_s": statistics.median(steps_s),
        "step_s_by_round": steps_s,
        "fastest_s": min(itertools.chain(*between["stamps_s"])),
        "step_cpu_s": statistics.median(cpu_s),
        "cold_start_s": starts_s[0],
        "warm_start_s": statistics.median(starts_s[1:] or starts_s),
        "peak_mb": statistics.median(one["peak_mb"] for one in rounds),
    }


def differences(stamps_s: list[float]) -> list[float]:
    return [later - sooner for sooner, later in itertools.pairwise(stamps_s)]


class Stopwatch:
    """Adds up the seconds of named parts; on CUDA it waits for the device at every stop."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts_s = device, dict[str, list[float]]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.parts_s.setdefault(name, []).append(self._now() - start)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def where(job: Job, at: Setting, warmup: int) -> dict[str, Any]:
    """Seconds of the parts of limner's step, medians; its operations; the rate of a large matrix product here."""
    device = run.job.device()
    config = run.resolve(job.method, limner_fields(job, at, at.scratch / "where"))
    made = run.build(config, device)
    for _ in made.train.encode_all():
        pass
    learners = {
        name: Learner(module, made.method.learning_rate(name), config) for name, module in made.method.learns().items()
    }
    watch = Stopwatch(device)
    coming = batches(made.train, Schedule(at.batch_size), 0, at.steps + 1)

    def step(number: int) -> None:
        with watch.part("wait for data"):
            batch = next(coming)
        updates = made.method.step(batch)
        while True:
            with watch.part("forward"), made.method.prior.computing():
                update = next(updates, None)
            if update is None:
                return
            weights = [weight for name in update.names for weight in learners[name].weights]
            with watch.part("backward"):
                update.loss.backward(inputs=weights)
            with watch.part("clip, optimiser, average"):
                for name in update.names:
                    learners[name].apply(number)

    with counting() as counted:
        step(0)
    watch.parts_s.clear()
    for number in range(1, at.steps + 1):
        with watch.part("all"):
            step(number)
    each_s = {
        name: [sum(part) for part in zip(*[iter(some)] * (len(some) // at.steps), strict=True)]
        for name, some in watch.parts_s.items()
    }
    parts_s = {name: statistics.median(some[warmup:]) for name, some in each_s.items()}
    figures = {"parts_s": parts_s, "gflop": counted.get_total_flops() / 1e9}
    return figures | {"encoding_gflop": encoding_gflop(made.method.prior, at)}


def matrix_rate(device: torch.device, precision: str) -> float:
    """GFLOP/s of a large matrix product, the best of several: what the step's operations could at best run at."""
    side, kind = (
        (8192, torch.bfloat16) if precision == "bf16" else (4096 if device.type == "cuda" else 2048, torch.float32)
    )
    a, b = (torch.randn(side, side, device=device, dtype=kind) for _ in range(2))
    best_s = math.inf
    watch = Stopwatch(device)
    for _ in range(20):
        with watch.part("product"):
            a @ b
    best_s = min(watch.parts_s["product"])
    return 2 * side**3 / best_s / 1e9


def encoding_gflop(prior: Prior, at: Setting) -> float:
    """What a script computes again in every step, and limner once: latents of the pictures, and embedded captions."""
    pictures_BCHW = torch.zeros(at.batch_size, 3, at.size_px, at.size_px, device=prior.device)
    with counting() as counted, torch.no_grad():
        prior.encode_image(pictures_BCHW)
        prior.encode_text([PROMPT] * at.batch_size)
    return counted.get_total_flops() / 1e9


def counting() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention; torch leaves out its attention for CPUs."""
    aten = torch.ops.aten
    return FlopCounterMode(
        display=False,
        custom_mapping={
            aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
            aten._scaled_dot_product_flash_attention_for_cpu_backward: (
                lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(grad, q, k, v)
            ),
        },
    )


def why_not(name: str, job: Job, prior: str) -> str:
    """Why a job cannot be run on a prior; empty if it can."""
    if job.method not in find.names("method"):
        return f"limner has no method '{job.method}'"
    if job.only_8x and prior == "mini":
        return "the script's network is made for autoencoders of 8 pixels a cell; this one has 4"
    return ""


def tell(title: str, row: dict[str, Any], given: argparse.Namespace) -> None:
    """Print one job's figures."""
    print(f"\n{title}")
    if "why_not" in row:
        print(f"  not run: {row['why_not']}")
        return
    columns = {"s/step": "step_s", "fastest": "fastest_s", "CPU s/step": "step_cpu_s"}
    columns |= {"cold start s": "cold_start_s", "warm start s": "warm_start_s", "peak MB": "peak_mb"}
    print(" " * 8 + "".join(f"{name:>13}" for name in columns) + "   s/step by round")
    for arm in ("limner", "peer"):
        if arm in row:
            values = "".join(f"{row[arm][name]:13.{0 if name == 'peak_mb' else 3}f}" for name in columns.values())
            print(f"  {arm:6}{values}   " + " ".join(f"{value:.3f}" for value in row[arm]["step_s_by_round"]))
    if "ratio" in row:
        ahead = f"limner is ahead at step {row['ahead_at_step']:.0f}"
        others = f"of the fastest steps {row['fastest_ratio']:.2f}, of CPU s {row['cpu_ratio']:.2f}"
        print(f"  ratio {row['ratio']:.2f}; {others}; {ahead}")
    whole_s = row["parts_s"]["all"]
    parts = "   ".join(f"{name} {value / whole_s:.1%}" for name, value in row["parts_s"].items() if name != "all")
    print(f"  limner's step in this process: {whole_s:.3f} s: {parts}")
    rate, best = row["gflop"] / whole_s, row["matrix_gflop_per_s"]
    print(
        f"  {row['gflop']:.0f} GFLOP at {rate:.0f} GFLOP/s: {rate / best:.0%} of the {best:.0f} of a large "
        f"{given.precision} matrix product; floor {row['floor_s']:.3f} s. "
        f"A script also encodes: {row['encoding_gflop']:.0f} GFLOP"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=Path, help="the examples folder of a checkout of diffusers")
    parser.add_argument("--priors", default="mini,sd_small", help="of " + ", ".join(MAKERS))
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch-size", type=int, default=2, help="of the random priors; four times as many of mini")
    parser.add_argument("--size", type=int, default=256, help="side of the random priors' pictures in px; mini has 64")
    parser.add_argument("--picture-px", type=int, default=1024, help="side of the pictures on disk, which are JPEGs")
    parser.add_argument("--steps", type=int, default=8, help="measured, in each round")
    parser.add_argument("--warmup", type=int, default=2, help="before them")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    scripts = given.scripts and given.scripts.resolve()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        os.environ["LIMNER_CACHE"] = str(scratch / "cache")
        for prior in given.priors.split(","):
            size_px, batch_size = (64, 4 * given.batch_size) if prior == "mini" else (given.size, given.batch_size)
            torch.manual_seed(0)
            MAKERS[prior](scratch / prior, size_px)
            table, folder = scratch / f"{prior}-table", scratch / f"{prior}-folder"
            # So many that neither program ever has a batch that is not full.
            write_pictures(table, folder, 4 * batch_size, given.picture_px)
            at = Setting(
                scratch / prior,
                size_px,
                table,
                folder,
                batch_size,
                given.precision,
                given.warmup + given.steps,
                scratch,
            )
            for job_name in given.jobs.split(","):
                job = JOBS[job_name]
                row: dict[str, Any] = {"prior": prior, "job": job_name, "batch_size": batch_size, "size_px": size_px}
                if reason := why_not(job_name, job, prior):
                    row["why_not"] = reason
                else:
                    row |= compare(job, at, scripts, given.rounds, given.warmup)
                    row |= where(job, at, given.warmup)
                    rate = matrix_rate(run.job.device(), given.precision)
                    row |= {"matrix_gflop_per_s": rate, "floor_s": row["gflop"] / rate}
                tell(f"{prior}, {job_name}: {batch_size} pictures of {size_px} px, {given.precision}", row, given)
                rows.append(row)
                if given.json:
                    settings = {
                        name: str(value) for name, value in vars(given).items() if name not in ("json", "scripts")
                    }
                    given.json.write_text(json.dumps({**settings, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
