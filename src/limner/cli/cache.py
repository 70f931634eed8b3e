"""``limner cache``: what lies in the folder of things that can be made again, and making room. Needs no torch.

Only what limner itself makes there is shown and deleted: shards of tensors, built-in data sets and priors made from
single files, by their names. So a cache folder that was set to a folder of one's own by mistake loses nothing else;
links are not followed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from limner import find
from limner.cli.group import Commands
from limner.data import store
from limner.errors import ConfigError, DataError

SHARD = re.compile(r"[0-9a-f]{32}\.(safetensors|tmp)")
PRIOR = re.compile(r".+-[0-9a-f]{16}(\.making)?")
DAY_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Item:
    """What is deleted as a whole: a shard, a built-in data set, or a prior."""

    path: Path
    kind: str
    num_entries: int
    num_bytes: int
    used: float  # seconds since 1970

    def delete(self) -> None:
        """Gone already is as good."""
        try:
            if self.path.is_dir():
                for index in ("metadata.jsonl", "model_index.json"):  # first, as without it the folder counts as unmade
                    (self.path / index).unlink(missing_ok=True)
                shutil.rmtree(self.path)
            else:
                self.path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise DataError(f"{self.path} cannot be deleted: {error.strerror}.", "see who may write there") from None


def items() -> Iterator[Item]:
    """All that limner has made in its folder, by kind and name."""
    root = store.folder()
    for file in sorted(store.tensors().glob("*/*/*")):
        if SHARD.fullmatch(file.name) and not any(path.is_symlink() for path in (file, *file.parents[:3])):
            with contextlib.suppress(FileNotFoundError):  # another process has just made room
                about = file.stat()
                yield Item(file, file.parts[-3], _num_rows(file), about.st_size, about.st_mtime)
    made = tuple(find.names("data set"))
    for folder in sorted((root / "data").glob("*/")):
        if folder.name.partition("-")[0] in made:
            yield from _whole(folder, "data set")
    for folder in sorted((root / "priors").glob("*/")):
        if PRIOR.fullmatch(folder.name):
            yield from _whole(folder, "prior")


def _whole(folder: Path, kind: str) -> Iterator[Item]:
    """A folder, unless it lies behind a link."""
    if not folder.is_symlink() and not folder.parent.is_symlink():
        files = [file.stat() for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
        num_bytes, used = sum(file.st_size for file in files), max((file.st_mtime for file in files), default=0)
        yield Item(folder, f"{kind} {folder.name}", len(files), num_bytes, used)


def _num_rows(file: Path) -> int:
    """Entries of a shard; none in one that is unfinished or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as shard:
            return int(shard.get_slice("key").get_shape()[0])
    except (SafetensorError, OSError):
        return 0


@click.group(cls=Commands, invoke_without_command=True)
@click.pass_context
def cache(ctx: click.Context) -> None:
    """Show or clear what limner keeps to be faster the next time.

    Encoded pictures and captions, condition pictures, built-in data sets that were made once, and priors made from
    single files. All of it is made again when it is needed. It lies in $LIMNER_CACHE, else in limner/ of
    $XDG_CACHE_HOME or ~/.cache; what the tensors take is bounded by $LIMNER_CACHE_GB (20).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cache.command("show")
@click.option("--json", "as_json", is_flag=True, help="print JSON; sizes in bytes")
def show_(as_json: bool) -> None:
    """Show what lies in the cache, kind by kind."""
    kinds = [_summary(kind, list(found)) for kind, found in groupby(items(), key=lambda item: item.kind)]
    total, limit = sum(kind["bytes"] for kind in kinds), store.limit_bytes()
    if as_json:
        summary = {"folder": str(store.folder()), "kinds": kinds, "bytes": total, "tensors_limit_bytes": limit}
        click.echo(json.dumps(summary, indent=2, ensure_ascii=False))
        return
    click.echo(f"{store.folder()}: {_mb(total)}; tensors may take {_mb(limit)} (LIMNER_CACHE_GB)")
    if kinds:
        _table(kinds)


def _summary(kind: str, found: list[Item]) -> dict[str, Any]:
    return {
        "kind": kind,
        "entries": sum(item.num_entries for item in found),
        "bytes": sum(item.num_bytes for item in found),
        "last_used": datetime.fromtimestamp(max(item.used for item in found)).isoformat(" ", "minutes"),
    }


def _table(kinds: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind")
    for title in ("entries", "MB", "last used"):
        table.add_column(title, justify="right")
    for kind in kinds:
        table.add_row(kind["kind"], f"{kind['entries']:,}", f"{kind['bytes'] / 1e6:,.1f}", kind["last_used"])
    Console().print(table)


@cache.command()
@click.option("--older-than", metavar="DAYS", type=click.FloatRange(min=0), help="only what was not used for so long")
@click.option("--yes", is_flag=True, help="do not ask")
def clear(older_than: float | None, yes: bool) -> None:
    """Delete what lies in the cache; limner makes it again.

    A run at work goes on with the tensors that it has; one that reads a built-in data set from here would miss it.
    """
    now = time.time()
    found = [item for item in items() if older_than is None or now - item.used > older_than * DAY_SECONDS]
    found = [item for item in found if item.path.suffix != ".tmp" or now - item.used > store.STALE_SECONDS]
    num_bytes = sum(item.num_bytes for item in found)
    if not found:
        click.echo(f"{store.folder()}: nothing to delete")
        return
    if not yes:
        if not sys.stdin.isatty():
            raise ConfigError("clear asks first, and there is no one to answer.", "give --yes")
        if not click.confirm(f"delete {_mb(num_bytes)} in {store.folder()}?"):
            return
    for item in found:
        item.delete()
    click.echo(f"{store.folder()}: {_mb(num_bytes)} freed")


def _mb(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"
