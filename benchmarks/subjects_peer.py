"""limner's DreamBooth-LoRA beside diffusers' script: the same subjects, prior and rank; equal time, and half the time.

    python benchmarks/subjects_peer.py --out scratch/peer --scripts diffusers/examples --subjects dog,toolbox,ghost

Times are of whole commands, in turn. The script is given limner's class pictures, which it need not draw, and as many
steps as fit into the time that limner's run took (its own start and rate are measured first). It learns one prompt, as
its users do, at each of several learning rates; limner, whose settings were chosen on two other subjects, the captions
and the masks that lie beside the pictures. Its adapter is scored as limner's: opened
as a run that takes a single step of no size from it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from subjects import COMMON, METHODS, STEPS, TEMPLATE, limner, protocol, timed, train

from limner.config.personalize import class_prompt, told
from limner.data.builtin.subjects import subjects as builtin
from limner.data.prepare import open_picture
from limner.evaluate.subject import place
from limner.priors.mini import FOLDER as MINI

HERE = Path(__file__).parent
NAME = "dreambooth lora"
SCRIPT = "dreambooth/train_dreambooth_lora.py"
PROBES = (10, 50)  # steps of two short runs: their difference is the rate, the rest the start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where runs and figures go")
    parser.add_argument("--scripts", type=Path, required=True, help="diffusers' examples")
    parser.add_argument("--subjects", default="dog,toolbox,ghost")
    parser.add_argument("--steps", type=int, default=STEPS, help="of limner's whole run")
    parser.add_argument("--half-steps", type=int, default=330, help="of limner's run in half the time")
    parser.add_argument("--rates", default="1e-3,3e-3", help="the script's learning rates, a run each; its own is 5e-4")
    options = parser.parse_args()
    names, rates = options.subjects.split(","), options.rates.split(",")
    arms = ["limner", "limner, fewer steps", *(f"the script, {rate}" for rate in rates)]
    folders = {arm: options.out / arm.replace(",", "").replace(" ", "-") for arm in arms}
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    start_s, step_s = 0.0, 0.0
    for name in names:
        whole, fewer, *peers = (folder / name for folder in folders.values())
        seconds[arms[0]].append(train(whole, NAME, name, options.steps))
        given = pictures(options.out / "pictures" / name, name), whole / "class" / name
        if not step_s:
            short, long = (script(options, options.out / f"probe-{n}", name, *given, n, rates[0]) for n in PROBES)
            step_s = (long - short) / (PROBES[1] - PROBES[0])
            start_s = short - PROBES[0] * step_s
        steps = max(1, int((seconds[arms[0]][-1] - start_s) / step_s))
        for arm, rate, peer in zip(arms[2:], rates, peers, strict=True):
            seconds[arm].append(script(options, peer, name, *given, steps, rate))
            opened(peer, name)
        seconds[arms[1]].append(train(fewer, NAME, name, options.half_steps))
    print(f"the script: {start_s:.1f} s to start, {step_s:.3f} s a step")
    each: list[str] = []
    print("| | seconds | subject | place | prompt | drift |\n|---|---|---|---|---|---|")
    for arm, folder in folders.items():
        runs = [folder / name / "opened" if arm in arms[2:] else folder / name for name in names]
        report = protocol(folder, runs)
        scores, floor, real = (report["mean"][end] for end in ("scores", "untrained", "real"))
        where = place(scores["subject"], floor["subject"], real["subject"])
        for one in report["subjects"]:
            each.append(f"{arm}; {one['subject']}: subject {said(one, 'subject')}, prompt {said(one, 'prompt')}")
        cells = [f"{scores['subject']:.3f}", f"{where:.0%}", f"{scores['prompt']:.3f}", f"{scores['drift']:.3f}"]
        print(f"| {arm} | {sum(seconds[arm]) / len(names):.0f} | " + " | ".join(cells) + " |")
    print("\n".join(each))


def said(row: dict[str, Any], metric: str) -> str:
    low, high = row["scores"][f"{metric}_interval"]
    return f"{row['scores'][metric]:.3f} ({low:.3f} to {high:.3f})"


def pictures(folder: Path, name: str) -> Path:
    """The training pictures of a subject as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, sample in enumerate(one for one in builtin(name) if one.split == "train"):
        open_picture(sample.image).convert("RGB").save(folder / f"{number}.png")
    return folder


def script(
    options: argparse.Namespace, out: Path, name: str, own: Path, of_class: Path, steps: int, rate: str
) -> float:
    """Run diffusers' script, unless it has run; seconds from its start to its end."""
    flags = {
        "pretrained_model_name_or_path": MINI,
        "instance_data_dir": own,
        "instance_prompt": told(TEMPLATE, f"sks {name}"),
        "class_data_dir": of_class,
        "class_prompt": class_prompt(TEMPLATE, name),
        "num_class_images": COMMON["class_pictures"],
        "output_dir": out,
        "resolution": 64,
        "train_batch_size": 4,
        "rank": METHODS[NAME][1]["rank"],
        "learning_rate": rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 20,
        "max_train_steps": steps,
        "checkpointing_steps": 10**6,
        "seed": 0,
    }
    words = [str(HERE / "peers" / "with_mini.py"), str(options.scripts / SCRIPT), "--with_prior_preservation"]
    for key, value in flags.items():
        words += [f"--{key}", str(value)]

    def run() -> None:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        if done.returncode or not (out / "pytorch_lora_weights.safetensors").is_file():
            raise SystemExit(f"{' '.join(words)}\n{(done.stdout + done.stderr)[-3000:]}\nfailed")

    return timed(out, words, run)


def opened(peer: Path, name: str) -> None:
    """The script's adapter as a run of limner's, so that both are drawn and scored by the same code."""
    run = peer / "opened"
    if (run / "checkpoints").is_dir():
        return
    method, _ = METHODS[NAME]
    fields = {**COMMON, "data": f"subjects:{name}", "class_word": name, "out": str(run), "adapter": "lora"}
    fields |= {"start_from": str(peer / "pytorch_lora_weights.safetensors"), "steps": "1", "learning_rate": "1e-12"}
    fields |= {
        "preservation": "off",
        "ema": "0",
        "warmup_steps": "0",
        "caption_from": "template",
        "score_pictures": "2",
    }
    limner("train", method, *[word for key, value in fields.items() for word in (f"--{key.replace('_', '-')}", value)])


if __name__ == "__main__":
    main()
