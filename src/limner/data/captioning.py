"""Captions of a whole data set, written into a new file: from file names, a template, or a model that sees.

Lines are written one by one to OUT.partial, whose first line holds the options; the same call goes on from there, and
OUT appears once it is whole. Nothing that exists is overwritten.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from limner.data.captions import Captioner, fields_of
from limner.data.formats.fields import split_in
from limner.data.formats.files import Member
from limner.errors import ConfigError, DataError, did_you_mean
from limner.types import File, Sample

EXAMPLE = "Salesforce/blip-image-captioning-base"


@dataclass(frozen=True)
class Options:
    """What decides over the captions; a file begun with other options is not continued.

    source: 'names', 'template', or a model's name or folder. template: what the caption is put into, if given.
    only_missing: the captions that the data has stay as they are.

    Raises:
        ConfigError: an unknown source, a template that is missing or malformed, an option without effect.
    """

    source: str
    template: str = ""
    trigger: str = ""
    class_word: str = ""
    prompt: str | None = None
    max_new_tokens: int = 128
    only_missing: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ConfigError("captions from where?", f"--from names, --template '...', or --from {EXAMPLE}")
        if self.model and "/" not in self.source and not Path(self.source).is_dir():
            near = did_you_mean(self.source, ["names", "template"])
            raise ConfigError(f"--from '{self.source}' is no source of captions.", f"{near}; or a model: {EXAMPLE}")
        if self.source == "template" and not self.template:
            raise ConfigError("--from template needs --template.", "for example --template '{trigger} {class_word}'")
        if self.prompt is not None and not self.model:
            raise ConfigError("--prompt is for models.", f"give one, such as --from {EXAMPLE}")
        used = fields_of(self.template) if self.template else []
        for field in ("trigger", "class_word"):
            if getattr(self, field) and field not in used:
                option, example = field.replace("_", "-"), f"{{{field}}}, {{caption}}"
                raise ConfigError(f"--{option} is given, but no template uses it.", f"--template '{example}'")
        self.captioner()

    @property
    def model(self) -> str | None:
        return None if self.source in ("names", "template") else self.source

    def captioner(self) -> Captioner | None:
        """What puts a caption into the template."""
        return Captioner("template", self.template, self.trigger, self.class_word) if self.template else None

    def keeps(self, sample: Sample) -> bool:
        """Whether the caption that the data has stays."""
        return self.only_missing and bool(sample.caption.strip())


def captioned(samples: Iterable[Sample], options: Options, batch_size: int = 8) -> Iterator[Sample]:
    """The samples, in order, with their new captions; each is made when it is asked for.

    Raises:
        ConfigError, DataError, PriorError: as ``Captioner.caption`` and ``vision.describe``.
    """
    told: Iterator[str] = iter(())
    if options.model:
        from limner.data.vision import describe

        samples, again = itertools.tee(samples)  # the model's batches run ahead of what is given back
        files = (sample.image for sample in again if not options.keeps(sample))
        told = describe(options.model, files, options.prompt, batch_size, options.max_new_tokens)
    name, template = Captioner("name"), options.captioner()
    for sample in samples:
        if not options.keeps(sample):
            if options.model:
                sample = replace(sample, caption=next(told))
            elif options.source == "names":
                sample = replace(sample, caption=name.caption(sample, 0))
            sample = replace(sample, caption=template.caption(sample, 0)) if template else sample
        yield sample


def write(
    samples: Sequence[Sample],
    folder: Path,
    options: Options,
    out: Path,
    batch_size: int,
    advance: Callable[[int], None],
) -> int:
    """Write a line for each sample to ``out``: file_name within ``folder``, caption, and what else the data says.

    Gives back how many captions are empty: a model may say nothing, and a template repeat what the data lacks.
    ``advance`` is told how many lines are written, at first those of a call that was interrupted.

    Raises:
        ConfigError: ``out`` exists, or was begun with other options.
        DataError: it was begun for other pictures; a picture that is no file of its own; a full disk.
        ConfigError, DataError, PriorError: as ``captioned``.
    """
    refuse_to_overwrite(out)
    path_in(folder, samples[0].image)
    partial = out.with_name(f"{out.name}.partial")
    if not options.model:
        for _ in captioned(samples, options):
            """All of them can be made: known before the first is written."""
    done = _done(partial, options, samples, folder)
    advance(done)
    try:
        with partial.open("a", encoding="utf-8") as file:
            if not done:
                file.write(json.dumps(asdict(options)) + "\n")
            for sample in captioned(itertools.islice(samples, done, None), options, batch_size):
                file.write(json.dumps(_row(sample, folder), ensure_ascii=False) + "\n")
                file.flush()
                done += 1
                advance(done)
        return _finish(partial, out)
    except OSError as error:
        hint = "make room or give another --out; then the same command goes on"
        raise DataError(f"{partial} cannot be written: {error.strerror or error}.", hint) from None
    finally:
        if not done:  # nothing to go on from
            partial.unlink(missing_ok=True)


def refuse_to_overwrite(out: Path) -> None:
    """Nothing, where there is no such file yet.

    Raises:
        ConfigError: there is.
    """
    if out.exists():
        raise ConfigError(f"{out} exists and is not overwritten.", "write to another file: --out FILE.jsonl")


def path_in(folder: Path, file: File) -> str:
    """The path of a picture within its folder or zip.

    Raises:
        DataError: it is part of a table or a shard.
    """
    if isinstance(file, Member):
        return file.member.removeprefix(file.archive.prefix)
    if isinstance(file, Path) and file.is_relative_to(folder):
        return file.relative_to(folder).as_posix()
    raise DataError(f"{file} is no file in a folder, so that no line can name it.", "save the pictures as files first")


def _row(sample: Sample, folder: Path) -> dict[str, Any]:
    """What stands in a line, in this order."""
    row: dict[str, Any] = {"file_name": path_in(folder, sample.image), "caption": sample.caption}
    halves = {"source": sample.source, "mask": sample.mask}
    row |= {name: path_in(folder, file) for name, file in halves.items() if file is not None}
    if sample.split != split_in(row["file_name"]):  # else its folder says so
        row["split"] = sample.split
    return row | {name: value for name, value in sample.meta.items() if name not in row}


def _done(partial: Path, options: Options, samples: Iterable[Sample], folder: Path) -> int:
    """How many captions OUT.partial holds; half a line at its end is cut off."""
    if not partial.exists():
        return 0
    text = partial.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    head, *lines = whole.split(b"\n")[:-1] or [b""]
    anew = f"delete {partial} to begin anew"
    try:
        begun, names = json.loads(head), [json.loads(line)["file_name"] for line in lines]
        changed = [name for name, value in asdict(options).items() if begun[name] != value]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{partial} is no file of limner's.", "move it away, or give another --out") from None
    if names and changed:
        option = "from" if changed[0] == "source" else changed[0].replace("_", "-")
        was = f"{partial} was begun with another --{option}: {begun[changed[0]]!r}."
        raise ConfigError(was, f"give the same options to go on, or {anew}")
    for name, sample in itertools.zip_longest(names, itertools.islice(samples, len(names))):
        if sample is None or name != path_in(folder, sample.image):
            raise DataError(f"{folder} has changed since {partial} was begun, from {name} on.", anew)
    os.truncate(partial, len(whole) if names else 0)
    return len(names)


def _finish(partial: Path, out: Path) -> int:
    """The lines without the options, under the final name; how many captions are empty."""
    beside, num_empty = out.with_name(f"{out.name}.tmp"), 0
    with partial.open("rb") as given, beside.open("wb") as made:
        given.readline()
        for line in given:
            made.write(line)
            num_empty += not json.loads(line)["caption"].strip()
        made.flush()
        os.fsync(made.fileno())
    refuse_to_overwrite(out)
    beside.rename(out)
    partial.unlink()
    return num_empty
