"""Runs a training program as it is and notes when each optimiser step was done, and the memory held so far.

    python timed.py OUT.json STEPS SINCE -m limner train ...
    python timed.py OUT.json STEPS SINCE train_text_to_image_lora.py ...

SINCE is the monotonic clock's time at which the process was started. After STEPS optimiser steps the figures are
written and the process ends where it is: what a program does after its training does not count. On CUDA, steps are
stamped by events on the device, because a program may run ahead of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

out, steps, since = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
stamps_s: list[float] = []  # since the process was started, of every step; on CUDA of the first, by the host
cpu_s: list[float] = []  # CPU time of all threads so far, of every step
events: list[Any] = []


def after_step(*_: object) -> None:
    if torch.cuda.is_available():
        events.append(torch.cuda.Event(enable_timing=True))
        events[-1].record()
        if not stamps_s:
            torch.cuda.synchronize()
    stamps_s.append(time.monotonic() - since)
    cpu_s.append(time.process_time())
    if len(stamps_s) == steps:
        finish()


def finish() -> None:
    """Write what was seen, and end the process."""
    # Of Linux; its getrusage would also count the process that started this one.
    [peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    figures: dict[str, Any] = {"peak_mb": int(peak.split()[1]) * 1024 / 1e6}
    if events:
        torch.cuda.synchronize()
        stamps_s[1:] = [stamps_s[0] + events[0].elapsed_time(event) / 1e3 for event in events[1:]]
        figures |= {"peak_mb": torch.cuda.max_memory_allocated() / 1e6, "host_peak_mb": figures["peak_mb"]}
    out.write_text(json.dumps({"stamps_s": stamps_s, "cpu_s": cpu_s, **figures}))
    os._exit(0)


register_optimizer_step_post_hook(after_step)
program = sys.argv[4:]
if program[0] == "-m":
    sys.argv = program[1:]
    runpy.run_module(program[1], run_name="__main__", alter_sys=True)
else:
    if importlib.util.find_spec("torchvision") is None:
        # Not before these have looked whether the real one is there, and settled on doing without it.
        import datasets  # noqa: F401
        import diffusers  # noqa: F401
        from transformers.utils import is_torchvision_available

        is_torchvision_available()
        sys.path.append(str(Path(__file__).parent / "stand_in"))
    sys.argv = program
    sys.path.insert(0, str(Path(program[0]).parent))
    runpy.run_path(program[0], run_name="__main__")
sys.exit(f"{program[0]} ended after {len(stamps_s)} of {steps} optimiser steps")
