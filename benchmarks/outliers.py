"""How often `limner check` names a picture of another subject that lies among a subject's, and how often a right one.

    python benchmarks/outliers.py          a few minutes

On the data set ``subjects``: sets of one subject alone, and with one picture of another slipped in. The views and the
threshold of ``data/auditing/subject.py`` were chosen on every second subject; both halves are printed.
"""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterator

import torch

from limner.data import prepare
from limner.data.auditing.subject import SIDE_PX, strangers, views_of
from limner.data.builtin.subjects import subjects
from limner.evaluate.features import eye

Numbers = list[int]


def alone(half: list[str], training: dict[str, Numbers], every: dict[str, Numbers], rng: random.Random):
    """(what kind of set, pictures of one subject)."""
    for name in half:
        for num in (4, 5, 6):
            yield from ((f"{num} of the training pictures", list(some)) for some in _some(training[name], num))
        for num in (6, 10, 20):
            yield from ((f"{num} in any scenes", rng.sample(every[name], num)) for _ in range(50))


def slipped(half: list[str], training: dict[str, Numbers], every: dict[str, Numbers], rng: random.Random):
    """The same with one of another subject, which comes last."""
    for name, other in itertools.permutations(half, 2):
        for stranger in training[other]:
            for num in (3, 5, 6):
                own = rng.choice(list(_some(training[name], num)))
                yield f"{num} of the training pictures and another", [*own, stranger]
        for num, _ in itertools.product((9, 19), range(5)):
            yield f"{num} in any scenes and another", [*rng.sample(every[name], num), rng.choice(every[other])]


def _some(numbers: Numbers, num: int) -> Iterator[tuple[int, ...]]:
    return itertools.combinations(numbers, num)


def main() -> None:
    samples, embed = list(subjects()), eye()
    views = [embed(torch.stack(views_of(prepare.load_uint8(sample.image, SIDE_PX)))) for sample in samples]
    feature_NVD = torch.stack(views)
    training, every = defaultdict(list), defaultdict(list)
    for number, sample in enumerate(samples):
        every[sample.meta["subject"]].append(number)
        if sample.split == "train":
            training[sample.meta["subject"]].append(number)
    names = list(every)
    for title, half in (("chosen on", names[::2]), ("not chosen on", names[1::2])):
        print(f"{title}: {', '.join(half)}")
        counts = defaultdict(list)
        for kind, numbers in alone(half, training, every, random.Random(0)):
            counts[kind, "sets with a false alarm"].append(bool(strangers(feature_NVD[numbers])))
        for kind, numbers in slipped(half, training, every, random.Random(0)):
            found = strangers(feature_NVD[numbers])
            counts[kind, "stranger named"].append(len(numbers) - 1 in found)
            counts[kind, "sets with a false alarm"].append(bool(set(found) - {len(numbers) - 1}))
        for (kind, what), given in counts.items():
            print(f"  {kind:40} {what:24} {sum(given) / len(given):6.1%} of {len(given)}")


if __name__ == "__main__":
    main()
