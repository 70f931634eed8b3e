"""``limner check``: the exit code, a page for people, JSON for programs, and one home for what a method needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import pairs_folder, prior_folder

from limner.cli.main import main
from limner.priors.open import open_prior
from limner.run.checking import resolve_check, rules_of


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prior_folder(tmp_path_factory.mktemp("prior"), "v")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return pairs_folder(tmp_path / "pairs")


def check(capsys: pytest.CaptureFixture[str], *words: Any) -> tuple[int, str, str]:
    code = main(["check", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_sound_pairs_pass(pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, pairs, "--for", "concat", "--prior", prior, "--no-flip")
    assert code == 0
    assert "12 of 12 (11 train, 1 validation), 12 pairs; 12 PNG" in out
    assert "ready to train" in out


def test_a_bad_file_fails_and_is_named_with_a_remedy(
    pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "target" / "disc04.png").write_bytes(b"")
    code, out, _ = check(capsys, pairs, "--prior", prior)
    assert code == 1
    lines = out.splitlines()
    title = next(i for i, line in enumerate(lines) if line.startswith("error    empty-file"))
    assert "move it away" in lines[title]
    assert "target/disc04.png  cannot be read" in lines[title + 1]
    assert str(pairs) not in lines[title + 1]


def test_long_lists_are_shortened_and_json_has_all(
    pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(9):
        (pairs / "target" / f"disc{i:02d}.png").write_bytes(b"")
    code, out, _ = check(capsys, pairs, "--prior", prior)
    assert "… and 4 more (see --json)" in out
    code, out, _ = check(capsys, "--json", pairs, "--prior", prior)
    found = json.loads(out)
    assert (code, found["ok"], found["records"], found["pictures"]) == (1, False, 12, 3)
    assert sum(finding["code"] == "empty-file" for finding in found["findings"]) == 9
    assert all({"severity", "code", "file", "cause", "remedy"} <= finding.keys() for finding in found["findings"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--for", "concat"], 1, "no-source"),
        (["--for", "concat", "--condition", "edges"], 0, "ready"),
        (["--for", "finetune"], 1, "no-caption"),
        (
            ["--for", "finetune", "--caption-from", "template", "--trigger", "sks", "--class-word", "dog"],
            0,
            "one-caption",
        ),
        (["--for", "finetune", "--masked-loss", "mask", "--caption-from", "name"], 1, "no-mask"),
        ([], 0, "no-caption"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_what_a_method_needs(
    words: list[str], code: int, said: str, tmp_path: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, colour in (("fox", "red"), ("owl", "blue")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{name}.png")
    found, out, _ = check(capsys, tmp_path, "--prior", prior, *words)
    assert found == code, out
    assert said in out


def test_a_folder_that_cannot_be_read_still_has_its_bad_files_named(
    pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pairs / "source" / "disc02.png").unlink()
    (pairs / "target" / "disc03.png").unlink()
    (pairs / "target" / "disc05.png").write_bytes(b"")
    code, out, _ = check(capsys, pairs, "--for", "concat", "--prior", prior, "--json")
    errors = {(f["code"], Path(f["file"]).name) for f in json.loads(out)["findings"] if f["severity"] == "error"}
    assert code == 1
    assert errors == {("half-missing", "disc02.png"), ("half-missing", "disc03.png"), ("empty-file", "disc05.png")}


def test_files_that_belong_to_no_record_are_named(pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("phone.heic", "target/typo.txt", "README.txt", "target/notes.md"):
        (pairs / name).write_text("x")
    Image.new("RGB", (9, 9)).save(pairs / "beside.png")
    _, out, _ = check(capsys, pairs, "--prior", prior, "--json")
    found = {f["code"]: Path(f["file"]).name for f in json.loads(out)["findings"]}
    assert found == {"unknown-kind": "phone.heic", "lone-caption": "typo.txt", "unused": "beside.png"}


def test_pictures_that_are_to_be_streamed_are_one_error(
    pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = check(capsys, pairs, "--prior", prior, "--stream")
    assert (code, "1 error; training would stop" in out) == (1, True)


def test_nothing_there_is_one_error(tmp_path: Path, prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(capsys, tmp_path / "nowhere", "--prior", prior)
    assert code == 1
    assert "nowhere" in out and "limner list" not in out.splitlines()[1]


def test_the_sheet_is_written_where_asked(pairs: Path, prior: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = pairs.parent / "sheet.png"
    code, out, _ = check(capsys, pairs, "--prior", prior, "--sheet", sheet, "--limit", 5)
    assert (code, f"see {sheet}" in out) == (0, True)
    with Image.open(sheet) as picture:
        assert picture.width > 1000
    code, _, err = check(capsys, pairs, "--prior", prior, "--sheet", pairs / "none" / "sheet.png")
    assert (code, "cannot be written" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "wrong", "hint"),
    [
        ([], "which data?", "limner check DATA"),
        (["a", "b"], "not also 'b'", "--name value"),
        (["a", "--for", "fintune"], "unknown method 'fintune'", "'finetune'"),
        (["a", "--triger", "sks"], "'triger'", "'trigger'"),
        (["a", "--limit", "some"], "--limit needs", "--limit 1000"),
        (["a", "--sheet", "sheet.jpg"], "--sheet needs", "sheet.png"),
        (["a", "--for"], "--for a method", "--for finetune"),
        (["a", "--config", "nowhere.yaml"], "nowhere.yaml does not exist", "YAML"),
        (["a", "--resolutions-px", "65"], "65 is no multiple", "prior 'mini'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_on_the_command_line(
    words: list[str], wrong: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = check(capsys, *words)
    sentence, remedy = err.splitlines()[-2:]  # below what loading a prior may say where it is not silenced
    assert (code, out) == (2, "")
    assert wrong in sentence
    assert hint in remedy


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert check(capsys, "--help")[0] == 0
    assert "--sheet FILE" in check(capsys, "-h")[1]


def test_a_configuration_file_names_method_and_data(
    pairs: Path, prior: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"method: concat\ncondition: edges\nprior: {prior}\ndata: {pairs}\n")
    code, out, _ = check(capsys, "--config", file)
    assert code == 0
    assert "for concat on" in out


def test_tokens_are_counted_as_the_prior_reads_them(prior: Path) -> None:
    read = open_prior(str(prior)).count_tokens
    assert read is not None
    assert read("ab cd") == (4, 10, "")  # letters, as the toy tokenizer has it
    assert read("abcde fghij") == (10, 10, "")
    assert read("abcde fghij klm no") == (15, 10, "klm no")
    assert read("abcde fghijkl mno") == (15, 10, "fghijkl mno")  # a word that is cut is named whole


def test_rules_are_those_of_the_run(prior: Path) -> None:
    config = resolve_check("concat", {"prior": str(prior), "data": "x", "batch_size": "3"}, None)
    rules = rules_of(config)
    assert (rules.needs.source, rules.needs.caption, rules.uses_sources) == (True, False, True)
    assert (rules.batch_size, rules.resolutions_px) == (3, (16,))
    rules = rules_of(resolve_check(None, {"prior": str(prior), "data": "x"}, None))
    assert (rules.needs.source, rules.needs.caption, rules.uses_sources) == (False, False, True)
