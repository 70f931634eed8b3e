"""Help and lists answer at once; the verbs are there without costing an import."""

import json
import resource
import subprocess
import sys

import pytest

import limner

QUICK = [[], ["--help"], ["--version"], ["list"], ["list", "--json"], ["train", "--help"], ["sample", "--help"]]
HEAVY = ("torch", "diffusers", "transformers", "accelerate", "kornia", "numpy")
PROBE = "import sys; from limner.cli.main import main; code = main(sys.argv[1:]); print(*sys.modules); sys.exit(code)"


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", QUICK, ids=" ".join)
def test_needs_no_torch(words: list[str]) -> None:
    done = python("-c", PROBE, *words)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("words", [["--help"], ["list"], ["train", "--help"]], ids=" ".join)
def test_starts_in_under_400_ms(words: list[str]) -> None:
    """Processor time, best of three: what a quiet machine's clock shows, measured on a busy one."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert python("-m", "limner", *words).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.4


def test_python_m_is_the_command() -> None:
    assert python("-m", "limner", "--help").stdout.startswith("Usage: limner ")


def test_importing_limner_loads_nothing_heavy() -> None:
    loaded = python("-c", "import sys, limner; print(*sys.modules)").stdout.split()
    assert "limner" in loaded
    assert not set(HEAVY) & set(loaded)


def test_list_json_names_every_kind() -> None:
    listed = json.loads(python("-m", "limner", "list", "--json").stdout)
    assert set(listed) == {"methods", "priors", "conditions", "data_sets"}
    assert {"finetune", "concat", "piti"} <= set(listed["methods"])
    assert "mini" in listed["priors"] and "edges" in listed["conditions"] and "fluent" in listed["data_sets"]
    assert all(summary for names in listed.values() for summary in names.values())


def test_verbs_are_sorted_and_documented() -> None:
    assert limner.__all__ == sorted(limner.__all__)
    for name in limner.__all__:
        assert getattr(limner, name).__doc__, f"limner.{name} has no docstring"


def test_a_verb_is_a_function_though_a_subpackage_has_its_name() -> None:
    first = "import limner.train.optim, limner.evaluate"
    code = f"{first}; from limner import evaluate, train; assert callable(evaluate) and callable(train)"
    done = python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
