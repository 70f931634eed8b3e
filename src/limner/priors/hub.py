"""Models of the Hugging Face hub: of a repository only what is used is fetched, into the cache that all tools share.

``OWNER/NAME``, or ``OWNER/NAME@REVISION`` for a branch, a tag or a commit. What is in the cache needs no network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from itertools import groupby
from pathlib import Path, PurePosixPath

from huggingface_hub import list_repo_files, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from limner.errors import PriorError, first_line
from limner.priors import files

NAME = re.compile(r"[\w.-]+/[\w.-]+(?:@[\w./-]+)?")
FILES = (".py", ".safetensors", ".ckpt", ".pt", ".bin", ".gguf")
SETTINGS = (".json", ".txt", ".jinja", ".model")  # configurations and the files of tokenizers


def is_name(name: str) -> bool:
    """Whether it could be a repository's name."""
    return bool(NAME.fullmatch(name)) and not name.startswith(".") and not name.endswith(FILES)


def fetch(name: str, weights_of: Container[str] | None = None) -> Path:
    """The folder in the cache that a repository lies in, fetched where it is not there yet.

    Args:
        weights_of: the parts ('unet', 'vae', ...) whose weights are wanted; None is all. Settings always come.

    Raises:
        PriorError: no such repository, one that may not be read, or neither a network nor a copy in the cache.
    """

    def choose(there: list[str]) -> list[str]:
        _refuse_without_index(name, there)
        return wanted(there, weights_of)

    return fetch_files(name, choose)


def fetch_files(name: str, choose: Callable[[list[str]], list[str]]) -> Path:
    """The same for any repository: ``choose`` says which of its files are wanted.

    Raises:
        PriorError: as ``fetch``.
    """
    repository, _, revision = name.partition("@")
    try:
        there = list_repo_files(repository, revision=revision or None)
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=choose(there)))
    except GatedRepoError:
        raise PriorError(
            f"{name} on the hub may be read only by those who have accepted its licence.",
            f"accept it on https://huggingface.co/{repository} and log in with: hf auth login",
        ) from None
    except RepositoryNotFoundError:
        raise PriorError(
            f"there is no folder {name}, and no model of that name on the hub that may be read.",
            "check the name; for a private model log in with: hf auth login",
        ) from None
    except RevisionNotFoundError:
        raise PriorError(f"{repository} on the hub has no revision '{revision}'.", "leave @... away for main") from None
    except PriorError:
        raise
    except Exception as error:  # no network is an error of many kinds, of many libraries
        return _cached(name, repository, revision, error)


def _refuse_without_index(name: str, there: list[str]) -> None:
    if "model_index.json" not in there:
        single = [file for file in there if file.endswith(".safetensors") and "/" not in file]
        raise PriorError(
            f"{name} on the hub is no diffusers model: it has no model_index.json.",
            f"fetch a file of it and give that: hf download {name.replace('@', ' --revision ')} {single[0]}"
            if single
            else "give a repository that has one",
        )


def _cached(name: str, repository: str, revision: str, why: Exception) -> Path:
    try:
        return Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        raise PriorError(
            f"there is no folder {name}, and the hub cannot be asked: {first_line(why)}.",
            "give a folder, or fetch it where there is a network: hf download " + repository,
        ) from None


def wanted(there: Iterable[str], weights_of: Container[str] | None = None) -> list[str]:
    """Of a repository's files those that are used: settings, and of each part's weights one set."""
    found = []
    for part, group in groupby(sorted(there), key=lambda file: str(PurePosixPath(file).parent)):
        names = [PurePosixPath(file).name for file in group]
        if part == ".":
            found += [name for name in names if name == "model_index.json"]
        if part.startswith((*files.MODELS, "tokenizer", "scheduler")):
            used = [name for name in names if name.endswith(SETTINGS) and not files.INDEX.fullmatch(name)]
            if part in files.MODELS and (weights_of is None or part in weights_of):
                used += files.chosen(names)[1]
            found += [f"{part}/{name}" for name in used]
    return found
