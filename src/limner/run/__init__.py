"""The life of a run: ``resolve`` a configuration, ``train`` it, ``sample`` and ``evaluate`` what came of it."""

from limner.run.exporting import export
from limner.run.job import Job, build, load_prior, open_run, pictures, resolve
from limner.run.judging import demo, evaluate
from limner.run.protocol import evaluate_protocol
from limner.run.showing import sample
from limner.run.training import train

__all__ = [
    "Job",
    "build",
    "demo",
    "evaluate",
    "evaluate_protocol",
    "export",
    "load_prior",
    "open_run",
    "pictures",
    "resolve",
    "sample",
    "train",
]
