"""A data set looked over before any training: each file read as training reads it, each thing wrong named.

One pass reads every file once, with several threads, and keeps some 400 bytes of each record in arrays; what concerns
several records at once (duplicates, leaks between splits, buckets, halves that are swapped) is then found in these.
Nothing of the user's is written to.
"""

from __future__ import annotations

import itertools
import os
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from limner.data.auditing import judge
from limner.data.auditing.examine import RECORD, Examined, Rules, examine
from limner.data.auditing.judge import Looked
from limner.data.auditing.strays import strays
from limner.data.auditing.summary import summarise
from limner.data.findings import SEVERITIES, Finding, refused
from limner.data.formats.files import Bytes, Tree
from limner.data.formats.index import Strings
from limner.data.records import NUM_HELD_OUT, SPLITS, Stream, splits
from limner.errors import LimnerError
from limner.types import Sample

NUM_THREADS = min(16, 2 * (os.cpu_count() or 1))
AHEAD = 8 * NUM_THREADS  # records on their way at once


@dataclass
class Audit:
    """What a data set is like and everything to be said against it, the gravest first."""

    name: str
    num_records: int
    findings: list[Finding]
    summary: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether training would go wrong."""
        return any(finding.severity == "error" for finding in self.findings)

    def by_code(self) -> dict[str, list[Finding]]:
        """Findings by their code, the gravest codes first."""
        groups: dict[str, list[Finding]] = {}
        for finding in self.findings:
            groups.setdefault(f"{finding.severity} {finding.code}", []).append(finding)
        return groups


def audit(
    name: str,
    data: Sequence[Sample] | Stream,
    rules: Rules,
    limit: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
    tree: Tree | None = None,
) -> Audit:
    """Look a data set over.

    Args:
        name: what findings about the set as a whole call it.
        data: records by number, or a stream of them, of which the order of seed 0 is looked at.
        rules: of the run it is for.
        limit: look at no more than so many, at equal distances (of a stream, the first).
        progress: called with the number of records done.
        tree: the folder or zip that the records come from, in which files are looked for that belong to none.
    """
    start = time.monotonic()
    looked = _look(data, rules, limit, progress)
    found = looked.findings + list(judge.everything(name, looked, rules))
    if tree is not None:
        # A record that could not be made does not say which files are its own.
        found += strays(tree, looked.used_N if all(looked.names) else None)
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))  # stable: within, in the order of the records
    seconds = time.monotonic() - start
    return Audit(name, len(looked.row_N), found, summarise(looked, rules), seconds)


def numbers(num: int, limit: int | None) -> Sequence[int]:
    """Of ``num`` records those that are looked at: all, or ``limit`` at equal distances."""
    few = min(num, limit or num)
    return range(num) if few == num else [place * num // few for place in range(few)]


def _look(
    data: Sequence[Sample] | Stream,
    rules: Rules,
    limit: int | None,
    progress: Callable[[int], None],
) -> Looked:
    row_N, names, keys = np.zeros(1024, RECORD), Strings(), Strings()
    split_N, findings = np.zeros(1024, np.int8), list[Finding]()
    num, used = 0, array("q")
    for done in _in_threads(_jobs(data, limit, findings), rules):
        if num == len(row_N):
            row_N, split_N = (np.concatenate([column, np.zeros_like(column)]) for column in (row_N, split_N))
        row_N[num], split_N[num] = done.row, SPLITS.index(done.split or "train")
        names.append(done.name)
        keys.append(done.key)
        used.extend(map(hash, (done.name, *done.beside)))
        findings += done.findings
        num += 1
        progress(num)
    row_N, split_N = row_N[:num], split_N[:num]
    if isinstance(data, Sequence):
        for code, part in enumerate(splits(_Marked(keys, split_N)).values()):
            split_N[part.numbers_N] = code
    else:
        split_N[:NUM_HELD_OUT] = SPLITS.index("validation")
    whole = limit is None or num < limit or (isinstance(data, Sequence) and num == len(data))
    return Looked(row_N, names, split_N, findings, np.frombuffer(used, np.int64), whole)


def _jobs(
    data: Sequence[Sample] | Stream, limit: int | None, findings: list[Finding]
) -> Iterator[Callable[[], Sample]]:
    """What makes each record, in order; a stream that breaks off is a finding."""
    if isinstance(data, Sequence):
        yield from (partial(data.__getitem__, number) for number in numbers(len(data), limit))
        return
    try:
        for sample in itertools.islice(data.samples(0), limit):
            yield partial(_itself, sample)
    except LimnerError as error:
        findings.append(refused(error))


def _itself(sample: Sample) -> Sample:
    return sample


def _in_threads(jobs: Iterable[Callable[[], Sample]], rules: Rules) -> Iterator[Examined]:
    """The records examined, in order, a few ahead."""
    waiting: deque[Future[Examined]] = deque()
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        try:
            for number, load in enumerate(jobs):
                waiting.append(threads.submit(examine, number, load, rules))
                if len(waiting) >= AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)


class _Marked(Sequence[Sample]):
    """As much of the records as decides which of them are held out."""

    def __init__(self, keys: Strings, split_N: np.ndarray) -> None:
        self.keys, self.split_N = keys, split_N.copy()

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # by number only
        return Sample(self.keys[index], "", Bytes("", b""), split=SPLITS[self.split_N[index]])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.__getitem__, range(len(self)))
