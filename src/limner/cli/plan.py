"""``limner plan METHOD``: memory, time and energy of a run before it; torch is needed once it counts."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limner.cli import flags
from limner.cli.start import importing
from limner.errors import ConfigError

if TYPE_CHECKING:
    from limner.run.fitting import Fit
    from limner.run.planning import Plan


@click.command(options_metavar="METHOD", **flags.ANY_FIELD)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--FIELD VALUE]...")
@click.pass_context
def plan(ctx: click.Context, words: tuple[str, ...]) -> int:
    """Say what a run will need: memory, minutes, energy.

    Counts the memory, takes ten steps, and writes no run folder; pictures that it encodes stay in the cache. Where the
    run does not fit it names the cheapest change that makes it fit, and the exit code is 1. Once the run is done, the
    same command compares.

    \b
    --no-probe       count only, which takes seconds for a model of any size
    --memory-gb X    would it fit there?       (default: what is free on this machine)
    --json           everything as one JSON object
    --config FILE    a YAML file of fields; any field of 'limner train' may be given
    --help           this text

    \b
    limner plan piti --data pairs/ --batch-size 32
    limner plan finetune --prior stable-diffusion/ --memory-gb 8 --no-probe
    """
    method, given, options = _parse(words)
    if options["help"]:
        click.echo(ctx.get_help())
        return 0
    started = time.time()
    file = given.pop("config", None)
    if isinstance(file, bool):
        raise ConfigError("--config needs a file.", "for example --config run.yaml")
    from limner.config import read_yaml

    method = method or (read_yaml(Path(file)).get("method") if file else None)
    if not method:
        raise ConfigError("which method?", "limner plan METHOD --data ...; 'limner list' names the methods")
    import psutil

    with importing():
        from limner.run import job, planning

    config = job.resolve(method, given, Path(file) if file else None)
    before_s = time.time() - min(started, psutil.Process().create_time())
    found = planning.plan(config, options["probe"], options["memory"], before_s)
    fit, smallest = (None, None) if found.fits else planning.mend(found, _trying)
    done = planning.measured(config)
    if options["json"]:
        click.echo(json.dumps(_plain(found, fit, smallest, done), indent=2, ensure_ascii=False))
    else:
        _page(found, fit, smallest, done)
    return int(not found.fits)


def _parse(words: Sequence[str]) -> tuple[str | None, flags.Flags, dict[str, Any]]:
    """(METHOD, fields of the configuration, the command's own options)."""
    alone = {word: word in words for word in ("--json", "--no-probe")}
    wants_help = "--help" in words or "-h" in words
    positional, given = flags.parse([word for word in words if word not in (*alone, "--help", "-h")])
    positional += [str(given.pop("method"))] if "method" in given else []
    if len(positional) > 1:
        raise ConfigError(f"one method at a time, not also '{positional[1]}'.", "options are written --name value")
    size = given.pop("memory_gb", None)
    try:
        memory = None if size is None else int(float(size) * 1e9)
    except (ValueError, OverflowError):
        memory = 0
    if isinstance(size, bool) or (memory is not None and memory <= 0):
        raise ConfigError("--memory-gb needs a number.", "for example --memory-gb 8")
    options = {"help": wants_help, "json": alone["--json"], "probe": not alone["--no-probe"], "memory": memory}
    return positional[0] if positional else None, given, options


def _trying(flags: str) -> None:
    """On a terminal, while what fits is looked for: each try takes seconds."""
    if sys.stderr.isatty():
        click.echo(f"it does not fit; trying {flags}", err=True)


def _plain(found: Plan, fit: Fit | None, smallest: Fit | None, done: Mapping[str, float] | None) -> dict[str, Any]:
    """All of a plan as what JSON can say; bytes, seconds, kWh."""
    kwh, kg_co2e = found.energy()
    return {
        "method": found.config.method,
        "prior": found.config.prior,
        "data": found.config.data,
        "device": found.device.type,
        "fits": found.fits,
        "peak": found.peak,
        "counted": found.needed + found.cached,
        "free": found.free,
        "phase": found.phase,
        "phases": found.counted.peaks,
        "parts": found.parts(),
        "flops": found.counted.flops,
        "probe": asdict(found.probe) if found.probe else None,
        "seconds": found.seconds(),
        "floor_seconds": found.floor_s,
        "kwh": kwh,
        "kg_co2e": kg_co2e,
        "note": found.why,
        "cheapest": fit and {"flags": fit.flags(), "peak": fit.needed},
        "smallest": smallest and {"flags": smallest.flags(), "peak": smallest.needed},
        "measured": done,
    }


def _page(found: Plan, fit: Fit | None, smallest: Fit | None, done: Mapping[str, float] | None) -> None:
    """The plan for a person."""
    config = found.config
    pictures = config.batch_size * config.accumulate
    where = "this machine's CPU" if found.device.type == "cpu" else f"an accelerator ({found.device.type})"
    click.echo(f"{config.method} on {config.prior}: {config.steps} steps of {pictures} pictures, on {where}\n")
    for name, size in found.parts().items():
        if size:
            _line(name, size / 1e6, "MB")
    _line("peak", (found.needed + found.cached) / 1e6, "MB", f"counted, while {found.phase}")
    if found.probe:
        _line("", found.peak / 1e6, "MB", "as ten steps say")
    if done:
        _line("", done["peak_mb"], "MB", f"measured: {_off(found.peak / 1e6, done['peak_mb'])}")
    _time(found, done)
    if found.why:
        click.echo(f"\n{found.why}")
    click.echo("\n" + _verdict(found, fit, smallest))


def _time(found: Plan, done: Mapping[str, float] | None) -> None:
    """Minutes and energy; how far they were off, once that is known."""
    seconds, (kwh, kg_co2e) = found.seconds(), found.energy()
    click.echo()
    if not seconds:
        _line("time", found.floor_s / 60, "min", "at least: the operations of all steps at this machine's rate")
        return
    for name, some in seconds.items():
        each = f"{found.looks[name]} of {some / found.looks[name]:.1f} s" if name in found.looks else ""
        if name == "steps":
            each = f"{found.config.steps} of {some / found.config.steps:.2f} s"
        _line(name, some / 60, "min", each)
    whole = sum(seconds.values())
    _line("time", whole / 60, "min", "in all")
    learning = whole - seconds["start"] - seconds["pictures"]
    if done:
        off = _off(learning, done["seconds"])
        _line("", done["seconds"] / 60, "min", f"measured, without start and pictures: {off}")
    _line("energy", kwh, "kWh", f"{1000 * kg_co2e:.2g} g CO2e")
    if done and kwh:
        _line("", done["kwh"], "kWh", f"measured, likewise: {_off(kwh * learning / whole, done['kwh'])}")


def _verdict(found: Plan, fit: Fit | None, smallest: Fit | None) -> str:
    room, needs = f"{found.free / 1e9:.1f} GB", f"{(found.peak - found.cached) / 1e9:.1f} GB"
    if found.fits:
        return f"It fits: it needs {needs} of {room}."
    lines = [f"It does not fit: it needs {needs} of {room}."]
    if fit:
        lines.append(f"The cheapest change that makes it fit ({fit.needed / 1e9:.1f} GB): {fit.flags()}")
    elif smallest:
        lines.append(f"Nothing makes it fit. The least is {smallest.needed / 1e9:.1f} GB: {smallest.flags()}")
    return "\n".join(lines)


def _line(name: str, value: float, unit: str, note: str = "") -> None:
    number = f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    click.echo(f"{name:<16} {number:>8} {unit:<4} {note}".rstrip())


def _off(predicted: float, truth: float) -> str:
    return f"the prediction is {100 * (predicted / truth - 1):+.0f} %"
