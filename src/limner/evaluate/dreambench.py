"""The benchmark of subjects in contexts, and the mean over its subjects.

DreamBooth's (Ruiz et al. 2023, arXiv 2208.12242, section 4.1) is 30 subjects, 25 prompts and 4 pictures of each. It is
the repository google/dreambooth: a folder of pictures a subject, and ``prompts_and_classes.txt``, which holds names and
class words, and two lists of prompts, for objects and for live subjects, written as Python. That is read as text and
never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch

from limner.data.formats.files import PICTURES
from limner.errors import DataError
from limner.evaluate import subject

TEXT = "prompts_and_classes.txt"
TITLES = ("object prompts", "live subject prompts")
LIVE = ("cat", "dog")  # class words that the second list is for; the file does not say
PLACE = re.compile(r"\{0\}\s*\{1\}")  # of the unique word and the class word
LITERAL = re.compile(r"""^\s*(['"])(?P<prompt>.*)\1\.format\(.*\),?\s*$""")
PICTURES_EACH = 4
HINT = "give the folder of github.com/google/dreambooth, or 'dataset' in it"


@dataclass(frozen=True)
class Subject:
    """One of the benchmark's; its prompts have {} where the unique word and the class word stand."""

    name: str
    class_word: str
    prompts: tuple[str, ...]
    pictures: tuple[Path, ...]


class Row(TypedDict):
    """What a run reaches on one subject: metric -> number, metric_interval -> its ends."""

    subject: str
    run: str
    method: str
    step: int
    scores: dict[str, Any]
    untrained: dict[str, Any]
    real: dict[str, Any]


def read(folder: Path) -> dict[str, Subject]:
    """The subjects of DreamBooth's benchmark by name.

    Raises:
        DataError: the folder, its text or a subject's pictures are missing, or the text is not as expected.
    """
    if (folder / "dataset").is_dir():
        folder = folder / "dataset"
    file = folder / TEXT
    if not file.is_file():
        raise DataError(f"{file} does not exist.", HINT)
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{file} is no text in UTF-8.", HINT) from None
    classes = _classes(lines, file)
    objects, live = (_prompts(lines, title, file) for title in TITLES)
    found = {}
    for name, word in classes.items():
        pictures = [path for path in sorted((folder / name).glob("*")) if path.suffix.lower() in PICTURES]
        if not pictures:
            raise DataError(f"{folder / name} holds no pictures, and {file} names it.", HINT)
        found[name] = Subject(name, word, live if word in LIVE else objects, tuple(pictures))
    return found


def _classes(lines: Sequence[str], file: Path) -> dict[str, str]:
    """name -> class word: the lines below 'subject_name,class' up to the first that is no such pair."""
    found: dict[str, str] = {}
    for line in lines[_after(lines, "subject_name,class", file) :]:
        name, comma, word = (part.strip() for part in line.partition(","))
        if not comma:
            if found or line.strip():
                break
            continue
        if not re.fullmatch(r"[\w-]+", name) or not word or name in found:
            raise DataError(f"{file}: '{line.strip()}' is no new subject and its class.", HINT)
        found[name] = word
    if not found:
        raise DataError(f"{file} has no subject below 'subject_name,class'.", HINT)
    return found


def _prompts(lines: Sequence[str], title: str, file: Path) -> tuple[str, ...]:
    """The list below a title: '...'.format(unique_token, class_token) a line, between brackets."""
    rest = lines[_after(lines, title, file) :]
    begin = next((i for i, line in enumerate(rest) if line.rstrip().endswith("[")), None)
    end = next((i for i, line in enumerate(rest) if line.strip() == "]"), None)
    if begin is None or end is None or end < begin or any(line.strip() for line in rest[:begin]):
        raise DataError(f"{file} has no list in brackets below '{title}'.", HINT)
    found = []
    for line in filter(str.strip, rest[begin + 1 : end]):
        read = LITERAL.match(line)
        prompt, places = PLACE.subn("{}", read["prompt"]) if read else ("", 0)
        if places != 1 or re.search(r"[{}]", prompt.replace("{}", "")):
            raise DataError(f"{file}: '{line.strip()}' is no prompt with {{0}} {{1}} for the subject.", HINT)
        found.append(prompt)
    if not found:
        raise DataError(f"{file} has no prompt below '{title}'.", HINT)
    return tuple(found)


def _after(lines: Sequence[str], wanted: str, file: Path) -> int:
    for number, line in enumerate(lines):
        if line.strip().lower().rstrip(":") == wanted:
            return number + 1
    raise DataError(f"{file} has no line '{wanted}'.", HINT)


def mean(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Means over the subjects of ``scores``, ``untrained`` and ``real``; of scores with 95 % bootstrap intervals over
    the subjects, where there are several."""
    found = {end: _mean([row[end] for row in rows]) for end in ("scores", "untrained", "real")}
    if len(rows) > 1:
        values = {name: torch.tensor([row["scores"][name] for row in rows]) for name in found["scores"]}
        found["scores"] = subject.means(values)
    return found


def _mean(found: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the metrics that all have."""
    names = [key for key in found[0] if not key.endswith("_interval") and all(key in one for one in found)]
    return {name: sum(one[name] for one in found) / len(found) for name in names}
