"""The command line: ``limner list | check | caption | condition | cache | plan | train | sample | evaluate |
export | demo``.

Nothing here imports torch until a command has to: ``limner --help`` and ``limner list`` answer at once.
Exit codes: 0 done; 1 the data, the model or the run is at fault; 2 the command line or the configuration is;
130 Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from limner import __version__, find
from limner.cli import flags, show
from limner.cli.cache import cache
from limner.cli.caption import caption
from limner.cli.check import check
from limner.cli.condition import condition
from limner.cli.evaluate import evaluate
from limner.cli.export import export
from limner.cli.group import Commands
from limner.cli.plan import plan
from limner.cli.start import importing
from limner.errors import ConfigError, LimnerError, did_you_mean

# What a stranger's first run should not be covered with: third parties' progress bars and advice, all of it optional.
QUIET = {
    "DIFFUSERS_VERBOSITY": "error",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# What the disk may say, wherever something is written.
WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

# Of limner.sampling, which needs torch; a test keeps the two alike.
SOLVERS = ("dpmpp_2m", "ddim", "euler")
GUIDANCE_MODES = ("off", "measured", "independent", "rescale", "tokens")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it recommends another package whenever it is imported
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app.main(args=arguments or ["--help"], prog_name="limner", standalone_mode=False)
    except click.UsageError as error:
        code = show.error(_usage(error))
    except LimnerError as error:
        code = show.error(error)
    except OSError as error:
        if error.errno not in WRITING:
            raise
        said = f"{error.filename or 'a file'} cannot be written: {error.strerror}."
        code = show.error(LimnerError(said, "free some disk, or write elsewhere"))
    except (click.Abort, KeyboardInterrupt):
        code = 130
    return code if isinstance(code, int) else 0


def _usage(error: click.UsageError) -> ConfigError:
    """Click's complaint as one of ours: a sentence and a hint."""
    path = error.ctx.command_path if error.ctx else "limner"
    if isinstance(error, click.NoSuchOption) and error.ctx:
        known = [option for param in error.ctx.command.params for option in param.opts if option.startswith("--")]
        return ConfigError(
            f"unknown option '{error.option_name}'.", did_you_mean(error.option_name, [*known, "--help"])
        )
    return ConfigError(error.format_message().rstrip(".") + ".", f"see '{path} --help'")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="limner")
def app() -> None:
    """Fine-tune a pretrained diffusion model on a small set of pictures, and see how good the result is.

    Start with 'limner demo': it trains the built-in model to turn line drawings into pictures, on any machine.
    """


for command in (cache, caption, check, condition, evaluate, export, plan):
    app.add_command(command)


@app.command("list")
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def list_(as_json: bool) -> None:
    """Show methods, priors, conditions and data sets."""
    found = {kind: find.names(kind) for kind in find.FOLDERS}
    if as_json:
        click.echo(json.dumps({_plural(kind): names for kind, names in found.items()}, indent=2, ensure_ascii=False))
    else:
        show.names({_plural(kind).replace("_", " "): names for kind, names in found.items()})


def _plural(kind: str) -> str:
    return kind.replace(" ", "_") + "s"


