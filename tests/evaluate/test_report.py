"""The report's page needs nothing outside itself and says what report.json says."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from limner.evaluate.report import write

ARM = {
    "edge_f1": 0.5523456789,
    "edge_f1_interval": (0.53, 0.57),
    "faithfulness": 0.69,
    "iou": 0.78,
    "kid": 0.0123,
    "kid_interval": (0.01, 0.02),
    "frechet": 12.345678,
    "diversity": None,
    "num_concepts": 128,
    "num_samples": 2,
    "embedder": "eye",
}
REPORT = {
    "method": "piti",
    "data": "fluent <&>",
    "arms": {"prior": ARM, "before": ARM | {"edge_f1": 0.39, "kid": float("nan")}},
    "chance": 0.381,
    "ceiling": 0.629,
    "iou_chance": 0.55,
    "iou_ceiling": 0.82,
    "kid_floor": -0.0002,
    "seconds": 512.25,
    "kwh": 0.01,
    "peak_mb": 900,
}
LOG = [{"step": i + 1, "loss/network": 1 / (i + 1)} for i in range(1000)]
LOG += [{"step": 500, "validation/score": 0.3}, {"step": 1000, "validation/score": 0.5}]


class Page(HTMLParser):
    """Checks that tags close, and gathers links, <data> values and the text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.values, self.pictures = [], [], [], 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.pictures += tag == "img"
        self.values += [float(value) for name, value in attrs if tag == "data" and name == "value"]
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def rows(num: int = 3) -> list:
    picture = np.full((32, 32, 3), 128, dtype=np.uint8)
    return [(f"a <b>fox</b> {i}", Image.new("RGB", (32, 32)), [picture, picture], picture) for i in range(num)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "run", REPORT, rows(), LOG)
    return tmp_path / "run"


def test_the_page_is_self_contained_and_well_formed(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    assert "http" not in text
    assert "url(" not in text
    assert page.pictures == 3 * 4
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "<b>fox" not in text
    assert "fluent &lt;&amp;&gt;" in text


def test_the_pages_numbers_are_those_of_the_json(folder):
    said = json.loads((folder / "report.json").read_text())
    values = Page((folder / "report.html").read_text()).values
    for arm in said["arms"].values():
        for name in ("edge_f1", "faithfulness", "iou", "frechet"):
            assert arm[name] in values
    for name in ("chance", "ceiling", "iou_chance", "iou_ceiling", "kid_floor", "seconds", "kwh"):
        assert said[name] in values
    assert said["arms"]["before"]["kid"] is None
    assert said["arms"]["prior"]["edge_f1_interval"] == [0.53, 0.57]


def test_the_files_are_there_and_no_others(folder):
    assert sorted(file.name for file in folder.iterdir()) == ["contact_sheet.png", "report.html", "report.json"]
    sheet = Image.open(folder / "contact_sheet.png")
    assert json.loads(sheet.text["limner"])["method"] == "piti"
    assert sheet.size[0] == 2 * (4 * 36 + 4) + 4  # two blocks of sketch, two samples, truth


def test_the_curves_are_drawn(folder):
    text = (folder / "report.html").read_text()
    assert text.count("<polyline") == 2
    assert "loss/network" in text
    assert len(text) < 60_000


def test_a_run_without_pictures_or_log_has_a_report_too(tmp_path):
    write(tmp_path, REPORT, [], [])
    assert "No training log" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "contact_sheet.png").exists()
