"""The whole recipe in one resumable command: data, autoencoder, eye, denoiser, figures.

Each part runs once; what is done is written down in the scratch folder, so the same command goes on where it stopped,
also when it was cut off. `--limit-minutes` starts no part that would not fit any more: for machines that are lent in
short turns. `--minutes` is the whole training time: half an hour of an H100 for `base`, some hours of two cores for
`small`. Call it again with `--again NAME` to give a part more time; several half hours add up.

    python recipes/mini/recipe.py --size base --device cuda --minutes 30 --packages packages --scratch scratch/base
    python recipes/mini/recipe.py --size small --minutes 150 --packages packages --scratch scratch/mini
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from sizes import SIZES

HERE = Path(__file__).resolve().parent
SHARES = {
    "autoencoder": 0.15,
    "sharpen": 0.12,
    "text": 0.1,
    "eye": 0.05,
}  # of the training time; the denoiser has the rest
PREPARE_MINUTES, FIGURES_MINUTES = 5.0, 9.0  # a guess, for --limit-minutes
BATCHES = {  # pictures a step: autoencoder and its critic, text, denoiser
    "cpu": {"small": (16, 128, 16), "base": (16, 128, 16), "large": (8, 128, 8)},
    "cuda": {"small": (512, 1024, 1024), "base": (256, 1024, 1024), "large": (64, 1024, 256)},
}


def parts(options) -> list[tuple[str, float, list[str]]]:
    """(name, minutes, program and its arguments), in order."""
    where = ["--scratch", str(options.scratch)]
    packages, node = (["--packages", str(p)] for p in (options.packages, options.packages / "node_modules"))
    device = ["--device", options.device]
    train = [*where, *device, "--size", options.size, "--bf16"]
    pictures, contrasts, latents = map(str, BATCHES[options.device][options.size])
    minutes = {name: share * options.minutes for name, share in SHARES.items()}
    rest = options.minutes - sum(minutes.values())
    num_slices = max(1, -(-rest // options.slice_minutes))
    schedule = ["--minutes", f"{rest / num_slices:.3f}", "--total-minutes", f"{rest:.3f}", "--compile"]
    workers = ["--workers", str(options.workers)]
    px = str(SIZES[options.size].picture_px)
    assets = ["--assets", str(options.assets)]
    out = ["--out", str(options.assets / "mini")]

    def clock(name: str) -> list[str]:
        return ["--minutes", f"{minutes[name]:.3f}"]

    crops = ["--crop-share", "0.6"] if options.device == "cpu" else []
    found = [
        ("data", PREPARE_MINUTES, ["build_data.py", *where, *node, *assets, "--train-px", px]),
        ("composer", 1.0, ["composer.py", *where]),
        ("sentences", PREPARE_MINUTES, ["sentences.py", *where, *packages]),
        (
            "autoencoder",
            minutes["autoencoder"],
            ["autoencoder.py", *train, *clock("autoencoder"), "--batch", pictures, *crops],
        ),
        ("sharpen", minutes["sharpen"], ["sharpen.py", *train, *clock("sharpen"), "--batch", pictures]),
        ("text", minutes["text"], ["text.py", *train, *clock("text"), "--batch", contrasts]),
        ("eye", minutes["eye"], ["eye.py", "train", *where, *device, "--bf16", *clock("eye"), *packages, *assets]),
    ]
    denoise = ["denoiser.py", "train", *train, *schedule, *workers, *out, "--batch", latents]
    found += [(f"denoiser {n + 1}", rest / num_slices + 1, denoise) for n in range(int(num_slices))]
    results = ["--json", str(options.scratch / "figures.json"), "--sheet", str(options.scratch / "sheet.png")]
    figures = ["evaluate.py", *where, *device, *packages, *assets, *results]
    return [*found, ("figures", FIGURES_MINUTES, figures)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="where pip and npm put the packages")
    parser.add_argument("--scratch", type=Path, required=True, help="the folder for everything that is not shipped")
    parser.add_argument("--assets", type=Path, default=HERE.parents[1] / "src" / "limner" / "assets")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=list(BATCHES), default="cpu")
    parser.add_argument("--minutes", type=float, default=150, help="of training, all parts together")
    parser.add_argument("--slice-minutes", type=float, default=9, help="the denoiser stores its state this often")
    parser.add_argument("--limit-minutes", type=float, default=1e9, help="start no part that would end later than this")
    parser.add_argument("--workers", type=int, default=0, help="processes that lay out scenes for the denoiser")
    parser.add_argument("--again", nargs="*", default=[], help="parts to run once more")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    start, ledger = time.time(), options.scratch / "done.json"
    done = [name for name in json.loads(ledger.read_text()) if name not in options.again] if ledger.exists() else []
    for name, minutes, arguments in parts(options):
        if name in done:
            continue
        if (time.time() - start) / 60 + minutes > options.limit_minutes:
            print(f"{name} needs about {minutes:.0f} minutes: run the same command again", flush=True)
            return
        print(f"--- {name}: {' '.join(arguments)}", flush=True)
        subprocess.run([sys.executable, str(HERE / arguments[0]), *arguments[1:]], check=True)
        done.append(name)
        ledger.write_text(json.dumps(done))
    print("all parts are done", flush=True)


if __name__ == "__main__":
    main()