@app.command(options_metavar="METHOD", **flags.ANY_FIELD)
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--FIELD VALUE]...")
@click.pass_context
def train(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Fine-tune a prior with METHOD.

    Writes a run folder; the same command again resumes it.

    \b
    --data D         a built-in data set, a folder or a zip     (see docs/start.md)
    --prior P        a built-in prior or a diffusers folder
    --out DIR        the run folder
    --config FILE    a YAML file of fields; flags win over it; its 'method' stands for METHOD
    --set NAME=VALUE the same as --NAME VALUE
    --dry-run        print the whole resolved configuration as YAML, and stop
    --help           this text; after METHOD: all of its fields

    \b
    limner train piti --data fluent --steps 500
    limner train piti --data pictures/ --batch-size 8 --no-flip
    limner train --config runs/piti-fluent/config.yaml
    """
    positional, given = flags.parse(["--help" if word == "-h" else word for word in words])
    wants_help, dry_run = given.pop("help", False), given.pop("dry_run", False)
    file = given.pop("config", None)
    positional += [str(given.pop("method"))] if "method" in given else []
    if len(positional) > 1:
        raise ConfigError(f"one method at a time, not also '{positional[1]}'.", "options are written --name value")
    method = positional[0] if positional else _method_in(file)
    if wants_help:
        show.fields(method, find.load("method", method).Config) if method else click.echo(ctx.get_help())
        return
    if not method:
        raise ConfigError("which method?", "limner train METHOD --data ...; 'limner list' names the methods")
    if isinstance(file, bool):
        raise ConfigError("--config needs a file.", "for example --config run.yaml")
    with importing():
        from limner import run
    from limner.config import dump

    config = run.resolve(method, given, Path(file) if file else None)
    if dry_run:
        click.echo(dump(config), nl=False)
    else:
        run.train(config)


def _method_in(file: str | bool | None) -> str | None:
    """The method that a configuration file names, if it does."""
    if not isinstance(file, str):
        return None
    from limner.config import read_yaml

    return read_yaml(Path(file)).get("method")


@app.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--prompt", "prompts", multiple=True, help="what to draw; may be given several times")
@click.option("--input", "inputs", multiple=True, type=click.Path(path_type=Path), help="a picture to translate")
@click.option("--n", "num_images", default=4, show_default=True, type=click.IntRange(min=1), help="pictures each")
@click.option("--steps", default=20, show_default=True, type=click.IntRange(min=1), help="sampler steps")
@click.option("--guidance-scale", type=click.FloatRange(min=1), help="1 is none; default: the run's own")
@click.option(
    "--guidance",
    type=click.Choice(GUIDANCE_MODES),
    help="how guided predictions are normalised; default: the run's own",
)
@click.option("--solver", default="dpmpp_2m", show_default=True, type=click.Choice(SOLVERS))
@click.option("--eta", default=0.0, show_default=True, type=click.FloatRange(0, 1), help="ddim's noise; 0 is none")
@click.option("--seed", default=0, show_default=True, help="the same seed draws the same pictures")
@click.option("--out", type=click.Path(path_type=Path), help="folder for the pictures; default: RUN/pictures")
@click.option(
    "--adapter", "adapters", multiple=True, metavar="FILE[:SCALE]", help="a LoRA or its kin to add; repeatable"
)
@click.option("--scale", default=1.0, show_default=True, help="of the run's own adapter; 0 is without it")
def sample(run_folder: Path, prompts: tuple[str, ...], inputs: tuple[Path, ...], **options: Any) -> None:
    """Draw pictures with a trained RUN.

    \b
    limner sample runs/piti-fluent --prompt "a 3D fox" --input sketch.png --n 4
    limner sample runs/fox --prompt "a fox" --adapter style.safetensors:0.7 --scale 0.8
    """
    if not prompts and not inputs:
        raise ConfigError("nothing to draw.", 'give --prompt "..." or --input sketch.png')
    for path in inputs:
        if not path.is_file():
            wrong = "is a folder" if path.is_dir() else "does not exist"
            raise ConfigError(f"{path} {wrong}.", "give the path of a picture")
    with importing():
        from limner import run

    for path in run.sample(run_folder, prompts=list(prompts), inputs=list(inputs), **options):
        click.echo(path)


@app.command()
@click.option("--out", default=Path("runs/demo"), show_default=True, type=click.Path(path_type=Path))
def demo(out: Path) -> None:
    """Train the built-in prior: drawing to picture.

    Teaches it to turn line drawings into rendered pictures, and writes a page that shows how well, in minutes, on any
    machine and without a download.
    """
    with importing():
        from limner import run

    show.report(run.demo(out), out / "report.html")
