"""``limner caption``: write captions for pictures into a new metadata.jsonl. Needs torch only once it runs."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from limner.errors import ConfigError


@click.command()
@click.argument("data", metavar="DATA", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "source",
    metavar="SOURCE",
    help="'names' (words of the file names), 'template', or a model that sees, by hub name or folder: BLIP, "
    "Florence-2, or a vision-language model that chats, such as Qwen2.5-VL",
)
@click.option(
    "--template",
    default="",
    metavar="TEXT",
    help="what the caption is put into: {caption} (as SOURCE, or else the data, has it), {name} (words of the file "
    "name), {trigger}, {class_word}, and any other column of the data",
)
@click.option("--trigger", default="", metavar="WORD", help="the rare word for one's own subject, for {trigger}")
@click.option("--class-word", default="", metavar="WORD", help="what it is: 'dog', for {class_word}")
@click.option("--prompt", metavar="TEXT", help="what a chatting model is asked; how BLIP begins; Florence-2's task")
@click.option("--only-missing", is_flag=True, help="keep the captions that the data has, and make the others")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="pictures seen at once")
@click.option(
    "--max-new-tokens", default=128, show_default=True, type=click.IntRange(min=1), help="length of a model's captions"
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="default: DATA/metadata.jsonl")
def caption(data: Path, batch_size: int, out: Path | None, **given: Any) -> None:
    """Write captions for the pictures in DATA.

    The new file has one line of JSON a picture: file_name (within DATA), caption, and what else DATA says of it. As
    metadata.jsonl in the folder of pictures limner reads it instead of what was there. DATA itself and every file that
    exists stay as they are. After Ctrl-C the same command goes on where it stopped.

    \b
    limner caption pictures/ --from names
    limner caption pictures/ --template "a photo of {trigger} {class_word}" --trigger sks --class-word dog
    limner caption pictures/ --from Salesforce/blip-image-captioning-base --template "in my style, {caption}"
    """
    given["source"] = given["source"] or ("template" if given["template"] else "")
    out = out or _in_folder(data)
    if not out.name.lower().endswith(".jsonl"):
        raise ConfigError(f"{out} is no .jsonl file, and nothing else is written.", "for example --out captions.jsonl")
    if data.exists() and not out.parent.is_dir():
        raise ConfigError(f"the folder {out.parent} does not exist.", "make it first, or give another --out")
    from limner.data import captioning
    from limner.data.read import read
    from limner.train.progress import bar

    options = captioning.Options(**given)
    captioning.refuse_to_overwrite(out)
    samples = read(data)
    folder = data if data.is_dir() else data.parent
    done = 0
    with contextlib.ExitStack() as stack:
        show: Callable[[int], None] | None = None

        def advance(now: int) -> None:
            nonlocal done, show
            done = now
            if show is None:  # only now is it known where to begin
                shown = options.model is not None and sys.stdout.isatty()
                show = stack.enter_context(bar("caption", len(samples), done, 1, shown))
            show(done)

        try:
            num_empty = captioning.write(samples, folder, options, out, batch_size, advance)
        except KeyboardInterrupt:
            click.echo(f"stopped at {done} of {len(samples)}: the same command goes on from there", err=True)
            raise
    click.echo(f"{out}: {len(samples)} captions" + (f", {num_empty} of them empty" if num_empty else ""))


def _in_folder(data: Path) -> Path:
    """The file that limner reads first in a folder.

    Raises:
        ConfigError: the data is no folder, or has captions in a file of another kind.
    """
    if data.is_file():
        raise ConfigError(f"{data} is no folder to put a metadata.jsonl into.", "say where to write: --out FILE.jsonl")
    for other in ("metadata.csv", "metadata.parquet"):
        if (data / other).is_file():
            raise ConfigError(
                f"{data / other} exists, and metadata.jsonl would be read instead.",
                f"--out {data / 'captions.jsonl'}; it can be given as DATA by itself",
            )
    return data / "metadata.jsonl"
