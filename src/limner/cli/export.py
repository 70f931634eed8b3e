"""``limner export``: a trained run in a layout that other programs read, proven. Needs torch only once it runs."""

from __future__ import annotations

from pathlib import Path

import click

from limner.cli.start import importing

# Of limner.export, which needs torch; a test keeps the two alike.
TARGETS = ("diffusers", "peft", "kohya", "comfyui")
DTYPES = ("fp32", "fp16", "bf16")


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, metavar="|".join(TARGETS), help="whose layout")
@click.option("--merge", "merged", is_flag=True, help="fold the adapter into the base, and write the whole model")
@click.option("--dtype", default="fp32", show_default=True, type=click.Choice(DTYPES), help="of the written weights")
@click.option("--verify/--no-verify", "proven", default=True, help="open what was written and draw with it (default)")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="default: RUN/export/TARGET")
@click.option("--overwrite", is_flag=True, help="replace what is there")
def export(run_folder: Path, target: str, **options: bool | str | Path | None) -> None:
    """Write a trained RUN for other programs, and prove it.

    An adapter becomes an adapter's file, new words files of their own, a full fine-tune a whole model. What was written
    is opened by stock diffusers; every layer must arrive, and the run's first sample, drawn again from the same noise,
    must be the same: no pixel may move by more than 2/255 (0.0078 of 1), nor all by more than 0.2/255 on average; with
    --dtype fp16 8/255 and 1/255, with bf16 24/255 and 4/255. Else the command fails, and the files are left in
    DIR.unverified. See docs/export.md.

    \b
    diffusers  pytorch_lora_weights.safetensors, or a folder for DiffusionPipeline.from_pretrained
    peft       adapter_model.safetensors and adapter_config.json
    kohya      one file under the names of kohya's trainers
    comfyui    one file for ComfyUI's models/loras, checkpoints or diffusion_models

    \b
    limner export runs/finetune-pictures --to comfyui
    limner export runs/finetune-pictures --to diffusers --merge --dtype fp16
    """
    with importing():
        from limner import run

    made = run.export(run_folder, target=target, **options)  # type: ignore[arg-type]
    click.echo(made.proof, err=True)
    click.echo(made.folder)
