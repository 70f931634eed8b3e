"""``limner condition NAME IN OUT``: condition pictures made of pictures, to look at or to train on.

Options are those of the condition's function, so a new file in ``data/conditions`` needs nothing here. Listing the
names needs no torch.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from limner import find
from limner.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

KINDS: dict[type, Any] = {bool: click.BOOL, int: click.INT, float: click.FLOAT}


class Conditions(click.Group):
    """One command a condition; a path of a .py file or a dotted name is one, too."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(find.names("condition"))

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        from limner.data.condition import bind, options_of

        bound = bind(name)
        meanings = _meanings(bound.function)
        options = [
            click.Option(
                ["--" + option.replace("_", "-"), option],
                type=KINDS.get(type(default), click.STRING),
                help=f"{meanings.get(option, '')}  [default: {default}]".strip(),
            )
            for option, default in options_of(bound.function).items()
        ]
        if bound.wants_seed:
            options.append(click.Option(["--seed"], type=click.INT, default=0, help="another seed, another picture"))

        def run(source: Path, target: Path, size: int | None, overwrite: bool, seed: int = 0, **given: Any) -> None:
            chosen = {option: value for option, value in given.items() if value is not None}
            _run(bind(name, chosen), seed, _pairs(source, target, overwrite), size)

        return click.Command(name, callback=run, params=[*_arguments(), *options], help=_about(bound.function))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Conditions"):
            formatter.write_dl(sorted(find.names("condition").items()))


@click.group(
    cls=Conditions,
    invoke_without_command=True,
    options_metavar="",
    subcommand_metavar="NAME IN OUT [--OPTION VALUE]...",
)
@click.pass_context
def condition(ctx: click.Context) -> None:
    """Turn pictures into condition pictures: outlines, masks, depth, colours.

    IN is a picture or a folder; OUT a .png file or a folder, where files keep their relative names. Pictures keep their
    size. 'limner condition NAME --help' shows the options of one.

    \b
    limner condition line_art photo.jpg drawing.png
    limner condition xdog photos/ drawings/ --size 512 --ink 0.2
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _arguments() -> list[click.Parameter]:
    path = click.Path(path_type=Path)
    return [
        click.Argument(["source"], metavar="IN", type=path),
        click.Argument(["target"], metavar="OUT", type=path),
        click.Option(["--size"], type=click.IntRange(min=1), help="scale the shorter side to so many pixels first"),
        click.Option(["--overwrite"], is_flag=True, help="write over what is there"),
    ]


def _about(function: Any) -> str:
    """What a condition is: the first line of its file, else of itself."""
    text = inspect.getdoc(inspect.getmodule(function)) or inspect.getdoc(function) or ""
    return text.partition("\n")[0]


def _meanings(function: Any) -> dict[str, str]:
    """What the 'Args:' of a docstring say of each option."""
    _, _, args = (inspect.getdoc(function) or "").partition("Args:\n")
    args = re.split(r"\n(?=\S)", args)[0]
    found = re.findall(r"^ {4}(\w+): (.*(?:\n {5,}.*)*)", args, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


def _pairs(source: Path, target: Path, overwrite: bool) -> list[tuple[str, Path, Path]]:
    """(relative name, picture, file to write), all checked before anything is computed.

    Raises:
        DataError: nothing to read.
        ConfigError: a file that must not be written.
    """
    from limner.data.formats.files import PICTURES, Folder

    if source.is_dir():
        if target.suffix and not target.is_dir():
            raise ConfigError(f"{source} is a folder and {target} is not.", "give a folder for OUT")
        if target.resolve().is_relative_to(source.resolve()):
            raise ConfigError(f"{target} lies within {source}, whose pictures are read.", "give a folder beside it")
        names = [name for name in Folder(source).paths() if name.lower().endswith(PICTURES)]
        pairs = [(name, source / name, (target / name).with_suffix(".png")) for name in names]
    elif source.is_file():
        inside = target / f"{source.stem}.png"
        pairs = [(source.name, source, inside if target.is_dir() else target)]
    else:
        raise DataError(f"{source} does not exist.", "give a picture or a folder of pictures")
    if not pairs:
        raise DataError(f"{source} holds no pictures.", "known kinds: " + ", ".join(PICTURES))
    before: dict[Path, Path] = {}
    for _, read, write in pairs:
        if write.suffix.lower() != ".png":
            raise ConfigError(f"{write} is no PNG, and others would blur lines.", "let OUT end in .png")
        if write in before:
            raise ConfigError(f"{before[write]} and {read} would both become {write}.", "rename one of them")
        if write.exists() and (write.resolve() == read.resolve() or not overwrite):
            same = write.resolve() == read.resolve()
            raise ConfigError(
                f"{write} is there already.", "give another OUT" if same else "give another, or --overwrite"
            )
        before[write] = read
    return pairs


def _run(bound: Any, seed: int, pairs: list[tuple[str, Path, Path]], size: int | None) -> None:
    """Write all pictures, saying which; those that cannot be read are named and passed over, and fail the command."""
    from limner.data.prepare import open_picture

    num_failed = 0
    for name, read, write in pairs:
        try:
            picture = open_picture(read)
        except DataError as error:
            if len(pairs) == 1:
                raise
            num_failed += 1
            click.echo(f"limner: {error}\nhint: {error.hint}", err=True)
            continue
        # Of the name, not of the position: other files in the folder change nothing.
        digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
        _write(_made(bound, int.from_bytes(digest, "big"), picture, size), write)
        click.echo(write)
    if num_failed:
        raise DataError(f"{num_failed} of {len(pairs)} pictures were left out.", "they are named above")


def _made(bound: Any, seed: int, picture: Image.Image, size: int | None) -> Image.Image:
    """The condition picture of a picture; one with transparency is seen on white."""
    import torch
    from PIL import Image

    from limner.data.imaging.colour import on_background
    from limner.data.imaging.geometry import tensor_of
    from limner.data.prepare import PLAIN, to_float, to_uint8
    from limner.sampling.images import to_pil

    if size is not None:
        scale = size / min(picture.size)
        width_px, height_px = (round(side_px * scale) for side_px in picture.size)
        picture = picture.resize((width_px, height_px), Image.Resampling.LANCZOS)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    x_BCHW = to_float(tensor_of(on_background(picture, PLAIN.background))[None].to(device))
    alpha_B1HW = None
    if picture.mode == "RGBA":
        alpha_B1HW = tensor_of(picture.getchannel("A"))[None].to(device) / 255
    return to_pil(to_uint8(bound(x_BCHW, alpha_B1HW, seed)))[0]


def _write(picture: Image.Image, path: Path) -> None:
    """Whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(beside, "PNG")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}.", "give an OUT that can be") from error
